//! Contents of files, unpacked block by block as they are read.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::compression::Compression;
use crate::inspect::pieces::Source;
use crate::inspect::walk::{Flaw, damaged};
use crate::tree::{Assembled, Content};

/// Set in a block's length where it is not compressed (`SQUASHFS_COMPRESSED_BIT_BLOCK`).
const PLAIN: u32 = 1 << 24;

/// How many unpacked blocks are kept, of 1 MiB at most: a file's last one, and the fragment that small files share.
const KEPT: usize = 4;

/// A block or a fragment in the image; one without bytes stands for zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    at: u64,
    bytes: u32,
    is_plain: bool,
}

impl Block {
    /// Where the next one is.
    pub(super) fn end(&self) -> u64 {
        self.at + u64::from(self.bytes)
    }
}

/// The end of a file.
#[derive(Debug)]
pub(super) struct Tail {
    /// What it is in.
    pub(super) fragment: Block,
    /// Where it begins there.
    pub(super) offset: u32,
}

/// Where the blocks of all files are.
#[derive(Debug)]
pub(super) struct Store {
    source: Source,
    compression: Compression,
    block_bytes: u32,
    kept: Mutex<VecDeque<(Block, Arc<Vec<u8>>)>>,
}

impl Store {
    pub(super) fn new(source: Source, compression: Compression, block_bytes: u32) -> Self {
        Self {
            source,
            compression,
            block_bytes,
            kept: Mutex::default(),
        }
    }

    pub(super) fn block_bytes(&self) -> u64 {
        self.block_bytes.into()
    }

    /// The block at `at`, whose length is `size` as the image says it.
    pub(super) fn block(&self, at: u64, size: u32) -> Result<Block, Flaw> {
        let bytes = size & !PLAIN;
        if bytes > self.block_bytes {
            return Err(damaged("has a block of no possible length"));
        }
        self.source.check(at, bytes.into())?;
        Ok(Block {
            at,
            bytes,
            is_plain: size & PLAIN != 0,
        })
    }

    fn unpacked(&self, block: Block) -> io::Result<Arc<Vec<u8>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = kept.iter().find(|(known, _)| *known == block) {
            return Ok(Arc::clone(bytes));
        }
        let length = |bytes: u32| usize::try_from(bytes).unwrap_or(0);
        let mut bytes = vec![0; length(block.bytes)];
        self.source.file.read_exact_at(&mut bytes, block.at)?;
        if !block.is_plain {
            bytes = self.compression.unpack(&bytes, length(self.block_bytes))?;
        }
        let bytes = Arc::new(bytes);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((block, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

/// A file's content.
#[derive(Debug)]
pub(super) struct Packed {
    store: Arc<Store>,
    blocks: Vec<Block>,
    tail: Option<Tail>,
    size_bytes: u64,
}

impl Packed {
    pub(super) fn new(
        store: &Arc<Store>,
        blocks: Vec<Block>,
        tail: Option<Tail>,
        size_bytes: u64,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            blocks,
            tail,
            size_bytes,
        }
    }

    pub(super) fn into_content(self) -> Content {
        Content::Assembled(Arc::new(self))
    }
}

impl Assembled for Packed {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = self.size_bytes.saturating_sub(at);
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let block_bytes = self.store.block_bytes();
        let (index, within) = (at / block_bytes, at % block_bytes);
        // How long the block is, and how much of it is wanted.
        let length = block_bytes.min(self.size_bytes - index * block_bytes);
        let count = usize::try_from(length - within).map_or(buffer.len(), |n| n.min(buffer.len()));
        let buffer = &mut buffer[..count];
        let block = usize::try_from(index)
            .ok()
            .and_then(|index| self.blocks.get(index));
        let (block, start) = match (block, &self.tail) {
            (Some(block), _) if block.bytes == 0 => {
                buffer.fill(0);
                return Ok(count);
            }
            (Some(block), _) => (*block, 0),
            (None, Some(tail)) => (tail.fragment, u64::from(tail.offset)),
            (None, None) => return Err(broken()),
        };
        let bytes = self.store.unpacked(block)?;
        // A block that is too long or too short is not this file's; a fragment is others' too.
        let unpacked = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let is_tail = usize::try_from(index).is_ok_and(|index| index >= self.blocks.len());
        if !is_tail && unpacked != length {
            return Err(broken());
        }
        let from = usize::try_from(start + within).unwrap_or(usize::MAX);
        let part = bytes
            .get(from..from.saturating_add(count))
            .ok_or_else(broken)?;
        buffer.copy_from_slice(part);
        Ok(count)
    }
}

fn broken() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "A block of the image is not as long as its file needs it",
    )
}
