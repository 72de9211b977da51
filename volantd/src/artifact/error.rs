//! What can go wrong with an artifact. Sources are shown without passwords and query strings, because those may be secrets.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::signature::Refusal;
use common::digest::Digest;
use common::manifest::{ArtifactKind, Source};

/// An artifact that could not be fetched or stored. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The server cannot be reached, or broke off, after all attempts.
    #[error("Cannot fetch `{from}`")]
    Unreachable {
        /// The source.
        from: String,
        /// What the last attempt said.
        #[source]
        source: reqwest::Error,
    },
    /// The server answered with an error.
    #[error("Fetching `{from}` failed: the server answers with HTTP status {status}")]
    Refused {
        /// The source.
        from: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server sends elsewhere, where we do not go.
    #[error("Fetching `{from}` failed: {reason}")]
    Redirected {
        /// The source.
        from: String,
        /// A clause.
        reason: String,
    },
    /// It took too long.
    #[error("Fetching `{from}` took longer than {} min", limit.as_secs() / 60)]
    TimedOut {
        /// The source.
        from: String,
        /// The time that it had.
        limit: Duration,
    },
    /// The server said how long the file is, and sent less or more.
    #[error("`{from}` ended after {received_bytes} bytes of {announced_bytes}")]
    Incomplete {
        /// The source.
        from: String,
        /// What arrived.
        received_bytes: u64,
        /// What was announced.
        announced_bytes: u64,
    },
    /// More than the limit.
    #[error("`{from}` has more than {limit_bytes} bytes, the most that an artifact may have here")]
    TooLarge {
        /// The source.
        from: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Not the file that the manifest means.
    #[error("The checksum of `{from}` does not match: expected {expected}, got {got}")]
    ChecksumMismatch {
        /// The source.
        from: String,
        /// What the manifest says.
        expected: Digest,
        /// What the file has.
        got: Digest,
    },
    /// Not what a VM can boot.
    #[error("`{from}` is not {} that can be booted: {reason}", described(*kind))]
    NotBootable {
        /// The source.
        from: String,
        /// What it should be.
        kind: ArtifactKind,
        /// A clause.
        reason: String,
    },
    /// A signature is required, and it is missing or does not hold.
    #[error("`{from}` may not be booted on this host")]
    Signature {
        /// The source.
        from: String,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// A folder, device, pipe or socket.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The source file cannot be read.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk is full, or a quota is used up.
    #[error("There is no space left in `{}` for the artifact", folder.display())]
    NoSpace {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store itself cannot be read or written.
    #[error("Cannot {action} in the artifact store `{}`", folder.display())]
    Store {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No HTTP client: the host has no usable TLS roots.
    #[error("Cannot set up HTTPS")]
    Client(#[source] reqwest::Error),
    /// A thread of the store ended without a result: a bug.
    #[error("A thread of the artifact store ended early")]
    Worker(#[source] tokio::task::JoinError),
}

const fn described(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Initramfs => "an initramfs",
        ArtifactKind::Rootfs(_) => "a root file system",
    }
}

impl ArtifactError {
    /// What a user can do about it.
    pub fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::ChecksumMismatch { .. } => {
                "The file is not the one that the manifest's author described: check its `checksum`, or build it again"
            }
            Self::NotBootable {
                kind: ArtifactKind::Initramfs,
                ..
            } => "`fledge build` makes initramfs images that Volant boots",
            Self::NotBootable { .. } => {
                "`fledge build` makes root file systems that Volant boots: erofs, ext4 and squashfs"
            }
            Self::Signature { source, .. } => source.hint(),
            Self::TooLarge { .. } => "The limit is set with `VOLANT_MAX_ARTIFACT_MIB`",
            Self::NoSpace { .. } => {
                "Free some space, or remove plugins with `volar plugins remove`"
            }
            Self::Unreachable { .. } => {
                "Check that the host can reach it; volantd honours `HTTPS_PROXY` and `NO_PROXY` in its environment"
            }
            Self::Client(_) => {
                "The host may have no root certificates: `apt-get install ca-certificates`"
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "The path is one of the machine that volantd runs on"
            }
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }

    /// Whether the source has no such file.
    pub(super) fn is_not_there(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 404 | 410),
            Self::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// A failure to write to the store, told apart: a full disk is not a broken one.
    pub(super) fn from_write(folder: &Path, source: io::Error) -> Self {
        let folder = folder.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { folder, source }
            }
            _ => Self::Store {
                action: "write",
                folder,
                source,
            },
        }
    }
}

/// A source for people: without user, password, query and fragment of a URL, at most 200 characters.
/// A source as it may be shown: bounded, escaped, and without what may be secret in a URL.
pub(crate) fn shown_source(source: &Source) -> String {
    let text = match source {
        Source::File(path) => path.to_string_lossy().into_owned(),
        Source::Http(url) => without_secrets(url),
    };
    text.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest
        .find('/')
        .map_or((rest, ""), |slash| rest.split_at(slash));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_shown_without_secrets() {
        let table = [
            ("https://host/a.gz", "https://host/a.gz"),
            (
                "https://user:pass@host:8443/a.gz?token=x#y",
                "https://host:8443/a.gz",
            ),
            ("https://host?token=x", "https://host"),
            ("/srv/a.gz", "/srv/a.gz"),
        ];
        for (text, expected) in table {
            assert_eq!(shown_source(&Source::parse(text).unwrap()), expected);
        }
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let folder = Path::new("/x");
        let full = ArtifactError::from_write(folder, io::ErrorKind::StorageFull.into());
        assert!(matches!(full, ArtifactError::NoSpace { .. }));
        let broken = ArtifactError::from_write(folder, io::ErrorKind::ReadOnlyFilesystem.into());
        assert!(matches!(broken, ArtifactError::Store { .. }));
    }
}
