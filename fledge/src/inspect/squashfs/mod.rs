//! A squashfs 4.0 image as a tree: what [`crate::image::squashfs`] writes, and what `mksquashfs` makes with gzip, zstd or xz. The image
//! may come from anywhere: every number in it is checked. Contents stay in it, compressed, until they are read.
//!
//! The format is that of Linux `fs/squashfs/squashfs_fs.h`.

mod compression;
mod content;
mod directory;
mod inode;
mod metadata;
mod xattrs;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use self::compression::Compression;
use self::content::{Block, Packed, Store, Tail};
use self::inode::{Body, Inode};
use self::metadata::{Cursor, Metadata};
use self::xattrs::Xattrs;
use super::pieces::Source;
use super::walk::{self, Budget, Flaw, Found, ImageError, Inodes, damaged};
use crate::little_endian::{u16_at, u32_at, u64_at};
use crate::tree::{Attributes, Content, Device, Kind, Node, Tree};

/// The length of the superblock, in bytes.
const SUPERBLOCK_LEN: usize = 96;

/// The logarithms of the sizes that a block may have (`SQUASHFS_FILE_MAX_LOG`): 4 KiB to 1 MiB.
const MIN_BLOCK_LOG: u16 = 12;
const MAX_BLOCK_LOG: u16 = 20;

/// What stands for no fragment, and for no attributes (`SQUASHFS_INVALID_FRAG`, `SQUASHFS_INVALID_XATTR`).
const NONE: u32 = u32::MAX;

/// The length of an owner's number, and of what is known of a fragment, in their tables.
const ID_BYTES: u64 = 4;
const FRAGMENT_BYTES: u64 = 16;

/// Reads the image in `file`, which has `size_bytes`. Contents stay there.
///
/// # Errors
/// The first thing that is wrong.
pub fn read_squashfs(file: File, size_bytes: u64) -> Result<Tree, ImageError> {
    let source = Source::new(file, size_bytes);
    let (mut image, root) = Image::open(source).map_err(ImageError::Superblock)?;
    walk::tree(&mut image, root)
}

/// An open image.
#[derive(Debug)]
struct Image {
    metadata: Metadata,
    store: Arc<Store>,
    inodes_at: u64,
    directories_at: u64,
    ids_at: u64,
    ids: u16,
    fragments_at: u64,
    fragments: u32,
    xattrs: Option<Xattrs>,
}

impl Image {
    /// Reads the superblock; says where the root directory's inode is.
    fn open(source: Source) -> Result<(Self, u64), Flaw> {
        let mut superblock = [0; SUPERBLOCK_LEN];
        source.read(&mut superblock, 0)?;
        let unsupported = |what| Err(Flaw::Unsupported { what });
        if (u16_at(&superblock, 28), u16_at(&superblock, 30)) != (4, 0) {
            return unsupported("another version of squashfs than 4.0");
        }
        let compression = match u16_at(&superblock, 20) {
            1 => Compression::Zlib,
            2 => return unsupported("compression with lzma"),
            3 => return unsupported("compression with lzo"),
            4 => Compression::Xz,
            5 => return unsupported("compression with lz4"),
            6 => Compression::Zstd,
            _ => return unsupported("an unknown compression"),
        };
        let (block_bytes, log) = (u32_at(&superblock, 12), u16_at(&superblock, 22));
        if !(MIN_BLOCK_LOG..=MAX_BLOCK_LOG).contains(&log) || block_bytes != 1 << log {
            return Err(damaged("has blocks of no possible size"));
        }
        // What is missing at the end is noticed before half of it was shown.
        source.check(0, u64_at(&superblock, 40))?;
        let mut metadata = Metadata::new(source.clone(), compression);
        let xattrs = match u64_at(&superblock, 56) {
            u64::MAX => None,
            at => Some(Xattrs::open(&mut metadata, at)?),
        };
        let image = Self {
            metadata,
            store: Arc::new(Store::new(source, compression, block_bytes)),
            inodes_at: u64_at(&superblock, 64),
            directories_at: u64_at(&superblock, 72),
            ids_at: u64_at(&superblock, 48),
            ids: u16_at(&superblock, 26),
            fragments_at: u64_at(&superblock, 80),
            fragments: u32_at(&superblock, 16),
            xattrs,
        };
        Ok((image, u64_at(&superblock, 32)))
    }

