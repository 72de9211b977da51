//! The build spec: a parsed `fledge.toml`, which says what goes into an artifact. Reads and checks text only; no file is opened.
//!
//! Keys are those of the Go system. Unknown keys are refused, because a misspelt one would silently build something else. What this
//! version cannot build (`oci_rootfs`, images, Dockerfiles) is refused in a plain sentence.

mod guest_path;
mod raw;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::digest::Digest;

pub use guest_path::{GuestPath, InvalidGuestPath, MAX_GUEST_PATH_BYTES};
pub use template::{ManifestTemplate, TemplateError};

/// The largest `fledge.toml` or `manifest.toml` that is read, in bytes. Real ones have a few hundred.
pub const MAX_SPEC_BYTES: usize = 256 * 1024;

/// The busybox that the Go system's fledge took where nothing was configured: its checksum is known without being written down.
pub const DEFAULT_BUSYBOX_URL: &str =
    "https://busybox.net/downloads/binaries/1.35.0-x86_64-linux-musl/busybox";

/// SHA-256 of [`DEFAULT_BUSYBOX_URL`], in hexadecimal digits.
pub const DEFAULT_BUSYBOX_SHA256: &str =
    "6e123e7f3202a8c1e9b1f94d8941580a25135382b99e8d3e34fb858bba311348";

/// A `fledge.toml` of strategy `initramfs` that has passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSpec {
    /// What becomes `/init`, PID 1 of the guest.
    pub init: Init,
    /// The busybox that goes to `/bin/busybox`; without it the image has no shell.
    pub busybox: Option<Download>,
    /// Which files and directories of the host go where, by host path as written.
    pub mappings: BTreeMap<String, GuestPath>,
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

/// A file to download, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// An `http://` or `https://` URL.
    pub url: String,
    /// Its SHA-256.
    pub checksum: Digest,
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
    /// It is not TOML, or a key or value is not known; the text shows the line and marks the place.
    #[error("{0}")]
    Syntax(String),
    /// Keys contradict each other or one is missing; a plain sentence.
    #[error("{0}")]
    Rule(String),
}

impl BuildSpec {
    /// Reads and checks the text of a `fledge.toml`.
    ///
    /// # Errors
    /// The first problem, with line and column where there is one place to point at.
    pub fn parse(text: &str) -> Result<Self, BuildSpecError> {
        raw::parse(text)
    }
}
