//! The content of a directory: blocks that each hold names in order, for Linux searches first blocks and then names by halves.

use super::format::{BLOCK_BYTES, BLOCK_SIZE, SLOT_BYTES, entry_type};
use super::layout::Inode;

/// `struct erofs_dirent`: number, where the name begins, type, and a byte of room.
const ENTRY_BYTES: usize = 12;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// Which of the image's inodes it leads to.
    pub(super) inode: usize,
}

impl Entry<'_> {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.name.len()
    }
}

/// Puts the directory itself and its parent among its `entries`, which are in order.
pub(super) fn insert_dots(entries: &mut Vec<Entry<'_>>, inode: usize, parent: usize) {
    for (name, inode) in [(&b"."[..], inode), (b"..", parent)] {
        let at = entries.partition_point(|entry| entry.name < name);
        entries.insert(at, Entry { name, inode });
    }
}

/// The entries of each block: as many as fit.
pub(super) fn runs<'e, 'a>(entries: &'e [Entry<'a>]) -> impl Iterator<Item = &'e [Entry<'a>]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut room = BLOCK_SIZE;
        let fits = |entry: &&Entry<'_>| {
            let left = room.checked_sub(entry.bytes());
            room = left.unwrap_or(0);
            left.is_some()
        };
        let count = rest.iter().take_while(fits).count();
        let run;
        (run, rest) = rest.split_at(count);
        (!run.is_empty()).then_some(run)
    })
}

/// How large a directory is, in bytes: all blocks but the last count whole.
pub(super) fn size_bytes(entries: &[Entry<'_>]) -> u64 {
    let mut size_bytes = 0_u64;
    for run in runs(entries) {
        let used: usize = run.iter().map(Entry::bytes).sum();
        size_bytes = size_bytes.next_multiple_of(BLOCK_BYTES) + u64::try_from(used).unwrap_or(0);
    }
    size_bytes
}

/// A block with the entries of one run: fixed parts first, then the names.
pub(super) fn encode(run: &[Entry<'_>], inodes: &[Inode<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_SIZE);
    let mut name_offset = run.len() * ENTRY_BYTES;
    for entry in run {
        let inode = &inodes[entry.inode];
        bytes.extend((inode.offset / SLOT_BYTES).to_le_bytes());
        // Less than a block.
        bytes.extend(u16::try_from(name_offset).unwrap_or_default().to_le_bytes());
        bytes.extend([entry_type(inode.kind), 0]);
        name_offset += entry.name.len();
    }
    for entry in run {
        bytes.extend(entry.name);
    }
    bytes
}
