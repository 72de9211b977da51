//! Builds that succeed, and what is in them.

use common::digest::Digest;
use fledge::image::cpio::Kind;

use crate::workspace::{SPEC, TEMPLATE, Workspace, elf};

#[test]
fn a_plugin_is_built_with_its_manifest() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    let output = workspace.fledge(&["build"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let artifact = fs_err::read(workspace.path("plugin.cpio.gz")).unwrap();
    let digest = Digest::of(&artifact);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let cost = "about 0 ms to unpack, 1 MiB of each VM's memory";
    let nothing = "about 0 ms to unpack, 0 MiB of each VM's memory, 0 MiB while it boots";
    assert_eq!(
        stdout,
        format!(
            "plugin.cpio.gz: 3 files, {} bytes, {digest}\n\
             plugin.cpio.gz.manifest.json: its manifest\n\
             plugin.cpio.gz.sbom.json: its bill of materials\n\
             plugin.cpio.gz.provenance.json: its provenance\n\
             boot budget: initramfs, gzip: {cost}, 1 MiB while it boots\n\
             boot budget: initramfs, zstd: {cost}, 1 MiB while it boots\n\
             boot budget: initramfs, not compressed: {cost}, 1 MiB while it boots; volantd boots it so\n\
             boot budget: root file system on a disk: {nothing}\n\
             boot budget: root file system, mapped: {nothing}\n",
            artifact.len()
        )
    );
    let manifest = workspace.manifest();
    assert_eq!(manifest.name.as_str(), "app");
    assert_eq!(manifest.artifact().url, "plugin.cpio.gz");
    assert_eq!(manifest.artifact().checksum, Some(digest));
    assert_eq!(manifest.workload.entrypoint, ["/usr/bin/app", "serve"]);
    assert_eq!(
        manifest.health_check.unwrap().endpoint.as_deref(),
        Some("/healthz")
    );
}

#[test]
fn the_image_holds_what_it_should() {
    let workspace = Workspace::new();
    workspace
        .fledge(&["build", "-q"])
        .assert()
        .success()
        .stdout("")
        .stderr("");
    let listing: Vec<String> = workspace
        .entries()
        .iter()
        .map(|(entry, _)| {
            let path = String::from_utf8_lossy(&entry.path);
            match &entry.kind {
                Kind::Directory => format!("{path}/ {:o}", entry.permissions),
                Kind::Symlink { target } => {
                    format!("{path} -> {}", String::from_utf8_lossy(target))
                }
                _ => format!("{path} {:o}", entry.permissions),
            }
        })
        .collect();
    assert_eq!(
        listing,
        [
            "bin/ 755",
            "bin/kestrel 755",
            "dev/ 755",
            "etc/ 755",
            "etc/app/ 755",
            "etc/app/app.conf 644",
            "etc/app/current -> app.conf",
            "init -> bin/kestrel",
            "proc/ 755",
            "run/ 755",
            "sbin/ 755",
            "sys/ 755",
            "tmp/ 755",
            "usr/ 755",
            "usr/bin/ 755",
            "usr/bin/app 755",
            "usr/lib/ 755",
            "usr/sbin/ 755",
            "var/ 755",
            "var/log/ 755",
        ]
    );
    assert!(
        workspace
            .entries()
            .iter()
            .all(|(entry, _)| (entry.uid, entry.gid, entry.mtime) == (0, 0, 0))
    );
    assert_eq!(workspace.entry("usr/bin/app").1, elf(None));
}

#[test]
fn without_a_template_no_manifest_is_written() {
    let workspace = Workspace::new();
    let output = workspace.fledge(&["build"]).output().unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("no manifest was written")
    );
    assert!(
        !workspace
            .names()
            .contains(&"plugin.cpio.gz.manifest.json".to_owned())
    );
}

#[test]
fn a_json_manifest_serves_as_template() {
    let workspace = Workspace::new();
    let json = r#"{"name": "web", "version": "2", "initramfs": {"url": "../old.gz", "checksum": ""},
                   "workload": {"entrypoint": ["/usr/bin/app"], "base_url": "http://127.0.0.1"}}"#;
    workspace.write("manifest/web.json", json.as_bytes());
    fs_err::create_dir(workspace.path("out")).unwrap();
    workspace
        .fledge(&[
            "build",
            "--manifest",
            "manifest/web.json",
            "--output",
            "out/web.gz",
        ])
        .assert()
        .success();
    let written = fs_err::read_to_string(workspace.path("out/web.gz.manifest.json")).unwrap();
    let written: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["initramfs"]["url"], "web.gz");
    let digest = Digest::of(&fs_err::read(workspace.path("out/web.gz")).unwrap());
    assert_eq!(written["initramfs"]["checksum"], digest.to_string());
}

#[test]
fn paths_in_the_spec_are_relative_to_it_and_flags_to_the_process() {
    let workspace = Workspace::new();
    for name in ["fledge.toml", "kestrel", "app"] {
        let bytes = fs_err::read(workspace.path(name)).unwrap();
        workspace.write(&format!("plugin/{name}"), &bytes);
        fs_err::remove_file(workspace.path(name)).unwrap();
    }
    workspace.write("plugin/conf/x", b"");
    workspace.write("plugin/manifest.toml", TEMPLATE.as_bytes());
    workspace
        .fledge(&["build", "--config", "plugin/fledge.toml"])
        .assert()
        .success();
    let names = workspace.names();
    assert!(
        names.contains(&"plugin.cpio.gz".to_owned())
            && names.contains(&"plugin.cpio.gz.manifest.json".to_owned()),
        "{names:?}"
    );
}

