//! Gives out blocks, in order and without gaps, and writes down where a file's are: extents and the tree above them.
//!
//! Nothing is ever given back, so what is in use is everything before the next free block, and the metadata after it.

use super::format::{BLOCK_LEN, Block, Checksum, halves, put, put_u16, put_u32};
use super::geometry::{BLOCKS_PER_GROUP, Geometry};

/// Marks a node of an extent tree (`EXT4_EXT_MAGIC`, `fs/ext4/ext4_extents.h`).
const MAGIC: u16 = 0xf30a;

/// The header of a node, and each of its entries, in bytes.
const ENTRY_LEN: usize = 12;

/// Where the inode keeps the root of its tree, in bytes, and how many entries fit there.
pub(super) const ROOT_LEN: usize = 60;
const ENTRIES_IN_ROOT: usize = 4;

/// Entries that fit into a block, with the checksum after them.
const ENTRIES_IN_BLOCK: usize = 340;
const CHECKSUM_AT: usize = ENTRY_LEN + ENTRIES_IN_BLOCK * ENTRY_LEN;

/// Blocks of a file that lie one after the other. At most a group's, which is the most that an extent can name (`EXT_INIT_MAX_LEN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first of them in the file.
    pub(super) logical: u32,
    /// The first of them in the file system.
    pub(super) start: u32,
    /// How many they are.
    pub(super) count: u32,
}

/// Where an inode's blocks are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Those of its content.
    pub(super) extents: Vec<Extent>,
    /// Those of the tree above the extents, lowest level first.
    nodes: Vec<u32>,
    /// The one with its extended attributes.
    pub(super) xattr_block: Option<u32>,
}

/// What is needed of an inode's blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Blocks of its content.
    pub(super) content: u32,
    /// Whether its extended attributes take a block.
    pub(super) has_xattr_block: bool,
}

impl Need {
    /// Blocks for content and nothing else.
    pub(super) fn content(blocks: u32) -> Self {
        Self {
            content: blocks,
            has_xattr_block: false,
        }
    }
}

/// The blocks that are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space<'a> {
    geometry: &'a Geometry,
    /// No block of contents at or after it is in use.
    next: u32,
}

impl<'a> Space<'a> {
    /// All of it.
    pub(super) fn new(geometry: &'a Geometry) -> Self {
        Self { geometry, next: 0 }
    }

    /// Gives an inode what it needs; nothing where there is not enough.
    pub(super) fn place(&mut self, need: Need) -> Option<Place> {
        let mut place = Place::default();
        if need.has_xattr_block {
            place.xattr_block = Some(self.take_one()?);
        }
        self.take(need.content, &mut place.extents)?;
        self.place_tree(&mut place)?;
        Some(place)
    }

    /// Gives an inode what the tree above its extents needs.
    pub(super) fn place_tree(&mut self, place: &mut Place) -> Option<()> {
        let mut level = place.extents.len();
        while level > ENTRIES_IN_ROOT {
            level = level.div_ceil(ENTRIES_IN_BLOCK);
            for _ in 0..level {
                place.nodes.push(self.take_one()?);
            }
        }
        Some(())
    }

    /// Gives an inode a block more, which is at `logical` in its file, after all that it has. Blocks that are left out are holes:
    /// they never cost more than they save, because each of them makes at most one extent more.
    pub(super) fn append(&mut self, extents: &mut Vec<Extent>, logical: u32) -> Option<u32> {
        let start = self.take_one()?;
        let is_next = |last: &Extent| {
            last.logical + last.count == logical
                && last.start + last.count == start
                && !start.is_multiple_of(BLOCKS_PER_GROUP)
        };
        match extents.last_mut().filter(|last| is_next(last)) {
            Some(last) => last.count += 1,
            None => extents.push(Extent {
                logical,
                start,
                count: 1,
            }),
        }
        Some(start)
    }

    fn take_one(&mut self) -> Option<u32> {
        let (start, _) = self.next_run()?;
        self.next = start + 1;
        Some(start)
    }

    fn take(&mut self, wanted: u32, extents: &mut Vec<Extent>) -> Option<()> {
        let mut logical = 0;
        while logical < wanted {
            let (start, free) = self.next_run()?;
            let count = free.min(wanted - logical);
            extents.push(Extent {
                logical,
                start,
                count,
            });
            logical += count;
            self.next = start + count;
        }
        Some(())
    }

