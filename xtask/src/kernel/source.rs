//! Where the kernel's source comes from: the place the user names, else Debian's package, else kernel.org. It finds and
//! unpacks; it neither configures nor builds, and it downloads nothing before somebody asks to unpack.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::{cache, digest_file, packages, printer, process};

/// Debian's package of the long-term series that the guest kernel is made of. Debian 12 has it in its updates.
const DEBIAN_PACKAGE: &str = "linux-source-6.12";
/// Where that package puts its tarball.
const DEBIAN_TARBALL: &str = "usr/src/linux-source-6.12.tar.xz";

/// The release taken from kernel.org where there is no such package.
const UPSTREAM_VERSION: &str = "6.12.80";
const UPSTREAM_URL: &str = "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.12.80.tar.xz";
/// As the `OpenWrt` project records it for the same file: `target/linux/generic/kernel-6.12` of its repository, at commit
/// `09731f58ce502e849a662155ca72943c9490d397`.
const UPSTREAM_SHA256: &str = "c92591d896e79ecddbc3319136f0c2f855e832b397de7593f013ad7590a43e53";

/// Overrides where the source comes from: a tarball, or a folder that holds a clean source tree.
const SOURCE_VARIABLE: &str = "VOLANT_KERNEL_SOURCE";

/// A source that can be had. Cheap to find; nothing is fetched until [`Source::unpack`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    origin: Origin,
    /// Differs whenever the source differs, as far as can be told without unpacking it.
    pub(crate) identity: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Directory(PathBuf),
    Tarball(PathBuf),
    DebianPackage { version: String },
    KernelOrg,
}

impl Source {
    /// Decides where the source is to come from on this machine.
    pub(crate) fn find() -> Result<Self> {
        if let Some(given) = std::env::var_os(SOURCE_VARIABLE).filter(|given| !given.is_empty()) {
            return Self::given(Path::new(&given))
                .with_context(|| format!("`{SOURCE_VARIABLE}` cannot be used"));
        }
        if packages::System::detect() == packages::System::Apt {
            if let Some(version) = installed_version() {
                let origin = Origin::Tarball(Path::new("/").join(DEBIAN_TARBALL));
                return Ok(Self {
                    origin,
                    identity: debian_identity(&version),
                });
            }
            packages::refresh_lists_if_empty()?;
            if let Some(version) = candidate_version() {
                let identity = debian_identity(&version);
                return Ok(Self {
                    origin: Origin::DebianPackage { version },
                    identity,
                });
            }
        }
        Ok(Self {
            origin: Origin::KernelOrg,
            identity: format!("kernel.org {UPSTREAM_SHA256}"),
        })
    }

    fn given(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path)?;
        if !path.is_dir() {
            let identity = format!("tarball {}", digest_file::sha256_hex(&path)?);
            return Ok(Self {
                origin: Origin::Tarball(path),
                identity,
            });
        }
        // Hashing a tree of a gigabyte at every call would cost more than it gives: a change of it that leaves the
        // version alone goes unnoticed, which is what `--rebuild` is for.
        let version = version(&fs::read_to_string(path.join("Makefile"))?)?;
        Ok(Self {
            identity: format!("directory {} {version}", path.display()),
            origin: Origin::Directory(path),
        })
    }

    /// Makes the source tree available, inside `work` unless it is a folder already, and returns it with its version.
    pub(crate) fn unpack(&self, work: &Path, log: &Path) -> Result<(PathBuf, String)> {
        let tree = match &self.origin {
            Origin::Directory(tree) => tree.clone(),
            Origin::Tarball(tarball) => extract(tarball, work, log)?,
            Origin::DebianPackage { version } => {
                extract(&debian_tarball(version, log)?, work, log)?
            }
            Origin::KernelOrg => extract(&upstream_tarball(log)?, work, log)?,
        };
        let version = version(&fs::read_to_string(tree.join("Makefile"))?)?;
        Ok((tree, version))
    }
}

fn debian_identity(version: &str) -> String {
    format!("debian {DEBIAN_PACKAGE} {version}")
}

fn installed_version() -> Option<String> {
    let tarball = Path::new("/").join(DEBIAN_TARBALL);
    let mut query = Command::new("dpkg-query");
    query.args([
        "--show",
        "--showformat=${db:Status-Status} ${Version}",
        DEBIAN_PACKAGE,
    ]);
    let answer = process::captured(&mut query).ok()?;
    let version = answer.strip_prefix("installed ")?;
    tarball.is_file().then(|| version.to_owned())
}

fn candidate_version() -> Option<String> {
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", DEBIAN_PACKAGE]).env("LC_ALL", "C");
    candidate(&process::captured(&mut policy).ok()?)
}

/// Reads the version that apt would install out of what `apt-cache policy` prints.
fn candidate(policy: &str) -> Option<String> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    (version != "(none)").then(|| version.to_owned())
}

/// Fetches Debian's package through apt, which checks its signature, and takes the tarball out of it. Needs no root.
fn debian_tarball(version: &str, log: &Path) -> Result<PathBuf> {
    let downloads = cache::directory("downloads")?;
    let tarball = downloads.join(format!("{DEBIAN_PACKAGE}_{version}.tar.xz"));
    if tarball.is_file() {
        return Ok(tarball);
    }
    printer::progress(
        "kernel",
        &format!("fetching {DEBIAN_PACKAGE} {version} through apt, about 150 MB"),
    );
    let work = empty_directory(&downloads.join("debian.part"))?;
    let mut download = Command::new("apt-get");
    download
        .current_dir(&work)
        .arg("download")
        .arg(format!("{DEBIAN_PACKAGE}={version}"));
    process::logged(&mut download, log, |_| ())
        .context("The package lists may be old: try `apt-get update`")?;
    let package = fs::read_dir(&work)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("`apt-get download` left no package in `{}`", work.display()))?;
    process::logged(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&work),
        log,
        |_| (),
    )?;
    fs::rename(work.join(DEBIAN_TARBALL), &tarball)?;
    fs::remove_dir_all(&work)?;
    Ok(tarball)
}

