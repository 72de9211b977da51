//! What a root file system says about itself in its superblock: enough to refuse at install what no guest could mount. Reads a fixed
//! number of bytes whatever is in the file, and nothing behind the superblock: the guest's kernel, not the host's, reads the rest.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use common::manifest::RootfsFormat;

/// A file that is no root file system of ours.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// Nothing that is known.
    #[error("It holds neither an EROFS nor an ext4 nor a squashfs file system")]
    Unknown,
    /// Something else that is known.
    #[error("It is {format}, and a root file system is a plain image of erofs, ext4 or squashfs")]
    OtherFormat {
        /// What it is, such as "a qcow2 image".
        format: &'static str,
    },
    /// Not what the manifest promises.
    #[error("It holds {found}, and the manifest's `rootfs.format` says {wanted}")]
    Mismatch {
        /// What it holds.
        found: RootfsFormat,
        /// What it should hold.
        wanted: RootfsFormat,
    },
    /// The superblock says what no good one does, or what the guest's kernel does not do.
    #[error("Its {format} file system {why}")]
    Unmountable {
        /// The file system.
        format: RootfsFormat,
        /// A clause, such as "is cut off".
        why: &'static str,
    },
    /// It cannot be read.
    #[error("It cannot be read")]
    Read(#[source] io::Error),
}

/// The smallest unit of a disk: what lies behind the last whole one, no guest can read (virtio 1.2, 5.2).
const SECTOR_BYTES: u64 = 512;

/// The largest block that the guest's kernel mounts, as a power of two: its page.
const MAX_BLOCK_BITS: u32 = 12;

/// What is read from the beginning: up to the end of the farthest magic number, that of btrfs.
const HEAD_BYTES: usize = 0x1_0048;

/// What is read from the end: the footer of a VHD.
const FOOTER_BYTES: u64 = 512;

/// [`FOOTER_BYTES`] as the length of a buffer.
const FOOTER_LEN: usize = 512;

/// Formats that are told apart from plain noise, by what is where. Images that a VMM might open as something else come first.
const OTHER_FORMATS: [(usize, &[u8], &str); 9] = [
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"XFSB", "an xfs file system"),
    (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"070701", "a cpio archive, which an `initramfs` is"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (510, b"\x55\xaa", "a disk with a partition table"),
];

/// How many of [`OTHER_FORMATS`] a VMM may take for a container with other files behind it, whatever else is in the file.
const CONTAINERS: usize = 3;

/// Checks the root file system in `file` and says which it is. With `wanted`, it must be that one.
///
/// # Errors
/// [`RootfsError`].
pub(super) fn check(
    file: &Path,
    wanted: Option<RootfsFormat>,
) -> Result<RootfsFormat, RootfsError> {
    let ends = Ends::read(file).map_err(RootfsError::Read)?;
    if let Some(format) = ends.container() {
        return Err(RootfsError::OtherFormat { format });
    }
    let (format, checked) = if let Some(superblock) = ends.at(1024, 128).filter(is_erofs) {
        (RootfsFormat::Erofs, erofs(superblock, ends.usable_bytes()))
    } else if let Some(superblock) = ends.at(1024, 1024).filter(is_ext4) {
        (RootfsFormat::Ext4, ext4(superblock, ends.usable_bytes()))
    } else if let Some(superblock) = ends.at(0, 96).filter(|block| block.starts_with(b"hsqs")) {
        let checked = squashfs(superblock, ends.usable_bytes());
        (RootfsFormat::Squashfs, checked)
    } else {
        let other = OTHER_FORMATS
            .iter()
            .find(|(at, magic, _)| ends.at(*at, magic.len()) == Some(*magic));
        return Err(other.map_or(RootfsError::Unknown, |(_, _, format)| {
            RootfsError::OtherFormat { format }
        }));
    };
    match wanted {
        Some(wanted) if wanted != format => Err(RootfsError::Mismatch {
            found: format,
            wanted,
        }),
        _ => checked
            .map(|()| format)
            .map_err(|why| RootfsError::Unmountable { format, why }),
    }
}

/// Whether a VMM that guesses might take a disk for a container of another format, which names further files of the host. A guest can
/// write such a beginning on its own disk.
///
/// # Errors
/// If the disk cannot be read.
pub(super) fn container(disk: &Path) -> io::Result<Option<&'static str>> {
    Ok(Ends::read(disk)?.container())
}

/// Both ends of a file.
struct Ends {
    head: Vec<u8>,
    footer: Vec<u8>,
    size_bytes: u64,
}

impl Ends {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = fs_err::File::open(path)?.into_file();
        let size_bytes = file.metadata()?.len();
        let head = read_some(&mut file, 0, HEAD_BYTES)?;
        let footer_at = size_bytes.saturating_sub(FOOTER_BYTES);
        let footer = read_some(&mut file, footer_at, FOOTER_LEN)?;
        Ok(Self {
            head,
            footer,
            size_bytes,
        })
    }

    fn at(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.head.get(at..at.checked_add(length)?)
    }

    /// What a guest can read of it as a disk.
    fn usable_bytes(&self) -> u64 {
        self.size_bytes / SECTOR_BYTES * SECTOR_BYTES
    }

    fn container(&self) -> Option<&'static str> {
        if self.footer.starts_with(b"conectix") {
            return Some("a VHD image");
        }
        OTHER_FORMATS[..CONTAINERS]
            .iter()
            .find(|(at, magic, _)| self.at(*at, magic.len()) == Some(*magic))
            .map(|(_, _, format)| *format)
    }
}

