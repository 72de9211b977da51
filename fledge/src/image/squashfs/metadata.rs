//! Tables in compressed blocks of 8 KiB, in memory until they are written behind the data.

use std::io::{self, Write};

use super::format::{METADATA_BYTES, METADATA_PLAIN};
use super::wide;
use crate::image::WriteError;

/// Where something is in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Where its block begins, in bytes from the table's beginning.
    pub(super) block: u32,
    /// Where it begins in the unpacked block.
    pub(super) offset: u16,
}

impl Position {
    /// As one number, as inodes and attributes are referred to.
    pub(super) fn reference(self) -> u64 {
        (u64::from(self.block) << 16) | u64::from(self.offset)
    }
}

/// A table as it grows.
#[derive(Debug)]
pub(super) struct Table {
    level: i32,
    /// The blocks that are full, compressed.
    done: Vec<u8>,
    /// Where each of them begins.
    starts: Vec<u32>,
    /// Less than a block.
    open: Vec<u8>,
}

impl Table {
    pub(super) fn new(level: i32) -> Self {
        Self {
            level,
            done: Vec::new(),
            starts: Vec::new(),
            open: Vec::with_capacity(METADATA_BYTES),
        }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> Result<Position, WriteError> {
        Ok(Position {
            block: u32::try_from(self.done.len()).map_err(|_| too_large())?,
            // Less than METADATA_BYTES.
            offset: u16::try_from(self.open.len()).map_err(|_| too_large())?,
        })
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let room = METADATA_BYTES - self.open.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.open.extend_from_slice(now);
            if self.open.len() == METADATA_BYTES {
                self.close_block()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), WriteError> {
        self.starts.push(self.position()?.block);
        let compressed = compress(&self.open, self.level)?;
        self.done.extend(block(&self.open, compressed.as_deref())?);
        self.open.clear();
        Ok(())
    }

    /// The whole table, and where in it each block begins.
    pub(super) fn finish(mut self) -> Result<(Vec<u8>, Vec<u32>), WriteError> {
        if !self.open.is_empty() {
            self.close_block()?;
        }
        Ok((self.done, self.starts))
    }
}

/// A metadata block that is not compressed, as the compressor's options are.
pub(super) fn plain_block(bytes: &[u8]) -> Result<Vec<u8>, WriteError> {
    block(bytes, None)
}

fn block(plain: &[u8], compressed: Option<&[u8]>) -> Result<Vec<u8>, WriteError> {
    let (stored, flag) = match compressed {
        Some(compressed) => (compressed, 0),
        None => (plain, METADATA_PLAIN),
    };
    let header = u16::try_from(stored.len()).map_err(|_| too_large())? | flag;
    Ok([&header.to_le_bytes(), stored].concat())
}

/// What `plain` becomes, where that is shorter.
///
/// Each time with a context of its own: nothing carries over from whatever the same thread compressed before.
pub(super) fn compress(plain: &[u8], level: i32) -> io::Result<Option<Vec<u8>>> {
    let compressed = zstd::bulk::compress(plain, level)?;
    Ok(Some(compressed).filter(|compressed| compressed.len() < plain.len()))
}

/// Counts what is written behind the data, where tables refer to by its position in the image.
#[derive(Debug)]
pub(super) struct Tail<W> {
    out: W,
    at: u64,
}

impl<W: Write> Tail<W> {
    /// `at` is where `out` stands in the image.
    pub(super) fn new(out: W, at: u64) -> Self {
        Self { out, at }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn into_inner(self) -> W {
        self.out
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes)?;
        self.at += wide(bytes.len());
        Ok(())
    }

    /// Writes a table that is read from its beginning on; says where it is.
    pub(super) fn table(&mut self, table: Table) -> Result<u64, WriteError> {
        let at = self.at;
        self.push(&table.finish()?.0)?;
        Ok(at)
    }

    /// Writes a table that is looked things up in: its blocks, and then where each of them is. Between the two comes what `header`
    /// makes of the table's position. Says where the latter begins.
    pub(super) fn indexed(
        &mut self,
        table: Table,
        header: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<u64, WriteError> {
        let first = self.at;
        let (bytes, starts) = table.finish()?;
        self.push(&bytes)?;
        let at = self.at;
        let mut index = header(first);
        for start in starts {
            index.extend((first + u64::from(start)).to_le_bytes());
        }
        self.push(&index)?;
        Ok(at)
    }
}

/// Where 32 bits do not suffice.
pub(super) fn too_large() -> WriteError {
    WriteError::TooLarge(
        "The image would have more files and directories than squashfs has numbers for".to_owned(),
    )
}