fn upstream_tarball(log: &Path) -> Result<PathBuf> {
    let tarball = cache::directory("downloads")?.join(format!("linux-{UPSTREAM_VERSION}.tar.xz"));
    if tarball.is_file() && digest_file::sha256_hex(&tarball)? == UPSTREAM_SHA256 {
        return Ok(tarball);
    }
    packages::ensure(packages::DOWNLOAD)?;
    printer::progress(
        "kernel",
        &format!("downloading {UPSTREAM_URL}, about 150 MB"),
    );
    let partial = tarball.with_extension("part");
    let mut curl = Command::new("curl");
    curl.args([
        "--fail",
        "--location",
        "--silent",
        "--show-error",
        "--proto",
        "=https",
        "--retry",
        "3",
        "--output",
    ]);
    process::logged(curl.arg(&partial).arg(UPSTREAM_URL), log, |_| ()).with_context(|| {
        format!("No kernel source could be had: set `{SOURCE_VARIABLE}` to a tarball of Linux 6.12")
    })?;
    let digest = digest_file::sha256_hex(&partial)?;
    if digest != UPSTREAM_SHA256 {
        fs::remove_file(&partial)?;
        bail!(
            "Checksum of `{UPSTREAM_URL}` does not match: expected {UPSTREAM_SHA256}, got {digest}"
        );
    }
    fs::rename(&partial, &tarball)?;
    Ok(tarball)
}

/// Unpacks a tarball with one folder at its top, and returns that folder. One unpacked before is used again.
fn extract(tarball: &Path, work: &Path, log: &Path) -> Result<PathBuf> {
    let finished = work.join("source");
    if finished.is_dir() {
        return Ok(finished);
    }
    printer::progress("kernel", &format!("unpacking `{}`", tarball.display()));
    let partial = empty_directory(&work.join("source.part"))?;
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--strip-components=1",
        "--no-same-owner",
        "--directory",
    ])
    .arg(&partial)
    .arg("--file")
    .arg(tarball);
    process::logged(&mut tar, log, |_| ())?;
    fs::rename(&partial, &finished)?;
    Ok(finished)
}

fn empty_directory(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path)?;
    Ok(path.to_owned())
}

/// Reads the version out of the first lines of the kernel's top `Makefile`.
fn version(makefile: &str) -> Result<String> {
    let field = |name: &str| {
        makefile
            .lines()
            .take(10)
            .filter_map(|line| line.split_once('='))
            .find_map(|(key, value)| (key.trim() == name).then(|| value.trim()))
    };
    match (field("VERSION"), field("PATCHLEVEL"), field("SUBLEVEL")) {
        (Some(version), Some(patch_level), Some(sub_level)) => Ok(format!(
            "{version}.{patch_level}.{sub_level}{}",
            field("EXTRAVERSION").unwrap_or_default()
        )),
        _ => bail!("This is not the source of a Linux kernel: its Makefile states no version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_makefile() {
        let makefile = "# SPDX-License-Identifier: GPL-2.0\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION =\n";
        assert_eq!(version(makefile).unwrap(), "6.12.117");
        assert_eq!(
            version(&makefile.replace("EXTRAVERSION =", "EXTRAVERSION = -rc1")).unwrap(),
            "6.12.117-rc1"
        );
        assert!(version("all:\n\ttrue\n").is_err());
    }

    #[test]
    fn apt_says_what_it_would_install() {
        let policy = "linux-source-6.12:\n  Installed: (none)\n  Candidate: 6.12.117-1~deb12u1\n  Version table:\n";
        assert_eq!(candidate(policy).as_deref(), Some("6.12.117-1~deb12u1"));
        assert_eq!(
            candidate("linux-source-6.12:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(candidate(""), None);
    }

    #[test]
    fn a_given_place_must_hold_a_kernel() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Source::given(&directory.path().join("missing")).is_err());
        assert!(Source::given(directory.path()).is_err());
        fs::write(
            directory.path().join("Makefile"),
            "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\nEXTRAVERSION =\n",
        )
        .unwrap();
        assert!(
            Source::given(directory.path())
                .unwrap()
                .identity
                .ends_with("6.12.1")
        );
        assert!(
            Source::given(&directory.path().join("Makefile"))
                .unwrap()
                .identity
                .starts_with("tarball ")
        );
    }

    #[test]
    fn a_tarball_loses_its_top_folder() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, log) = (
            directory.path().join("linux-6.12.1"),
            directory.path().join("log"),
        );
        fs::create_dir(&tree).unwrap();
        fs::write(
            tree.join("Makefile"),
            "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\nEXTRAVERSION =\n",
        )
        .unwrap();
        let tarball = directory.path().join("linux.tar");
        let mut tar = Command::new("tar");
        tar.current_dir(directory.path())
            .args(["--create", "--file"])
            .arg(&tarball)
            .arg("linux-6.12.1");
        process::captured(&mut tar).unwrap();
        let source = Source::given(&tarball).unwrap();
        let (unpacked, version) = source.unpack(directory.path(), &log).unwrap();
        assert_eq!(
            (unpacked, version.as_str()),
            (directory.path().join("source"), "6.12.1")
        );
    }
}
