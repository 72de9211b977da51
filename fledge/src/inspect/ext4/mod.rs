//! An ext4 file system as a tree: what [`crate::image::ext4`] writes, and what `mke2fs` makes unless it is asked for more. The image
//! may come from anywhere: every number in it is checked. Checksums are not, and nothing is repaired: that is e2fsck's.
//!
//! Not read are files in block maps (ext2, ext3), contents and attributes within other inodes, encryption, and a journal with changes
//! that were not carried out. Offsets are those of Linux's `fs/ext4/ext4.h`.

mod directory;
mod extents;
mod xattrs;

use std::collections::BTreeMap;
use std::fs::File;

use self::extents::Extents;
use super::pieces::{Pieces, Source};
use super::walk::{self, Budget, Flaw, Found, ImageError, Inodes, damaged};
use crate::little_endian::{i32_at, u16_at, u32_at};
use crate::tree::{Attributes, Device, Kind, Node, Tree};

/// Where the superblock is, and how long, in bytes.
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;

/// The inode of the root directory (`EXT4_ROOT_INO`).
const ROOT: u64 = 2;

/// The length of an inode before the newer fields, in bytes (`EXT4_GOOD_OLD_INODE_SIZE`).
const OLD_INODE_LEN: usize = 128;

/// Where an inode says where its content is, and how much room that has, in bytes (`i_block`).
const ROOT_AT: usize = 40;
const ROOT_LEN: usize = 60;

/// How much of the newer fields there must be for the upper bits of the time of the last change (`i_mtime_extra`), in bytes.
const EXTRA_WITH_TIME: u16 = 12;

/// Features that change nothing here: `filetype`, `extents`, `64bit`, `flex_bg`, `metadata_csum_seed`, `large_dir`.
const KNOWN: u32 = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x4000;

/// The feature of block numbers of 64 bits, with longer group descriptors.
const WIDE: u32 = 0x80;

/// Features that are not read (`EXT4_FEATURE_INCOMPAT_COMPRESSION` and so on).
const UNREAD: [(u32, &str); 9] = [
    (0x1, "compressed files (feature `compression`)"),
    (
        0x4,
        "a journal with changes that were not carried out, as after a crash (feature `needs_recovery`)",
    ),
    (0x8, "nothing but a journal (feature `journal_dev`)"),
    (0x10, "group descriptors in many places (feature `meta_bg`)"),
    (0x100, "a guard against mounting it twice (feature `mmp`)"),
    (
        0x400,
        "attributes in inodes of their own (feature `ea_inode`)",
    ),
    (0x8000, "contents within inodes (feature `inline_data`)"),
    (0x1_0000, "encrypted files (feature `encrypt`)"),
    (0x2_0000, "names without case (feature `casefold`)"),
];

/// Flags of an inode: `EXT4_ENCRYPT_FL`, `EXT4_EXTENTS_FL`, `EXT4_INLINE_DATA_FL`.
const ENCRYPTED: u32 = 0x800;
const HAS_EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;

/// Reads the image in `file`, which has `size_bytes`. Contents stay there.
///
/// # Errors
/// The first thing that is wrong.
pub fn read_ext4(file: File, size_bytes: u64) -> Result<Tree, ImageError> {
    let source = Source::new(file, size_bytes);
    let mut file_system = FileSystem::open(source).map_err(ImageError::Superblock)?;
    walk::tree(&mut file_system, ROOT)
}

/// What the superblock says.
#[derive(Debug)]
struct FileSystem {
    source: Source,
    block_bytes: u64,
    /// Where the descriptors of the groups begin, and how long each is.
    descriptors_at: u64,
    descriptor_bytes: u64,
    has_wide_numbers: bool,
    inodes: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
}