    /// The next free block, and how many of its group are free from there on.
    fn next_run(&mut self) -> Option<(u32, u32)> {
        while self.next < self.geometry.blocks {
            let group = self.next / BLOCKS_PER_GROUP;
            let begin = Geometry::start_of(group);
            let end = begin + self.geometry.blocks_in(group);
            let start = self.next.max(begin + self.geometry.metadata_blocks(group));
            if start < end {
                return Some((start, end - start));
            }
            self.next = end;
        }
        None
    }

    /// How many blocks of a group are in use; they are its first.
    pub(super) fn used_in(&self, group: u32) -> u32 {
        let contents = self.next.saturating_sub(Geometry::start_of(group));
        contents
            .min(self.geometry.blocks_in(group))
            .max(self.geometry.metadata_blocks(group))
    }

    /// How many blocks are free.
    pub(super) fn free(&self) -> u32 {
        (0..self.geometry.groups)
            .map(|group| self.geometry.blocks_in(group) - self.used_in(group))
            .sum()
    }
}

impl Place {
    /// How many blocks the inode has, for its `i_blocks`.
    pub(super) fn blocks(&self) -> u64 {
        let content: u64 = self
            .extents
            .iter()
            .map(|extent| u64::from(extent.count))
            .sum();
        let others = self.nodes.len() + usize::from(self.xattr_block.is_some());
        content + u64::try_from(others).unwrap_or(u64::MAX)
    }

    /// The root of the extent tree, as it is in the inode, and the blocks of the tree below with where they go. `seed` is the
    /// checksum of what identifies the inode.
    pub(super) fn tree(&self, seed: Checksum) -> ([u8; ROOT_LEN], Vec<(u32, Box<Block>)>) {
        let mut entries: Vec<[u8; ENTRY_LEN]> = self.extents.iter().map(leaf_entry).collect();
        let mut firsts: Vec<u32> = self.extents.iter().map(|extent| extent.logical).collect();
        let mut blocks = Vec::new();
        let mut free = self.nodes.iter().copied();
        let mut depth = 0;
        while entries.len() > ENTRIES_IN_ROOT {
            let mut above = Vec::new();
            let nodes = entries
                .chunks(ENTRIES_IN_BLOCK)
                .zip(firsts.chunks(ENTRIES_IN_BLOCK));
            for ((node, firsts), at) in nodes.zip(free.by_ref()) {
                let mut block = Box::new([0; BLOCK_LEN]);
                put_node(&mut block[..], node, ENTRIES_IN_BLOCK, depth);
                let checksum = seed.then(&block[..CHECKSUM_AT]);
                put_u32(&mut block[..], CHECKSUM_AT, checksum.value());
                blocks.push((at, block));
                above.push((firsts.first().copied().unwrap_or(0), at));
            }
            entries = above.iter().copied().map(index_entry).collect();
            firsts = above.iter().map(|&(first, _)| first).collect();
            depth += 1;
        }
        let mut root = [0; ROOT_LEN];
        put_node(&mut root, &entries, ENTRIES_IN_ROOT, depth);
        (root, blocks)
    }
}

/// `struct ext4_extent`.
fn leaf_entry(extent: &Extent) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    put_u32(&mut entry, 0, extent.logical);
    put_u16(&mut entry, 4, halves(extent.count).0);
    put_u32(&mut entry, 8, extent.start);
    entry
}

/// `struct ext4_extent_idx`.
fn index_entry((first, at): (u32, u32)) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    put_u32(&mut entry, 0, first);
    put_u32(&mut entry, 4, at);
    entry
}

