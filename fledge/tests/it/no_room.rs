//! A disk that is full, an output that nobody takes, and Ctrl-C: each is said or kept quiet as it should be, and nothing half is left.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::workspace::{SPEC, Workspace};

const CAPACITY: i32 = 7;
const INTERRUPTED: i32 = 130;

/// A full file system of its own, mounted while it lives.
struct FullDisk<'a> {
    workspace: &'a Workspace,
}

impl<'a> FullDisk<'a> {
    /// In the workspace's directory `full`; nothing where this user cannot mount.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn new(workspace: &'a Workspace) -> Option<Self> {
        let path = workspace.path("full");
        fs_err::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=0755", "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("SKIPPED: only root can mount a small file system, to fill it");
            return None;
        }
        let disk = Self { workspace };
        let filler = fs_err::File::create(path.join("filler")).unwrap();
        let mut at = 0;
        while filler.file().write_all_at(&[1; 4096], at).is_ok() {
            at += 4096;
        }
        Some(disk)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.workspace.path("full")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }
}

impl Drop for FullDisk<'_> {
    fn drop(&mut self) {
        let path = self.workspace.path("full");
        drop(Command::new("umount").arg(path).status());
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left_on_it() {
    let workspace = Workspace::new();
    let Some(disk) = FullDisk::new(&workspace) else {
        return;
    };
    let table: [(&[&str], &str); 5] = [
        (
            &["build", "--output", "full/x.cpio.gz"],
            "Cannot write `full/x.cpio.gz",
        ),
        (
            &["keygen", "--no-password", "--output", "full/k"],
            "Cannot write `full/k.key`",
        ),
        (
            &["init", "--binary", "app", "full"],
            "Cannot access `full/fledge.toml`",
        ),
        (
            &["init", "--binary", "app", "full/a/b"],
            "Cannot access `full/a/b",
        ),
        (
            &["init", "--image", "nginx", "full"],
            "Cannot access `full/fledge.toml`",
        ),
    ];
    for (arguments, expected) in table {
        let output = workspace.fledge(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected), "{said}");
        assert!(said.contains("No space left"), "{said}");
        assert!(!said.contains("/."), "a temporary name is told: {said}");
        assert_eq!(output.status.code(), Some(CAPACITY), "{said}");
        assert_eq!(disk.names(), ["filler"], "{arguments:?}");
    }
}

#[test]
fn a_result_that_cannot_be_printed_is_a_failure() {
    let workspace = Workspace::new();
    for arguments in [&["build"][..], &["keygen", "--no-password"]] {
        workspace.fledge(arguments).assert().success();
    }
    let commands: [&[&str]; 11] = [
        &["version"],
        &["--version"],
        &["--help"],
        &["build", "--help"],
        &["completions", "bash"],
        &["inspect", "plugin.cpio.gz"],
        &["inspect", "plugin.cpio.gz", "--json"],
        &["diff", "plugin.cpio.gz", "plugin.cpio.gz"],
        &["check"],
        &["build"],
        &["cache", "gc"],
    ];
    for arguments in commands {
        let run = |stdout: Stdio| {
            let output = Command::new(env!("CARGO_BIN_EXE_fledge"))
                .args(arguments)
                .env_clear()
                .env("XDG_CACHE_HOME", workspace.path("cache"))
                .current_dir(workspace.path(""))
                .stdout(stdout)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
                .wait_with_output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), said)
        };
        let full = fs_err::OpenOptions::new().write(true).open("/dev/full");
        let (code, said) = run(full.unwrap().into_parts().0.into());
        assert!(
            said.contains(
                "error: Cannot write the result to the standard output\n  caused by: No space left"
            ),
            "{arguments:?}: {said}"
        );
        assert_eq!(code, Some(CAPACITY), "{arguments:?}: {said}");
        // Nobody reads.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, said) = run(writer.into());
        assert!(!said.contains("error"), "{arguments:?}: {said}");
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
    }
}

/// Whether the process has a file of this name open.
fn reads(pid: u32, name: &str) -> bool {
    let Ok(open) = fs_err::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    open.filter_map(|entry| fs_err::read_link(entry.ok()?.path()).ok())
        .any(|path| path.file_name() == Some(Path::new(name).as_os_str()))
}

#[test]
fn hashing_what_is_mapped_ends_with_ctrl_c() {
    let workspace = Workspace::new();
    // So many names for so much of nothing that hashing all of it takes longer than anyone waits.
    let large = fs_err::File::create(workspace.path("conf/large")).unwrap();
    large.set_len(0xffff_ffff).unwrap();
    for number in 0..500 {
        let link = workspace.path(&format!("conf/large-{number}"));
        fs_err::hard_link(workspace.path("conf/large"), link).unwrap();
    }
    let before = workspace.names();
    let mut build = Command::new(env!("CARGO_BIN_EXE_fledge"))
        .arg("build")
        .env_clear()
        .env("XDG_CACHE_HOME", workspace.path("cache"))
        .current_dir(workspace.path(""))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !reads(build.id(), "large") {
        assert_eq!(build.try_wait().unwrap(), None, "it ended before");
        std::thread::yield_now();
    }
    let pid = nix::unistd::Pid::from_raw(build.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = build.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Interrupted; nothing was written"), "{said}");
    assert_eq!(output.status.code(), Some(INTERRUPTED), "{said}");
    assert_eq!(workspace.names(), before);
}

#[test]
fn a_file_over_the_limit_of_an_archive_is_found_by_its_size() {
    let workspace = Workspace::new();
    let large = fs_err::File::create(workspace.path("conf/large")).unwrap();
    large.set_len(1 << 32).unwrap();
    let expected = "fledge.toml:10:1: `conf/large` has 4294967296 bytes, and an initramfs holds files of less than 4 GiB\n";
    let shown = "10 | \"conf\" = \"/etc/app\"\n";
    for command in ["check", "build"] {
        let output = workspace.fledge(&[command]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected) && said.contains(shown), "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
    }
    // One less is right, and a root file system has no such limit.
    large.set_len((1 << 32) - 1).unwrap();
    workspace.fledge(&["check"]).assert().success();
    large.set_len(1 << 32).unwrap();
    let rootfs = SPEC.replace(
        "\"initramfs\"",
        "\"oci_rootfs\"\n[source]\nimage = \"nginx\"",
    );
    workspace.write("fledge.toml", rootfs.as_bytes());
    workspace.fledge(&["check"]).assert().success();
    let init = "version = \"1\"\nstrategy = \"initramfs\"\n[init]\npath = \"conf/large\"\n";
    workspace.write("fledge.toml", init.as_bytes());
    for command in ["check", "build"] {
        let output = workspace.fledge(&[command]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("fledge.toml:4:8: `conf/large` has"), "{said}");
    }
}
