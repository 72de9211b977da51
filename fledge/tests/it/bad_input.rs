//! Every mistake gets a sentence and an exit code, and changes nothing.

use crate::workspace::{SPEC, TEMPLATE, Workspace, elf};

const INVALID: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const UNAVAILABLE: i32 = 5;
const VERIFICATION: i32 = 6;

#[test]
fn missing_files_are_named() {
    let workspace = Workspace::new();
    workspace.refused(
        &["-c", "x/fledge.toml"],
        NOT_FOUND,
        "There is no build spec at `x/fledge.toml`",
    );
    workspace.refused(
        &["-m", "x.json"],
        NOT_FOUND,
        "There is no manifest at `x.json`",
    );
    workspace.refused(
        &["-o", "x/y.gz"],
        NOT_FOUND,
        "The directory `x` for the artifact does not exist",
    );
    workspace.refused(&["--agent", "x"], NOT_FOUND, "`x` does not exist");
    workspace.refused(&["--busybox", "x"], NOT_FOUND, "`x` does not exist");
    workspace.refused(&["--busybox", "conf"], INVALID, "`conf` is not a file");
    workspace.refused(&["-o", "conf"], INVALID, "`conf` is a directory");
    fs_err::remove_file(workspace.path("app")).unwrap();
    workspace.refused(&[], NOT_FOUND, "app` does not exist");
}

#[test]
fn bad_specs_are_refused() {
    let table = [
        ("", "The key `version` is missing"),
        ("version = ", "1:"),
        (
            "version = \"1\"\nstrategy = \"magic\"",
            "`magic` is not a `strategy`",
        ),
        (
            "version = \"1\"\nstrategy = \"oci_rootfs\"",
            "needs `source.image` or `source.dockerfile`",
        ),
        (
            &SPEC.replace("\"/usr/bin/app\"", "\"usr/bin/app\""),
            "`usr/bin/app` is not a path in the guest: it must be absolute",
        ),
        (
            &SPEC.replace("\"/usr/bin/app\"", "\"/usr/../bin/app\""),
            "it must not contain `..`",
        ),
        (
            &SPEC.replace("[agent]", "[agnet]"),
            "Unknown key `agnet`: did you mean `agent`?",
        ),
        (
            &format!("{SPEC}[init]\nnone = true"),
            "has no meaning with an init of your own",
        ),
        (
            &format!("{SPEC}[source]\nbusybox_url = \"https://h/b\""),
            "needs `source.busybox_sha256`",
        ),
    ];
    let workspace = Workspace::new();
    for (spec, expected) in table {
        workspace.write("fledge.toml", spec.as_bytes());
        workspace.refused(&[], INVALID, expected);
    }
    workspace.write("fledge.toml", &[0xff, 0xfe]);
    workspace.refused(&[], INVALID, "Cannot read `fledge.toml`");
    workspace.write("fledge.toml", &vec![b'#'; 300_000]);
    workspace.refused(&[], INVALID, "`fledge.toml` has more than 262144 bytes");
}

#[test]
fn contradictions_are_refused() {
    let workspace = Workspace::new();
    workspace.write(
        "fledge.toml",
        format!("{SPEC}\"kestrel\" = \"/usr/bin/app\"").as_bytes(),
    );
    workspace.refused(&[], INVALID, "Two mappings lead to `/usr/bin/app`");
    workspace.write(
        "fledge.toml",
        format!("{SPEC}\"kestrel\" = \"/init\"").as_bytes(),
    );
    workspace.refused(&[], INVALID, "`/init` belongs to the agent");
    workspace.write(
        "fledge.toml",
        format!("{SPEC}\"kestrel\" = \"/usr/bin\"").as_bytes(),
    );
    workspace.refused(&[], INVALID, "`/usr/bin` is both a directory and a file");
    workspace.write(
        "fledge.toml",
        b"version = \"1\"\nstrategy = \"initramfs\"\n[init]\nnone = true\n",
    );
    workspace.refused(&[], INVALID, "The image has no `/init`");
    workspace.refused(&["--agent", "kestrel"], INVALID, "`--agent` has no meaning");
}

#[test]
fn bad_manifests_are_refused() {
    let workspace = Workspace::new();
    let table = [
        ("name = \"app\"", "no `workload`"),
        ("nam = \"app\"", "Unknown key `nam`: did you mean `name`?"),
        (
            &TEMPLATE.replace("entrypoint = \"/usr/bin/app\"\nargs = [\"serve\"]", ""),
            "has no `entrypoint`",
        ),
        (
            &TEMPLATE.replace("\"app\"", "\"My App\""),
            "is not a valid name",
        ),
    ];
    for (template, expected) in table {
        workspace.write("manifest.toml", template.as_bytes());
        workspace.refused(&[], INVALID, expected);
    }
    workspace.write("bad.json", b"[]");
    workspace.refused(&["-m", "bad.json"], INVALID, "It is not a JSON object");
}

