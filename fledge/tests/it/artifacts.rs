//! Artifacts that are looked into and compared.

use std::num::NonZeroUsize;
use std::process::Command;

use fledge::image::{ext4, squashfs};
use serde_json::Value;

use crate::workspace::{TEMPLATE, Workspace, elf};

/// Runs `fledge`, checks its exit code, and returns what it said on both outputs.
fn run(workspace: &Workspace, arguments: &[&str], code: i32) -> String {
    let output = workspace.fledge(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

/// A workspace with an artifact and its manifest.
fn built() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    run(&workspace, &["build"], 0);
    workspace
}

#[test]
fn an_artifact_is_looked_into() {
    let workspace = built();
    let said = run(&workspace, &["inspect", "plugin.cpio.gz"], 0);
    for expected in [
        "plugin.cpio.gz: initramfs, gzip",
        "/init       /bin/kestrel",
        "agent       /bin/kestrel",
        "entrypoint  /usr/bin/app serve",
        "/etc/app/app.conf",
        "root file system, mapped",
    ] {
        assert!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    assert!(!said.contains("would not start"), "{said}");

    let said = run(&workspace, &["inspect", "plugin.cpio.gz", "--json"], 0);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["format"], "initramfs");
    let built = fs_err::metadata(workspace.path("plugin.cpio.gz")).unwrap();
    assert_eq!(report["size_bytes"], built.len());
    assert_eq!(
        report["digest"].as_str().unwrap(),
        workspace.digest("plugin.cpio.gz").to_string()
    );
    assert_eq!(report["entries"]["files"], 3);
    assert_eq!(report["budget"][4]["media"], "mapped");
    assert_eq!(report["workload"]["problem"], Value::Null);

    let said = run(&workspace, &["inspect", "plugin.cpio.gz", "--tree"], 0);
    for expected in [
        "0644 0:0                  12  /etc/app/app.conf",
        "/etc/app/current -> app.conf",
    ] {
        assert!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    let words = ["inspect", "plugin.cpio.gz", "--tree", "--json"];
    let entries: Value = serde_json::from_str(&run(&workspace, &words, 0)).unwrap();
    let count = u64::try_from(entries.as_array().unwrap().len()).unwrap();
    assert_eq!(report["entries"]["all"], count);
}

#[test]
fn what_would_not_start_is_said() {
    let workspace = built();
    let manifest = fs_err::read(workspace.path("plugin.cpio.gz.manifest.json")).unwrap();
    workspace.write("app", &elf(Some("/lib/ld.so")));
    fs_err::remove_file(workspace.path("manifest.toml")).unwrap();
    run(&workspace, &["build"], 0);
    // The build refuses it, and removes the one of the earlier artifact.
    workspace.write("plugin.cpio.gz.manifest.json", &manifest);
    let said = run(&workspace, &["inspect", "plugin.cpio.gz"], 0);
    assert!(said.contains("would not start: The entrypoint"), "{said}");
    assert!(said.contains("  /usr/bin/app  /lib/ld.so"), "{said}");
}

#[test]
fn what_is_no_artifact_is_a_sentence_and_an_exit_code() {
    let workspace = built();
    let said = run(&workspace, &["inspect", "gone"], 3);
    assert!(said.contains("There is no artifact at `gone`"), "{said}");
    let said = run(&workspace, &["inspect", "conf"], 1);
    assert!(said.contains("`conf` is not a file"), "{said}");
    let said = run(&workspace, &["inspect", "fledge.toml"], 1);
    assert!(said.contains("`fledge.toml` is no artifact"), "{said}");
    let mut bytes = fs_err::read(workspace.path("plugin.cpio.gz")).unwrap();
    bytes.truncate(100);
    workspace.write("cut", &bytes);
    let said = run(&workspace, &["inspect", "cut"], 1);
    assert!(
        said.contains("caused by: The initramfs is damaged"),
        "{said}"
    );
    workspace.write("plugin.cpio.gz.manifest.json", b"{}");
    let said = run(&workspace, &["inspect", "plugin.cpio.gz"], 1);
    assert!(said.contains("is not valid"), "{said}");
}

#[test]
fn the_same_inputs_do_not_differ() {
    let workspace = built();
    run(&workspace, &["build", "--output", "again.cpio.gz"], 0);
    let arguments = ["diff", "plugin.cpio.gz", "again.cpio.gz"];
    let said = run(&workspace, &arguments, 0);
    assert_eq!(said, "the same, byte by byte\n");
    let said = run(&workspace, &[&arguments[..], &["--json"]].concat(), 0);
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["same"], true);
}

#[test]
fn a_difference_is_explained() {
    let workspace = built();
    workspace.write("conf/app.conf", b"port = 9000\n");
    workspace.write("conf/more.conf", b"");
    fs_err::remove_file(workspace.path("conf/current")).unwrap();
    let build = [
        "build",
        "--output",
        "other.cpio.gz",
        "--source-date-epoch",
        "0",
    ];
    run(&workspace, &build, 0);
    let arguments = ["diff", "plugin.cpio.gz", "other.cpio.gz"];
    let said = run(&workspace, &arguments, 1);
    assert_eq!(
        said,
        "~ /etc/app/app.conf: content, from byte 7 on\n- /etc/app/current\n+ /etc/app/more.conf\n"
    );
    let said = run(&workspace, &[&arguments[..], &["--json"]].concat(), 1);
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["differences"][1]["change"], "removed");
    assert_eq!(answer["packing_only"], false);
    run(&workspace, &["diff", "plugin.cpio.gz", "gone"], 3);
    let said = run(&workspace, &["diff", "plugin.cpio.gz", "fledge.toml"], 2);
    assert!(said.contains("is no artifact"), "{said}");
}

