//! The build spec: a parsed `fledge.toml`, which says what goes into an artifact. Reads and checks text only; no file is opened.
//!
//! Keys are those of the Go system, and a few more. Unknown keys are refused, because a misspelt one would silently build something
//! else.

mod document;
mod fetch;
mod guest_path;
mod output;
mod raw;
mod rules;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::digest::Digest;

use document::{Document, Findings};

pub use document::{Finding, Mark, Place, Problem, Problems, pointer};
pub use fetch::{Download, Fetch, InvalidMember, Member};
pub use guest_path::{GuestPath, InvalidGuestPath, MAX_GUEST_PATH_BYTES, MOUNT_POINTS};
pub use output::{
    Compression, DEFAULT_SQUASHFS_LEVEL, Filesystem, FilesystemKind, MAX_COMPRESSION_LEVEL,
    MAX_SIZE_BUFFER_MB, Output,
};
#[cfg(feature = "schema")]
pub(crate) use raw::Raw as RawSpec;
pub use template::{ManifestTemplate, TemplateError};

/// The largest `fledge.toml` or `manifest.toml` that is read, in bytes. Real ones have a few hundred.
pub const MAX_SPEC_BYTES: usize = 256 * 1024;

/// The busybox that the Go system's fledge took where nothing was configured: its checksum is known without being written down.
pub const DEFAULT_BUSYBOX_URL: &str =
    "https://busybox.net/downloads/binaries/1.35.0-x86_64-linux-musl/busybox";

/// SHA-256 of [`DEFAULT_BUSYBOX_URL`], in hexadecimal digits.
pub const DEFAULT_BUSYBOX_SHA256: &str =
    "6e123e7f3202a8c1e9b1f94d8941580a25135382b99e8d3e34fb858bba311348";

/// A `fledge.toml` that has passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSpec {
    /// What becomes `/init`, PID 1 of the guest; of a root file system always the agent.
    pub init: Init,
    /// The files that all others are laid over; a root file system has one always.
    pub base: Option<Base>,
    /// The busybox that goes to `/bin/busybox`; without it an initramfs has no shell.
    pub busybox: Option<Download>,
    /// Which files and directories of the host go where, by host path as written.
    pub mappings: BTreeMap<String, GuestPath>,
    /// Which files are downloaded, and where they go.
    pub fetches: Vec<Fetch>,
    /// What all this becomes.
    pub output: Output,
}

/// The files that all others are laid over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Those of a container image, by its reference as written.
    Image(String),
    /// Those of an image that is built first.
    Dockerfile(Dockerfile),
}

/// How an image is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The Dockerfile; a path relative to the directory of `fledge.toml`.
    pub path: String,
    /// The directory that its `COPY` sees, likewise; that of the Dockerfile if not given.
    pub context: Option<String>,
    /// The stage to build; the last one if not given.
    pub target: Option<String>,
    /// Values of its `ARG`s.
    pub build_args: BTreeMap<String, String>,
}

/// What becomes `/init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// Volant's own agent.
    Agent(AgentSource),
    /// A program of the user's; a host path, relative to the directory of `fledge.toml`.
    Custom(String),
    /// Nothing: a mapping brings `/init`.
    None,
}

/// Where the agent comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSource {
    /// A release of Volant.
    Release {
        /// Which one.
        version: ReleaseVersion,
        /// What the agent must be, beside what the release says of itself.
        checksum: Option<Digest>,
    },
    /// A file; a path relative to the directory of `fledge.toml`.
    Local {
        /// The path as written.
        path: String,
        /// What the agent must be.
        checksum: Option<Digest>,
    },
    /// A file to download.
    Http(Download),
}

/// A release of Volant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseVersion {
    /// The newest one.
    Latest,
    /// A tag such as `v0.1.0`.
    Tag(String),
}

/// A `fledge.toml` that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildSpecError {
    /// It is larger than [`MAX_SPEC_BYTES`].
    #[error("The build spec has {found_bytes} bytes; the limit is {MAX_SPEC_BYTES}")]
    TooLarge {
        /// How large it is.
        found_bytes: usize,
    },
    /// Something in it is wrong.
    #[error("{0}")]
    Invalid(Problems),
}

impl BuildSpecError {
    /// The same error with the name of the file that has it.
    #[must_use]
    pub fn of_file(self, name: &str) -> Self {
        match self {
            Self::Invalid(problems) => Self::Invalid(problems.of_file(name)),
            other @ Self::TooLarge { .. } => other,
        }
    }
}

impl BuildSpec {
    /// Reads and checks the text of a `fledge.toml`.
    ///
    /// # Errors
    /// All problems at once, with line and column where there is one place to point at.
    pub fn parse(text: &str) -> Result<Self, BuildSpecError> {
        let draft = Draft::parse(text)?;
        match draft.spec {
            Some(spec) if draft.findings.is_empty() => Ok(spec),
            _ => Err(BuildSpecError::Invalid(locate(text, draft.findings))),
        }
    }
}

/// A `fledge.toml` as far as it can be understood, and what is wrong with its text. For those who look for more that is wrong, so that
/// all of it is shown at once: see [`locate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// What is not wrong of it; nothing where too much is. A build must not use it while there are findings.
    pub spec: Option<BuildSpec>,
    /// What is wrong, in no order.
    pub findings: Vec<Finding>,
}

impl Draft {
    /// Reads the text of a `fledge.toml`.
    ///
    /// # Errors
    /// Where it is too large, or no TOML.
    pub fn parse(text: &str) -> Result<Self, BuildSpecError> {
        if text.len() > MAX_SPEC_BYTES {
            return Err(BuildSpecError::TooLarge {
                found_bytes: text.len(),
            });
        }
        let document = Document::parse(text).map_err(BuildSpecError::Invalid)?;
        let mut found = Findings::default();
        let raw = document.read::<raw::Raw>(&mut found);
        Ok(Self {
            spec: raw.map(|raw| rules::spec(raw, &mut found)),
            findings: found.into_vec(),
        })
    }

    /// Host paths that are mapped to what is no place in the guest: [`BuildSpec::mappings`] does not have them.
    pub fn misplaced(&self) -> impl Iterator<Item = String> {
        self.findings.iter().filter_map(|finding| {
            let mut steps = document::steps(&finding.pointer);
            match (steps.next()?.as_str(), steps.next(), steps.next()) {
                ("mappings", Some(path), None) if finding.mark == Mark::Value => Some(path),
                _ => None,
            }
        })
    }
}

/// Where in the TOML `text` lies what somebody else found wrong with it, such as a file that it names and that is not there.
pub fn locate(text: &str, found: Vec<Finding>) -> Problems {
    let mut all = Findings::default();
    for finding in found {
        all.push(finding);
    }
    match Document::parse(text) {
        Ok(document) => document.locate(all),
        Err(problems) => problems,
    }
}

/// At most 80 characters of what a user wrote, escaped: it goes to terminals.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