impl FileSystem {
    fn open(source: Source) -> Result<Self, Flaw> {
        let mut superblock = [0; SUPERBLOCK_LEN];
        source.read(&mut superblock, SUPERBLOCK_AT)?;
        let features = u32_at(&superblock, 0x60);
        if let Some((_, what)) = UNREAD.iter().find(|(bit, _)| features & bit != 0) {
            return Err(Flaw::Unsupported { what });
        }
        let unsupported = |what| Err(Flaw::Unsupported { what });
        if features & !KNOWN != 0 {
            return unsupported("features that this program does not know");
        }
        let block_bytes: u64 = match u32_at(&superblock, 0x18) {
            log @ 0..=2 => 1024 << log,
            _ => return unsupported("blocks of more than 4 KiB"),
        };
        let has_wide_numbers = features & WIDE != 0;
        let descriptor_bytes = match (has_wide_numbers, u16_at(&superblock, 0xfe)) {
            (false, _) => 32,
            (true, bytes @ 64..=1024) if bytes.is_power_of_two() => bytes.into(),
            (true, _) => return Err(damaged("has group descriptors of no possible length")),
        };
        // Revision 0 has no such field.
        let inode_bytes = match (u32_at(&superblock, 0x4c), u16_at(&superblock, 0x58)) {
            (0, _) => 128,
            (_, bytes @ 128..=4096)
                if bytes.is_power_of_two() && u64::from(bytes) <= block_bytes =>
            {
                bytes.into()
            }
            _ => return Err(damaged("has inodes of no possible length")),
        };
        let inodes_per_group = u64::from(u32_at(&superblock, 0x28));
        if inodes_per_group == 0 {
            return Err(damaged("has no inodes in its groups"));
        }
        let file_system = Self {
            source,
            block_bytes,
            // The descriptors follow the superblock's block.
            descriptors_at: (SUPERBLOCK_AT / block_bytes + 1) * block_bytes,
            descriptor_bytes,
            has_wide_numbers,
            inodes: u32_at(&superblock, 0).into(),
            inodes_per_group,
            inode_bytes,
        };
        // As Linux does not mount what was cut, it is not read either.
        let high = if has_wide_numbers {
            u32_at(&superblock, 0x150)
        } else {
            0
        };
        let bytes = file_system.place(u32_at(&superblock, 4), high)?;
        file_system.source.check(0, bytes)?;
        Ok(file_system)
    }

    /// An inode as it is in its table.
    fn raw(&self, number: u64) -> Result<Vec<u8>, Flaw> {
        if number == 0 || number > self.inodes {
            return Err(damaged("has the number of an inode that is not there"));
        }
        let (group, index) = (
            (number - 1) / self.inodes_per_group,
            (number - 1) % self.inodes_per_group,
        );
        let mut descriptor = [0; 64];
        let length = if self.has_wide_numbers { 64 } else { 32 };
        let at = self.descriptors_at + group * self.descriptor_bytes;
        self.source.read(&mut descriptor[..length], at)?;
        let table = self.place(u32_at(&descriptor, 0x8), u32_at(&descriptor, 0x28))?;
        let mut inode = vec![0; usize::try_from(self.inode_bytes).unwrap_or(OLD_INODE_LEN)];
        let at = index
            .checked_mul(self.inode_bytes)
            .and_then(|within| within.checked_add(table))
            .ok_or(Flaw::Beyond)?;
        self.source.read(&mut inode, at)?;
        Ok(inode)
    }

    /// Where a block is, of which the lower and the upper bits of the number are given, in bytes.
    fn place(&self, low: u32, high: u32) -> Result<u64, Flaw> {
        (u64::from(high) << 32 | u64::from(low))
            .checked_mul(self.block_bytes)
            .ok_or(Flaw::Beyond)
    }

    /// Where the content of an inode is.
    fn data(&self, inode: &[u8], budget: &mut Budget) -> Result<Pieces, Flaw> {
        let flags = u32_at(inode, 32);
        let size_bytes = u64::from(u32_at(inode, 108)) << 32 | u64::from(u32_at(inode, 4));
        for (flag, what) in [
            (INLINE_DATA, "its content within its inode"),
            (ENCRYPTED, "encrypted content"),
        ] {
            if flags & flag != 0 {
                return Err(Flaw::Unsupported { what });
            }
        }
        let root = &inode[ROOT_AT..ROOT_AT + ROOT_LEN];
        if flags & HAS_EXTENTS == 0 {
            // All of it may be a hole.
            if root.iter().any(|&byte| byte != 0) {
                let what = "its content in a block map, as in ext2 and ext3";
                return Err(Flaw::Unsupported { what });
            }
            return Pieces::new(&self.source, Vec::new(), size_bytes);
        }
        let pieces = Extents::new(self, budget).read(root)?;
        Pieces::new(&self.source, pieces, size_bytes)
    }

