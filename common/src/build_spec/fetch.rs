//! Files that a build downloads, and where they go. Values only: nothing is fetched.

use std::fmt;

use crate::digest::Digest;

use super::GuestPath;

/// The longest name of a member, in bytes: Linux's `PATH_MAX` less the NUL, which no file that was ever packed can exceed.
const MAX_MEMBER_BYTES: usize = 4095;

/// A single file to download, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// An `http://` or `https://` URL.
    pub url: String,
    /// Its SHA-256.
    pub checksum: Digest,
}

/// A file to download, and what of it goes where: a `[[fetch]]` of the build spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Where it can be had, in the order in which they are tried; at least one.
    pub urls: Vec<String>,
    /// The SHA-256 of the file as downloaded.
    pub checksum: Digest,
    /// What is taken out of it, if it is an archive; else the file itself is taken.
    pub member: Option<Member>,
    /// Where it goes: of a directory, its contents.
    pub path: GuestPath,
    /// Permission bits of the file, at most `0o7777`; without it those of the archive, or what the path suggests.
    pub mode: Option<u32>,
}

/// What is taken out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// One file, by its path in the archive without a leading `./`.
    File(String),
    /// What is in this directory, by its path without `/` at the end; empty for the whole archive.
    Directory(String),
}

/// A text that names no member of an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a path in an archive: {why}")]
pub struct InvalidMember {
    shown: String,
    why: &'static str,
}

impl std::str::FromStr for Member {
    type Err = InvalidMember;

    fn from_str(text: &str) -> Result<Self, InvalidMember> {
        let invalid = |why| {
            Err(InvalidMember {
                shown: super::shown(text),
                why,
            })
        };
        if text.trim().is_empty() {
            return invalid("it is empty");
        }
        if text.starts_with('/') {
            return invalid("it must be relative, without a `/` at its beginning");
        }
        if text.chars().any(char::is_control) {
            return invalid("it holds a control character");
        }
        if text.len() > MAX_MEMBER_BYTES {
            return invalid("it has more than 4095 bytes");
        }
        let mut components = Vec::new();
        for component in text.split('/') {
            match component {
                "" | "." => {}
                ".." => return invalid("it must not contain `..`"),
                name => components.push(name),
            }
        }
        let path = components.join("/");
        if text.ends_with('/') || path.is_empty() {
            return Ok(Self::Directory(path));
        }
        Ok(Self::File(path))
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Directory(path) => write!(f, "{path}/"),
        }
    }
}
