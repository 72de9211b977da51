//! Writes what was planned where it was laid out: contents and inodes in one pass, then bitmaps, descriptors and superblocks.

use std::io::{self, Seek, Write};

use super::Options;
use super::directory::{Directory, empty_block};
use super::format::{BLOCK_BYTES, BLOCK_LEN, put};
use super::geometry::{Geometry, has_superblock};
use super::inode::{HAS_EXTENTS, HAS_INDEX, Inode, XATTRS_LEN, device_root};
use super::journal;
use super::output::{FileWriter, Output, SparseWriter};
use super::plan::{self, LOST_AND_FOUND_BLOCKS, MAX_SHORT_TARGET_BYTES, Plan, Planned};
use super::size::Layout;
use super::space::{Need, Place, ROOT_LEN, Space};
use super::superblock::{
    FIRST_INODE, FIRST_SUPERBLOCK_AT, GroupUse, Identity, JournalNote, Superblock,
};
use super::table::InodeTable;
use super::xattr::Stored;
use crate::image::WriteError;
use crate::tree::{Attributes, Content, Kind};

/// The inodes below [`FIRST_INODE`] that only have a place in the table.
const RESERVED_INODES: u32 = FIRST_INODE - 1;

/// A file system being written.
#[derive(Debug)]
pub(super) struct Writer<'a, W> {
    plan: &'a Plan<'a>,
    layout: &'a Layout,
    time_s: u64,
    identity: Identity,
    space: Space<'a>,
    out: Output<W>,
    table: InodeTable,
    /// How many directories each group has.
    directories: Vec<u32>,
}

impl<'a, W: Write + Seek> Writer<'a, W> {
    /// Writes `plan` to `out`.
    pub(super) fn new(
        plan: &'a Plan<'a>,
        layout: &'a Layout,
        options: &Options,
        out: W,
    ) -> Result<Self, WriteError> {
        let groups = usize::try_from(layout.geometry.groups).unwrap_or(0);
        Ok(Self {
            plan,
            layout,
            time_s: options.time_s,
            identity: identity(plan, layout, options),
            space: Space::new(&layout.geometry),
            out: Output::new(out)?,
            table: InodeTable::default(),
            directories: vec![0; groups],
        })
    }

    /// Writes all of it.
    pub(super) fn write(mut self) -> Result<W, WriteError> {
        self.planned(plan::ROOT, &self.plan.root)?;
        let journal = self.journal()?;
        for (number, planned) in (FIRST_INODE..).zip(&self.plan.others) {
            self.planned(number, planned)?;
        }
        self.table.flush(&mut self.out)?;
        self.metadata(journal.as_ref())?;
        Ok(self.out.finish(self.layout.size_bytes)?)
    }

    /// Writes an inode of the plan, and what is in it.
    fn planned(&mut self, number: u32, planned: &Planned<'_>) -> Result<(), WriteError> {
        let mut place = self.place(match planned.kind {
            // It gets its blocks while it is written, and fewer where it has only zeros.
            Kind::File(_) => Need {
                content: 0,
                ..planned.need
            },
            _ => planned.need,
        })?;
        let stored = Stored::new(planned.path, &planned.attributes.xattrs)?;
        let mut inode = Inode {
            attributes: planned.attributes,
            kind: planned.kind,
            size_bytes: 0,
            links: planned.links,
            flags: 0,
            root: [0; ROOT_LEN],
            blocks: place.blocks(),
            xattr_block: place.xattr_block,
            xattrs: stored.in_inode,
        };
        if let Some(at) = place.xattr_block
            && let Some(block) = stored.block_at(at, &self.identity)
        {
            self.out.put(at, &block[..])?;
        }
        match planned.kind {
            Kind::Directory => {
                self.count_directory(number);
                if self.directory(number, planned, &place)? {
                    inode.flags |= HAS_INDEX;
                }
                inode.size_bytes = u64::from(planned.need.content) * u64::from(BLOCK_BYTES);
            }
            Kind::File(content) => {
                self.content(planned.path, content, &mut place)?;
                inode.size_bytes = content.size_bytes();
                inode.blocks = place.blocks();
            }
            Kind::Symlink(target) => {
                inode.size_bytes = u64::try_from(target.len()).unwrap_or(u64::MAX);
                if target.len() <= MAX_SHORT_TARGET_BYTES {
                    put(&mut inode.root, 0, target);
                    return self.inode(number, &inode);
                }
                FileWriter::new(&mut self.out, &place.extents).write_all(target)?;
            }
            Kind::CharacterDevice(device) | Kind::BlockDevice(device) => {
                inode.root = device_root(*device).unwrap_or([0; ROOT_LEN]);
                return self.inode(number, &inode);
            }
            Kind::Fifo | Kind::Socket => return self.inode(number, &inode),
        }
        inode.flags |= HAS_EXTENTS;
        inode.root = self.tree(number, &place)?;
        self.inode(number, &inode)
    }

    fn place(&mut self, need: Need) -> Result<Place, WriteError> {
        // The same as in the layout, so there is room.
        self.space.place(need).ok_or_else(no_room)
    }

    fn count_directory(&mut self, number: u32) {
        let group = (number - 1) / self.layout.geometry.inodes_per_group;
        if let Some(count) = usize::try_from(group)
            .ok()
            .and_then(|group| self.directories.get_mut(group))
        {
            *count += 1;
        }
    }