#[test]
fn a_workload_that_cannot_start_is_refused() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    workspace.write("app", &elf(Some("/lib64/ld-linux-x86-64.so.2")));
    workspace.refused(
        &[],
        INVALID,
        "is dynamically linked and needs `/lib64/ld-linux-x86-64.so.2`, which is not in the image",
    );
    workspace.write("app", b"#!/bin/sh\n");
    workspace.refused(&[], INVALID, "is a script for `/bin/sh`");
    workspace.write(
        "manifest.toml",
        TEMPLATE.replace("/usr/bin/app", "/usr/bin/ap").as_bytes(),
    );
    workspace.refused(
        &[],
        INVALID,
        "The entrypoint `/usr/bin/ap` is not in the image",
    );
    workspace.write(
        "manifest.toml",
        TEMPLATE
            .replace("/usr/bin/app", "/etc/app/app.conf")
            .as_bytes(),
    );
    workspace.refused(&[], INVALID, "is not executable");
}

#[test]
fn an_agent_that_cannot_be_pid_1_is_refused() {
    let workspace = Workspace::new();
    workspace.write("kestrel", &elf(Some("/lib/ld.so")));
    workspace.refused(&[], INVALID, "is dynamically linked and needs `/lib/ld.so`");
    let wrong = SPEC.replace(
        "path = \"kestrel\"",
        &format!("path = \"kestrel\"\nchecksum = \"{}\"", "0".repeat(64)),
    );
    workspace.write("fledge.toml", wrong.as_bytes());
    workspace.refused(&[], VERIFICATION, "does not match: expected sha256:0000");
}

#[test]
fn a_busybox_that_cannot_run_is_refused() {
    let workspace = Workspace::new();
    let busybox = &["--busybox", "conf/app.conf"];
    let expected = "`conf/app.conf` cannot be the busybox: it is not an ELF program";
    workspace.refused(busybox, INVALID, expected);
    let mut foreign = elf(None);
    foreign[18] = 183;
    workspace.write("foreign", &foreign);
    workspace.refused(&["--busybox", "foreign"], INVALID, "is for another machine");
}

/// An image layout without layers, whose config says `config`.
fn layout(workspace: &Workspace, config: &str) {
    let blob = |text: &str| {
        let digest = common::digest::Digest::of(text.as_bytes());
        let name = format!("layout/blobs/sha256/{}", digest.to_hex());
        workspace.write(&name, text.as_bytes());
        format!("\"digest\": \"{digest}\", \"size\": {}", text.len())
    };
    let config = blob(&format!(
        r#"{{"architecture": "amd64", "os": "linux", "rootfs": {{"type": "layers", "diff_ids": []}}, "config": {config}}}"#
    ));
    let manifest = blob(&format!(
        r#"{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
            "config": {{"mediaType": "application/vnd.oci.image.config.v1+json", {config}}}}}"#
    ));
    let index = format!(
        r#"{{"schemaVersion": 2, "manifests": [{{"mediaType": "application/vnd.oci.image.manifest.v1+json", {manifest}}}]}}"#
    );
    workspace.write("layout/index.json", index.as_bytes());
    workspace.write("layout/oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    let source = "\"oci_rootfs\"\n[source]\nimage = \"oci:layout\"";
    workspace.write(
        "fledge.toml",
        SPEC.replace("\"initramfs\"", source).as_bytes(),
    );
}

#[test]
fn an_image_that_names_no_program_is_said_so() {
    let workspace = Workspace::new();
    layout(&workspace, "{}");
    let expected = "error: The image `oci:layout` names no program to run\nhint: say it in `manifest.toml`: `entrypoint = ";
    workspace.refused(&[], INVALID, expected);
    workspace.write("manifest.toml", b"version = \"2\"\n");
    workspace.refused(&[], INVALID, expected);
    workspace.write(
        "manifest.toml",
        b"[workload]\nentrypoint = [\"/usr/bin/app\"]\n",
    );
    workspace.fledge(&["build"]).assert().success();
}