#[test]
fn flags_override_what_the_spec_downloads() {
    let workspace = Workspace::new();
    let spec = SPEC
        .replace(
            "\"local\"\npath = \"kestrel\"",
            "\"http\"\nurl = \"https://192.0.2.1/kestrel\"\nchecksum = \"00\"",
        )
        .replace(
            "checksum = \"00\"",
            &format!("checksum = \"{}\"", "0".repeat(64)),
        );
    let source = format!(
        "[source]\nbusybox_url = \"https://192.0.2.1/busybox\"\nbusybox_sha256 = \"{}\"\n",
        "0".repeat(64)
    );
    workspace.write("fledge.toml", format!("{spec}{source}").as_bytes());
    workspace.write("box", &elf(None));
    workspace
        .fledge(&["build", "--agent", "kestrel", "--busybox", "box"])
        .assert()
        .success();
    assert_eq!(workspace.entry("bin/busybox").1, elf(None));
    assert_eq!(workspace.entry("bin/sh").1, b"busybox");
    assert_eq!(workspace.entry("bin/kestrel").1, elf(None));
}

#[test]
fn other_inits_need_no_agent() {
    let workspace = Workspace::new();
    let head = "version = \"1\"\nstrategy = \"initramfs\"\n";
    workspace.write(
        "fledge.toml",
        format!("{head}[init]\npath = \"app\"").as_bytes(),
    );
    workspace.fledge(&["build"]).assert().success();
    assert_eq!(workspace.entry("init").0.permissions, 0o755);
    workspace.write(
        "fledge.toml",
        format!("{head}[init]\nnone = true\n[mappings]\n\"app\" = \"/init\"").as_bytes(),
    );
    workspace.fledge(&["build"]).assert().success();
    assert!(
        workspace
            .entries()
            .iter()
            .all(|(entry, _)| entry.path != b"bin/kestrel")
    );
}

#[test]
fn other_dynamic_programs_are_warned_of() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    workspace.write("conf/tool", &elf(Some("/lib/ld-musl-x86_64.so.1")));
    fs_err::set_permissions(
        workspace.path("conf/tool"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let output = workspace.fledge(&["build"]).output().unwrap();
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        stderr,
        "warning: `/etc/app/tool` is dynamically linked and will not start: its loader `/lib/ld-musl-x86_64.so.1` is not in the image\n"
    );
}

#[test]
fn a_dynamic_entrypoint_with_its_loader_is_fine() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    workspace.write("app", &elf(Some("/lib/ld.so")));
    workspace.write("ld", &elf(None));
    workspace.write(
        "fledge.toml",
        format!("{SPEC}\"ld\" = \"/lib/ld.so\"\n").as_bytes(),
    );
    workspace.fledge(&["build"]).assert().success().stderr("");
}

#[test]
fn the_system_tools_read_the_artifact() {
    let workspace = Workspace::new();
    workspace.write(
        "conf/noise",
        &(0..3_000_000_u32)
            .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect::<Vec<_>>(),
    );
    workspace.fledge(&["build"]).assert().success();
    let script =
        "set -e; gzip -t plugin.cpio.gz; gzip -dc plugin.cpio.gz | cpio -it --quiet | tail -n 1";
    let tools = std::process::Command::new("sh")
        .args(["-c", "command -v gzip cpio"])
        .output()
        .unwrap();
    if !tools.status.success() {
        println!("SKIPPED: the system has no gzip or no cpio to compare with");
        return;
    }
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(workspace.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "var/log\n");
}

#[test]
fn the_output_has_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let workspace = Workspace::new();
    let program = env!("CARGO_BIN_EXE_fledge");
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("umask 027; exec '{program}' build -q")])
        .current_dir(workspace.path(""))
        .status()
        .unwrap();
    assert!(status.success());
    let mode = fs_err::metadata(workspace.path("plugin.cpio.gz"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn version_and_help_are_printed() {
    let workspace = Workspace::new();
    let version = format!("fledge {}\n", env!("CARGO_PKG_VERSION"));
    workspace
        .fledge(&["version"])
        .assert()
        .success()
        .stdout(version.clone());
    workspace
        .fledge(&["--version"])
        .assert()
        .success()
        .stdout(version);
    let help = workspace.fledge(&["build", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in [
        "--config",
        "--manifest",
        "--output",
        "--agent",
        "--busybox",
        "--source-date-epoch",
        "--quiet",
        "--verbose",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    let examples = help.find("Examples:").unwrap();
    assert!(help.find("Options:").unwrap() < examples);
}

#[test]
fn the_example_can_be_built() {
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/caddy");
    let workspace = Workspace::new();
    for name in ["fledge.toml", "manifest/caddy.json", "payload/Caddyfile"] {
        workspace.write(name, &fs_err::read(example.join(name)).unwrap());
    }
    // Stands for the server, which is downloaded.
    workspace.write("payload/caddy", &elf(None));
    workspace
        .fledge(&[
            "build",
            "-m",
            "manifest/caddy.json",
            "--agent",
            "kestrel",
            "--busybox",
            "app",
        ])
        .assert()
        .success()
        .stderr("");
    assert_eq!(workspace.manifest().name.as_str(), "caddy");
    let (_, configuration) = workspace.entry("etc/caddy/Caddyfile");
    assert!(
        String::from_utf8(configuration)
            .unwrap()
            .contains("Hello from Caddy in a Volant microVM!")
    );
}
