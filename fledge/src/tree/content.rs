//! What is in a regular file of a tree: bytes, or where on the host they are. Nothing is read before it is asked for.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// How much is copied at once, in bytes: large enough that the system calls do not count.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where a file's content is.
#[derive(Debug, Clone)]
pub enum Content {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file of the host.
    Host {
        /// Its path.
        path: PathBuf,
        /// Its size when it was looked at; it must not change.
        size_bytes: u64,
    },
    /// In a part of an open file, such as the spool of an image's layer.
    Part {
        /// The file. Nobody else writes to it.
        file: Arc<File>,
        /// Where the content begins in it, in bytes.
        offset: u64,
        /// How long it is.
        size_bytes: u64,
    },
    /// In an image that has it in several pieces, or compressed.
    Assembled(Arc<dyn Assembled>),
}

/// A content that is put together while it is read.
pub trait Assembled: fmt::Debug + Send + Sync {
    /// The length in bytes.
    fn size_bytes(&self) -> u64;

    /// Reads some bytes from `at` on, none at the end only.
    ///
    /// # Errors
    /// Where the image cannot be read, or contradicts itself.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Content {
    /// The length in bytes.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Host { size_bytes, .. } | Self::Part { size_bytes, .. } => *size_bytes,
            Self::Assembled(content) => content.size_bytes(),
        }
    }

    /// Opens it for reading from its beginning. A file of the host may give more or less than [`Content::size_bytes`] by now;
    /// [`Content::copy_to`] sees that.
    ///
    /// # Errors
    /// Where the file of the host cannot be opened.
    pub fn open(&self) -> io::Result<Reader<'_>> {
        Ok(match self {
            Self::Bytes(bytes) => Reader(Source::Bytes(Cursor::new(bytes))),
            Self::Host { path, .. } => Reader(Source::Host(fs_err::File::open(path)?)),
            Self::Part {
                file,
                offset,
                size_bytes,
            } => Reader(Source::Part {
                file,
                offset: *offset,
                size_bytes: *size_bytes,
                at: 0,
            }),
            Self::Assembled(content) => Reader(Source::Assembled {
                content: content.as_ref(),
                at: 0,
            }),
        })
    }

    /// Writes all of it to `out`.
    ///
    /// # Errors
    /// Where it cannot be read, is not as long as it should be, or cannot be written.
    pub fn copy_to(&self, out: &mut dyn Write) -> Result<(), CopyError> {
        if let Self::Bytes(bytes) = self {
            return out.write_all(bytes).map_err(CopyError::Write);
        }
        let mut reader = self.open().map_err(CopyError::Read)?;
        let mut left = self.size_bytes();
        let room = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES - 1));
        // One byte more than is expected, to see that there is none.
        let mut buffer = vec![0; room + 1];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) if left == 0 => return Ok(()),
                Ok(0) => return Err(CopyError::Changed),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyError::Read(error)),
            };
            left = u64::try_from(count)
                .ok()
                .and_then(|count| left.checked_sub(count))
                .ok_or(CopyError::Changed)?;
            out.write_all(&buffer[..count]).map_err(CopyError::Write)?;
        }
    }
}

/// Why a content cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be read.
    #[error("Cannot read it")]
    Read(#[source] io::Error),
    /// It is shorter or longer than it was when it was looked at: somebody writes to the file.
    #[error("It changed its size while it was read")]
    Changed,
    /// Its copy cannot be written.
    #[error("Cannot write it")]
    Write(#[source] io::Error),
}

/// Reads a content.
#[derive(Debug)]
pub struct Reader<'a>(Source<'a>);

#[derive(Debug)]
enum Source<'a> {
    Bytes(Cursor<&'a [u8]>),
    Host(fs_err::File),
    Part {
        file: &'a File,
        offset: u64,
        size_bytes: u64,
        /// From the content's beginning.
        at: u64,
    },
    Assembled {
        content: &'a dyn Assembled,
        /// From the content's beginning.
        at: u64,
    },
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Bytes(bytes) => bytes.read(buffer),
            Source::Host(file) => file.read(buffer),
            Source::Part {
                file,
                offset,
                size_bytes,
                at,
            } => {
                let left = size_bytes.saturating_sub(*at);
                let room =
                    usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                let count = file.read_at(&mut buffer[..room], *offset + *at)?;
                *at += u64::try_from(count).unwrap_or(0);
                Ok(count)
            }
            Source::Assembled { content, at } => {
                let count = content.read_at(buffer, *at)?;
                *at += u64::try_from(count).unwrap_or(0);
                Ok(count)
            }
        }
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.0 {
            Source::Bytes(bytes) => bytes.seek(to),
            Source::Host(file) => file.seek(to),
            Source::Part { size_bytes, at, .. } => seek_in(*size_bytes, at, to),
            Source::Assembled { content, at } => seek_in(content.size_bytes(), at, to),
        }
    }
}

/// Moves `at` within a content of `size_bytes`.
fn seek_in(size_bytes: u64, at: &mut u64, to: SeekFrom) -> io::Result<u64> {
    let target = match to {
        SeekFrom::Start(target) => Some(target),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => size_bytes.checked_add_signed(by),
    };
    *at = target.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(*at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(content: &Content) -> Result<Vec<u8>, CopyError> {
        let mut out = Vec::new();
        content.copy_to(&mut out).map(|()| out)
    }

    #[test]
    fn every_kind_gives_its_bytes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let host = |size_bytes| Content::Host {
            path: file.path().to_path_buf(),
            size_bytes,
        };
        let part = |offset, size_bytes| Content::Part {
            file: Arc::new(file.reopen().unwrap()),
            offset,
            size_bytes,
        };
        assert_eq!(copied(&Content::Bytes(b"ab".to_vec())).unwrap(), b"ab");
        assert_eq!(copied(&host(10)).unwrap(), b"0123456789");
        assert_eq!(copied(&part(2, 3)).unwrap(), b"234");
        assert_eq!(copied(&part(10, 0)).unwrap(), b"");
        let part_of_it = part(2, 5);
        let mut reader = part_of_it.open().unwrap();
        let mut rest = String::new();
        reader.seek(SeekFrom::End(-2)).unwrap();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "56");
        for changed in [host(9), host(11), part(8, 3)] {
            assert!(
                matches!(copied(&changed), Err(CopyError::Changed)),
                "{changed:?}"
            );
        }
    }
}