#[test]
fn a_server_that_cannot_be_reached_is_said_so() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let workspace = Workspace::new();
    let source = format!(
        "[source]\nbusybox_url = \"http://127.0.0.1:{port}/b\"\nbusybox_sha256 = \"{}\"",
        "0".repeat(64)
    );
    workspace.write("fledge.toml", format!("{SPEC}{source}").as_bytes());
    let url = format!("Cannot download `http://127.0.0.1:{port}/b`");
    workspace.refused(&[], UNAVAILABLE, &url);
    workspace.refused(
        &[],
        UNAVAILABLE,
        "hint: --busybox FILE takes one from this machine",
    );
}

#[test]
fn a_wrong_time_is_a_usage_error() {
    let workspace = Workspace::new();
    for value in ["yesterday", "-1", "4294967296"] {
        workspace
            .fledge(&["build"])
            .env("SOURCE_DATE_EPOCH", value)
            .assert()
            .code(USAGE);
    }
    workspace.fledge(&["build", "--magic"]).assert().code(USAGE);
}

#[test]
fn a_failed_write_leaves_the_old_artifact() {
    let workspace = Workspace::new();
    workspace.write("plugin.cpio.gz", b"old");
    let noise: Vec<u8> = (0..2_000_000_u32)
        .map(|i| (i ^ (i >> 7)).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    workspace.write("conf/noise", &noise);
    let program = env!("CARGO_BIN_EXE_fledge");
    // A limit on the size of files stands for a full disk: both fail in the middle of writing.
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("trap '' XFSZ; ulimit -f 20; exec '{program}' build"),
        ])
        .current_dir(workspace.path(""))
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("Cannot write `plugin.cpio.gz`"),
        "{message}"
    );
    assert_eq!(output.status.code(), Some(7), "{message}");
    assert_eq!(
        fs_err::read(workspace.path("plugin.cpio.gz")).unwrap(),
        b"old"
    );
    assert_eq!(
        workspace.names(),
        ["app", "conf", "fledge.toml", "kestrel", "plugin.cpio.gz"]
    );
}

#[test]
fn what_is_no_file_or_is_read_is_not_replaced() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    // The manifest goes beside the artifact, over this file.
    fs_err::copy(workspace.path("app"), workspace.path("x.manifest.json")).unwrap();
    let mut spec = SPEC.to_owned();
    spec.push_str("\"x.manifest.json\" = \"/etc/x\"\n");
    workspace.write("fledge.toml", spec.as_bytes());
    let read = ["fledge.toml", "manifest.toml", "x.manifest.json"];
    let before = read.map(|name| workspace.digest(name));
    std::os::unix::fs::symlink("nowhere", workspace.path("link")).unwrap();
    std::os::unix::fs::symlink("conf", workspace.path("way-in")).unwrap();
    for (output, expected) in [
        ("link", "`link` is neither a file nor free"),
        ("/dev/full", "`/dev/full` is neither a file nor free"),
        ("fledge.toml", "`fledge.toml` is read by this build"),
        ("./kestrel", "`./kestrel` is read by this build"),
        ("manifest.toml", "`manifest.toml` is read by this build"),
        ("x", "`x.manifest.json` is read by this build"),
        (
            "conf/app.conf",
            "would lie in `conf`, which this build takes",
        ),
        ("conf/new.gz", "`conf/new.gz` would lie in `conf`"),
        ("way-in/new.gz", "`way-in/new.gz` would lie in `conf`"),
    ] {
        let said = workspace
            .fledge(&["build", "--agent", "kestrel", "--output", output])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert_eq!(read.map(|name| workspace.digest(name)), before);
    assert!(workspace.path("link").is_symlink());
    let inside = fs_err::read_dir(workspace.path("conf")).unwrap();
    assert_eq!(inside.count(), 2);
}

#[test]
fn the_context_of_a_dockerfile_is_not_written_over() {
    let workspace = Workspace::new();
    workspace.write("context/Dockerfile", b"FROM scratch\nCOPY page /page\n");
    workspace.write("context/page", b"a page");
    workspace.write("context/site.manifest.json", b"a file of the context");
    for output in ["context/page", "context/site"] {
        workspace.refused(
            &["context/Dockerfile", "--output", output],
            1,
            "and no artifact of an earlier build: it is not replaced",
        );
    }
    assert_eq!(
        fs_err::read(workspace.path("context/page")).unwrap(),
        b"a page"
    );
    // One of ours may be replaced: this fails later, for want of a builder.
    workspace.write("context/page.provenance.json", b"{}");
    workspace.refused(
        &[
            "context/Dockerfile",
            "--agent",
            "kestrel",
            "--output",
            "context/page",
        ],
        3,
        "needs docker, podman or buildah",
    );
}
