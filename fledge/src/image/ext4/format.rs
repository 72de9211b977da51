//! What ext4 looks like on the disk where more than one part needs it: sizes, little-endian fields, checksums. Knows no layout.
//!
//! Sources: Linux `fs/ext4/ext4.h` and Documentation/filesystems/ext4.

/// The size of a block, in bytes. The only one that is written: what `mke2fs` takes, and the size of a page.
pub(super) const BLOCK_BYTES: u32 = 4096;

/// [`BLOCK_BYTES`] as the length of a buffer.
pub(super) const BLOCK_LEN: usize = 4096;

/// The size of an inode in its table, in bytes: the old 128, the newer fields, and room for extended attributes.
pub(super) const INODE_LEN: usize = 256;

/// How many inodes are in a block of an inode table.
pub(super) const INODES_PER_BLOCK: u32 = 16;

/// The end of what a directory block holds: its last 12 bytes are the checksum, dressed up as an entry without a name
/// (`struct ext4_dir_entry_tail`).
pub(super) const DIRECTORY_TAIL_AT: usize = BLOCK_LEN - 12;

/// A block being put together.
pub(super) type Block = [u8; BLOCK_LEN];

/// Puts `bytes` at `at`.
pub(super) fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Puts a little-endian number at `at`.
pub(super) fn put_u16(block: &mut [u8], at: usize, value: u16) {
    put(block, at, &value.to_le_bytes());
}

/// Puts a little-endian number at `at`.
pub(super) fn put_u32(block: &mut [u8], at: usize, value: u32) {
    put(block, at, &value.to_le_bytes());
}

/// The lower and the upper 16 bits.
pub(super) fn halves(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// The lower and the upper 32 bits.
pub(super) fn words(value: u64) -> (u32, u32) {
    let word = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    (word(value), word(value >> 32))
}

/// A CRC-32C in progress, as ext4 and jbd2 keep it: without the inversions at the beginning and the end that others have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checksum(u32);

impl Checksum {
    /// That of nothing (`~0`, `fs/ext4/ext4.h`, `ext4_chksum`).
    pub(super) const EMPTY: Self = Self(u32::MAX);

    /// Goes on with `bytes`.
    pub(super) fn then(self, bytes: &[u8]) -> Self {
        Self(!crc32c::crc32c_append(!self.0, bytes))
    }

    /// The number that is stored.
    pub(super) fn value(self) -> u32 {
        self.0
    }
}
