//! The superblock, the group descriptors and the bitmaps, from numbers that others counted. Sources: Linux `fs/ext4/ext4.h`,
//! `struct ext4_super_block` and `struct ext4_group_desc`.

use sha2::{Digest as _, Sha256};

use super::directory::HASH_SEED;
use super::format::{BLOCK_LEN, Block, Checksum, INODE_LEN, halves, put, put_u16, put_u32, words};
use super::geometry::{BLOCKS_PER_GROUP, Geometry, LOG_GROUPS_PER_FLEX};

/// The length of a superblock, in bytes.
pub(super) const SUPERBLOCK_LEN: usize = 1024;

/// Where the first superblock is in its block: after what boot loaders may use.
pub(super) const FIRST_SUPERBLOCK_AT: usize = 1024;

/// The length of a group descriptor with feature `64bit`, in bytes.
const DESCRIPTOR_LEN: usize = 64;

/// The first inode that is not reserved (`EXT4_GOOD_OLD_FIRST_INO`).
pub(super) const FIRST_INODE: u32 = 11;

/// `EXT4_SUPER_MAGIC`.
const MAGIC: u16 = 0xef53;

/// Features that may be ignored: `ext_attr`, `dir_index`; and `has_journal`.
const COMPATIBLE: u32 = 0x8 | 0x20;
const HAS_JOURNAL: u32 = 0x4;

/// Features that a reader must know: `filetype`, `extents`, `64bit`, `flex_bg`.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;

/// Features that a writer must know: `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`.
///
/// `metadata_csum` rather than `gdt_csum`: it covers all metadata rather than the descriptors alone, and Linux computes it in
/// hardware.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// On errors Linux stops writing (`EXT4_ERRORS_RO`): what is there stays as it is.
const ERRORS_READ_ONLY: u16 = 2;

/// Mount options that are on without being asked for: `user_xattr` and `acl` (`EXT4_DEFM_XATTR_USER`, `EXT4_DEFM_ACL`).
const DEFAULT_MOUNT_OPTIONS: u32 = 0x4 | 0x8;

/// Directory hashes are half MD4 (`DX_HASH_HALF_MD4`) of bytes taken as unsigned (`EXT2_FLAGS_UNSIGNED_HASH`).
pub(super) const HASH_VERSION: u8 = 1;
const UNSIGNED_HASH: u32 = 0x2;

/// Checksums are CRC-32C (`EXT4_CRC32C_CHKSUM`).
const CHECKSUM_TYPE: u8 = 1;

/// The length of the newer fields of each inode, in bytes: all that Linux knows.
pub(super) const EXTRA_INODE_LEN: u16 = 32;

/// Flags of a group (`EXT4_BG_INODE_UNINIT`, `EXT4_BG_BLOCK_UNINIT`, `EXT4_BG_INODE_ZEROED`).
const INODES_UNUSED: u16 = 0x1;
const BLOCKS_UNUSED: u16 = 0x2;
const TABLE_ZEROED: u16 = 0x4;

/// Where the checksums are.
const SUPERBLOCK_CHECKSUM_AT: usize = 0x3fc;
const DESCRIPTOR_CHECKSUM_AT: usize = 0x1e;

/// What tells one file system from another.
///
/// Derived from what the file system is made of, never drawn at random, so that the same input gives the same bytes. Two with equal
/// ones may be mounted at once: ext4, unlike XFS, does not mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its UUID, of version 8 (RFC 9562: whatever the writer defines).
    pub(super) uuid: [u8; 16],
}

impl Identity {
    /// That of a file system which `facts` describe.
    pub(super) fn of(facts: &[u8]) -> Self {
        let mut uuid = [0; 16];
        let digest = Sha256::digest(facts);
        uuid.copy_from_slice(&digest[..16]);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self { uuid }
    }

    /// What all checksums but the superblock's begin with.
    pub(super) fn seed(&self) -> Checksum {
        Checksum::EMPTY.then(&self.uuid)
    }

    /// What the checksums of an inode and of its blocks begin with. Its generation is 0.
    pub(super) fn inode_seed(&self, number: u32) -> Checksum {
        self.seed().then(&number.to_le_bytes()).then(&[0; 4])
    }
}

