//! What volantd tells one guest beside the kernel command line: a small JSON file in a cpio archive appended to the initramfs. A guest
//! that boots a root file system has it on a disk of its own instead, with NULs behind it: see [`on_disk`].
//!
//! Secrets travel here only: a command line shows in the host's process list and in the guest's /proc/cmdline.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;

/// Path of the file in the guest, mode 0600. The agent removes it once it is read.
pub const GUEST_CONFIG_PATH: &str = "/.volant/config.json";

/// The largest file that the agent reads, in bytes: a manifest and its environment, with room.
pub const MAX_GUEST_CONFIG_BYTES: usize = 1024 * 1024;

/// What the length of the config disk is a multiple of, in bytes: a page, so that no VMM rounds it.
const DISK_BLOCK_BYTES: usize = 4096;

/// The JSON of a config as the content of its disk.
pub fn on_disk(mut json: Vec<u8>) -> Vec<u8> {
    let length = json.len().next_multiple_of(DISK_BLOCK_BYTES);
    json.resize(length.max(DISK_BLOCK_BYTES), 0);
    json
}

/// The JSON on a config disk. A disk with nothing on it has none.
pub fn from_disk(content: &[u8]) -> &[u8] {
    let end = content.iter().position(|byte| *byte == 0);
    &content[..end.unwrap_or(content.len())]
}

/// The most bytes of a config disk.
pub const MAX_CONFIG_DISK_BYTES: usize = MAX_GUEST_CONFIG_BYTES.next_multiple_of(DISK_BLOCK_BYTES);

/// The contents of [`GUEST_CONFIG_PATH`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// What a caller must know to change anything in the guest.
    pub secret: Secret,
    /// The workload's environment. Never on the command line, because it may hold secrets; replaces the manifest's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The manifest, where it does not fit the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
}

/// A VM's own secret: 64 hexadecimal digits (256 random bits). `Debug` does not show it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret from random bytes of the operating system.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(hex::encode(bytes))
    }

    /// A secret as it was stored.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one header or file that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `presented` is the secret, in a time that does not depend on where they differ. An empty secret matches nothing.
    pub fn matches(&self, presented: &str) -> bool {
        let (own, other) = (self.0.as_bytes(), presented.as_bytes());
        let differing = own
            .iter()
            .zip(other)
            .fold(0_u8, |seen, (a, b)| seen | (a ^ b));
        !own.is_empty() && own.len() == other.len() && differing == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_text_matches() {
        let secret = Secret::from_random([7; 32]);
        assert!(secret.matches(&"07".repeat(32)));
        for other in ["", "07", &"08".repeat(32), &"07".repeat(33)] {
            assert!(!secret.matches(other), "{other}");
        }
        assert!(!Secret::from_stored(String::new()).matches(""));
    }

    #[test]
    fn a_disk_holds_the_file_and_nuls() {
        for length in [0, 1, 4096, 4097] {
            let json = vec![b'x'; length];
            let disk = on_disk(json.clone());
            assert!(!disk.is_empty() && disk.len().is_multiple_of(DISK_BLOCK_BYTES));
            assert_eq!(from_disk(&disk), json);
        }
        assert!(on_disk(vec![b'x'; MAX_GUEST_CONFIG_BYTES]).len() <= MAX_CONFIG_DISK_BYTES);
    }

    #[test]
    fn debug_does_not_show_it() {
        assert!(!format!("{:?}", Secret::from_random([7; 32])).contains("0707"));
    }
}
