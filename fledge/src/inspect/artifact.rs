//! An artifact as a value: what format it has, found out from its content, and the tree in it.

use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use common::digest::Digest;
use serde::Serialize;

use super::cpio::{CpioError, read_cpio};
use super::erofs::read_erofs;
use super::ext4::read_ext4;
use super::squashfs::read_squashfs;
use super::{ImageError, Spool};
use crate::image::cpio::{Limits, ReadError};
use crate::image::hashed::Hashed;
use crate::image::zstd;
use crate::tree::Tree;

/// How much of an artifact tells its format, in bytes: up to the magic of ext4 and EROFS.
const HEAD_BYTES: u64 = 2048;

/// Where the superblocks of EROFS and ext4 begin, in bytes (`EROFS_SUPER_OFFSET`, ext4's boot block).
const SUPERBLOCK_AT: usize = 1024;

/// The first four bytes of EROFS's superblock (Linux, `include/uapi/linux/magic.h`: `EROFS_SUPER_MAGIC_V1`), little-endian.
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();

/// Where ext4's magic is in its superblock, and what it is (`EXT4_SUPER_MAGIC`).
const EXT4_MAGIC_AT: usize = SUPERBLOCK_AT + 56;
const EXT4_MAGIC: [u8; 2] = 0xef53_u16.to_le_bytes();

/// The first four bytes of a squashfs image (`SQUASHFS_MAGIC`).
const SQUASHFS_MAGIC: &[u8] = b"hsqs";

/// Where its superblock says how it is compressed: a little-endian number of two bytes, of which the second is 0.
const SQUASHFS_COMPRESSION_AT: usize = 20;

/// The first bytes of a gzip member (RFC 1952) and a zstd frame (RFC 8878).
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What every cpio header of format newc begins with.
const CPIO_MAGIC: &[u8] = b"070701";

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A cpio archive, unpacked into RAM at boot.
    Initramfs,
    /// A read-only file system.
    Erofs,
    /// A file system.
    Ext4,
    /// A compressed read-only file system.
    Squashfs,
}

/// What an initramfs is compressed with as a whole, and a squashfs image in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// It is not.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// xz.
    Xz,
}

/// An artifact that was read.
#[derive(Debug)]
pub struct Artifact {
    /// What it is.
    pub format: Format,
    /// How it is compressed.
    pub packing: Packing,
    /// The file's size.
    pub size_bytes: u64,
    /// The file's digest.
    pub digest: Digest,
    /// What is in it.
    pub tree: Tree,
}

/// An artifact that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is not there.
    #[error("There is no artifact at `{}`", path.display())]
    NotFound {
        /// Its path.
        path: PathBuf,
    },
    /// It is a directory or a device.
    #[error("`{}` is not a file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has none of the formats.
    #[error(
        "`{}` is no artifact: it is neither a cpio archive (plain, gzip or zstd) nor a file system image",
        path.display()
    )]
    UnknownFormat {
        /// Its path.
        path: PathBuf,
    },
    /// Its initramfs is refused.
    #[error("Cannot look into `{}`", path.display())]
    Cpio {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: CpioError,
    },
    /// Its image of a file system is refused.
    #[error("Cannot look into `{}`", path.display())]
    Image {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// There is no room for its contents.
    #[error("Cannot make a temporary file for what is in the artifact")]
    Spool(#[source] io::Error),
}

/// Reads the artifact at `path`. What is compressed in it goes to a file in the directory for temporary files, which vanishes with
/// the tree.
///
/// # Errors
/// Where it cannot be read, or is damaged.
pub fn read(path: &Path) -> Result<Artifact, InspectError> {
    let owned = || path.to_path_buf();
    let read_error = |source| InspectError::Read {
        path: owned(),
        source,
    };
    let mut file = fs_err::File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => InspectError::NotFound { path: owned() },
        _ => read_error(source),
    })?;
    if !file.metadata().map_err(read_error)?.is_file() {
        return Err(InspectError::NotAFile { path: owned() });
    }
    let mut head = Vec::new();
    file.by_ref()
        .take(HEAD_BYTES)
        .read_to_end(&mut head)
        .map_err(read_error)?;
    let (format, packing) =
        recognise(&head).ok_or_else(|| InspectError::UnknownFormat { path: owned() })?;
    file.rewind().map_err(read_error)?;
    let mut hashed = Hashed::new(io::sink());
    io::copy(&mut file, &mut hashed).map_err(read_error)?;
    let size_bytes = hashed.bytes();
    let (_, digest) = hashed.finish();
    file.rewind().map_err(read_error)?;
    let image = |source| InspectError::Image {
        path: owned(),
        source,
    };
    let tree = match format {
        Format::Initramfs => initramfs(file, packing).map_err(|error| match error {
            CpioError::Spool(source) => InspectError::Spool(source),
            source => InspectError::Cpio {
                path: owned(),
                source,
            },
        })?,
        Format::Erofs => read_erofs(file.into_file(), size_bytes).map_err(image)?,
        Format::Ext4 => read_ext4(file.into_file(), size_bytes).map_err(image)?,
        Format::Squashfs => read_squashfs(file.into_file(), size_bytes).map_err(image)?,
    };
    Ok(Artifact {
        format,
        packing,
        size_bytes,
        digest,
        tree,
    })
}

/// What a file that begins with `head` is.
fn recognise(head: &[u8]) -> Option<(Format, Packing)> {
    let at = |at: usize| head.get(at..).unwrap_or_default();
    if head.starts_with(CPIO_MAGIC) {
        Some((Format::Initramfs, Packing::None))
    } else if head.starts_with(GZIP_MAGIC) {
        Some((Format::Initramfs, Packing::Gzip))
    } else if head.starts_with(ZSTD_MAGIC) {
        Some((Format::Initramfs, Packing::Zstd))
    } else if head.starts_with(SQUASHFS_MAGIC) {
        Some((Format::Squashfs, squashfs_packing(head)))
    } else if at(SUPERBLOCK_AT).starts_with(&EROFS_MAGIC) {
        Some((Format::Erofs, Packing::None))
    } else if at(EXT4_MAGIC_AT).starts_with(&EXT4_MAGIC) {
        Some((Format::Ext4, Packing::None))
    } else {
        None
    }
}

/// What the superblock says (`struct squashfs_super_block` and `ZLIB_COMPRESSION` and so on of Linux, `fs/squashfs/squashfs_fs.h`).
/// What we cannot unpack is refused later.
fn squashfs_packing(head: &[u8]) -> Packing {
    match head.get(SQUASHFS_COMPRESSION_AT) {
        Some(1) => Packing::Gzip,
        Some(4) => Packing::Xz,
        Some(6) => Packing::Zstd,
        _ => Packing::None,
    }
}

fn initramfs(file: fs_err::File, packing: Packing) -> Result<Tree, CpioError> {
    let mut spool = Spool::new(tempfile::tempfile().map_err(CpioError::Spool)?);
    let limits = Limits::default();
    let file = BufReader::with_capacity(256 * 1024, file);
    match packing {
        Packing::None => read_cpio(file, &limits, &mut spool),
        // Like Linux, one member or frame after the other.
        Packing::Gzip => {
            let plain = BufReader::new(flate2::bufread::MultiGzDecoder::new(file));
            read_cpio(plain, &limits, &mut spool)
        }
        // Nothing recognises it here.
        Packing::Xz => Err(ReadError::Input(io::ErrorKind::Unsupported.into()).into()),
        Packing::Zstd => {
            let plain = zstd::reader(file).map_err(ReadError::Input)?;
            read_cpio(BufReader::new(plain), &limits, &mut spool)
        }
    }
}