    /// The target of a link: in place of the extents if it is short.
    fn target(&self, inode: &[u8], budget: &mut Budget) -> Result<Vec<u8>, Flaw> {
        let root = &inode[ROOT_AT..ROOT_AT + ROOT_LEN];
        let size = usize::try_from(u32_at(inode, 4)).unwrap_or(usize::MAX);
        match root.get(..size) {
            Some(target) if u32_at(inode, 32) & (HAS_EXTENTS | INLINE_DATA | ENCRYPTED) == 0 => {
                Ok(target.to_vec())
            }
            _ => self.data(inode, budget)?.to_bytes(budget),
        }
    }

    /// The extended attributes of an inode: those in itself, and those in a block.
    fn xattrs(
        &self,
        inode: &[u8],
        budget: &mut Budget,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Flaw> {
        let mut found = BTreeMap::new();
        if inode.len() > OLD_INODE_LEN {
            let at = OLD_INODE_LEN + usize::from(u16_at(inode, OLD_INODE_LEN));
            let area = inode.get(at..).ok_or(damaged("has an impossible length"))?;
            xattrs::in_inode(area, &mut found)?;
        }
        let high = if self.has_wide_numbers {
            u16_at(inode, 118)
        } else {
            0
        };
        let at = self.place(u32_at(inode, 104), high.into())?;
        if at != 0 {
            budget.read(self.block_bytes)?;
            let mut block = vec![0; usize::try_from(self.block_bytes).unwrap_or(0)];
            self.source.read(&mut block, at)?;
            xattrs::in_block(&block, &mut found)?;
        }
        Ok(found)
    }
}

impl Inodes for FileSystem {
    fn inode(&mut self, number: u64, budget: &mut Budget) -> Result<Found, Flaw> {
        budget.read(self.inode_bytes)?;
        let inode = self.raw(number)?;
        let mode = u32::from(u16_at(&inode, 0));
        let mut entries = Vec::new();
        let kind = match mode >> 12 {
            0o01 => Kind::Fifo,
            0o02 => Kind::CharacterDevice(device(&inode)),
            0o04 => {
                let data = self.data(&inode, budget)?.to_bytes(budget)?;
                let block_len = usize::try_from(self.block_bytes).unwrap_or(1);
                entries = directory::entries(&data, block_len)?;
                Kind::Directory
            }
            0o06 => Kind::BlockDevice(device(&inode)),
            0o10 => Kind::File(self.data(&inode, budget)?.into_content()),
            0o12 => Kind::Symlink(self.target(&inode, budget)?),
            0o14 => Kind::Socket,
            _ => return Err(damaged("is of no known type")),
        };
        let attributes = Attributes {
            permissions: mode & 0o7777,
            uid: u32::from(u16_at(&inode, 120)) << 16 | u32::from(u16_at(&inode, 2)),
            gid: u32::from(u16_at(&inode, 122)) << 16 | u32::from(u16_at(&inode, 24)),
            mtime_s: mtime_s(&inode),
            xattrs: self.xattrs(&inode, budget)?,
        };
        let node = Node { attributes, kind };
        Ok(Found { node, entries })
    }
}

/// The number of a device: 16 bits in their old order, or 32 after them.
fn device(inode: &[u8]) -> Device {
    match u32_at(inode, ROOT_AT) {
        0 => Device::decode(u32_at(inode, ROOT_AT + 4)),
        old => Device {
            major: (old >> 8) & 0xff,
            minor: old & 0xff,
        },
    }
}

/// 32 bits with a sign, and how often 2^32 is to be added to them where the newer fields have it.
fn mtime_s(inode: &[u8]) -> i64 {
    let low = i64::from(i32_at(inode, 16));
    if inode.len() > OLD_INODE_LEN && u16_at(inode, OLD_INODE_LEN) >= EXTRA_WITH_TIME {
        let epoch = i64::from(u32_at(inode, 136) & 3);
        low + (epoch << 32)
    } else {
        low
    }
}
