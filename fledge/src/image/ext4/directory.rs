//! What is in a directory, as blocks. Source: Linux `fs/ext4/ext4.h`, `struct ext4_dir_entry_2`.

use std::ops::Range;

use super::format::{BLOCK_LEN, Block, Checksum, DIRECTORY_TAIL_AT, put, put_u16, put_u32};

/// The longest name, in bytes (`EXT4_NAME_LEN`).
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The type of the entry that is a checksum (`EXT4_FT_DIR_CSUM`), and its length in bytes.
const CHECKSUM_TYPE: u8 = 0xde;
const CHECKSUM_ENTRY_LEN: u16 = 12;

/// The type of a directory's entry (`EXT4_FT_DIR`).
const DIRECTORY_TYPE: u8 = 2;

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
        record_len(self.name)
    }
}

fn record_len(name: &[u8]) -> usize {
    (8 + name.len()).next_multiple_of(4)
}

/// How many blocks a directory with such names takes.
pub(super) fn count_blocks<'a>(names: impl Iterator<Item = &'a [u8]>) -> usize {
    let lengths: Vec<usize> = names.map(record_len).collect();
    split(&lengths).len()
}

/// All blocks of the directory `inode`, which lies in `parent`. `seed` is the checksum of what identifies it.
pub(super) fn blocks(entries: &[Entry<'_>], inode: u32, parent: u32, seed: Checksum) -> Vec<Block> {
    let dots = [(&b"."[..], inode), (&b".."[..], parent)].map(|(name, inode)| Entry {
        name,
        inode,
        file_type: DIRECTORY_TYPE,
    });
    let lengths: Vec<usize> = entries.iter().map(Entry::len).collect();
    let parts = split(&lengths);
    let with_dots = |(index, part): (usize, Range<usize>)| {
        let dots = if index == 0 { &dots[..] } else { &[] };
        block(dots.iter().chain(&entries[part]), seed)
    };
    parts.into_iter().enumerate().map(with_dots).collect()
}

/// Which entries go into which block, from the lengths of their records. The first block also holds `.` and `..`.
fn split(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut first = 0;
    let mut used = record_len(b".") + record_len(b"..");
    for (index, &length) in lengths.iter().enumerate() {
        if used + length > DIRECTORY_TAIL_AT {
            parts.push(first..index);
            first = index;
            used = 0;
        }
        used += length;
    }
    parts.push(first..lengths.len());
    parts
}

/// A block of entries. The last one's record goes up to the checksum; without any, an entry for nothing does.
fn block<'a>(entries: impl Iterator<Item = &'a Entry<'a>>, seed: Checksum) -> Block {
    let mut block = [0; BLOCK_LEN];
    let mut at = 0;
    let mut last = 0;
    for entry in entries {
        let length = entry.len();
        put_u32(&mut block, at, entry.inode);
        put_u16(&mut block, at + 4, u16::try_from(length).unwrap_or(0));
        block[at + 6] = u8::try_from(entry.name.len()).unwrap_or(u8::MAX);
        block[at + 7] = entry.file_type;
        put(&mut block, at + 8, entry.name);
        last = at;
        at += length;
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