    /// The owner with this number in the table of owners.
    fn id(&mut self, number: u16, budget: &mut Budget) -> Result<u32, Flaw> {
        if number >= self.ids {
            return Err(damaged("belongs to nobody that the image knows"));
        }
        let bytes = self
            .metadata
            .looked_up(self.ids_at, number.into(), ID_BYTES, budget)?;
        Ok(u32_at(&bytes, 0))
    }

    /// Where the content of a file is.
    fn content(&mut self, file: &inode::File, budget: &mut Budget) -> Result<Content, Flaw> {
        let block_bytes = self.store.block_bytes();
        let tail_bytes = file.size_bytes % block_bytes;
        let has_tail = file.fragment != NONE && tail_bytes > 0;
        let mut count = file.size_bytes / block_bytes;
        count += u64::from(tail_bytes > 0 && !has_tail);
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        // Before the list is read: it is as long as the image says.
        budget.hold(length.saturating_mul(size_of::<Block>()))?;
        let mut cursor = file.list;
        let mut at = file.start;
        let mut blocks = Vec::new();
        for _ in 0..count {
            let size = u32_at(&self.metadata.read(&mut cursor, 4, budget)?, 0);
            let block = self.store.block(at, size)?;
            at = block.end();
            blocks.push(block);
        }
        let tail = if has_tail {
            let fragment = self.fragment(file.fragment, budget)?;
            let offset = file.offset;
            if u64::from(offset) + tail_bytes > block_bytes {
                return Err(damaged("has its end outside a fragment"));
            }
            Some(Tail { fragment, offset })
        } else {
            None
        };
        Ok(Packed::new(&self.store, blocks, tail, file.size_bytes).into_content())
    }

    /// `struct squashfs_fragment_entry`.
    fn fragment(&mut self, number: u32, budget: &mut Budget) -> Result<Block, Flaw> {
        if number >= self.fragments {
            return Err(damaged("has its end in a fragment that is not there"));
        }
        let at = self.fragments_at;
        let entry = self
            .metadata
            .looked_up(at, number.into(), FRAGMENT_BYTES, budget)?;
        self.store.block(u64_at(&entry, 0), u32_at(&entry, 8))
    }

    fn xattrs(
        &mut self,
        number: u32,
        budget: &mut Budget,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Flaw> {
        match (&self.xattrs, number) {
            (_, NONE) => Ok(BTreeMap::new()),
            (None, _) => Err(damaged("has attributes that are not there")),
            (Some(xattrs), _) => xattrs.set(&mut self.metadata, number, budget),
        }
    }
}

impl Inodes for Image {
    /// Inodes are known by where they are in their table, as directories name them.
    fn inode(&mut self, number: u64, budget: &mut Budget) -> Result<Found, Flaw> {
        let at = Cursor::of(self.inodes_at, number)?;
        let inode = Inode::read(&mut self.metadata, at, budget)?;
        let mut entries = Vec::new();
        let kind = match inode.body {
            Body::Directory {
                block,
                offset,
                bytes,
            } => {
                let at = Cursor::new(self.directories_at, block.into(), offset)?;
                entries = directory::entries(&mut self.metadata, at, bytes, budget)?;
                Kind::Directory
            }
            Body::File(file) => Kind::File(self.content(&file, budget)?),
            Body::Symlink(target) => Kind::Symlink(target),
            Body::BlockDevice(number) => Kind::BlockDevice(Device::decode(number)),
            Body::CharacterDevice(number) => Kind::CharacterDevice(Device::decode(number)),
            Body::Fifo => Kind::Fifo,
            Body::Socket => Kind::Socket,
        };
        let attributes = Attributes {
            permissions: u32::from(inode.mode) & 0o7777,
            uid: self.id(inode.uid, budget)?,
            gid: self.id(inode.gid, budget)?,
            mtime_s: inode.mtime_s.into(),
            xattrs: self.xattrs(inode.xattrs, budget)?,
        };
        let node = Node { attributes, kind };
        Ok(Found { node, entries })
    }
}
