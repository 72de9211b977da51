//! Contents of files: whole blocks, and the ends of files gathered in fragments. Compressed on several threads, written as they come.

use std::collections::HashMap;
use std::io::{self, Seek, Write};
use std::num::NonZeroUsize;

use super::format::{BLOCK_BYTES, DATA_PLAIN};
use super::metadata::{compress, too_large};
use super::{narrow, wide};
use crate::image::WriteError;
use crate::image::parallel::{Queue, in_order};
use crate::tree::{Content, Kind, NodeId, Tree};

/// A block or a fragment in the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    /// Where it is.
    pub(super) at: u64,
    /// Its length there, with [`DATA_PLAIN`].
    pub(super) size: u32,
}

/// A place in a fragment.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Which fragment.
    pub(super) fragment: u32,
    /// Where in it, unpacked.
    pub(super) offset: u32,
}

/// Where a file's content is.
#[derive(Debug)]
pub(super) struct FileData {
    /// Its blocks in [`Data::blocks`].
    blocks: std::ops::Range<usize>,
    /// What is left behind its last whole block.
    pub(super) end: Option<End>,
    /// How much of it is in blocks of zeros, which are not stored.
    pub(super) hole_bytes: u64,
}

/// Where all contents are.
#[derive(Debug)]
pub(super) struct Data {
    files: HashMap<NodeId, FileData>,
    /// Of all files, one after the other: a number in `stored`, or nothing for a block of zeros.
    blocks: Vec<Option<usize>>,
    /// In the order of the image.
    stored: Vec<Stored>,
    /// Numbers in `stored`.
    fragments: Vec<usize>,
}

impl Data {
    pub(super) fn of(&self, id: NodeId) -> Option<&FileData> {
        self.files.get(&id)
    }

    /// Where the first block of a file is (0 if none is stored), and the lengths of all.
    pub(super) fn blocks(&self, file: &FileData) -> (u64, Vec<u32>) {
        let stored = || {
            self.blocks[file.blocks.clone()]
                .iter()
                .map(|block| block.map(|number| self.stored[number]))
        };
        let start = stored().flatten().next().map_or(0, |block| block.at);
        let sizes = stored().map(|block| block.map_or(0, |block| block.size));
        (start, sizes.collect())
    }

    pub(super) fn fragments(&self) -> impl ExactSizeIterator<Item = Stored> {
        self.fragments.iter().map(|&number| self.stored[number])
    }
}

/// What a thread made of a block.
struct Packed {
    bytes: Vec<u8>,
    flag: u32,
}

/// Writes the contents of all files of `tree` to where `out` stands, in the order of paths.
pub(super) fn write<F: Write + Seek + Send>(
    tree: &Tree,
    level: i32,
    threads: NonZeroUsize,
    out: &mut F,
) -> Result<Data, WriteError> {
    let mut at = out.stream_position()?;
    let mut stored = Vec::new();
    let work = |plain: Vec<u8>| pack(plain, level);
    let collect = |packed: io::Result<Packed>| {
        let packed = packed?;
        out.write_all(&packed.bytes)?;
        let size = narrow(packed.bytes.len()) | packed.flag;
        stored.push(Stored { at, size });
        at += wide(packed.bytes.len());
        Ok(())
    };
    let cut = in_order(threads, work, collect, |queue| {
        let mut cutter = Cutter::new(queue);
        for item in tree.iter() {
            if let Kind::File(content) = &item.node.kind
                && !cutter.files.contains_key(&item.id)
            {
                let file = cutter.file(item.path, content)?;
                cutter.files.insert(item.id, file);
            }
        }
        cutter.finish()
    })?;
    Ok(Data { stored, ..cut })
}

fn pack(plain: Vec<u8>, level: i32) -> io::Result<Packed> {
    Ok(match compress(&plain, level)? {
        Some(bytes) => Packed { bytes, flag: 0 },
        None => Packed {
            bytes: plain,
            flag: DATA_PLAIN,
        },
    })
}

/// Cuts contents into blocks and hands them to the threads.
struct Cutter {
    queue: Queue<Vec<u8>, io::Result<Packed>>,
    /// How many were handed over.
    jobs: usize,
    files: HashMap<NodeId, FileData>,
    blocks: Vec<Option<usize>>,
    fragments: Vec<usize>,
    /// The fragment that is not full.
    fragment: Vec<u8>,
}

impl Cutter {
    fn new(queue: Queue<Vec<u8>, io::Result<Packed>>) -> Self {
        Self {
            queue,
            jobs: 0,
            files: HashMap::new(),
            blocks: Vec::new(),
            fragments: Vec::new(),
            fragment: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    fn file(&mut self, path: &[u8], content: &Content) -> Result<FileData, WriteError> {
        let first = self.blocks.len();
        let mut blocks = Blocks {
            cutter: self,
            block: Vec::new(),
            hole_bytes: 0,
        };
        content
            .copy_to(&mut blocks)
            .map_err(|error| WriteError::copying(path, error))?;
        let (rest, hole_bytes) = (blocks.block, blocks.hole_bytes);
        let blocks = first..self.blocks.len();
        let end = if rest.is_empty() {
            None
        } else {
            Some(self.gather(&rest)?)
        };
        Ok(FileData {
            blocks,
            end,
            hole_bytes,
        })
    }

    fn gather(&mut self, rest: &[u8]) -> Result<End, WriteError> {
        if self.fragment.len() + rest.len() > BLOCK_BYTES {
            self.close_fragment()?;
        }
        let end = End {
            fragment: u32::try_from(self.fragments.len()).map_err(|_| too_large())?,
            offset: narrow(self.fragment.len()),
        };
        self.fragment.extend_from_slice(rest);
        Ok(end)
    }

    fn close_fragment(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.fragment, Vec::with_capacity(BLOCK_BYTES));
        let number = self.push(full)?;
        self.fragments.push(number);
        Ok(())
    }

    /// Hands a block over; says which it is.
    fn push(&mut self, block: Vec<u8>) -> io::Result<usize> {
        self.queue.push(block)?;
        self.jobs += 1;
        Ok(self.jobs - 1)
    }

    fn finish(mut self) -> Result<Data, WriteError> {
        if !self.fragment.is_empty() {
            self.close_fragment()?;
        }
        Ok(Data {
            files: self.files,
            blocks: self.blocks,
            stored: Vec::new(),
            fragments: self.fragments,
        })
    }
}

/// Takes one file's content.
struct Blocks<'a> {
    cutter: &'a mut Cutter,
    block: Vec<u8>,
    hole_bytes: u64,
}

impl Write for Blocks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(BLOCK_BYTES - self.block.len())];
        self.block.extend_from_slice(taken);
        if self.block.len() == BLOCK_BYTES {
            let number = if self.block.iter().all(|&byte| byte == 0) {
                self.hole_bytes += wide(BLOCK_BYTES);
                self.block.clear();
                None
            } else {
                let full = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
                Some(self.cutter.push(full)?)
            };
            self.cutter.blocks.push(number);
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
