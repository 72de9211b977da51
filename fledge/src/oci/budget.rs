//! What an image may use up in all, over all of its layers, which are read at the same time. Only counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::tree::MAX_ENTRIES;

/// The most bytes that the layers of an image have when they are unpacked: a bound against compression bombs. The largest images in
/// use, those for machine learning, have about 20 GB.
pub(super) const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// The most bytes of names and link targets in all layers. A million files have about 100 MB.
pub(super) const MAX_NAME_BYTES: u64 = 256 * 1024 * 1024;

/// The most bytes of extended attributes in all layers. A distribution has a few kilobytes.
pub(super) const MAX_XATTR_BYTES: u64 = 64 * 1024 * 1024;

/// The most entries in all layers, those that a later layer replaces included.
pub(super) const MAX_LAYER_ENTRIES: u64 = 2 * 1_000_000;

const _: () = assert!(MAX_ENTRIES <= 1_000_000, "layers may replace each other's");

/// Something that there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The image's layers have more than {limit} {what}")]
pub struct Exhausted {
    limit: u64,
    what: &'static str,
}

/// What is left for an image.
#[derive(Debug)]
pub(super) struct Budget {
    unpacked_bytes: AtomicU64,
    name_bytes: AtomicU64,
    xattr_bytes: AtomicU64,
    entries: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::with_unpacked_bytes(MAX_UNPACKED_BYTES)
    }
}

impl Budget {
    /// As by default, but with another limit on what the layers unpack to.
    pub(super) fn with_unpacked_bytes(limit: u64) -> Self {
        Self {
            unpacked_bytes: AtomicU64::new(limit),
            name_bytes: AtomicU64::new(MAX_NAME_BYTES),
            xattr_bytes: AtomicU64::new(MAX_XATTR_BYTES),
            entries: AtomicU64::new(MAX_LAYER_ENTRIES),
        }
    }

    pub(super) fn take_unpacked(&self, bytes: usize) -> Result<(), Exhausted> {
        let limit = MAX_UNPACKED_BYTES;
        take(&self.unpacked_bytes, bytes).ok_or(Exhausted {
            limit,
            what: "bytes when they are unpacked",
        })
    }

    pub(super) fn take_name(&self, bytes: usize) -> Result<(), Exhausted> {
        let limit = MAX_NAME_BYTES;
        take(&self.name_bytes, bytes).ok_or(Exhausted {
            limit,
            what: "bytes of names",
        })
    }

    pub(super) fn take_xattrs(&self, bytes: usize) -> Result<(), Exhausted> {
        let limit = MAX_XATTR_BYTES;
        take(&self.xattr_bytes, bytes).ok_or(Exhausted {
            limit,
            what: "bytes of extended attributes",
        })
    }

    pub(super) fn take_entry(&self) -> Result<(), Exhausted> {
        let limit = MAX_LAYER_ENTRIES;
        take(&self.entries, 1).ok_or(Exhausted {
            limit,
            what: "entries",
        })
    }
}

fn take(left: &AtomicU64, amount: usize) -> Option<()> {
    let amount = u64::try_from(amount).ok()?;
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(amount)
    })
    .ok()
    .map(drop)
}
