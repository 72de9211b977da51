//! Fills the inode tables. Inodes come in the order of their numbers, and are written many at a time.

use std::io::{self, Seek, Write};

use super::format::{BLOCK_LEN, INODE_LEN, INODES_PER_BLOCK, put};
use super::geometry::Geometry;
use super::output::Output;

/// How much is collected before it is written, in bytes.
const COLLECTED_BYTES: usize = 256 * 1024;

/// The part of the tables that is being filled.
#[derive(Debug, Default)]
pub(super) struct InodeTable {
    /// The block that it begins with.
    at: u32,
    /// Whole blocks.
    bytes: Vec<u8>,
}

impl InodeTable {
    /// Takes the inode `number`, which is larger than those before it.
    pub(super) fn put<W: Write + Seek>(
        &mut self,
        number: u32,
        inode: &[u8; INODE_LEN],
        geometry: &Geometry,
        out: &mut Output<W>,
    ) -> io::Result<()> {
        let group = (number - 1) / geometry.inodes_per_group;
        let index = (number - 1) % geometry.inodes_per_group;
        let block = geometry.inode_table(group) + index / INODES_PER_BLOCK;
        let mut first = self.offset_of(block);
        if first >= self.bytes.len() {
            // The next block is collected too, any other begins anew.
            if first != self.bytes.len() || first >= COLLECTED_BYTES {
                self.flush(out)?;
                self.at = block;
                first = 0;
            }
            self.bytes.resize(first + BLOCK_LEN, 0);
        }
        let slot = usize::try_from(index % INODES_PER_BLOCK).unwrap_or(0);
        put(&mut self.bytes, first + slot * INODE_LEN, inode);
        Ok(())
    }

    /// Where a block begins in what is collected, or would.
    fn offset_of(&self, block: u32) -> usize {
        usize::try_from(block - self.at).map_or(usize::MAX, |block| block.saturating_mul(BLOCK_LEN))
    }

    /// Writes what is collected.
    pub(super) fn flush<W: Write + Seek>(&mut self, out: &mut Output<W>) -> io::Result<()> {
        out.put(self.at, &self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}
