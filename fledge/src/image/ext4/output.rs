//! Writes blocks at their places. What is not written stays a hole, so the output must be empty at first.

use std::io::{self, Seek, SeekFrom, Write};

use super::format::{BLOCK_BYTES, BLOCK_LEN};
use super::space::{Extent, Space};

/// How much is collected before it is written, in bytes; as much as contents are copied at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// What is compared with to find zeros.
static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// Where the file system goes.
#[derive(Debug)]
pub(super) struct Output<W> {
    inner: W,
    /// Where the next byte goes without seeking.
    at: u64,
    /// How far it has been written.
    end: u64,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Where that begins, or the last write ended.
    buffer_at: u64,
}

impl<W: Write + Seek> Output<W> {
    /// Writes to `inner` from its beginning.
    pub(super) fn new(mut inner: W) -> io::Result<Self> {
        inner.rewind()?;
        Ok(Self {
            inner,
            at: 0,
            end: 0,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            buffer_at: 0,
        })
    }

    /// Puts `bytes` at the beginning of a block.
    pub(super) fn put(&mut self, block: u32, bytes: &[u8]) -> io::Result<()> {
        self.put_at(offset_of(block), bytes)
    }

    /// Puts `bytes` at `at` bytes from the beginning. What follows in the next block is written together with it.
    pub(super) fn put_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let gap = at
            .checked_sub(self.buffer_at)
            .and_then(|offset| usize::try_from(offset).ok())
            .and_then(|offset| offset.checked_sub(self.buffer.len()))
            .filter(|&gap| gap < BLOCK_LEN);
        match gap {
            Some(gap) if self.buffer.len() + gap + bytes.len() <= BUFFER_BYTES => {
                self.buffer.resize(self.buffer.len() + gap, 0);
            }
            _ => {
                self.flush()?;
                self.buffer_at = at;
            }
        }
        if bytes.len() > BUFFER_BYTES {
            self.write_at(at, bytes)?;
            self.buffer_at = self.at;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.write_at(self.buffer_at, &buffer)?;
        self.buffer_at = self.at;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.at != at {
            self.at = self.inner.seek(SeekFrom::Start(at))?;
        }
        self.inner.write_all(bytes)?;
        self.at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.end = self.end.max(self.at);
        Ok(())
    }

    /// Makes the output `size_bytes` long, by its last byte where that is not written yet.
    pub(super) fn finish(mut self, size_bytes: u64) -> io::Result<W> {
        self.flush()?;
        if self.end < size_bytes {
            self.write_at(size_bytes - 1, &[0])?;
        }
        self.inner.flush()?;
        Ok(self.inner)
    }
}

/// Where a block begins, in bytes.
fn offset_of(block: u32) -> u64 {
    u64::from(block) * u64::from(BLOCK_BYTES)
}

/// Writes what is known to have no holes to its blocks, one extent after the other.
#[derive(Debug)]
pub(super) struct FileWriter<'a, W> {
    output: &'a mut Output<W>,
    extents: std::slice::Iter<'a, Extent>,
    /// The rest of the extent that is being written.
    at: u64,
    left: u64,
}

impl<'a, W: Write + Seek> FileWriter<'a, W> {
    /// Writes to `extents`.
    pub(super) fn new(output: &'a mut Output<W>, extents: &'a [Extent]) -> Self {
        Self {
            output,
            extents: extents.iter(),
            at: 0,
            left: 0,
        }
    }
}

impl<W: Write + Seek> Write for FileWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            let Some(extent) = self.extents.next() else {
                // The writer of the content sees that it changed before it comes here.
                return Ok(0);
            };
            self.at = offset_of(extent.start);
            self.left = offset_of(extent.count);
        }
        let count = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.output.put_at(self.at, &bytes[..count])?;
        let written = u64::try_from(count).unwrap_or(u64::MAX);
        self.at += written;
        self.left -= written;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file's content and gives it its blocks on the way: none where there are only zeros, whatever the source has there, so
/// that long runs of them take no room and the image does not depend on the holes of this machine's files.
#[derive(Debug)]
pub(super) struct SparseWriter<'a, 'b, W> {
    output: &'a mut Output<W>,
    space: &'a mut Space<'b>,
    extents: Vec<Extent>,
    /// Which block of the file comes next.
    logical: u32,
    /// The beginning of it.
    begun: Vec<u8>,
}

impl<'a, 'b, W: Write + Seek> SparseWriter<'a, 'b, W> {
    /// Writes to blocks of `space`.
    pub(super) fn new(output: &'a mut Output<W>, space: &'a mut Space<'b>) -> Self {
        Self {
            output,
            space,
            extents: Vec::new(),
            logical: 0,
            begun: Vec::with_capacity(BLOCK_LEN),
        }
    }

    /// Writes the end, and returns where everything is.
    pub(super) fn finish(mut self) -> io::Result<Vec<Extent>> {
        let begun = std::mem::take(&mut self.begun);
        if !begun.is_empty() {
            self.block(&begun)?;
        }
        Ok(self.extents)
    }

    /// Writes the next block of the file, or the last, which may be shorter.
    fn block(&mut self, bytes: &[u8]) -> io::Result<()> {
        if ZEROS.get(..bytes.len()) != Some(bytes) {
            let block = self.space.append(&mut self.extents, self.logical);
            // The layout had room for a file without holes.
            let block = block.ok_or(io::ErrorKind::StorageFull)?;
            self.output.put(block, bytes)?;
        }
        self.logical += 1;
        Ok(())
    }
}

impl<W: Write + Seek> Write for SparseWriter<'_, '_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (begin, rest) = if self.begun.is_empty() {
            (&[][..], bytes)
        } else {
            bytes.split_at(bytes.len().min(BLOCK_LEN - self.begun.len()))
        };
        self.begun.extend_from_slice(begin);
        if self.begun.len() == BLOCK_LEN {
            let block = std::mem::take(&mut self.begun);
            self.block(&block)?;
        }
        let mut blocks = rest.chunks_exact(BLOCK_LEN);
        for block in &mut blocks {
            self.block(block)?;
        }
        self.begun.extend_from_slice(blocks.remainder());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
