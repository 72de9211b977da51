//! A file tree as squashfs 4.0, the compressed read-only file system. Everything is compressed with zstd; the kernel needs
//! `CONFIG_SQUASHFS_ZSTD`, and `CONFIG_SQUASHFS_XATTR` where there are extended attributes. Does not read images.
//!
//! The bytes depend on the tree and the options alone, not on the number of threads. In the image, in this order:
//!
//! ```text
//! superblock | options | blocks and fragments | inodes | directories | fragments | export | ids | attributes | zeros
//! ```
//!
//! Contents are streamed: what stays in memory until the end is a few bytes for each file and each block of 128 KiB. Files with the
//! same content are stored once only where they are hard links of one another.
//!
//! The format is that of Linux `fs/squashfs/squashfs_fs.h`.

mod data;
mod directories;
mod format;
mod inodes;
mod metadata;
mod xattrs;

use std::io::{Seek, SeekFrom, Write};
use std::num::NonZeroUsize;

use super::WriteError;
use crate::tree::Tree;
use data::Data;
use format::{
    FLAG_ALWAYS_FRAGMENTS, FLAG_EXPORT, FLAG_NO_XATTRS, FLAG_OPTIONS, IMAGE_ALIGNMENT,
    SUPERBLOCK_BYTES, Superblock,
};
use inodes::Inodes;
use metadata::{Table, Tail, plain_block, too_large};

/// The compression level where none is given, and the one that squashfs-tools use.
pub const DEFAULT_LEVEL: u32 = 15;

/// The highest compression level of zstd.
pub const MAX_LEVEL: u32 = 22;

/// How an image is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The image's own time, in seconds since 1970; after 2106 it is 2106.
    pub time_s: u64,
    /// How hard it is compressed, 1 to [`MAX_LEVEL`]; 0 means [`DEFAULT_LEVEL`], more than the highest means the highest.
    pub level: u32,
    /// How many threads compress. Each takes about 1 MiB.
    pub threads: NonZeroUsize,
}

impl Options {
    fn level(&self) -> u32 {
        match self.level {
            0 => DEFAULT_LEVEL,
            level => level.min(MAX_LEVEL),
        }
    }
}

/// Writes `tree` from the beginning of `out` on, which must be empty, and returns `out` standing at the image's end.
///
/// A time before 1970 or after 2106 becomes the nearest that the format can hold.
///
/// # Errors
/// Where a file cannot be read or `out` cannot be written, and where something does not fit: names of more than 255 bytes, device
/// numbers of more than 12 and 20 bits, more than 65535 different owners, and attributes that are not of `user`, `trusted` or
/// `security`. To leave an access list (`system.posix_acl_access`) out would let in whom it shuts out, so it is an error.
pub fn write<F: Write + Seek + Send>(
    tree: &Tree,
    options: &Options,
    mut out: F,
) -> Result<F, WriteError> {
    let level = options.level();
    // The superblock comes last, when its numbers are known.
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&[0; SUPERBLOCK_BYTES])?;
    let mut flags = FLAG_ALWAYS_FRAGMENTS | FLAG_EXPORT;
    if level != DEFAULT_LEVEL {
        // `struct zstd_comp_opts` of squashfs-tools. Linux does without.
        flags |= FLAG_OPTIONS;
        out.write_all(&plain_block(&level.to_le_bytes())?)?;
    }
    let level = i32::try_from(level).map_err(|_| too_large())?;
    let data = data::write(tree, level, options.threads, &mut out)?;
    let at = out.stream_position()?;
    let inodes = Inodes::of(tree, &data, level)?;
    if inodes.xattrs.is_empty() {
        flags |= FLAG_NO_XATTRS;
    }
    let mut tail = Tail::new(out, at);
    let superblock = Superblock {
        time_s: u32::try_from(options.time_s).unwrap_or(u32::MAX),
        flags,
        ..write_tables(&mut tail, inodes, &data, level)?
    };
    let padding = (IMAGE_ALIGNMENT - tail.at() % IMAGE_ALIGNMENT) % IMAGE_ALIGNMENT;
    tail.push(&vec![0; usize::try_from(padding).unwrap_or(0)])?;
    let mut out = tail.into_inner();
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&superblock.bytes())?;
    out.seek(SeekFrom::End(0))?;
    out.flush()?;
    Ok(out)
}

/// Writes everything behind the data. Linux derives the length of most tables from where the next one begins, so nothing may come
/// between them.
fn write_tables<W: Write>(
    tail: &mut Tail<W>,
    inodes: Inodes<'_>,
    data: &Data,
    level: i32,
) -> Result<Superblock, WriteError> {
    let mut fragments = Table::new(level);
    for fragment in data.fragments() {
        fragments.push(&fragment.at.to_le_bytes())?;
        fragments.push(&fragment.size.to_le_bytes())?;
        fragments.push(&[0; 4])?;
    }
    let mut export = Table::new(level);
    let mut root = 0;
    let mut count = 0;
    for position in inodes.positions() {
        // The root is the first.
        if count == 0 {
            root = position.reference();
        }
        count += 1;
        export.push(&position.reference().to_le_bytes())?;
    }
    let mut ids = Table::new(level);
    for id in inodes.ids.list() {
        ids.push(&id.to_le_bytes())?;
    }
    let no_header = |_| Vec::new();
    Ok(Superblock {
        inodes: count,
        time_s: 0,
        fragments: u32::try_from(data.fragments().len()).map_err(|_| too_large())?,
        flags: 0,
        ids: u16::try_from(inodes.ids.list().len()).map_err(|_| too_large())?,
        root,
        inodes_at: tail.table(inodes.table)?,
        directories_at: tail.table(inodes.directories)?,
        fragments_at: tail.indexed(fragments, no_header)?,
        export_at: tail.indexed(export, no_header)?,
        ids_at: tail.indexed(ids, no_header)?,
        xattrs_at: inodes.xattrs.write(tail)?,
        image_bytes: tail.at(),
    })
}

/// A length as the format's wide numbers.
fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A length that is bounded far below 4 GiB.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
