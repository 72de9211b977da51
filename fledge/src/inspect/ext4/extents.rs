//! Where a file's blocks are: the extents of its tree, in order. Source: Linux `fs/ext4/ext4_extents.h`.
//!
//! A hostile tree may name a block any number of times. Extents must go up, and every node must name something, so that it ends.

use super::FileSystem;
use crate::inspect::pieces::Piece;
use crate::inspect::walk::{Budget, Flaw, damaged};
use crate::little_endian::{u16_at, u32_at};

/// Marks a node (`EXT4_EXT_MAGIC`).
const MAGIC: u16 = 0xf30a;

/// The header of a node, and each of its entries, in bytes.
const ENTRY_LEN: usize = 12;

/// The most levels below the root (`EXT4_MAX_EXTENT_DEPTH`).
const MAX_DEPTH: u16 = 5;

/// The longest extent, in blocks (`EXT_INIT_MAX_LEN`). What is longer is reserved and reads as zeros; its length is what is above.
const MAX_WRITTEN: u16 = 1 << 15;

/// Reads one tree.
pub(super) struct Extents<'a> {
    file_system: &'a FileSystem,
    budget: &'a mut Budget,
    pieces: Vec<Piece>,
    /// The first block of the file that the next extent may name.
    next: u64,
}

impl<'a> Extents<'a> {
    pub(super) fn new(file_system: &'a FileSystem, budget: &'a mut Budget) -> Self {
        Self {
            file_system,
            budget,
            pieces: Vec::new(),
            next: 0,
        }
    }

    /// All pieces that are below `root`, which is in the inode.
    pub(super) fn read(mut self, root: &[u8]) -> Result<Vec<Piece>, Flaw> {
        let depth = u16_at(root, 6);
        if depth > MAX_DEPTH {
            return Err(damaged("has too many levels of extents"));
        }
        self.node(root, depth)?;
        Ok(self.pieces)
    }

    fn node(&mut self, node: &[u8], depth: u16) -> Result<(), Flaw> {
        let count = usize::from(u16_at(node, 2));
        let entries = node.get(ENTRY_LEN..).unwrap_or_default();
        let entries = entries.get(..count * ENTRY_LEN);
        let (MAGIC, Some(entries)) = (u16_at(node, 0), entries) else {
            return Err(damaged("has a broken tree of extents"));
        };
        if u16_at(node, 6) != depth {
            return Err(damaged("has a broken tree of extents"));
        }
        for entry in entries.chunks(ENTRY_LEN) {
            if depth == 0 {
                self.leaf(entry)?;
                continue;
            }
            let high = u16_at(entry, 8);
            let at = self.file_system.place(u32_at(entry, 4), high.into())?;
            self.budget.read(self.file_system.block_bytes)?;
            let length = usize::try_from(self.file_system.block_bytes).unwrap_or(0);
            let mut below = vec![0; length];
            self.file_system.source.read(&mut below, at)?;
            if u16_at(&below, 2) == 0 {
                return Err(damaged("has a broken tree of extents"));
            }
            self.node(&below, depth - 1)?;
        }
        Ok(())
    }

    /// `struct ext4_extent`.
    fn leaf(&mut self, entry: &[u8]) -> Result<(), Flaw> {
        let first = u64::from(u32_at(entry, 0));
        let length = u16_at(entry, 4);
        let (count, is_written) = match length.checked_sub(MAX_WRITTEN) {
            None | Some(0) => (length, true),
            Some(reserved) => (reserved, false),
        };
        if count == 0 || first < self.next {
            return Err(damaged("has extents that contradict each other"));
        }
        self.next = first + u64::from(count);
        if !is_written {
            return Ok(());
        }
        let block_bytes = self.file_system.block_bytes;
        let high = u16_at(entry, 6);
        let piece = Piece {
            logical: first * block_bytes,
            at: self.file_system.place(u32_at(entry, 8), high.into())?,
            bytes: u64::from(count) * block_bytes,
        };
        match self.pieces.last_mut() {
            Some(last) if follows(last, &piece) => last.bytes += piece.bytes,
            _ => {
                self.budget.hold(size_of::<Piece>())?;
                self.pieces.push(piece);
            }
        }
        Ok(())
    }
}

fn follows(last: &Piece, piece: &Piece) -> bool {
    last.logical + last.bytes == piece.logical && last.at.checked_add(last.bytes) == Some(piece.at)
}
