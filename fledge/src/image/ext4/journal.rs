//! An empty journal: its superblock; what follows is never read before it is written. Source: Linux `include/linux/jbd2.h`.

use super::format::{BLOCK_BYTES, BLOCK_LEN, Block, put};
use super::superblock::Identity;

/// The inode of the journal (`EXT4_JOURNAL_INO`).
pub(super) const INODE: u32 = 8;

/// `JBD2_MAGIC_NUMBER`.
const MAGIC: u32 = 0xc03b_3998;

/// Type of a superblock with features (`JBD2_SUPERBLOCK_V2`).
const SUPERBLOCK_V2: u32 = 4;

/// The least that jbd2 takes (`JBD2_MIN_JOURNAL_BLOCKS`).
const LEAST_BLOCKS: u32 = 1024;

/// The most that is given: 128 MiB. More would only take longer to replay after a crash.
const MOST_BLOCKS: u32 = 32768;

/// The journal's part of the whole file system: a 64th, 16 MiB for 1 GiB. About what `mke2fs` gives.
const PART: u32 = 64;

/// How many blocks the journal of a file system of `blocks` has.
pub(super) fn blocks_for(blocks: u32) -> u32 {
    (blocks / PART).clamp(LEAST_BLOCKS, MOST_BLOCKS)
}

/// The first block of a journal of `blocks` blocks. Its numbers are big-endian; it has no features yet, Linux sets those that it
/// wants at the first mount.
pub(super) fn superblock(blocks: u32, identity: &Identity) -> Block {
    let mut block = [0; BLOCK_LEN];
    let fields = [
        (0x0, MAGIC),
        (0x4, SUPERBLOCK_V2),
        (0xc, BLOCK_BYTES),
        (0x10, blocks),
        (0x14, 1), // The first block of the log.
        (0x18, 1), // The first transaction.
        (0x40, 1), // File systems that use it.
    ];
    for (at, value) in fields {
        put(&mut block, at, &value.to_be_bytes());
    }
    put(&mut block, 0x30, &identity.uuid);
    block
}
