//! Tables in compressed blocks of 8 KiB, as they are read: from some place on, and across blocks.

use std::collections::HashMap;
use std::sync::Arc;

use super::compression::Compression;
use crate::inspect::pieces::{MAX_DATA_BYTES, Source};
use crate::inspect::walk::{Budget, Flaw, damaged};
use crate::little_endian::{u16_at, u64_at};

/// How much of a table is compressed at once, in bytes (`SQUASHFS_METADATA_SIZE`).
const BLOCK_LEN: usize = 8192;
const BLOCK_BYTES: u64 = 8192;

/// Set in a block's length where it is not compressed (`SQUASHFS_COMPRESSED_BIT`).
const PLAIN: u16 = 1 << 15;

/// How many unpacked blocks are kept: 4 MiB of them. Inodes and names that belong together lie together.
const MAX_KEPT: usize = 512;

/// A place in a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// Where its block is in the image.
    block: u64,
    /// Where it is in the unpacked block.
    offset: usize,
}

impl Cursor {
    /// `block` counts from the table's beginning.
    pub(super) fn new(table_at: u64, block: u64, offset: u16) -> Result<Self, Flaw> {
        Ok(Self {
            block: table_at.checked_add(block).ok_or(Flaw::Beyond)?,
            offset: offset.into(),
        })
    }

    /// What a reference stands for: a block, and 16 bits of a place in it.
    pub(super) fn of(table_at: u64, reference: u64) -> Result<Self, Flaw> {
        let offset = u16::try_from(reference & 0xffff).unwrap_or(0);
        Self::new(table_at, reference >> 16, offset)
    }
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    /// Where the next one is.
    next: u64,
}

/// All tables of an image.
#[derive(Debug)]
pub(super) struct Metadata {
    source: Source,
    compression: Compression,
    kept: HashMap<u64, Arc<Block>>,
}

impl Metadata {
    pub(super) fn new(source: Source, compression: Compression) -> Self {
        Self {
            source,
            compression,
            kept: HashMap::new(),
        }
    }

    /// Bytes that are not compressed, from `at` in the image on.
    pub(super) fn plain<const N: usize>(&self, at: u64) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        self.source.read(&mut bytes, at)?;
        Ok(bytes)
    }

    /// The next `length` bytes.
    pub(super) fn read(
        &mut self,
        cursor: &mut Cursor,
        length: usize,
        budget: &mut Budget,
    ) -> Result<Vec<u8>, Flaw> {
        let wide = u64::try_from(length).unwrap_or(u64::MAX);
        if wide > MAX_DATA_BYTES {
            return Err(damaged("is larger than a directory or link can be"));
        }
        budget.read(wide)?;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let block = self.block(cursor.block, budget)?;
            let rest = block.bytes.get(cursor.offset..).unwrap_or_default();
            let taken = &rest[..rest.len().min(length - bytes.len())];
            if taken.is_empty() && cursor.offset != block.bytes.len() {
                return Err(damaged("is not where it should be"));
            }
            bytes.extend_from_slice(taken);
            cursor.offset += taken.len();
            if cursor.offset == block.bytes.len() {
                *cursor = Cursor {
                    block: block.next,
                    offset: 0,
                };
            }
        }
        Ok(bytes)
    }

    /// The entry `number` of a table in which each takes `entry_bytes`, a divisor of a block's. `index_at` is where the image says
    /// where the table's blocks are.
    pub(super) fn looked_up(
        &mut self,
        index_at: u64,
        number: u64,
        entry_bytes: u64,
        budget: &mut Budget,
    ) -> Result<Vec<u8>, Flaw> {
        let at = number * entry_bytes;
        let index = index_at
            .checked_add(at / BLOCK_BYTES * 8)
            .ok_or(Flaw::Beyond)?;
        let block = u64_at(&self.plain::<8>(index)?, 0);
        let offset = u16::try_from(at % BLOCK_BYTES).unwrap_or(0);
        let length = usize::try_from(entry_bytes).unwrap_or(0);
        self.read(&mut Cursor::new(0, block, offset)?, length, budget)
    }

    fn block(&mut self, at: u64, budget: &mut Budget) -> Result<Arc<Block>, Flaw> {
        if let Some(block) = self.kept.get(&at) {
            return Ok(Arc::clone(block));
        }
        budget.read(BLOCK_BYTES)?;
        let header = u16_at(&self.plain::<2>(at)?, 0);
        let length = header & !PLAIN;
        let mut stored = vec![0; length.into()];
        self.source.read(&mut stored, at + 2)?;
        let bytes = if header & PLAIN == 0 {
            self.compression
                .unpack(&stored, BLOCK_LEN)
                .map_err(Flaw::Unpack)?
        } else {
            stored
        };
        // An empty one would lead nowhere.
        if bytes.is_empty() || bytes.len() > BLOCK_LEN {
            return Err(damaged("is in a table with a block of no possible length"));
        }
        if self.kept.len() >= MAX_KEPT {
            self.kept.clear();
        }
        let block = Arc::new(Block {
            bytes,
            next: at + 2 + u64::from(length),
        });
        self.kept.insert(at, Arc::clone(&block));
        Ok(block)
    }
}