/// `struct ext4_extent_header`, and the entries after it.
fn put_node(node: &mut [u8], entries: &[[u8; ENTRY_LEN]], max: usize, depth: u16) {
    let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    put_u16(node, 0, MAGIC);
    put_u16(node, 2, count(entries.len()));
    put_u16(node, 4, count(max));
    put_u16(node, 6, depth);
    for (index, entry) in entries.iter().enumerate() {
        put(node, ENTRY_LEN + index * ENTRY_LEN, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::super::geometry::Inodes;
    use super::*;

    fn u32_at(node: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(*node[at..].first_chunk().unwrap())
    }

    fn u16_at(node: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(*node[at..].first_chunk().unwrap())
    }

    /// The extents below a node, and how many levels of blocks there are.
    fn read(node: &[u8], blocks: &[(u32, Box<Block>)], extents: &mut Vec<Extent>) -> u16 {
        assert_eq!(u16_at(node, 0), MAGIC);
        let depth = u16_at(node, 6);
        for index in 0..usize::from(u16_at(node, 2)) {
            let at = ENTRY_LEN + index * ENTRY_LEN;
            let logical = u32_at(node, at);
            if depth == 0 {
                extents.push(Extent {
                    logical,
                    start: u32_at(node, at + 8),
                    count: u32::from(u16_at(node, at + 4)),
                });
                continue;
            }
            let below = u32_at(node, at + 4);
            let (_, block) = blocks.iter().find(|(at, _)| *at == below).unwrap();
            let known = extents.len();
            assert_eq!(read(&block[..], blocks, extents), depth - 1);
            assert_eq!(extents[known].logical, logical);
            let checksum = Checksum::EMPTY.then(&block[..CHECKSUM_AT]);
            assert_eq!(u32_at(&block[..], CHECKSUM_AT), checksum.value());
        }
        depth
    }

    #[test]
    fn trees_of_any_depth_name_all_extents() {
        let inodes = Inodes::with_free(11, 0);
        let geometry = Geometry::new(u32::MAX / 2, inodes).unwrap();
        for (groups, expected_depth) in [(0, 0), (3, 0), (4, 1), (1300, 1), (1500, 2), (60_000, 2)]
        {
            let mut space = Space::new(&geometry);
            let before = space.free();
            let content = groups * BLOCKS_PER_GROUP;
            let place = space.place(Need::content(content)).unwrap();
            assert_eq!(u64::from(before - space.free()), place.blocks());
            let (root, blocks) = place.tree(Checksum::EMPTY);
            let mut extents = Vec::new();
            assert_eq!(read(&root, &blocks, &mut extents), expected_depth);
            assert_eq!(extents, place.extents);
            let mut next = 0;
            for extent in extents {
                assert_eq!(extent.logical, next);
                next += extent.count;
            }
            assert_eq!(next, content);
        }
    }

    #[test]
    fn a_file_without_holes_is_placed_as_if_it_were_known() {
        let inodes = Inodes::with_free(11, 0);
        let geometry = Geometry::new(5 * BLOCKS_PER_GROUP, inodes).unwrap();
        let mut space = Space::new(&geometry);
        let content = 4 * BLOCKS_PER_GROUP + 17;
        let known = space.place(Need::content(content)).unwrap();
        let mut appended = Place::default();
        let mut space = Space::new(&geometry);
        for logical in 0..content {
            space.append(&mut appended.extents, logical).unwrap();
        }
        space.place_tree(&mut appended).unwrap();
        assert_eq!(appended, known);
    }

    proptest::proptest! {
        #[test]
        fn holes_never_cost_more_than_they_save(content in 1_u32..20_000, keep in 1_u32..40) {
            let inodes = Inodes::with_free(11, 0);
            let geometry = Geometry::new(4 * BLOCKS_PER_GROUP, inodes).unwrap();
            let dense = Space::new(&geometry).place(Need::content(content)).unwrap();
            let mut sparse = Place::default();
            let mut space = Space::new(&geometry);
            // After every `keep` blocks a hole.
            for logical in (0..content).filter(|block| block % (keep + 1) != keep) {
                space.append(&mut sparse.extents, logical).unwrap();
            }
            space.place_tree(&mut sparse).unwrap();
            assert!(sparse.blocks() <= dense.blocks(), "{} {}", sparse.blocks(), dense.blocks());
        }
    }

    #[test]
    fn what_is_taken_is_nobody_elses() {
        let inodes = Inodes::with_free(11, 0);
        for blocks in [3000, 32_768, 40_000, 300_000, 600_000] {
            let geometry = Geometry::new(blocks, inodes).unwrap();
            let mut space = Space::new(&geometry);
            let mut used = vec![false; usize::try_from(geometry.blocks).unwrap()];
            for group in 0..geometry.groups {
                let start = usize::try_from(Geometry::start_of(group)).unwrap();
                let count = usize::try_from(geometry.metadata_blocks(group)).unwrap();
                used[start..start + count].fill(true);
            }
            while let Some(place) = space.place(Need::content(1000)) {
                for extent in place.extents {
                    let start = usize::try_from(extent.start).unwrap();
                    let count = usize::try_from(extent.count).unwrap();
                    assert!(used[start..start + count].iter().all(|used| !used));
                    used[start..start + count].fill(true);
                }
            }
            assert_eq!(space.free(), 0);
        }
    }
}
