//! Writes blocks at their places. What is not written stays a hole, so the output must be empty at first.

use std::io::{self, Seek, SeekFrom, Write};

use super::format::BLOCK_BYTES;
use super::space::Extent;

/// What is compared with to find zeros, in bytes: as much as is copied at once.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// Where the file system goes.
#[derive(Debug)]
pub(super) struct Output<W> {
    inner: W,
    /// Where the next byte goes without seeking.
    at: u64,
    /// How far it has been written.
    end: u64,
}

impl<W: Write + Seek> Output<W> {
    /// Writes to `inner` from its beginning.
    pub(super) fn new(mut inner: W) -> io::Result<Self> {
        inner.rewind()?;
        Ok(Self {
            inner,
            at: 0,
            end: 0,
        })
    }

    /// Puts `bytes` at the beginning of a block.
    pub(super) fn put(&mut self, block: u32, bytes: &[u8]) -> io::Result<()> {
        self.go_to(offset_of(block))?;
        self.write_on(bytes)
    }

    /// Puts `bytes` at `at` bytes from the beginning.
    pub(super) fn put_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.go_to(at)?;
        self.write_on(bytes)
    }

    fn go_to(&mut self, at: u64) -> io::Result<()> {
        if self.at != at {
            self.at = self.inner.seek(SeekFrom::Start(at))?;
        }
        Ok(())
    }

    fn write_on(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.end = self.end.max(self.at);
        Ok(())
    }

    /// Makes the output `size_bytes` long, by its last byte where that is not written yet.
    pub(super) fn finish(mut self, size_bytes: u64) -> io::Result<W> {
        if self.end < size_bytes {
            self.put_at(size_bytes - 1, &[0])?;
        }
        self.inner.flush()?;
        Ok(self.inner)
    }
}

/// Where a block begins, in bytes.
fn offset_of(block: u32) -> u64 {
    u64::from(block) * u64::from(BLOCK_BYTES)
}

/// Writes a file's content to its blocks, one extent after the other. Where only zeros come, it writes nothing.
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
        let bytes = &bytes[..count];
        if ZEROS.get(..count) != Some(bytes) {
            self.output.put_at(self.at, bytes)?;
        }
        let written = u64::try_from(count).unwrap_or(u64::MAX);
        self.at += written;
        self.left -= written;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
