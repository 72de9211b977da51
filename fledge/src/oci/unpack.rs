//! Turns the layers of an image into a tree: several are decompressed at the same time, all are applied in their order.

use std::io::Cursor;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use common::digest::Digest;

use super::apply;
use super::budget::Budget;
use super::layer::{self, End, Entry, LayerError};
use super::spool::{self, SpoolError, Spooled, Workplace};
use crate::tree::{Content, Tree};

/// The most threads. Each holds a buffer and, for zstd, a window of up to 128 MiB.
const MAX_THREADS: usize = 8;

/// A layer as it is stored.
#[derive(Debug, Clone)]
pub(super) struct StoredLayer {
    /// Its digest, where its manifest names it.
    pub digest: Option<Digest>,
    /// What it must be when it is plain: a config's `diff_id`.
    pub diff_id: Option<Digest>,
    /// Where it is.
    pub blob: Content,
}

/// A layer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be decompressed or kept.
    #[error("Layer {number} ({digest}) cannot be unpacked")]
    Spool {
        /// Counted from 1, the lowest.
        number: usize,
        /// Its digest.
        digest: String,
        /// Why.
        #[source]
        source: SpoolError,
    },
    /// It is not what it should be.
    #[error("Layer {number} is not the one that the image names: expected {expected}, got {found}")]
    Digest {
        /// Counted from 1, the lowest.
        number: usize,
        /// What the manifest or the config says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// Its archive is refused.
    #[error("Layer {number} ({digest}) is refused")]
    Layer {
        /// Counted from 1, the lowest.
        number: usize,
        /// Its digest.
        digest: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The user pressed Ctrl-C.
    #[error("Interrupted")]
    Interrupted,
}

impl UnpackError {
    /// Whether a blob is not what it should be, so that another copy of it may be.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Digest { .. } => true,
            // What cannot be decompressed, but is what the image names, is so in every copy.
            Self::Spool { source, .. } => matches!(source, SpoolError::Read(_)),
            Self::Layer { .. } | Self::Interrupted => false,
        }
    }
}

/// A layer whose entries are known.
#[derive(Debug)]
struct Opened {
    spooled: Spooled,
    entries: Vec<Entry>,
}

/// The tree that `layers` make, lowest first, and their digests. Contents are in files without names in `directory`.
///
/// # Errors
/// The first layer, from below, that cannot be used.
pub(super) fn unpack(
    layers: &[StoredLayer],
    directory: &Path,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(Tree, Vec<Digest>), UnpackError> {
    let budget = Budget::default();
    let failed = AtomicBool::new(false);
    let should_stop = || failed.load(Ordering::Relaxed) || stop();
    let workplace = Workplace {
        directory,
        budget: &budget,
        stop: &should_stop,
    };
    let next = AtomicUsize::new(0);
    let mut tree = Tree::default();
    let mut digests = Vec::with_capacity(layers.len());
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for _ in 0..threads(layers.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some((at, layer)) = take(layers, next) {
                    let opened = open(layer, at + 1, workplace);
                    if sender.send((at, opened)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut waiting: Vec<_> = layers.iter().map(|_| None).collect();
        for (at, opened) in results {
            waiting[at] = Some(opened);
            while let Some(opened) = waiting.get_mut(digests.len()).and_then(Option::take) {
                let number = digests.len() + 1;
                let applied = opened.and_then(|opened| put(&mut tree, opened, number, &budget));
                match applied {
                    Ok(digest) => digests.push(digest),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok((tree, digests))
}

/// The tree of plain layer archives, lowest first: what [`unpack`] does, without files, threads and digests.
///
/// # Errors
/// The first layer that is refused.
pub fn tree_of(archives: &[&[u8]]) -> Result<Tree, LayerError> {
    let budget = Budget::default();
    let mut tree = Tree::default();
    for archive in archives {
        let size_bytes = u64::try_from(archive.len()).unwrap_or(u64::MAX);
        let entries = layer::read(Cursor::new(archive), size_bytes, End::Verified, &budget)?;
        let content = |offset, size_bytes| {
            let part = usize::try_from(offset)
                .ok()
                .zip(usize::try_from(size_bytes).ok())
                .and_then(|(offset, size)| archive.get(offset..)?.get(..size));
            Content::Bytes(part.unwrap_or_default().to_vec())
        };
        apply::apply(&mut tree, entries, content, &budget)?;
    }
    Ok(tree)
}

fn threads(layers: usize) -> usize {
    thread::available_parallelism()
        .map_or(2, NonZero::get)
        .clamp(2, MAX_THREADS)
        .min(layers)
}

fn take<'a>(layers: &'a [StoredLayer], next: &AtomicUsize) -> Option<(usize, &'a StoredLayer)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    layers.get(at).map(|layer| (at, layer))
}

fn open(
    layer: &StoredLayer,
    number: usize,
    workplace: Workplace<'_>,
) -> Result<Opened, UnpackError> {
    let digest = || {
        let known = layer.digest.or(layer.diff_id);
        known.map_or_else(
            || "of unknown digest".to_owned(),
            |digest| digest.to_string(),
        )
    };
    let check = |expected: Option<Digest>, found| match expected {
        Some(expected) if expected != found => Err(UnpackError::Digest {
            number,
            expected,
            found,
        }),
        _ => Ok(()),
    };
    let spooled = match spool::spool(&layer.blob, workplace) {
        Ok(spooled) => spooled,
        Err(SpoolError::Interrupted) => return Err(UnpackError::Interrupted),
        Err(source) => {
            if let Some(found) = source.blob() {
                check(layer.digest, found)?;
            }
            return Err(UnpackError::Spool {
                number,
                digest: digest(),
                source,
            });
        }
    };
    check(layer.digest, spooled.blob)?;
    check(layer.diff_id, spooled.diff_id)?;
    let refused = |source| UnpackError::Layer {
        number,
        digest: digest(),
        source,
    };
    let archive = spooled.archive.whole();
    let reader = archive.open().map_err(|error| refused(error.into()))?;
    let is_verified = layer.digest.or(layer.diff_id).is_some();
    let end = if is_verified {
        End::Verified
    } else {
        End::Marked
    };
    let entries = layer::read(reader, archive.size_bytes(), end, workplace.budget);
    let entries = entries.map_err(refused)?;
    Ok(Opened { spooled, entries })
}

fn put(
    tree: &mut Tree,
    opened: Opened,
    number: usize,
    budget: &Budget,
) -> Result<Digest, UnpackError> {
    let Opened { spooled, entries } = opened;
    let content = |offset, size_bytes| spooled.archive.part(offset, size_bytes);
    apply::apply(tree, entries, content, budget).map_err(|source| UnpackError::Layer {
        number,
        digest: spooled.blob.to_string(),
        source,
    })?;
    Ok(spooled.blob)
}
