//! Files from upstream releases: fetched over https, and worth nothing unless they have the pinned digest. It keeps nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{digest_file, packages, printer, process};

/// How long a host may take to answer before it counts as out of reach, in seconds.
const CONNECT_TIMEOUT_S: &str = "10";
/// How long the download may take, in seconds: 18 MB at 60 kB a second.
const DOWNLOAD_TIMEOUT_S: &str = "300";

/// Whether the file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// It is there, and has its digest.
    Yes,
    /// The host is out of reach; that was said.
    OutOfReach,
}

/// Fetches `url` to `file`.
///
/// # Errors
/// When what came is not the pinned file.
pub(crate) fn release(subject: &str, url: &str, sha256: &str, file: &Path) -> Result<Fetched> {
    packages::ensure(packages::DOWNLOAD)?;
    printer::progress(subject, &format!("downloading {url}"));
    let outcome = process::captured(
        Command::new("curl")
            .args(["--fail", "--location", "--silent", "--show-error"])
            .args(["--proto", "=https"])
            .args(["--connect-timeout", CONNECT_TIMEOUT_S])
            .args(["--max-time", DOWNLOAD_TIMEOUT_S])
            .arg("--output")
            .arg(file)
            .arg(url),
    );
    if let Err(error) = outcome {
        printer::progress(subject, &format!("the release is out of reach: {error:#}"));
        return Ok(Fetched::OutOfReach);
    }
    verify(file, sha256)?;
    Ok(Fetched::Yes)
}

/// Checks a file's digest.
///
/// # Errors
/// When it is another one.
pub(crate) fn verify(file: &Path, sha256: &str) -> Result<()> {
    let found = digest_file::sha256_hex(file)?;
    if found != sha256 {
        bail!(
            "Checksum of `{}` does not match: expected {sha256}, got {found}",
            file.display()
        );
    }
    Ok(())
}
