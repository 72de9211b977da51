//! The system packages that xtask's commands need, and why. On Debian and its relatives root gets the missing ones
//! installed; everybody else is told the one line to run. Nothing else ever changes the system.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use fs_err as fs;

use crate::{cache, printer, process};

/// A package of Debian and Ubuntu, and how to tell that what it brings is there, wherever it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// Completes "needed for …".
    pub(crate) why: &'static str,
    pub(crate) probe: Probe,
}

/// What shows that a package is not missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A program in `PATH`.
    Command(&'static str),
    /// A file at its absolute path.
    File(&'static str),
    /// A module that `python3` can load.
    PythonModule(&'static str),
}

/// To tell which kernel this machine would build, and whether the cache has it.
pub(crate) const COMPILER: &[Package] = &[
    command("gcc", "gcc", "compiling the guest kernel"),
    command("binutils", "ld", "linking the guest kernel"),
];

/// What the benches compare our programs with.
pub(crate) const BENCH: &[Package] = &[
    command("cpio", "cpio", "the pipeline that fledge is compared with"),
    command("umoci", "umoci", "what fledge is compared with"),
    command("erofs-utils", "mkfs.erofs", "what fledge is compared with"),
];

/// Programs of others that read what we write, and write what we read: the tests compare with them where they are.
pub(crate) const READERS: &[Package] = &[
    command("buildah", "buildah", "the tests of Dockerfiles"),
    command("cpio", "cpio", "the tests of archives"),
    command("e2fsprogs", "e2fsck", "the tests of ext4 images"),
    command("erofs-utils", "fsck.erofs", "the tests of EROFS images"),
    command("libarchive-tools", "bsdtar", "the tests of archives"),
    command("minisign", "minisign", "the tests of signatures"),
    command("skopeo", "skopeo", "the tests of container images"),
    command(
        "squashfs-tools",
        "unsquashfs",
        "the tests of squashfs images",
    ),
    command("umoci", "umoci", "the tests of container images"),
];

/// To make environments for programs from the Python package registry.
pub(crate) const PYTHON: &[Package] = &[
    command("python3", "python3", "the checks of the API by others"),
    Package {
        name: "python3-venv",
        why: "keeping those checks' packages apart from the system's",
        probe: Probe::PythonModule("ensurepip"),
    },
];

/// To build everything twice in other surroundings.
pub(crate) const REPRO: &[Package] = &[
    command("faketime", "faketime", "building at another time"),
    command("buildah", "buildah", "building an image from a Dockerfile"),
];

/// To compile the guest kernel, beside [`COMPILER`].
pub(crate) const KERNEL_BUILD: &[Package] = &[
    Package {
        name: "libc6-dev",
        why: "compiling the kernel's own build tools",
        probe: Probe::File("/usr/include/stdio.h"),
    },
    command("make", "make", "driving the kernel's build"),
    command(
        "bison",
        "bison",
        "the parser of the kernel's configuration language",
    ),
    command(
        "flex",
        "flex",
        "the scanner of the kernel's configuration language",
    ),
    command("bc", "bc", "computing the kernel's time constants"),
    Package {
        name: "libelf-dev",
        why: "checking the kernel's object files (objtool)",
        probe: Probe::File("/usr/include/libelf.h"),
    },
    command("xz-utils", "xz", "unpacking the kernel's source"),
];

/// To run the end-to-end test, beside what the builds need.
pub(crate) const E2E: &[Package] = &[
    command(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "running microVMs where there is no KVM, and the nested lab",
    ),
    command("nftables", "nft", "the guests' packet filter"),
    command("iproute2", "ip", "looking at the guests' network"),
];

/// To use the API of a volantd in a network namespace of its own.
pub(crate) const API: &[Package] = &[
    command("iproute2", "ip", "the network of the namespace"),
    command("nftables", "nft", "the guests' packet filter"),
];

/// To fetch a file that is not in a package.
pub(crate) const DOWNLOAD: &[Package] = &[
    command("curl", "curl", "downloading over https"),
    Package {
        name: "ca-certificates",
        why: "knowing whom to trust over https",
        probe: Probe::File("/etc/ssl/certs/ca-certificates.crt"),
    },
];

/// What the running system is, as far as installing packages goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// Debian, Ubuntu or a relative, with `apt-get`.
    Apt,
    Other,
}

impl System {
    /// Reads `/etc/os-release`.
    pub(crate) fn detect() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if is_debian_like(&release) && process::find("apt-get").is_some() {
            Self::Apt
        } else {
            Self::Other
        }
    }
}

