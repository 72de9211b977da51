//! The index of a large directory: which hashes are in which block, in one block or in two levels. Source: Linux `fs/ext4/namei.c`,
//! `struct dx_root` and `struct dx_node`.

use super::super::format::{BLOCK_LEN, Block, Checksum, put, put_u16, put_u32};
use super::super::superblock::HASH_VERSION;
use super::DIRECTORY_TYPE;

/// Where the entries begin in the first block, and in the blocks of the level below it, in bytes.
const ROOT_ENTRIES_AT: usize = 32;
const NODE_ENTRIES_AT: usize = 8;

/// The length of an entry, in bytes.
const ENTRY_LEN: usize = 8;

/// Where the checksum is: after the last entry.
const CHECKSUM_AT: usize = BLOCK_LEN - 4;

/// Entries that fit, with eight bytes of checksum at the end.
const ENTRIES_IN_ROOT: usize = (BLOCK_LEN - ROOT_ENTRIES_AT - 8) / ENTRY_LEN;
const ENTRIES_IN_NODE: usize = (BLOCK_LEN - NODE_ENTRIES_AT - 8) / ENTRY_LEN;

/// The length of what the first block says about the index (`struct dx_root_info`).
const INFO_LEN: u8 = 8;

/// How many blocks the index has above `leaves` blocks of entries; nothing where two levels are not enough.
pub(super) fn count_blocks(leaves: usize) -> Option<usize> {
    if leaves <= ENTRIES_IN_ROOT {
        return Some(1);
    }
    let nodes = leaves.div_ceil(ENTRIES_IN_NODE);
    (nodes <= ENTRIES_IN_ROOT).then_some(1 + nodes)
}

/// The index of the directory `inode` in `parent`, whose blocks of entries begin with `hashes` and come right after it. `seed` is the
/// checksum of what identifies the directory.
pub(super) fn blocks(hashes: &[u32], inode: u32, parent: u32, seed: Checksum) -> Vec<Block> {
    let count = count_blocks(hashes.len()).unwrap_or(1);
    let leaves: Vec<(u32, u32)> = hashes
        .iter()
        .copied()
        .zip(u32::try_from(count).unwrap_or(1)..)
        .collect();
    if count == 1 {
        return vec![root(&leaves, 0, (inode, parent), seed)];
    }
    let mut blocks = vec![[0; BLOCK_LEN]];
    let mut nodes = Vec::new();
    for (part, number) in leaves.chunks(ENTRIES_IN_NODE).zip(1..) {
        blocks.push(node(part, seed));
        nodes.push((part.first().map_or(0, |&(hash, _)| hash), number));
    }
    blocks[0] = root(&nodes, 1, (inode, parent), seed);
    blocks
}

/// The first block: to those who know no index, it holds `.` and `..` only.
fn root(entries: &[(u32, u32)], levels: u8, dots: (u32, u32), seed: Checksum) -> Block {
    let mut block = [0; BLOCK_LEN];
    put_u32(&mut block, 0, dots.0);
    put_u16(&mut block, 4, 12);
    block[6] = 1;
    block[7] = DIRECTORY_TYPE;
    put(&mut block, 8, b".");
    put_u32(&mut block, 12, dots.1);
    put_u16(&mut block, 16, u16::try_from(BLOCK_LEN - 12).unwrap_or(0));
    block[18] = 2;
    block[19] = DIRECTORY_TYPE;
    put(&mut block, 20, b"..");
    block[28] = HASH_VERSION;
    block[29] = INFO_LEN;
    block[30] = levels;
    put_entries(&mut block, ROOT_ENTRIES_AT, ENTRIES_IN_ROOT, entries);
    seal(&mut block, ROOT_ENTRIES_AT, entries.len(), seed);
    block
}

/// A block below it: to those who know no index, a single unused entry.
fn node(entries: &[(u32, u32)], seed: Checksum) -> Block {
    let mut block = [0; BLOCK_LEN];
    put_u16(&mut block, 4, u16::try_from(BLOCK_LEN).unwrap_or(0));
    put_entries(&mut block, NODE_ENTRIES_AT, ENTRIES_IN_NODE, entries);
    seal(&mut block, NODE_ENTRIES_AT, entries.len(), seed);
    block
}

/// The entries. The first one's hash is known from above, and gives its place to the two numbers of entries.
fn put_entries(block: &mut Block, at: usize, limit: usize, entries: &[(u32, u32)]) {
    for (index, &(hash, number)) in entries.iter().enumerate() {
        put_u32(block, at + index * ENTRY_LEN, hash);
        put_u32(block, at + index * ENTRY_LEN + 4, number);
    }
    put_u16(block, at, u16::try_from(limit).unwrap_or(0));
    put_u16(block, at + 2, u16::try_from(entries.len()).unwrap_or(0));
}

/// The checksum covers the entries that there are and itself as zeros (`ext4_dx_csum`).
fn seal(block: &mut Block, at: usize, count: usize, seed: Checksum) {
    let checksum = seed.then(&block[..at + count * ENTRY_LEN]).then(&[0; 8]);
    put_u32(block, CHECKSUM_AT, checksum.value());
}
