//! Writes archives that depend on nothing but their contents: owner 0:0, one time, inodes in order. Order is the caller's.

use std::io::{self, Read, Write};

use super::{
    HEADER_BYTES, MAGIC, MAX_NAME_BYTES, TRAILER, TYPE_DIRECTORY, TYPE_FILE, TYPE_SYMLINK, padding,
};

/// The largest file, in bytes: the format has 32 bits for its size.
pub const MAX_FILE_BYTES: u64 = 0xffff_ffff;

/// Archives are filled up to a multiple of this, as cpio(1) does, so that others can be appended at a boundary.
const BLOCK_BYTES: u64 = 512;

/// An archive that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The name does not fit.
    #[error("The path `{path}` has more than 4095 bytes")]
    NameTooLong {
        /// The path in the archive.
        path: String,
    },
    /// The file does not fit.
    #[error("`{path}` has {size_bytes} bytes: an initramfs holds files of less than 4 GiB")]
    FileTooLarge {
        /// The path in the archive.
        path: String,
        /// Its size.
        size_bytes: u64,
    },
    /// The content is not as long as was said: somebody writes to the file.
    #[error("The file behind `{path}` changed its size while it was read")]
    Changed {
        /// The path in the archive.
        path: String,
    },
    /// The content cannot be read.
    #[error("Cannot read the file behind `{path}`")]
    Content {
        /// The path in the archive.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive itself cannot be written.
    #[error("Cannot write the archive")]
    Output(#[from] io::Error),
}

/// Writes entries one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    mtime: u32,
    next_inode: u32,
    written_bytes: u64,
}

/// The numbers of a header that differ between entries.
struct Header {
    mode: u32,
    links: u32,
    size: u32,
}

impl<W: Write> Writer<W> {
    /// Begins an archive; `mtime` is the time of all entries, in seconds since 1970.
    pub fn new(out: W, mtime: u32) -> Self {
        Self {
            out,
            mtime,
            next_inode: 1,
            written_bytes: 0,
        }
    }

    /// Writes a directory. `path` has no `/` in front; `permissions` are the lower twelve bits of a mode.
    pub fn directory(
        &mut self,
        path: &[u8],
        permissions: u32,
        subdirectories: u32,
    ) -> Result<(), WriteError> {
        let links = subdirectories.saturating_add(2);
        let mode = TYPE_DIRECTORY | permissions;
        self.entry(
            path,
            &Header {
                mode,
                links,
                size: 0,
            },
        )
    }

    /// Writes a symbolic link.
    pub fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), WriteError> {
        // Linux takes targets up to PATH_MAX, as names.
        let size = match u32::try_from(target.len()) {
            Ok(size) if target.len() < MAX_NAME_BYTES => size,
            _ => {
                return Err(WriteError::NameTooLong {
                    path: shown(target),
                });
            }
        };
        self.entry(
            path,
            &Header {
                mode: TYPE_SYMLINK | 0o777,
                links: 1,
                size,
            },
        )?;
        self.padded(target)
    }

    /// Writes a file whose content is in memory.
    pub fn bytes(
        &mut self,
        path: &[u8],
        permissions: u32,
        content: &[u8],
    ) -> Result<(), WriteError> {
        let size_bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        self.file(path, permissions, size_bytes, &mut &*content)
    }

    /// Writes a file of exactly `size_bytes`, which `content` must have.
    pub fn file(
        &mut self,
        path: &[u8],
        permissions: u32,
        size_bytes: u64,
        content: &mut dyn Read,
    ) -> Result<(), WriteError> {
        let Ok(size) = u32::try_from(size_bytes) else {
            return Err(WriteError::FileTooLarge {
                path: shown(path),
                size_bytes,
            });
        };
        self.entry(
            path,
            &Header {
                mode: TYPE_FILE | permissions,
                links: 1,
                size,
            },
        )?;
        // One byte more is asked for, to see that there is none.
        let mut left = size_bytes + 1;
        let mut buffer = vec![0; 128 * 1024];
        while left > 0 {
            let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = match content.read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(WriteError::Content {
                        path: shown(path),
                        source,
                    });
                }
            };
            left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
            if left > 0 {
                self.raw(&buffer[..count])?;
            }
        }
        if left != 1 {
            return Err(WriteError::Changed { path: shown(path) });
        }
        self.pad(padding(self.written_bytes))
    }

    /// Ends the archive and returns the writer below.
    pub fn finish(mut self) -> Result<W, WriteError> {
        // The trailer's other numbers are 0, whatever the entries have.
        self.mtime = 0;
        self.next_inode = 0;
        self.entry(
            TRAILER,
            &Header {
                mode: 0,
                links: 1,
                size: 0,
            },
        )?;
        let rest = self.written_bytes.wrapping_neg() % BLOCK_BYTES;
        self.pad(usize::try_from(rest).unwrap_or(0))?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &[u8], header: &Header) -> Result<(), WriteError> {
        let name_bytes = match u32::try_from(path.len() + 1) {
            Ok(bytes) if path.len() < MAX_NAME_BYTES => bytes,
            _ => return Err(WriteError::NameTooLong { path: shown(path) }),
        };
        let inode = self.next_inode;
        self.next_inode = inode.wrapping_add(1);
        let numbers = [
            inode,
            header.mode,
            0, // owner
            0, // group
            header.links,
            self.mtime,
            header.size,
            0, // device the file is on, major and minor
            0,
            0, // device the file is, major and minor
            0,
            name_bytes,
            0, // checksum, unused in this format
        ];
        let mut bytes = Vec::with_capacity(HEADER_BYTES + path.len() + 4);
        bytes.extend_from_slice(MAGIC);
        for number in numbers {
            bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        bytes.extend_from_slice(path);
        bytes.push(0);
        self.padded(&bytes)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.raw(bytes)?;
        self.pad(padding(self.written_bytes))
    }

    fn pad(&mut self, count: usize) -> Result<(), WriteError> {
        const ZEROS: [u8; 512] = [0; 512];
        self.raw(&ZEROS[..count])
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes)?;
        self.written_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

/// A path as it is shown: with its `/`, at most 200 characters, escaped.
fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let escaped = text.chars().take(200).flat_map(char::escape_debug);
    std::iter::once('/').chain(escaped).collect()
}
