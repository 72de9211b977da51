//! Listings of directories: runs of entries behind a header each, and an index into long ones.

use super::format::MAX_RUN;
use super::metadata::{Position, Table, too_large};
use super::narrow;
use crate::image::WriteError;

/// Something in a directory.
#[derive(Debug)]
pub(super) struct Child<'a> {
    /// 1 to 255 bytes.
    pub(super) name: &'a [u8],
    /// The basic type of its inode.
    pub(super) format: u16,
    /// The number of its inode.
    pub(super) number: u32,
    /// Where its inode is.
    pub(super) position: Position,
}

/// A directory that was written.
#[derive(Debug)]
pub(super) struct Listing {
    /// Where it begins.
    pub(super) position: Position,
    /// Its length, unpacked.
    pub(super) bytes: usize,
    /// The index as it follows the inode (`struct squashfs_dir_index`).
    pub(super) index: Vec<u8>,
    /// How many entries it has.
    pub(super) index_count: usize,
}

/// Writes what is in a directory. `children` are in the order of their names' bytes, as Linux expects.
pub(super) fn write(table: &mut Table, children: &[Child<'_>]) -> Result<Listing, WriteError> {
    let position = table.position()?;
    let mut listing = Listing {
        position,
        bytes: 0,
        index: Vec::new(),
        index_count: 0,
    };
    let mut indexed_block = position.block;
    let mut rest = children;
    while let Some(first) = rest.first() {
        let block = table.position()?.block;
        // One entry for each block that a run begins in: what is looked up is at most a block and a run behind it.
        if block != indexed_block {
            listing.add_to_index(block, first.name)?;
            indexed_block = block;
        }
        let (run, later) = rest.split_at(run_length(rest));
        let bytes = run_bytes(run)?;
        table.push(&bytes)?;
        listing.bytes += bytes.len();
        rest = later;
    }
    Ok(listing)
}

impl Listing {
    fn add_to_index(&mut self, block: u32, name: &[u8]) -> Result<(), WriteError> {
        let offset = u32::try_from(self.bytes).map_err(|_| too_large())?;
        self.index.extend(offset.to_le_bytes());
        self.index.extend(block.to_le_bytes());
        self.index.extend(narrow(name.len() - 1).to_le_bytes());
        self.index.extend_from_slice(name);
        self.index_count += 1;
        Ok(())
    }
}

/// How many of `children` have their inodes near enough for one header.
fn run_length(children: &[Child<'_>]) -> usize {
    let fits = |child: &&Child<'_>| {
        child.position.block == children[0].position.block
            && distance(&children[0], child).is_some()
    };
    children.iter().take(MAX_RUN).take_while(fits).count()
}

fn distance(first: &Child<'_>, child: &Child<'_>) -> Option<i16> {
    i16::try_from(i64::from(child.number) - i64::from(first.number)).ok()
}

/// `struct squashfs_dir_header` and `struct squashfs_dir_entry`.
fn run_bytes(run: &[Child<'_>]) -> Result<Vec<u8>, WriteError> {
    let mut bytes = Vec::new();
    let Some(first) = run.first() else {
        return Ok(bytes);
    };
    bytes.extend(narrow(run.len() - 1).to_le_bytes());
    bytes.extend(first.position.block.to_le_bytes());
    bytes.extend(first.number.to_le_bytes());
    for child in run {
        let distance = distance(first, child).ok_or_else(too_large)?;
        let name_bytes = u16::try_from(child.name.len() - 1).map_err(|_| too_large())?;
        bytes.extend(child.position.offset.to_le_bytes());
        bytes.extend(distance.to_le_bytes());
        bytes.extend(child.format.to_le_bytes());
        bytes.extend(name_bytes.to_le_bytes());
        bytes.extend_from_slice(child.name);
    }
    Ok(bytes)
}
