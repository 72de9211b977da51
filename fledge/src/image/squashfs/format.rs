//! Numbers of the format, squashfs 4.0, from Linux `fs/squashfs/squashfs_fs.h`. All integers are little-endian.

/// `hsqs`.
pub(super) const MAGIC: u32 = 0x7371_7368;

/// The version that every Linux since 2.6.29 reads.
pub(super) const VERSION_MAJOR: u16 = 4;

/// The superblock's length.
pub(super) const SUPERBLOCK_BYTES: usize = 96;

/// How much of a file is compressed at once. The usual size; the format takes up to 1 MiB, which makes every small read dear.
pub(super) const BLOCK_BYTES: usize = 1 << BLOCK_LOG;

/// The logarithm of [`BLOCK_BYTES`].
pub(super) const BLOCK_LOG: u16 = 17;

/// How much of the tables is compressed at once (`SQUASHFS_METADATA_SIZE`).
pub(super) const METADATA_BYTES: usize = 8192;

/// Set in a metadata block's length where it is not compressed (`SQUASHFS_COMPRESSED_BIT`).
pub(super) const METADATA_PLAIN: u16 = 1 << 15;

/// Set in a data block's length where it is not compressed (`SQUASHFS_COMPRESSED_BIT_BLOCK`).
pub(super) const DATA_PLAIN: u32 = 1 << 24;

/// `ZSTD_COMPRESSION`.
pub(super) const COMPRESSION_ZSTD: u16 = 6;

/// The ends of all files are in fragments, not only small files (`SQUASHFS_ALWAYS_FRAG`).
pub(super) const FLAG_ALWAYS_FRAGMENTS: u16 = 1 << 5;

/// There is a table of inodes by their numbers (`SQUASHFS_EXPORT`).
pub(super) const FLAG_EXPORT: u16 = 1 << 7;

/// There are no extended attributes (`SQUASHFS_NO_XATTR` of squashfs-tools; Linux looks at the table's position only).
pub(super) const FLAG_NO_XATTRS: u16 = 1 << 9;

/// The compressor's options follow the superblock (`SQUASHFS_COMP_OPT`).
pub(super) const FLAG_OPTIONS: u16 = 1 << 10;

/// The position of a table that is not there (`SQUASHFS_INVALID_BLK`).
pub(super) const NO_TABLE: u64 = u64::MAX;

/// The fragment of a file without one (`SQUASHFS_INVALID_FRAG`).
pub(super) const NO_FRAGMENT: u32 = u32::MAX;

/// The extended attributes of an inode without any (`SQUASHFS_INVALID_XATTR`).
pub(super) const NO_XATTRS: u32 = u32::MAX;

/// An extended inode's type is its basic type and this (`SQUASHFS_LDIR_TYPE` and so on).
pub(super) const EXTENDED: u16 = 7;

/// The most entries behind one header of a directory (`SQUASHFS_DIR_COUNT`).
pub(super) const MAX_RUN: usize = 256;

/// A directory's size counts `.` and `..`, which are not stored (`squashfs_readdir`: "offset 0 - 2").
pub(super) const DIRECTORY_EXTRA_BYTES: usize = 3;

/// The longest name that Linux takes (`NAME_MAX`); the format has 256.
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The longest link that Linux follows (`PATH_MAX` without its NUL).
pub(super) const MAX_TARGET_BYTES: usize = 4095;

/// Images are filled up to a multiple of this, so that they serve as disks of any sector size.
pub(super) const IMAGE_ALIGNMENT: u64 = 4096;

/// The superblock but for what is the same in all images (`struct squashfs_super_block`).
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) inodes: u32,
    pub(super) time_s: u32,
    pub(super) fragments: u32,
    pub(super) flags: u16,
    pub(super) ids: u16,
    pub(super) root: u64,
    pub(super) image_bytes: u64,
    pub(super) ids_at: u64,
    pub(super) xattrs_at: u64,
    pub(super) inodes_at: u64,
    pub(super) directories_at: u64,
    pub(super) fragments_at: u64,
    pub(super) export_at: u64,
}

impl Superblock {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUPERBLOCK_BYTES);
        out.extend(MAGIC.to_le_bytes());
        out.extend(self.inodes.to_le_bytes());
        out.extend(self.time_s.to_le_bytes());
        out.extend((1_u32 << BLOCK_LOG).to_le_bytes());
        out.extend(self.fragments.to_le_bytes());
        out.extend(COMPRESSION_ZSTD.to_le_bytes());
        out.extend(BLOCK_LOG.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        out.extend(self.ids.to_le_bytes());
        out.extend(VERSION_MAJOR.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        for number in [
            self.root,
            self.image_bytes,
            self.ids_at,
            self.xattrs_at,
            self.inodes_at,
            self.directories_at,
            self.fragments_at,
            self.export_at,
        ] {
            out.extend(number.to_le_bytes());
        }
        out
    }
}
