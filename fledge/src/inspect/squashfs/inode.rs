//! An inode as it is in its table, in its short or its long form. Knows nothing of contents.

use super::NONE;
use super::metadata::{Cursor, Metadata};
use crate::inspect::walk::{Budget, Flaw, damaged};
use crate::little_endian::{u16_at, u32_at, u64_at};

/// The length of what all inodes begin with, in bytes (`struct squashfs_base_inode`).
const COMMON_LEN: usize = 16;

/// The longest target of a link, in bytes (`PATH_MAX` without the end).
const MAX_TARGET_LEN: u32 = 4095;

/// A directory's size counts `.` and `..`, which are not stored (`squashfs_readdir`).
const DIRECTORY_EXTRA_BYTES: u32 = 3;

/// An inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) mode: u16,
    /// Where the owner's and the group's numbers are in the table of both.
    pub(super) uid: u16,
    pub(super) gid: u16,
    pub(super) mtime_s: u32,
    /// Which attributes it has, or [`NONE`].
    pub(super) xattrs: u32,
    pub(super) body: Body,
}

/// What it is.
#[derive(Debug)]
pub(super) enum Body {
    /// Where in the table of directories it is, and how many bytes.
    Directory {
        block: u32,
        offset: u16,
        bytes: u32,
    },
    File(File),
    Symlink(Vec<u8>),
    BlockDevice(u32),
    CharacterDevice(u32),
    Fifo,
    Socket,
}

/// A regular file.
#[derive(Debug)]
pub(super) struct File {
    /// Where its first block is in the image.
    pub(super) start: u64,
    pub(super) size_bytes: u64,
    /// In which fragment its end is, or [`NONE`], and where in that.
    pub(super) fragment: u32,
    pub(super) offset: u32,
    /// Where the sizes of its blocks are.
    pub(super) list: Cursor,
}

impl Inode {
    /// Reads the one at `cursor`.
    pub(super) fn read(
        metadata: &mut Metadata,
        mut cursor: Cursor,
        budget: &mut Budget,
    ) -> Result<Self, Flaw> {
        let common = metadata.read(&mut cursor, COMMON_LEN, budget)?;
        let mut reader = Reader {
            metadata,
            cursor,
            budget,
        };
        let (body, xattrs) = reader.body(u16_at(&common, 0))?;
        Ok(Self {
            mode: u16_at(&common, 2),
            uid: u16_at(&common, 4),
            gid: u16_at(&common, 6),
            mtime_s: u32_at(&common, 8),
            xattrs,
            body,
        })
    }
}

/// Reads what is special about an inode.
struct Reader<'a> {
    metadata: &'a mut Metadata,
    cursor: Cursor,
    budget: &'a mut Budget,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, Flaw> {
        self.metadata.read(&mut self.cursor, length, self.budget)
    }

    /// By the inode's type (`SQUASHFS_DIR_TYPE` and so on); the long form's is seven more. Says too which attributes it has.
    fn body(&mut self, format: u16) -> Result<(Body, u32), Flaw> {
        match format {
            1 => {
                let fields = self.take(16)?;
                let body = Body::Directory {
                    block: u32_at(&fields, 0),
                    offset: u16_at(&fields, 10),
                    bytes: listed_bytes(u16_at(&fields, 8).into()),
                };
                Ok((body, NONE))
            }
            8 => {
                let fields = self.take(24)?;
                let body = Body::Directory {
                    block: u32_at(&fields, 8),
                    offset: u16_at(&fields, 18),
                    bytes: listed_bytes(u32_at(&fields, 4)),
                };
                Ok((body, u32_at(&fields, 20)))
            }
            2 => {
                let fields = self.take(16)?;
                let file = File {
                    start: u32_at(&fields, 0).into(),
                    size_bytes: u32_at(&fields, 12).into(),
                    fragment: u32_at(&fields, 4),
                    offset: u32_at(&fields, 8),
                    list: self.cursor,
                };
                Ok((Body::File(file), NONE))
            }
            9 => {
                let fields = self.take(40)?;
                let file = File {
                    start: u64_at(&fields, 0),
                    size_bytes: u64_at(&fields, 8),
                    fragment: u32_at(&fields, 28),
                    offset: u32_at(&fields, 32),
                    list: self.cursor,
                };
                Ok((Body::File(file), u32_at(&fields, 36)))
            }
            3..=7 => Ok((self.small(format)?, NONE)),
            10..=14 => {
                let body = self.small(format - 7)?;
                let xattrs = u32_at(&self.take(4)?, 0);
                Ok((body, xattrs))
            }
            _ => Err(damaged("is of no known type")),
        }
    }

    /// What has neither names nor content; all begin with the number of links.
    fn small(&mut self, format: u16) -> Result<Body, Flaw> {
        self.take(4)?;
        Ok(match format {
            3 => {
                let length = u32_at(&self.take(4)?, 0);
                if length > MAX_TARGET_LEN {
                    return Err(damaged("is a symbolic link to nothing that has a name"));
                }
                Body::Symlink(self.take(usize::try_from(length).unwrap_or(0))?)
            }
            4 => Body::BlockDevice(u32_at(&self.take(4)?, 0)),
            5 => Body::CharacterDevice(u32_at(&self.take(4)?, 0)),
            6 => Body::Fifo,
            _ => Body::Socket,
        })
    }
}

fn listed_bytes(size: u32) -> u32 {
    size.saturating_sub(DIRECTORY_EXTRA_BYTES)
}