fn read_some(file: &mut File, at: u64, limit: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::with_capacity(limit);
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    let bytes = block
        .get(at..at + 2)
        .and_then(|bytes| bytes.try_into().ok());
    u16::from_le_bytes(bytes.unwrap_or_default())
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    let bytes = block
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

fn u64_at(block: &[u8], at: usize) -> u64 {
    let bytes = block
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

const CUT_OFF: &str = "is cut off: the file is shorter than the file system";

/// `EROFS_SUPER_MAGIC_V1`, include/uapi/linux/magic.h.
fn is_erofs(superblock: &&[u8]) -> bool {
    u32_at(superblock, 0) == 0xe0f5_e1e2
}

/// `struct erofs_super_block` and its flags: Linux `fs/erofs/erofs_fs.h`.
fn erofs(superblock: &[u8], usable_bytes: u64) -> Result<(), &'static str> {
    /// `COMPR_CFGS`, `ZTAILPACKING`, `FRAGMENTS`: only compressed images have them.
    const COMPRESSED: u32 = 0x02 | 0x10 | 0x20;
    /// `DEVICE_TABLE`.
    const DEVICE_TABLE: u32 = 0x08;
    let block_bits = u32::from(superblock.get(12).copied().unwrap_or_default());
    let blocks = u64::from(u32_at(superblock, 36));
    let incompatible = u32_at(superblock, 80);
    if !(9..=MAX_BLOCK_BITS).contains(&block_bits) {
        return Err("has blocks of a size that the guest's kernel does not mount");
    }
    if incompatible & COMPRESSED != 0 {
        return Err("is compressed, which the guest's kernel does not read: build it without");
    }
    if incompatible & DEVICE_TABLE != 0 {
        return Err("needs other devices beside its own");
    }
    if blocks << block_bits > usable_bytes {
        return Err(CUT_OFF);
    }
    Ok(())
}

/// `EXT4_SUPER_MAGIC`, include/uapi/linux/magic.h.
fn is_ext4(superblock: &&[u8]) -> bool {
    u16_at(superblock, 0x38) == 0xef53
}

/// `struct ext4_super_block` and its flags: Linux fs/ext4/ext4.h.
fn ext4(superblock: &[u8], usable_bytes: u64) -> Result<(), &'static str> {
    /// `EXT4_FEATURE_INCOMPAT_RECOVER`.
    const RECOVER: u32 = 0x04;
    /// `EXT4_FEATURE_INCOMPAT_JOURNAL_DEV`.
    const JOURNAL_DEVICE: u32 = 0x08;
    /// `EXT4_FEATURE_INCOMPAT_64BIT`: only then the upper half of the count is one.
    const BITS_64: u32 = 0x80;
    let block_bits = u32_at(superblock, 0x18).saturating_add(10);
    let incompatible = u32_at(superblock, 0x60);
    if block_bits > MAX_BLOCK_BITS {
        return Err("has blocks of a size that the guest's kernel does not mount");
    }
    if incompatible & JOURNAL_DEVICE != 0 {
        return Err("is only the journal of another one");
    }
    if incompatible & RECOVER != 0 {
        return Err(
            "was not unmounted, and its journal cannot be replayed on a read-only disk: run e2fsck on it",
        );
    }
    let upper = match incompatible & BITS_64 {
        0 => 0,
        _ => u64::from(u32_at(superblock, 0x150)) << 32,
    };
    let blocks = u64::from(u32_at(superblock, 0x04)) | upper;
    match blocks.checked_shl(block_bits) {
        // Bits that left at the top are missed by `checked_shl`.
        Some(bytes) if bytes >> block_bits == blocks && bytes <= usable_bytes => Ok(()),
        _ => Err(CUT_OFF),
    }
}

/// `struct squashfs_super_block` and the numbers of compressors: Linux `fs/squashfs/squashfs_fs.h`.
fn squashfs(superblock: &[u8], usable_bytes: u64) -> Result<(), &'static str> {
    /// `ZLIB_COMPRESSION`, `XZ_COMPRESSION`, `LZ4_COMPRESSION`, `ZSTD_COMPRESSION`: those of xtask/kernel/guest.config.
    const COMPRESSORS: [u16; 4] = [1, 4, 5, 6];
    if u16_at(superblock, 28) != 4 {
        return Err("is not of version 4");
    }
    if !COMPRESSORS.contains(&u16_at(superblock, 20)) {
        return Err(
            "is compressed in a way that the guest's kernel does not read: use gzip, xz, lz4 or zstd",
        );
    }
    let (block_bytes, block_bits) = (u32_at(superblock, 12), u16_at(superblock, 22));
    // `SQUASHFS_FILE_MAX_LOG`; the least that mksquashfs takes.
    if !(12..=20).contains(&block_bits) || block_bytes != 1 << block_bits {
        return Err("has blocks of a size that the guest's kernel does not mount");
    }
    if u64_at(superblock, 40) > usable_bytes {
        return Err(CUT_OFF);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
