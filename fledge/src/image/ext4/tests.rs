//! Reads back what is written by `e2fsck`, `debugfs` and Linux.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output};

use tempfile::NamedTempFile;

use super::*;

const MIB: u64 = 1024 * 1024;

/// The time that images are made at.
const TIME_S: u64 = 1_700_000_000;

/// A tool's output, or nothing where it is not installed.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(tool)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            println!("SKIPPED: cannot run {tool}: {error}");
            None
        }
    }
}

fn options(size: Size, journal: bool) -> Options {
    Options {
        time_s: TIME_S,
        size,
        journal,
    }
}

fn image(tree: &Tree, options: &Options) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    write(tree, options, file.reopen().unwrap()).unwrap();
    file
}

/// What `e2fsck -fn` has to say against it.
fn check(file: &NamedTempFile) {
    let path = file.path().to_str().unwrap();
    let Some(output) = run("e2fsck", &["-f", "-n", path]) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
}

#[test]
fn an_empty_disk_is_clean_at_any_size() {
    let group = 128 * MIB;
    let sizes = [
        16 * MIB,
        64 * MIB,
        group - 4096,
        group,
        group + 4096,
        group + 3 * MIB,
        8 * group,
        8 * group + 4096,
        9 * group - 4096,
        1024 * MIB,
        10 * 1024 * MIB,
        100 * 1024 * MIB,
    ];
    for size in sizes {
        for journal in [true, false] {
            let file = image(&Tree::default(), &options(Size::Total(size), journal));
            let metadata = file.as_file().metadata().unwrap();
            assert_eq!(metadata.len(), size);
            println!("{size}: {} KiB on the disk", metadata.blocks() / 2);
            check(&file);
        }
    }
}