    /// Writes a directory, and says whether it has an index.
    fn directory(&mut self, number: u32, planned: &Planned<'_>, place: &Place) -> io::Result<bool> {
        let seed = self.identity.inode_seed(number);
        let directory = Directory::new(self.plan.entries(planned.path));
        let mut writer = FileWriter::new(&mut self.out, &place.extents);
        for block in directory.blocks(number, planned.parent, seed) {
            writer.write_all(&block)?;
        }
        if number == FIRST_INODE && self.plan.has_own_lost_and_found {
            for _ in 1..LOST_AND_FOUND_BLOCKS {
                writer.write_all(&empty_block(seed))?;
            }
        }
        Ok(directory.has_index())
    }

    /// Writes a file's content, and gives it its blocks.
    fn content(
        &mut self,
        path: &[u8],
        content: &Content,
        place: &mut Place,
    ) -> Result<(), WriteError> {
        let mut writer = SparseWriter::new(&mut self.out, &mut self.space);
        content
            .copy_to(&mut writer)
            .map_err(|error| WriteError::copying(path, error))?;
        place.extents = writer.finish()?;
        self.space.place_tree(place).ok_or_else(no_room)
    }

    /// Writes the blocks of an extent tree, and returns its root.
    fn tree(&mut self, number: u32, place: &Place) -> io::Result<[u8; ROOT_LEN]> {
        let (root, blocks) = place.tree(self.identity.inode_seed(number));
        for (at, block) in blocks {
            self.out.put(at, &block[..])?;
        }
        Ok(root)
    }

    /// Writes the journal, if there is to be one.
    fn journal(&mut self) -> Result<Option<JournalNote>, WriteError> {
        let blocks = self.layout.journal_blocks;
        if blocks == 0 {
            return Ok(None);
        }
        let place = self.place(Need::content(blocks))?;
        let superblock = journal::superblock(blocks, &self.identity);
        FileWriter::new(&mut self.out, &place.extents).write_all(&superblock)?;
        let mut attributes = Attributes::new(0o600);
        attributes.mtime_s = i64::try_from(self.time_s).unwrap_or(i64::MAX);
        let root = self.tree(journal::INODE, &place)?;
        let inode = Inode {
            attributes: &attributes,
            kind: &Kind::File(Content::Bytes(Vec::new())),
            size_bytes: u64::from(blocks) * u64::from(BLOCK_BYTES),
            links: 1,
            flags: HAS_EXTENTS,
            root,
            blocks: place.blocks(),
            xattr_block: None,
            xattrs: [0; XATTRS_LEN],
        };
        self.inode(journal::INODE, &inode)?;
        Ok(Some(JournalNote {
            inode: journal::INODE,
            root,
            blocks,
        }))
    }

    /// Puts an inode into its table. They come in the order of their numbers.
    fn inode(&mut self, number: u32, inode: &Inode<'_>) -> Result<(), WriteError> {
        let bytes = inode.encode(number, &self.identity);
        let geometry = &self.layout.geometry;
        self.table.put(number, &bytes, geometry, &mut self.out)?;
        Ok(())
    }

    /// Writes what says how much of each group is in use, and the superblocks; the first one comes last.
    fn metadata(&mut self, journal: Option<&JournalNote>) -> io::Result<()> {
        let geometry = &self.layout.geometry;
        let groups = self.groups();
        let superblock = Superblock {
            geometry,
            identity: &self.identity,
            time_s: self.time_s,
            journal,
            groups: &groups,
        };
        for group in 0..geometry.groups {
            if let Some(bitmap) = superblock.block_bitmap(group) {
                self.out.put(geometry.block_bitmap(group), &bitmap)?;
            }
            if let Some(bitmap) = superblock.inode_bitmap(group) {
                self.out.put(geometry.inode_bitmap(group), &bitmap)?;
            }
        }
        let descriptors = superblock.descriptors();
        for group in (0..geometry.groups)
            .rev()
            .filter(|&group| has_superblock(group))
        {
            let start = Geometry::start_of(group);
            self.out.put(start + 1, &descriptors)?;
            let mut block = [0; BLOCK_LEN];
            let at = if group == 0 { FIRST_SUPERBLOCK_AT } else { 0 };
            put(&mut block, at, &superblock.encode(group));
            self.out.put(start, &block)?;
        }
        Ok(())
    }

    fn groups(&self) -> Vec<GroupUse> {
        let geometry = &self.layout.geometry;
        let inodes = self.plan.next_inode() - 1;
        (0..geometry.groups)
            .zip(&self.directories)
            .map(|(group, &directories)| GroupUse {
                blocks: self.space.used_in(group),
                inodes: inodes
                    .max(RESERVED_INODES)
                    .saturating_sub(group * geometry.inodes_per_group)
                    .min(geometry.inodes_per_group),
                directories,
            })
            .collect()
    }
}

fn no_room() -> WriteError {
    WriteError::TooLarge("The content does not fit into the image".to_owned())
}

/// What identifies the file system: its size, its time, and how much is in it.
fn identity(plan: &Plan<'_>, layout: &Layout, options: &Options) -> Identity {
    let content: u64 = plan
        .others
        .iter()
        .map(|planned| u64::from(planned.need.content))
        .sum();
    let facts = [
        u64::from(layout.geometry.blocks),
        u64::from(layout.geometry.inodes()),
        u64::from(layout.journal_blocks),
        u64::from(plan.next_inode()),
        content,
        options.time_s,
    ];
    let facts: Vec<u8> = facts.into_iter().flat_map(u64::to_le_bytes).collect();
    Identity::of(&facts)
}
