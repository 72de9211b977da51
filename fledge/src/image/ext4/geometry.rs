//! Where the metadata of a file system of a given size lies. Pure arithmetic: no bytes, no contents.
//!
//! ```text
//! group 0                                                        group 1                  …  group 8
//! │ superblock │ descriptors │ bitmaps and inode tables of 0–7 │ │ backup, descriptors │  …  │ bitmaps and inode tables of 8–15 │
//! ```
//!
//! Bitmaps and inode tables of [`GROUPS_PER_FLEX`] groups lie together in the first of them (feature `flex_bg`), so that contents are
//! not interrupted by them. All metadata of a group is at its beginning, which makes every bitmap "so many bits from the beginning".

use super::format::{BLOCK_BYTES, INODES_PER_BLOCK};

/// Blocks of a group: as many as a bitmap of one block has bits.
pub(super) const BLOCKS_PER_GROUP: u32 = 8 * BLOCK_BYTES;

/// Groups whose bitmaps and inode tables lie together. Half of what `mke2fs` takes: with 8, even the largest inode tables leave room
/// in the group that holds them.
pub(super) const GROUPS_PER_FLEX: u32 = 8;

/// [`GROUPS_PER_FLEX`] as the superblock says it.
pub(super) const LOG_GROUPS_PER_FLEX: u8 = 3;

/// The most inodes of a group: as many as a bitmap of one block has bits.
pub(super) const MAX_INODES_PER_GROUP: u32 = 8 * BLOCK_BYTES;

/// One inode for so many blocks: one for 16 KiB, as `mke2fs` does (`inode_ratio` in mke2fs.conf).
const BLOCKS_PER_INODE: u32 = 4;

/// Below 512 MiB there is one for each block (type `small` there).
const SMALL_BLOCKS: u32 = 128 * 1024;

/// Group descriptors in a block: 64 bytes each with feature `64bit`, which makes room for whole checksums of the bitmaps.
pub(super) const DESCRIPTORS_PER_BLOCK: u32 = 64;

/// A last group with less than this many free blocks is left out, in blocks. As in `mke2fs` (`lib/ext2fs/initialize.c`).
const LEAST_USE_OF_LAST_GROUP: u32 = 50;

/// The sizes from which the rest follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Blocks of the whole file system.
    pub(super) blocks: u32,
    /// Groups, the last of which may be short.
    pub(super) groups: u32,
    /// Inodes of each group.
    pub(super) inodes_per_group: u32,
}

/// How many inodes there are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inodes {
    /// Those that are in use, reserved ones included.
    pub(super) needed: u32,
    /// Those with which there are free ones.
    pub(super) wanted: u32,
}

impl Inodes {
    /// `needed`, and those that so many free blocks call for.
    pub(super) fn with_free(needed: u32, free_blocks: u32) -> Self {
        Self {
            needed,
            wanted: needed.saturating_add(inodes_for(free_blocks)),
        }
    }
}

impl Geometry {
    /// A file system of at most `blocks`, with as many inodes as it has blocks for and at least `inodes.wanted` if they fit; none
    /// where its metadata or `inodes.needed` do not. A remainder that is too small to be a group is left out.
    pub(super) fn new(blocks: u32, inodes: Inodes) -> Option<Self> {
        let wanted = inodes.wanted.max(inodes_for(blocks));
        let of_size = |blocks: u32| {
            let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
            let last = groups.checked_sub(1)?;
            let inodes_per_group = wanted
                .div_ceil(groups)
                .next_multiple_of(INODES_PER_BLOCK)
                .min(MAX_INODES_PER_GROUP);
            let this = Self {
                blocks,
                groups,
                inodes_per_group,
            };
            let fits = this.inodes() >= inodes.needed
                && this.blocks_in(last) >= this.metadata_blocks(last) + LEAST_USE_OF_LAST_GROUP;
            fits.then_some(this)
        };
        of_size(blocks).or_else(|| of_size(blocks / BLOCKS_PER_GROUP * BLOCKS_PER_GROUP))
    }

    /// Inodes of the whole file system.
    pub(super) fn inodes(&self) -> u32 {
        self.groups * self.inodes_per_group
    }

    /// The first block of a group.
    pub(super) fn start_of(group: u32) -> u32 {
        group * BLOCKS_PER_GROUP
    }

    /// The blocks of a group.
    pub(super) fn blocks_in(&self, group: u32) -> u32 {
        (self.blocks - Self::start_of(group)).min(BLOCKS_PER_GROUP)
    }

