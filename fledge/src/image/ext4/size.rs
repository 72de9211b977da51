//! Finds the size of a file system. Everything is laid out once without writing it, so that what is written afterwards fits.

use std::iter::once;

use super::format::BLOCK_BYTES;
use super::geometry::{BLOCKS_PER_GROUP, Geometry, Inodes, MAX_INODES_PER_GROUP};
use super::journal;
use super::plan::Plan;
use super::space::{Need, Space};
use super::{LEAST_FREE_BYTES, MOST_FREE_BYTES, Options, Size};
use crate::image::WriteError;

/// Larger file systems are not made: block numbers have 32 bits here.
const MAX_BYTES: u64 = (1 << 44) - (1 << 27);

/// The least by which a size is increased that was too small, in blocks: 1 MiB.
const STEP_BLOCKS: u32 = 256;

/// The sizes of a file system to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) geometry: Geometry,
    /// How long the image is, in bytes; what is not part of a group is left over.
    pub(super) size_bytes: u64,
    /// Blocks of the journal; 0 without one.
    pub(super) journal_blocks: u32,
}

/// Finds the layout for what is planned, with `content_bytes` in its files.
///
/// # Errors
/// [`WriteError::TooLarge`] where it does not fit.
pub(super) fn lay_out(
    plan: &Plan<'_>,
    options: &Options,
    content_bytes: u64,
) -> Result<Layout, WriteError> {
    let free_bytes = match options.size {
        Size::Total(size_bytes) => return exactly(plan, options, size_bytes),
        Size::Free(free_bytes) => free_bytes,
        Size::Automatic => (content_bytes / 4).clamp(LEAST_FREE_BYTES, MOST_FREE_BYTES),
    };
    let too_large = || {
        WriteError::TooLarge(format!(
            "{content_bytes} bytes with {free_bytes} bytes free are more than the 16 TiB of an ext4 image"
        ))
    };
    let free = blocks_of(free_bytes).ok_or_else(too_large)?;
    let inodes = Inodes::with_free(plan.next_inode(), free);
    let groups = inodes.wanted.div_ceil(MAX_INODES_PER_GROUP);
    let mut blocks = needs(plan)
        .map(|need| u64::from(need.content))
        .sum::<u64>()
        .saturating_add(u64::from(free))
        .max(u64::from(groups - 1) * u64::from(BLOCKS_PER_GROUP) + u64::from(STEP_BLOCKS));
    loop {
        let count = u32::try_from(blocks).map_err(|_| too_large())?;
        if u64::from(count) * u64::from(BLOCK_BYTES) > MAX_BYTES {
            return Err(too_large());
        }
        let found = try_blocks(plan, options, count, inodes);
        let missing = match found {
            Some((layout, left)) if left >= free => return Ok(layout),
            Some((_, left)) => free - left,
            None => 0,
        };
        blocks += u64::from(missing.max(STEP_BLOCKS));
    }
}

/// A file system of a given size.
fn exactly(plan: &Plan<'_>, options: &Options, size_bytes: u64) -> Result<Layout, WriteError> {
    if size_bytes > MAX_BYTES {
        return Err(WriteError::TooLarge(format!(
            "An ext4 image of {size_bytes} bytes is too large: at most {MAX_BYTES} can be made"
        )));
    }
    let too_small = || {
        WriteError::TooLarge(format!(
            "An ext4 image of {size_bytes} bytes is too small for its content"
        ))
    };
    let blocks = u32::try_from(size_bytes / u64::from(BLOCK_BYTES)).map_err(|_| too_small())?;
    let content = needs(plan).try_fold(0_u32, |sum, need| sum.checked_add(need.content));
    let left = content
        .and_then(|content| blocks.checked_sub(content))
        .ok_or_else(too_small)?;
    let inodes = Inodes::with_free(plan.next_inode(), left);
    let (layout, _) = try_blocks(plan, options, blocks, inodes).ok_or_else(too_small)?;
    Ok(layout)
}

/// Lays everything out in `blocks` blocks, and says how many are left.
fn try_blocks(
    plan: &Plan<'_>,
    options: &Options,
    blocks: u32,
    inodes: Inodes,
) -> Option<(Layout, u32)> {
    let geometry = Geometry::new(blocks, inodes)?;
    let journal_blocks = if options.journal {
        journal::blocks_for(geometry.blocks)
    } else {
        0
    };
    let mut space = Space::new(&geometry);
    let journal = Need::content(journal_blocks);
    for need in once(journal).chain(needs(plan)) {
        space.place(need)?;
    }
    let layout = Layout {
        geometry,
        size_bytes: u64::from(blocks) * u64::from(BLOCK_BYTES),
        journal_blocks,
    };
    Some((layout, space.free()))
}

fn needs(plan: &Plan<'_>) -> impl Iterator<Item = Need> {
    once(&plan.root)
        .chain(&plan.others)
        .map(|planned| planned.need)
}

fn blocks_of(bytes: u64) -> Option<u32> {
    u32::try_from(bytes.div_ceil(u64::from(BLOCK_BYTES))).ok()
}
