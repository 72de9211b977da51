//! Where a Cloud Hypervisor for the test comes from: it is in no distribution. It builds none.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use fs_err as fs;

use crate::download::{self, Fetched};
use crate::{cache, process};

/// The oldest that volantd drives.
const MIN_MAJOR: u32 = 51;
/// The static binary of upstream's release for x86-64.
const RELEASE_URL: &str = "https://github.com/cloud-hypervisor/cloud-hypervisor/releases/download/v53.0/cloud-hypervisor-static";
/// Upstream publishes no checksum file; several unrelated projects pin this SHA-256 of the file.
const RELEASE_SHA256: &str = "448af3d4e59b22c2987f7df94c213ad40fb53a10d437e42b5ee6c4fce7c29ecc";

/// Why there is none, and what to do.
pub(super) const NONE_FOUND: &str = "No cloud-hypervisor v51 or newer was found and its release is out of reach: set $VOLANT_CLOUD_HYPERVISOR, or put it in PATH";

/// `$VOLANT_CLOUD_HYPERVISOR`, PATH, the cache, or the release.
///
/// # Errors
/// One that is named or found but does not serve: that is no reason to skip.
pub(super) fn find() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("VOLANT_CLOUD_HYPERVISOR").filter(|path| !path.is_empty())
    {
        let path = PathBuf::from(path);
        check_version(&path)?;
        return Ok(Some(fs::canonicalize(path)?));
    }
    let found = match process::find("cloud-hypervisor") {
        Some(path) => Some(path),
        None => cached_or_fetched()?,
    };
    if let Some(path) = &found {
        check_version(path)?;
    }
    Ok(found)
}

fn cached_or_fetched() -> Result<Option<PathBuf>> {
    let directory = cache::directory("bin")?;
    let program = directory.join("cloud-hypervisor");
    if program.is_file() {
        return Ok(Some(program));
    }
    let _lock = cache::lock(&directory, "cloud-hypervisor")?;
    let partial = directory.join("cloud-hypervisor.partial");
    match download::release("cloud-hypervisor", RELEASE_URL, RELEASE_SHA256, &partial)? {
        Fetched::OutOfReach => Ok(None),
        Fetched::Yes => {
            fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o755))?;
            fs::rename(&partial, &program)?;
            Ok(Some(program))
        }
    }
}

fn check_version(program: &Path) -> Result<()> {
    let text = process::captured(Command::new(program).arg("--version"))?;
    match major(&text) {
        Some(major) if major >= MIN_MAJOR => Ok(()),
        _ => bail!(
            "`{}` says `{text}`; v{MIN_MAJOR} or newer is needed",
            program.display()
        ),
    }
}

/// The major version in what `cloud-hypervisor --version` says, such as `cloud-hypervisor v53.0-dirty`.
fn major(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(1)?;
    version
        .trim_start_matches('v')
        .split('.')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let table = [
            ("cloud-hypervisor v53.0", Some(53)),
            (
                "cloud-hypervisor v51.1-dirty\nMigration Protocol Versions: 0",
                Some(51),
            ),
            ("cloud-hypervisor", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(major(text), expected, "{text}");
        }
    }
}