    /// Blocks that all group descriptors take.
    pub(super) fn descriptor_blocks(&self) -> u32 {
        self.groups.div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    /// Blocks of one group's inode table.
    pub(super) fn table_blocks(&self) -> u32 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// Metadata at the beginning of a group, in blocks; none of it lies anywhere else.
    pub(super) fn metadata_blocks(&self, group: u32) -> u32 {
        let flex = if group.is_multiple_of(GROUPS_PER_FLEX) {
            (self.groups - group).min(GROUPS_PER_FLEX) * (2 + self.table_blocks())
        } else {
            0
        };
        self.superblock_blocks(group) + flex
    }

    /// The superblock and the group descriptors, or their backup, at the beginning of a group.
    pub(super) fn superblock_blocks(&self, group: u32) -> u32 {
        if has_superblock(group) {
            1 + self.descriptor_blocks()
        } else {
            0
        }
    }

    /// The block with the bitmap of a group's blocks.
    pub(super) fn block_bitmap(&self, group: u32) -> u32 {
        self.flex_start(group) + group % GROUPS_PER_FLEX
    }

    /// The block with the bitmap of a group's inodes.
    pub(super) fn inode_bitmap(&self, group: u32) -> u32 {
        self.block_bitmap(group) + self.flex_groups(group)
    }

    /// The first block of a group's inode table.
    pub(super) fn inode_table(&self, group: u32) -> u32 {
        self.flex_start(group)
            + 2 * self.flex_groups(group)
            + group % GROUPS_PER_FLEX * self.table_blocks()
    }

    /// Where bitmaps and inode tables begin of the groups that `group` lies together with.
    fn flex_start(&self, group: u32) -> u32 {
        let first = group / GROUPS_PER_FLEX * GROUPS_PER_FLEX;
        Self::start_of(first) + self.superblock_blocks(first)
    }

    /// How many groups `group` lies together with, itself included.
    fn flex_groups(&self, group: u32) -> u32 {
        let first = group / GROUPS_PER_FLEX * GROUPS_PER_FLEX;
        (self.groups - first).min(GROUPS_PER_FLEX)
    }
}

/// How many inodes `blocks` blocks have at least.
fn inodes_for(blocks: u32) -> u32 {
    if blocks < SMALL_BLOCKS {
        blocks
    } else {
        blocks / BLOCKS_PER_INODE
    }
}

/// Whether a group begins with a superblock: 0, 1, and the powers of 3, 5 and 7 (feature `sparse_super`).
pub(super) fn has_superblock(group: u32) -> bool {
    let is_power_of = |base: u32| {
        let mut rest = group;
        while rest.is_multiple_of(base) {
            rest /= base;
        }
        rest == 1
    };
    group <= 1 || is_power_of(3) || is_power_of(5) || is_power_of(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn backups_are_in_the_groups_that_linux_looks_in() {
        let found: Vec<u32> = (0..400).filter(|&group| has_superblock(group)).collect();
        assert_eq!(found, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    proptest! {
        #[test]
        fn metadata_is_at_the_beginning_of_groups(blocks in any::<u32>(), needed in 11..u32::MAX / 4, free in any::<u32>()) {
            let Some(geometry) = Geometry::new(blocks, Inodes::with_free(needed, free)) else {
                return Ok(());
            };
            prop_assert!(geometry.blocks <= blocks && blocks - geometry.blocks < BLOCKS_PER_GROUP);
            prop_assert!(geometry.inodes() >= needed);
            let mut next = 0;
            // Two runs of groups that lie together, and the last one.
            let groups = (0..geometry.groups.min(2 * GROUPS_PER_FLEX)).chain([geometry.groups - 1]);
            for group in groups.filter(|group| group.is_multiple_of(GROUPS_PER_FLEX)) {
                let together = group..geometry.groups.min(group + GROUPS_PER_FLEX);
                let start = Geometry::start_of(group) + geometry.superblock_blocks(group);
                let mut at = start;
                for number in together.clone() {
                    prop_assert_eq!(geometry.block_bitmap(number), at);
                    at += 1;
                }
                for number in together.clone() {
                    prop_assert_eq!(geometry.inode_bitmap(number), at);
                    at += 1;
                }
                for number in together {
                    prop_assert_eq!(geometry.inode_table(number), at);
                    at += geometry.table_blocks();
                }
                prop_assert_eq!(at, Geometry::start_of(group) + geometry.metadata_blocks(group));
                prop_assert!(geometry.metadata_blocks(group) < geometry.blocks_in(group));
                prop_assert!(start >= next);
                next = at;
            }
        }
    }
}
