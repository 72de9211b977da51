//! What is in a directory, as blocks: one after the other if they are few, else sorted by hash below an index (feature `dir_index`),
//! so that Linux finds a name among a hundred thousand at once. Source: Linux `fs/ext4/ext4.h`, `struct ext4_dir_entry_2`.

mod hash;
mod index;

use std::iter::once;
use std::ops::Range;

use super::format::{BLOCK_LEN, Block, Checksum, DIRECTORY_TAIL_AT, put, put_u16, put_u32};

pub(super) use hash::{SEED as HASH_SEED, hash};

/// The longest name, in bytes (`EXT4_NAME_LEN`).
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The type of the entry that is a checksum (`EXT4_FT_DIR_CSUM`), and its length in bytes.
const CHECKSUM_TYPE: u8 = 0xde;
const CHECKSUM_ENTRY_LEN: u16 = 12;

/// The type of a directory's entry (`EXT4_FT_DIR`).
const DIRECTORY_TYPE: u8 = 2;

/// The length of `.` and `..` together, in bytes.
const DOTS_LEN: usize = 24;

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// Its inode.
    pub(super) inode: u32,
    /// The kind of that, as a directory says it.
    pub(super) file_type: u8,
}

impl Entry<'_> {
    /// The length of its record: eight bytes and the name, rounded up to four.
    fn len(&self) -> usize {
        (8 + self.name.len()).next_multiple_of(4)
    }
}

/// A directory, arranged in blocks.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    entries: Vec<Entry<'a>>,
    /// Which of the entries are in which block; the blocks of the index not counted.
    parts: Vec<Range<usize>>,
    /// The hashes that the parts begin with, if there is an index. The lowest bit of one says that the part before has it too.
    hashes: Option<Vec<u32>>,
}

impl<'a> Directory<'a> {
    /// Arranges `entries`; their inodes do not matter to it.
    pub(super) fn new(entries: Vec<Entry<'a>>) -> Self {
        let total: usize = entries.iter().map(Entry::len).sum();
        if DOTS_LEN + total <= DIRECTORY_TAIL_AT {
            return Self {
                parts: once(0..entries.len()).collect(),
                entries,
                hashes: None,
            };
        }
        let mut hashed: Vec<(u32, Entry<'a>)> = entries
            .iter()
            .map(|entry| (hash(entry.name), *entry))
            .collect();
        hashed.sort_by_key(|&(hash, entry)| (hash, entry.name));
        let (hashes, sorted): (Vec<u32>, Vec<Entry<'a>>) = hashed.into_iter().unzip();
        let parts = split(&sorted, 0);
        if index::count_blocks(parts.len()).is_none() {
            return Self {
                parts: split(&entries, DOTS_LEN),
                entries,
                hashes: None,
            };
        }
        let first_hash = |part: &Range<usize>| {
            let hash = hashes[part.start];
            let is_continued = part.start > 0 && hashes[part.start - 1] == hash;
            hash | u32::from(is_continued)
        };
        Self {
            hashes: Some(parts.iter().map(first_hash).collect()),
            parts,
            entries: sorted,
        }
    }

    /// Whether it has an index.
    pub(super) fn has_index(&self) -> bool {
        self.hashes.is_some()
    }

    /// How many blocks it takes.
    pub(super) fn count_blocks(&self) -> usize {
        let index = match &self.hashes {
            Some(hashes) => index::count_blocks(hashes.len()).unwrap_or(0),
            None => 0,
        };
        index + self.parts.len()
    }

    /// All blocks of the directory `inode`, which lies in `parent`. `seed` is the checksum of what identifies it.
    pub(super) fn blocks(
        &self,
        inode: u32,
        parent: u32,
        seed: Checksum,
    ) -> impl Iterator<Item = Block> {
        let index = match &self.hashes {
            Some(hashes) => index::blocks(hashes, inode, parent, seed),
            None => Vec::new(),
        };
        let has_dots = index.is_empty();
        let dots = [(&b"."[..], inode), (&b".."[..], parent)].map(|(name, inode)| Entry {
            name,
            inode,
            file_type: DIRECTORY_TYPE,
        });
        let leaves = self.parts.iter().map(move |part| {
            let dots = if has_dots && part.start == 0 {
                &dots[..]
            } else {
                &[]
            };
            block(dots.iter().chain(&self.entries[part.clone()]), seed)
        });
        index.into_iter().chain(leaves)
    }
}

/// Which entries go into which block, with `used` bytes taken in the first one.
fn split(entries: &[Entry<'_>], mut used: usize) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut first = 0;
    for (index, entry) in entries.iter().enumerate() {
        if used + entry.len() > DIRECTORY_TAIL_AT {
            parts.push(first..index);
            first = index;
            used = 0;
        }
        used += entry.len();
    }
    parts.push(first..entries.len());
    parts
}

/// A block of entries. The last one's record goes up to the checksum; without any, an entry for nothing does.
fn block<'a>(entries: impl Iterator<Item = &'a Entry<'a>>, seed: Checksum) -> Block {
    let mut block = [0; BLOCK_LEN];
    let mut at = 0;
    let mut last = 0;
    for entry in entries {
        put_u32(&mut block, at, entry.inode);
        put_u16(&mut block, at + 4, u16::try_from(entry.len()).unwrap_or(0));
        block[at + 6] = u8::try_from(entry.name.len()).unwrap_or(u8::MAX);
        block[at + 7] = entry.file_type;
        put(&mut block, at + 8, entry.name);
        last = at;
        at += entry.len();
    }
    let rest = u16::try_from(DIRECTORY_TAIL_AT - last).unwrap_or(0);
    put_u16(&mut block, last + 4, rest);
    put_u16(&mut block, DIRECTORY_TAIL_AT + 4, CHECKSUM_ENTRY_LEN);
    block[DIRECTORY_TAIL_AT + 7] = CHECKSUM_TYPE;
    let checksum = seed.then(&block[..DIRECTORY_TAIL_AT]);
    put_u32(&mut block, DIRECTORY_TAIL_AT + 8, checksum.value());
    block
}

/// A block without entries, as `lost+found` has them.
pub(super) fn empty_block(seed: Checksum) -> Block {
    block([].iter(), seed)
}
