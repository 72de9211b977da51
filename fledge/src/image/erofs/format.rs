//! How superblock and inodes lie on the medium, after `fs/erofs/erofs_fs.h` of Linux. Decides nothing.

use super::layout::Inode;
use crate::tree::Kind;

/// The size of a block, in bytes. Linux takes no more than a page, and a page of x86-64 is what can be mapped.
pub(super) const BLOCK_BYTES: u64 = 1 << BLOCK_BITS;

/// The same, of things in memory.
pub(super) const BLOCK_SIZE: usize = 1 << BLOCK_BITS;

/// The same, as a power of two.
const BLOCK_BITS: u8 = 12;

/// An inode is found by its number: that many times this, in bytes, from the beginning (`erofs_iloc` in `internal.h`).
pub(super) const SLOT_BYTES: u64 = 32;

/// The longest name in a directory (`EROFS_NAME_LEN`).
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The longest target of a link, in bytes: with the end, that is `PATH_MAX` of Linux.
pub(super) const MAX_TARGET_BYTES: usize = 4095;

/// Where the superblock is, in bytes (`EROFS_SUPER_OFFSET`).
const SUPERBLOCK_OFFSET: usize = 1024;

/// `EROFS_SUPER_MAGIC_V1` of `include/uapi/linux/magic.h`.
const MAGIC: u32 = 0xe0f5_e1e2;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`, and `EROFS_FEATURE_COMPAT_MTIME`: times are those of the last change of the content.
const COMPATIBLE_FEATURES: u32 = 0x1 | 0x2;

/// Where the checksum is in the superblock, in bytes.
const CHECKSUM_OFFSET: usize = 4;

/// `EROFS_INODE_FLAT_PLAIN` of the data layouts, shifted as in `i_format`: all data in whole blocks.
const LAYOUT_PLAIN: u16 = 0 << 1;

/// `EROFS_INODE_FLAT_INLINE`, shifted likewise: what does not fill a block lies behind the inode.
const LAYOUT_INLINE: u16 = 2 << 1;

/// `EROFS_INODE_LAYOUT_EXTENDED` of `i_format`.
const EXTENDED: u16 = 1;

/// The number of the root directory: what lies in the first block after the superblock's.
const ROOT_NUMBER: u16 = 128;

/// What the superblock tells of the image.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) inode_count: u64,
    /// The time of compact inodes.
    pub(super) time_s: u64,
    pub(super) block_count: u32,
}

/// The first block of the image.
///
/// The UUID stays zero: the content is not known yet when this is written, and one that says nothing of it would only make two
/// images look the same, or not. Linux needs none, not for the lower layer of an overlay either.
pub(super) fn superblock(summary: &Summary) -> Vec<u8> {
    let mut block = vec![0; SUPERBLOCK_OFFSET];
    block.extend(MAGIC.to_le_bytes());
    block.extend([0; 4]); // checksum, below
    block.extend(COMPATIBLE_FEATURES.to_le_bytes());
    block.extend([BLOCK_BITS, 0]); // no extension
    block.extend(ROOT_NUMBER.to_le_bytes());
    block.extend(summary.inode_count.to_le_bytes());
    block.extend(summary.time_s.to_le_bytes());
    block.extend([0; 4]); // nanoseconds
    block.extend(summary.block_count.to_le_bytes());
    // Inodes are counted from the beginning, no attributes are shared, and there are no UUID, name, or features that Linux must know.
    block.resize(BLOCK_SIZE, 0);
    // Linux does not invert the sum at its end, as others do.
    let sum = !crc32c::crc32c(&block[SUPERBLOCK_OFFSET..]);
    let at = SUPERBLOCK_OFFSET + CHECKSUM_OFFSET;
    block[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    block
}

/// The numbers of an inode of 32 bytes, which is enough for most.
struct Compact {
    links: u16,
    size_bytes: u32,
    uid: u16,
    gid: u16,
}

impl Compact {
    /// Nothing where the inode needs the other form. `time_s` is the superblock's.
    fn of(inode: &Inode<'_>, time_s: u64) -> Option<Self> {
        if u64::try_from(inode.attributes.mtime_s) != Ok(time_s) {
            return None;
        }
        Some(Self {
            links: u16::try_from(inode.links).ok()?,
            size_bytes: u32::try_from(inode.size_bytes).ok()?,
            uid: u16::try_from(inode.attributes.uid).ok()?,
            gid: u16::try_from(inode.attributes.gid).ok()?,
        })
    }
}

/// How long the inode itself is, in bytes.
pub(super) fn inode_bytes(inode: &Inode<'_>, time_s: u64) -> u64 {
    if Compact::of(inode, time_s).is_some() {
        32
    } else {
        64
    }
}

/// The inode itself. `xattr_count` is what [`super::xattrs::count`] gives.
pub(super) fn inode(inode: &Inode<'_>, xattr_count: u16, time_s: u64) -> Vec<u8> {
    let layout = if inode.inline_bytes > 0 {
        LAYOUT_INLINE
    } else {
        LAYOUT_PLAIN
    };
    let attributes = inode.attributes;
    let mut bytes = Vec::with_capacity(64);
    if let Some(compact) = Compact::of(inode, time_s) {
        bytes.extend(layout.to_le_bytes());
        bytes.extend(xattr_count.to_le_bytes());
        bytes.extend(mode(inode).to_le_bytes());
        bytes.extend(compact.links.to_le_bytes());
        bytes.extend(compact.size_bytes.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(inode.place.to_le_bytes());
        bytes.extend(inode.serial.to_le_bytes());
        bytes.extend(compact.uid.to_le_bytes());
        bytes.extend(compact.gid.to_le_bytes());
        bytes.extend([0; 4]);
    } else {
        bytes.extend((layout | EXTENDED).to_le_bytes());
        bytes.extend(xattr_count.to_le_bytes());
        bytes.extend(mode(inode).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(inode.size_bytes.to_le_bytes());
        bytes.extend(inode.place.to_le_bytes());
        bytes.extend(inode.serial.to_le_bytes());
        bytes.extend(attributes.uid.to_le_bytes());
        bytes.extend(attributes.gid.to_le_bytes());
        bytes.extend(attributes.mtime_s.to_le_bytes());
        bytes.extend([0; 4]); // nanoseconds
        bytes.extend(inode.links.to_le_bytes());
        bytes.extend([0; 16]);
    }
    bytes
}

/// Type and permissions as in `st_mode` (`include/uapi/linux/stat.h`).
fn mode(inode: &Inode<'_>) -> u16 {
    let kind = match inode.kind {
        Kind::Fifo => 0o010_000,
        Kind::CharacterDevice(_) => 0o020_000,
        Kind::Directory => 0o040_000,
        Kind::BlockDevice(_) => 0o060_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Socket => 0o140_000,
    };
    // Of twelve bits, none is lost.
    kind | u16::try_from(inode.attributes.permissions & 0o7777).unwrap_or_default()
}

/// The type of a directory's entry (`FT_REG_FILE` and so on in `include/linux/fs_types.h`).
pub(super) fn entry_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory => 2,
        Kind::CharacterDevice(_) => 3,
        Kind::BlockDevice(_) => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}
