//! An inode as it is in its table. Knows nothing of where contents are. Source: Linux `fs/ext4/ext4.h`, `struct ext4_inode`.

use super::format::{INODE_LEN, halves, put, put_u16, put_u32, words};
use super::space::ROOT_LEN;
use super::superblock::{EXTRA_INODE_LEN, Identity};
use crate::tree::{Attributes, Device, Kind};

/// Where the extended attributes begin in the inode, in bytes.
const XATTRS_AT: usize = 160;

/// How much room they have there.
pub(super) const XATTRS_LEN: usize = INODE_LEN - XATTRS_AT;

/// Blocks of an inode are counted in units of 512 bytes.
const UNITS_PER_BLOCK: u64 = 8;

/// The inode has an extent tree (`EXT4_EXTENTS_FL`).
pub(super) const HAS_EXTENTS: u32 = 0x8_0000;

/// The directory has a hash tree (`EXT4_INDEX_FL`).
pub(super) const HAS_INDEX: u32 = 0x1000;

/// Times that fit, in seconds since 1970: 32 bits with a sign and two more above (1901 to 2446).
const EARLIEST_S: i64 = -0x8000_0000;
const LATEST_S: i64 = 0x3_7fff_ffff;

/// An inode.
#[derive(Debug)]
pub(super) struct Inode<'a> {
    pub(super) attributes: &'a Attributes,
    pub(super) kind: &'a Kind,
    pub(super) size_bytes: u64,
    /// How many names it has.
    pub(super) links: u16,
    /// [`HAS_EXTENTS`], [`HAS_INDEX`].
    pub(super) flags: u32,
    /// The root of the extent tree, a short link's target, or a device.
    pub(super) root: [u8; ROOT_LEN],
    /// The blocks that it takes.
    pub(super) blocks: u64,
    /// The one of its extended attributes.
    pub(super) xattr_block: Option<u32>,
    /// Extended attributes in the inode itself.
    pub(super) xattrs: [u8; XATTRS_LEN],
}

impl Inode<'_> {
    /// As it is in the table, under its number.
    pub(super) fn encode(&self, number: u32, identity: &Identity) -> [u8; INODE_LEN] {
        let mut block = [0; INODE_LEN];
        let (permissions, _) = halves(self.attributes.permissions & 0o7777);
        put_u16(&mut block, 0, type_bits(self.kind) | permissions);
        let (uid, uid_high) = halves(self.attributes.uid);
        let (gid, gid_high) = halves(self.attributes.gid);
        let (size, size_high) = words(self.size_bytes);
        let (units, units_high) = words(self.blocks * UNITS_PER_BLOCK);
        put_u16(&mut block, 2, uid);
        put_u32(&mut block, 4, size);
        put_u16(&mut block, 24, gid);
        put_u16(&mut block, 26, self.links);
        put_u32(&mut block, 28, units);
        put_u32(&mut block, 32, self.flags);
        put(&mut block, 40, &self.root);
        put_u32(&mut block, 104, self.xattr_block.unwrap_or(0));
        put_u32(&mut block, 108, size_high);
        put_u16(&mut block, 116, halves(units_high).0);
        put_u16(&mut block, 120, uid_high);
        put_u16(&mut block, 122, gid_high);
        put_u16(&mut block, 128, EXTRA_INODE_LEN);
        // Read, changed, modified and made at the same time; the second half is above the first 32 bits.
        let (time, epoch) = time_fields(self.attributes.mtime_s);
        for (time_at, epoch_at) in [(8, 140), (12, 132), (16, 136), (144, 148)] {
            put_u32(&mut block, time_at, time);
            put_u32(&mut block, epoch_at, epoch);
        }
        put(&mut block, XATTRS_AT, &self.xattrs);
        let (low, high) = halves(identity.inode_seed(number).then(&block).value());
        put_u16(&mut block, 124, low);
        put_u16(&mut block, 130, high);
        block
    }
}

/// A time as the lower 32 bits, and how often 2^32 is to be added to them as a number with a sign.
fn time_fields(time_s: i64) -> (u32, u32) {
    let time_s = time_s.clamp(EARLIEST_S, LATEST_S);
    let [a, b, c, d, ..] = time_s.to_le_bytes();
    let low = u32::from_le_bytes([a, b, c, d]);
    let signed = i64::from(i32::from_le_bytes([a, b, c, d]));
    let epoch = (time_s - signed) >> 32;
    (low, u32::try_from(epoch).unwrap_or(0))
}

/// The kind in the upper bits of a mode (stat(2)).
fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Socket => 0o140_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::File(_) => 0o100_000,
        Kind::BlockDevice(_) => 0o060_000,
        Kind::Directory => 0o040_000,
        Kind::CharacterDevice(_) => 0o020_000,
        Kind::Fifo => 0o010_000,
    }
}

/// The kind as a directory says it (`EXT4_FT_REG_FILE` and so on).
pub(super) fn type_in_directory(kind: &Kind) -> u8 {
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

/// A device where other inodes have their tree: in 16 bits if it fits, else in the 32 bits after them. Nothing where its numbers
/// are larger than Linux has them.
pub(super) fn device_root(device: Device) -> Option<[u8; ROOT_LEN]> {
    let encoded = device.encode()?;
    let Device { major, minor } = device;
    let mut root = [0; ROOT_LEN];
    if major < 256 && minor < 256 {
        put_u32(&mut root, 0, major << 8 | minor);
    } else {
        put_u32(&mut root, 4, encoded);
    }
    Some(root)
}
