//! Where a file lies in the guest, as a value that is safe to put into an archive.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest path in the guest, in bytes: Linux's `PATH_MAX` (4096) less the NUL that ends it.
pub const MAX_GUEST_PATH_BYTES: usize = 4095;

/// The longest name between two `/`, in bytes: Linux's `NAME_MAX`.
const MAX_COMPONENT_BYTES: usize = 255;

/// Where the agent mounts file systems of the kernel and of RAM at every boot: what an image has there, nobody sees.
pub const MOUNT_POINTS: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// A text that is not a path in the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a path in the guest: {why}")]
pub struct InvalidGuestPath {
    shown: String,
    why: &'static str,
}

/// An absolute path in the guest: begins with `/`, has no `.`, `..`, empty or overlong component and no `/` at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

impl GuestPath {
    /// The path as text; `/` alone is the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one of [`MOUNT_POINTS`] at or above the path.
    pub fn mount_point(&self) -> Option<&'static str> {
        MOUNT_POINTS.into_iter().find(|point| {
            let below = self.0.strip_prefix(point);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The path without its first `/`, as an archive holds it; empty for the root.
    pub fn in_archive(&self) -> &str {
        &self.0[1..]
    }
}

impl TryFrom<String> for GuestPath {
    type Error = InvalidGuestPath;

    fn try_from(text: String) -> Result<Self, InvalidGuestPath> {
        let invalid = |why| {
            let shown = text
                .chars()
                .take(200)
                .flat_map(char::escape_debug)
                .collect();
            Err(InvalidGuestPath { shown, why })
        };
        if !text.starts_with('/') {
            return invalid("it must be absolute, beginning with `/`");
        }
        if text.chars().any(char::is_control) {
            return invalid("it holds a control character");
        }
        let mut clean = String::with_capacity(text.len());
        for component in text.split('/') {
            match component {
                // `//` and `/./` mean nothing; a `/` at the end neither.
                "" | "." => {}
                ".." => return invalid("it must not contain `..`"),
                name if name.len() > MAX_COMPONENT_BYTES => {
                    return invalid("a name in it has more than 255 bytes");
                }
                name => {
                    clean.push('/');
                    clean.push_str(name);
                }
            }
        }
        if clean.is_empty() {
            clean.push('/');
        }
        if clean.len() > MAX_GUEST_PATH_BYTES {
            return invalid("it has more than 4095 bytes");
        }
        Ok(Self(clean))
    }
}

impl std::str::FromStr for GuestPath {
    type Err = InvalidGuestPath;

    fn from_str(text: &str) -> Result<Self, InvalidGuestPath> {
        Self::try_from(text.to_owned())
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
