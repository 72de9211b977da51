//! Writes a tree as an EROFS image, in one go from the first byte to the last. Does not compress, and does not read such images.
//!
//! ```text
//! block 0      the superblock, at byte 1024
//! block 1..    inodes, each with its attributes and, where that is short, the link's target or the end of the directory
//! ...          longer targets and directories, in whole blocks
//! ...          files, each in whole blocks of its own, so that a guest can map them (DAX)
//! ...          zeros up to a multiple of 2 MiB
//! ```
//!
//! Holes of files are written as zeros: only inodes of chunks can have any (`EROFS_NULL_ADDR`), and those need Linux 5.15, a table of
//! chunks for each file, and a look at every content before the first byte is written.
//!
//! Everything is placed before the first byte is written. The format is that of `fs/erofs/erofs_fs.h` in Linux, and Linux 5.4 can read
//! all that is used of it.

mod directory;
mod format;
mod layout;
mod sequential;
mod xattrs;

use std::io::Write;

use self::format::BLOCK_BYTES;
use self::layout::{Inode, Layout};
use self::sequential::Sequential;
use super::WriteError;
use crate::tree::{Kind, Tree};

/// The size of an image is a multiple of this, in bytes: persistent memory is mapped by that much.
pub const IMAGE_ALIGNMENT_BYTES: u64 = 2 * 1024 * 1024;

/// Writes `tree`. What was changed last at `time_s`, in seconds since 1970, takes less room: the most frequent time is the best.
///
/// # Errors
/// Where something does not fit the format, a file cannot be read or has changed, or `out` cannot be written.
pub fn write<W: Write>(tree: &Tree, time_s: u64, out: W) -> Result<W, WriteError> {
    let layout = Layout::new(tree, time_s)?;
    let mut out = Sequential::new(out);
    out.write_all(&format::superblock(&layout.summary()))?;
    for inode in &layout.inodes {
        write_inode(&layout, inode, &mut out)?;
    }
    for inode in &layout.inodes {
        write_blocks(&layout, inode, &mut out)?;
    }
    for inode in &layout.inodes {
        write_file(inode, &mut out)?;
    }
    out.fill_to(out.position().next_multiple_of(IMAGE_ALIGNMENT_BYTES))?;
    out.finish()
}

/// Writes an inode, with its attributes and what lies behind it.
fn write_inode<W: Write>(
    layout: &Layout<'_>,
    inode: &Inode<'_>,
    out: &mut Sequential<W>,
) -> Result<(), WriteError> {
    out.fill_to(inode.offset)?;
    let xattrs = xattrs::encode(inode.path, &inode.attributes.xattrs)?;
    let count = xattrs::count(xattrs.len());
    out.write_all(&format::inode(inode, count, layout.time_s))?;
    out.write_all(&xattrs)?;
    if inode.inline_bytes == 0 {
        return Ok(());
    }
    if let Kind::Symlink(target) = inode.kind {
        out.write_all(target)?;
    } else if let Some(run) = directory::runs(&inode.entries).last() {
        out.write_all(&directory::encode(run, &layout.inodes))?;
    }
    Ok(())
}

/// Writes the blocks of a directory or link.
fn write_blocks<W: Write>(
    layout: &Layout<'_>,
    inode: &Inode<'_>,
    out: &mut Sequential<W>,
) -> Result<(), WriteError> {
    if inode.block_count() == 0 {
        return Ok(());
    }
    match inode.kind {
        Kind::Symlink(target) => {
            out.fill_to(inode.blocks_offset())?;
            out.write_all(target)?;
        }
        Kind::Directory => {
            let offsets =
                (0..inode.block_count()).map(|block| inode.blocks_offset() + block * BLOCK_BYTES);
            for (offset, run) in offsets.zip(directory::runs(&inode.entries)) {
                out.fill_to(offset)?;
                out.write_all(&directory::encode(run, &layout.inodes))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn write_file<W: Write>(inode: &Inode<'_>, out: &mut Sequential<W>) -> Result<(), WriteError> {
    match inode.kind {
        Kind::File(content) if inode.size_bytes > 0 => {
            out.fill_to(inode.blocks_offset())?;
            content
                .copy_to(out)
                .map_err(|error| WriteError::copying(inode.path, error))
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "cli")]
#[cfg(test)]
mod tests;