/// What is in use of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupUse {
    /// How many blocks; they are its first.
    pub(super) blocks: u32,
    /// How many inodes; they are its first.
    pub(super) inodes: u32,
    /// How many of them are directories.
    pub(super) directories: u32,
}

/// The journal, as the superblock remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalNote {
    /// Its inode.
    pub(super) inode: u32,
    /// The root of its extent tree.
    pub(super) root: [u8; super::space::ROOT_LEN],
    /// Its length.
    pub(super) blocks: u32,
}

/// What the superblock says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Superblock<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) identity: &'a Identity,
    /// When it was made, in seconds since 1970.
    pub(super) time_s: u64,
    pub(super) journal: Option<&'a JournalNote>,
    pub(super) groups: &'a [GroupUse],
}

impl Superblock<'_> {
    /// The superblock that lies in `group`.
    pub(super) fn encode(&self, group: u32) -> [u8; SUPERBLOCK_LEN] {
        let mut block = [0; SUPERBLOCK_LEN];
        self.put_counts(&mut block);
        self.put_times(&mut block);
        put_u32(&mut block, 0x18, 2); // Blocks of 1024 << 2 bytes.
        put_u32(&mut block, 0x1c, 2);
        put_u32(&mut block, 0x20, BLOCKS_PER_GROUP);
        put_u32(&mut block, 0x24, BLOCKS_PER_GROUP);
        put_u32(&mut block, 0x28, self.geometry.inodes_per_group);
        put_u16(&mut block, 0x36, u16::MAX); // No check after so many mounts.
        put_u16(&mut block, 0x38, MAGIC);
        put_u16(&mut block, 0x3a, 1); // Clean.
        put_u16(&mut block, 0x3c, ERRORS_READ_ONLY);
        put_u32(&mut block, 0x4c, 1); // The revision with what follows.
        put_u32(&mut block, 0x54, FIRST_INODE);
        put_u16(&mut block, 0x58, u16::try_from(INODE_LEN).unwrap_or(0));
        put_u16(&mut block, 0x5a, halves(group).0);
        let journal = self.journal.map_or(0, |_| HAS_JOURNAL);
        put_u32(&mut block, 0x5c, COMPATIBLE | journal);
        put_u32(&mut block, 0x60, INCOMPATIBLE);
        put_u32(&mut block, 0x64, READ_ONLY_COMPATIBLE);
        put(&mut block, 0x68, &self.identity.uuid);
        put(&mut block, 0xec, &HASH_SEED);
        block[0xfc] = HASH_VERSION;
        put_u16(&mut block, 0xfe, u16::try_from(DESCRIPTOR_LEN).unwrap_or(0));
        put_u32(&mut block, 0x100, DEFAULT_MOUNT_OPTIONS);
        put_u16(&mut block, 0x15c, EXTRA_INODE_LEN);
        put_u16(&mut block, 0x15e, EXTRA_INODE_LEN);
        put_u32(&mut block, 0x160, UNSIGNED_HASH);
        block[0x174] = LOG_GROUPS_PER_FLEX;
        block[0x175] = CHECKSUM_TYPE;
        if let Some(journal) = self.journal {
            put_journal(&mut block, journal);
        }
        let checksum = Checksum::EMPTY.then(&block[..SUPERBLOCK_CHECKSUM_AT]);
        put_u32(&mut block, SUPERBLOCK_CHECKSUM_AT, checksum.value());
        block
    }

    fn put_counts(&self, block: &mut [u8]) {
        let geometry = self.geometry;
        let used_blocks: u32 = self.groups.iter().map(|group| group.blocks).sum();
        let used_inodes: u32 = self.groups.iter().map(|group| group.inodes).sum();
        let metadata: u32 = (0..geometry.groups)
            .map(|group| geometry.metadata_blocks(group))
            .sum();
        let journal = self.journal.map_or(0, |journal| journal.blocks);
        put_u32(block, 0x0, geometry.inodes());
        put_u32(block, 0x4, geometry.blocks);
        put_u32(block, 0xc, geometry.blocks - used_blocks);
        put_u32(block, 0x10, geometry.inodes() - used_inodes);
        put_u32(block, 0x248, metadata + journal);
    }

    /// Written, made and last checked at the same time: 32 bits each, and 8 more elsewhere.
    fn put_times(&self, block: &mut [u8]) {
        let (low, high) = words(self.time_s);
        let high = u8::try_from(high).unwrap_or(u8::MAX);
        for (low_at, high_at) in [(0x30, 0x274), (0x108, 0x276), (0x40, 0x277)] {
            put_u32(block, low_at, low);
            block[high_at] = high;
        }
    }

    /// The descriptors of all groups. The bitmaps are those of [`GroupUse`].
    pub(super) fn descriptors(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.groups.len() * DESCRIPTOR_LEN);
        for (group, used) in (0..).zip(self.groups) {
            all.extend_from_slice(&self.descriptor(group, used));
        }
        all
    }

    fn descriptor(&self, group: u32, used: &GroupUse) -> [u8; DESCRIPTOR_LEN] {
        let geometry = self.geometry;
        let seed = self.identity.seed();
        let mut block = [0; DESCRIPTOR_LEN];
        put_u32(&mut block, 0x0, geometry.block_bitmap(group));
        put_u32(&mut block, 0x4, geometry.inode_bitmap(group));
        put_u32(&mut block, 0x8, geometry.inode_table(group));
        let free_blocks = geometry.blocks_in(group) - used.blocks;
        let free_inodes = geometry.inodes_per_group - used.inodes;
        put_u16(&mut block, 0xc, halves(free_blocks).0);
        put_u16(&mut block, 0xe, halves(free_inodes).0);
        put_u16(&mut block, 0x10, halves(used.directories).0);
        let mut flags = TABLE_ZEROED;
        if let Some(bitmap) = self.block_bitmap(group) {
            let (low, high) = halves(seed.then(&bitmap).value());
            put_u16(&mut block, 0x18, low);
            put_u16(&mut block, 0x38, high);
        } else {
            flags |= BLOCKS_UNUSED;
        }
        if let Some(bitmap) = self.inode_bitmap(group) {
            let bytes = usize::try_from(geometry.inodes_per_group / 8).unwrap_or(BLOCK_LEN);
            let (low, high) = halves(seed.then(&bitmap[..bytes]).value());
            put_u16(&mut block, 0x1a, low);
            put_u16(&mut block, 0x3a, high);
        } else {
            flags |= INODES_UNUSED;
        }
        put_u16(&mut block, 0x12, flags);
        put_u16(&mut block, 0x1c, halves(free_inodes).0);
        let checksum = seed.then(&group.to_le_bytes()).then(&block).value();
        put_u16(&mut block, DESCRIPTOR_CHECKSUM_AT, halves(checksum).0);
        block
    }

    /// The bitmap of a group's blocks; none where it says no more than the geometry, and need not be there.
    ///
    /// The last group always has one, and so has one in which other groups' metadata lies: Linux would not count that.
    pub(super) fn block_bitmap(&self, group: u32) -> Option<Block> {
        let used = self.groups.get(usize::try_from(group).ok()?)?.blocks;
        let is_last = group + 1 == self.geometry.groups;
        (used > self.geometry.superblock_blocks(group) || is_last)
            .then(|| bitmap(used, self.geometry.blocks_in(group)))
    }

    /// The bitmap of a group's inodes; none where none is in use.
    pub(super) fn inode_bitmap(&self, group: u32) -> Option<Block> {
        let used = self.groups.get(usize::try_from(group).ok()?)?.inodes;
        (used > 0).then(|| bitmap(used, self.geometry.inodes_per_group))
    }
}

/// A bitmap with the first `used` bits set, and those that stand for nothing.
fn bitmap(used: u32, count: u32) -> Block {
    let mut block = [0; BLOCK_LEN];
    for (byte, first) in block.iter_mut().zip((0_u32..).step_by(8)) {
        for bit in 0..8 {
            let number = first + bit;
            if number < used || number >= count {
                *byte |= 1 << bit;
            }
        }
    }
    block
}

/// Which inode is the journal, and a copy of where it is for `e2fsck` (`EXT3_JNL_BACKUP_BLOCKS`).
fn put_journal(block: &mut [u8], journal: &JournalNote) {
    put_u32(block, 0xe0, journal.inode);
    block[0xfd] = 1;
    put(block, 0x10c, &journal.root);
    let (low, high) = words(u64::from(journal.blocks) * u64::from(super::format::BLOCK_BYTES));
    put_u32(block, 0x148, high);
    put_u32(block, 0x14c, low);
}
