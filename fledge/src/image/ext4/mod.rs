//! A file tree as an ext4 file system, without root and without `mke2fs`. From an empty tree, it makes an empty disk in a few
//! milliseconds, of which only a few blocks are written.
//!
//! 4096-byte blocks, extents, checksums of all metadata, 34-bit times, and a journal if wanted; the superblock's features are in
//! `superblock.rs`. The same input gives the same bytes: the UUID follows from what is written, and the
//! seed of the directory hashes is fixed.
//! Contents are streamed; what nobody writes stays a hole. So does every block of a file that has only zeros, as a hole of the file
//! as well: the layout has room for all of it, and what is saved stays free.
//!
//! It writes new file systems only: it reads none and changes none. Extended attributes have the room of their inode and one block.
//!
//! Sources of the format: Linux Documentation/filesystems/ext4 and `fs/ext4`.

mod directory;
mod format;
mod geometry;
mod inode;
mod journal;
mod output;
mod plan;
mod size;
mod space;
mod superblock;
mod table;
mod writer;
mod xattr;

#[cfg(test)]
mod tests;

use std::io::{Seek, Write};

use self::plan::Plan;
use self::writer::Writer;
use super::WriteError;
use crate::tree::{Node, Tree};

/// The free space that [`Size::Automatic`] leaves: a quarter of the contents, within these bounds, in bytes. As the Go system does.
const LEAST_FREE_BYTES: u64 = 64 * 1024 * 1024;
const MOST_FREE_BYTES: u64 = 1024 * 1024 * 1024;

/// How large the file system becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The contents, and a quarter of them free: at least 64 MiB, at most 1 GiB.
    Automatic,
    /// The contents, and at least so many bytes free.
    Free(u64),
    /// Exactly so many bytes, metadata and all, rounded down to whole blocks.
    Total(u64),
}

/// What is not in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// When it was made, in seconds since 1970.
    pub time_s: u64,
    /// How large it becomes.
    pub size: Size,
    /// Whether it has a journal, which keeps it whole when the machine stops at the wrong moment. Only one that is never written to
    /// can do without.
    pub journal: bool,
}

/// Writes `tree` to `out`, and returns that. `out` must be empty: what is not written must read as zeros.
///
/// `/lost+found` is added unless the tree has it.
///
/// # Errors
/// Where the tree does not fit into ext4 or into [`Size::Total`], a file cannot be read, or `out` cannot be written.
pub fn write<W: Write + Seek>(tree: &Tree, options: &Options, out: W) -> Result<W, WriteError> {
    let mut lost_and_found = Node::directory(0o700);
    lost_and_found.attributes.mtime_s = i64::try_from(options.time_s).unwrap_or(i64::MAX);
    let plan = Plan::new(tree, &lost_and_found)?;
    let layout = size::lay_out(&plan, options, tree.content_bytes())?;
    Writer::new(&plan, &layout, options, out)?.write()
}