#[test]
fn another_packing_is_told_from_another_content() {
    let workspace = built();
    let packed = fs_err::read(workspace.path("plugin.cpio.gz")).unwrap();
    let mut plain = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(&packed[..]), &mut plain).unwrap();
    workspace.write("plain.cpio", &plain);
    workspace.write("packed.cpio.zst", &zstd::encode_all(&plain[..], 3).unwrap());
    for other in ["plain.cpio", "packed.cpio.zst"] {
        let said = run(&workspace, &["diff", "plugin.cpio.gz", other], 1);
        assert!(
            said.starts_with("the same tree, packed differently"),
            "{said}"
        );
    }
    let said = run(&workspace, &["inspect", "packed.cpio.zst"], 0);
    assert!(said.contains("initramfs, zstd"), "{said}");
}

#[test]
fn an_archive_of_gnu_cpio_is_read() {
    let workspace = Workspace::new();
    let made = Command::new("sh")
        .args([
            "-c",
            "ln app hard && find app hard conf | sort | cpio --quiet -o -H newc > made.cpio",
        ])
        .current_dir(workspace.path(""))
        .output()
        .unwrap();
    if !workspace.path("made.cpio").exists() || !made.status.success() {
        eprintln!("SKIPPED: there is no `cpio` on this machine");
        return;
    }
    let said = run(&workspace, &["inspect", "made.cpio"], 0);
    assert!(
        said.contains("entries     5: 3 files, 1 directories, 1 links"),
        "{said}"
    );
}

/// Writes the tree of the artifact as the other formats of root file systems, with its manifest beside each.
fn write_images(workspace: &Workspace) {
    let tree = fledge::inspect::read(&workspace.path("plugin.cpio.gz"))
        .unwrap()
        .tree;
    let file = |name: &str| fs_err::File::create(workspace.path(name)).unwrap();
    let options = ext4::Options {
        time_s: 0,
        size: ext4::Size::Free(0),
        journal: true,
    };
    ext4::write(&tree, &options, file("plugin.ext4")).unwrap();
    let options = squashfs::Options {
        time_s: 0,
        level: 3,
        threads: NonZeroUsize::MIN,
    };
    squashfs::write(&tree, &options, file("plugin.squashfs")).unwrap();
    for name in ["plugin.ext4", "plugin.squashfs"] {
        fs_err::copy(
            workspace.path("plugin.cpio.gz.manifest.json"),
            workspace.path(&format!("{name}.manifest.json")),
        )
        .unwrap();
    }
}

#[test]
fn images_of_file_systems_are_looked_into() {
    let workspace = built();
    write_images(&workspace);
    for (name, format, packing) in [
        ("plugin.ext4", "ext4", ""),
        ("plugin.squashfs", "squashfs", ", zstd"),
    ] {
        let said = run(&workspace, &["inspect", name], 0);
        for expected in [
            format!("{name}: {format} image{packing}\n").as_str(),
            "/init       /bin/kestrel",
            "agent       /bin/kestrel",
            "entrypoint  /usr/bin/app serve",
            "/etc/app/app.conf",
            "root file system, mapped",
        ] {
            assert!(said.contains(expected), "no {expected:?} in:\n{said}");
        }
        assert!(!said.contains("would not start"), "{said}");
        let said = run(&workspace, &["inspect", name, "--json"], 0);
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["format"], format);
        assert_eq!(report["entries"]["files"], 3);
        let mut bytes = fs_err::read(workspace.path(name)).unwrap();
        // What is behind a small squashfs image is padding.
        bytes.truncate(if format == "ext4" {
            bytes.len() - 4096
        } else {
            600
        });
        workspace.write("cut", &bytes);
        let said = run(&workspace, &["inspect", "cut"], 1);
        assert!(said.contains("behind the end of the image"), "{said}");
    }
}

#[test]
fn images_of_file_systems_are_compared() {
    let workspace = built();
    write_images(&workspace);
    let said = run(
        &workspace,
        &["diff", "plugin.cpio.gz", "plugin.squashfs"],
        1,
    );
    assert!(
        said.starts_with("the same tree, packed differently"),
        "{said}"
    );
    // Every ext4 file system has it.
    let said = run(&workspace, &["diff", "plugin.squashfs", "plugin.ext4"], 1);
    assert_eq!(said, "+ /lost+found\n");
    workspace.write("conf/app.conf", b"port = 9000\n");
    run(&workspace, &["build", "--output", "other.cpio.gz"], 0);
    for name in ["plugin.ext4", "plugin.squashfs"] {
        let said = run(&workspace, &["diff", name, "other.cpio.gz"], 1);
        assert!(
            said.contains("~ /etc/app/app.conf: content, from byte 7 on"),
            "{said}"
        );
    }
    let image = fs_err::read(workspace.path("plugin.squashfs")).unwrap();
    workspace.write("cut", &image[..600]);
    let said = run(&workspace, &["diff", "plugin.squashfs", "cut"], 2);
    assert!(
        said.contains("goes on behind the end of the image"),
        "{said}"
    );
}