/// Makes sure that nothing of `needed` is missing, as far as this user may.
///
/// # Errors
/// When something is missing and this user cannot install it: the message holds the line to run.
pub(crate) fn ensure(needed: &[Package]) -> Result<()> {
    let missing: Vec<Package> = needed.iter().copied().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        printer::progress(
            "packages",
            &format!("{} is missing, needed for {}", package.name, package.why),
        );
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    match System::detect() {
        System::Apt if is_root() => install(&names)?,
        System::Apt => bail!(
            "Some packages are missing; run this, then the same command again: {}",
            install_line(&names)
        ),
        System::Other => bail!(
            "Some programs are missing, and xtask installs packages on Debian and Ubuntu only; there they come from: {}",
            names.join(" ")
        ),
    }
    match missing.iter().find(|package| is_missing(package)) {
        Some(package) => bail!(
            "{} was installed, but {} is still not there",
            package.name,
            shown(package.probe)
        ),
        None => Ok(()),
    }
}

/// Fetches the lists of available packages, if this user may and none were ever fetched (as in a fresh container).
pub(crate) fn refresh_lists_if_empty() -> Result<()> {
    let lists = Path::new("/var/lib/apt/lists");
    let empty = !fs::read_dir(lists).is_ok_and(|entries| {
        entries
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    });
    if empty && is_root() {
        refresh_lists()
    } else {
        Ok(())
    }
}

/// Says whether this process may install packages.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

const fn command(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package {
        name,
        why,
        probe: Probe::Command(program),
    }
}

fn is_missing(package: &Package) -> bool {
    match package.probe {
        Probe::Command(program) => process::find(program).is_none(),
        Probe::File(path) => !Path::new(path).exists(),
        Probe::PythonModule(module) => {
            let mut python = Command::new("python3");
            process::captured(python.args(["-c", &format!("import {module}")])).is_err()
        }
    }
}

fn shown(probe: Probe) -> String {
    match probe {
        Probe::Command(program) => format!("the program `{program}`"),
        Probe::File(path) => format!("the file `{path}`"),
        Probe::PythonModule(module) => format!("Python's module `{module}`"),
    }
}

fn install(names: &[&str]) -> Result<()> {
    refresh_lists()?;
    printer::progress("packages", &format!("installing {}", names.join(" ")));
    let mut command = apt_get();
    command
        .args(["install", "--yes", "--no-install-recommends"])
        .args(names);
    process::logged(
        &mut command,
        &cache::directory("logs")?.join("apt.log"),
        |_| (),
    )
}

pub(crate) fn refresh_lists() -> Result<()> {
    printer::progress("packages", "fetching the package lists");
    process::logged(
        apt_get().arg("update"),
        &cache::directory("logs")?.join("apt.log"),
        |_| (),
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8");
    command
}

fn install_line(names: &[&str]) -> String {
    format!(
        "sudo apt-get install --no-install-recommends {}",
        names.join(" ")
    )
}

fn is_debian_like(os_release: &str) -> bool {
    let fields: BTreeMap<&str, &str> = os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim().trim_matches(['"', '\''])))
        .collect();
    let id = fields.get("ID").copied().unwrap_or_default();
    let like = fields.get("ID_LIKE").copied().unwrap_or_default();
    like.split_whitespace()
        .chain([id])
        .any(|word| word == "debian" || word == "ubuntu")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relatives_of_debian_are_known() {
        let cases = [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n",
                true,
            ),
            ("ID=ubuntu\nID_LIKE=debian\n", true),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", true),
            ("ID='debian'\n", true),
            ("ID=fedora\nHOME_URL=\"https://debian.example\"\n", false),
            ("ID=alpine\n", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_debian_like(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_there_is_not_missing() {
        let there = [
            Package {
                name: "sh",
                why: "the test",
                probe: Probe::Command("sh"),
            },
            Package {
                name: "root",
                why: "the test",
                probe: Probe::File("/"),
            },
        ];
        assert!(ensure(&there).is_ok());
        assert!(is_missing(&command(
            "nothing",
            "no-program-has-this-name",
            "the test"
        )));
        assert!(is_missing(&Package {
            name: "nothing",
            why: "the test",
            probe: Probe::File("/no/such/file")
        }));
    }

    #[test]
    fn the_line_to_run_names_every_package() {
        assert_eq!(
            install_line(&["bison", "flex"]),
            "sudo apt-get install --no-install-recommends bison flex"
        );
    }
}
