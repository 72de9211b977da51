//! Decides where everything lies in the image. Writes nothing.

use std::collections::BTreeMap;

use super::directory::{self, Entry};
use super::format::{self, BLOCK_BYTES, MAX_NAME_BYTES, MAX_TARGET_BYTES, SLOT_BYTES, Summary};
use super::xattrs;
use crate::image::WriteError;
use crate::image::write_error::shown;
use crate::tree::{Attributes, Item, Kind, NodeId, Tree};

/// What lies behind its inode has at most this many bytes: of anything larger than half a block, the gap that keeps it within one
/// block would waste more than a block of its own.
const MAX_INLINE_BYTES: u64 = BLOCK_BYTES / 2;

/// An inode of the image.
#[derive(Debug)]
pub(super) struct Inode<'a> {
    /// One of its paths.
    pub(super) path: &'a [u8],
    pub(super) attributes: &'a Attributes,
    pub(super) kind: &'a Kind,
    /// What is in it, with itself and its parent, if it is a directory.
    pub(super) entries: Vec<Entry<'a>>,
    /// Where it lies, in bytes.
    pub(super) offset: u64,
    pub(super) size_bytes: u64,
    /// How many bytes of its end lie behind it.
    pub(super) inline_bytes: u64,
    pub(super) links: u32,
    /// The first of its blocks, or its number if it is a device.
    pub(super) place: u32,
    /// Counted from 1.
    pub(super) serial: u32,
}

impl Inode<'_> {
    /// How many blocks it has.
    pub(super) fn block_count(&self) -> u64 {
        (self.size_bytes - self.inline_bytes).div_ceil(BLOCK_BYTES)
    }

    /// Where its blocks begin, in bytes.
    pub(super) fn blocks_offset(&self) -> u64 {
        u64::from(self.place) * BLOCK_BYTES
    }

    fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File(_))
    }
}

/// Where everything lies.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// The root is the first. What is in a directory lies together.
    pub(super) inodes: Vec<Inode<'a>>,
    /// The time of inodes that have none of their own, in seconds since 1970.
    pub(super) time_s: u64,
    block_count: u32,
}

impl<'a> Layout<'a> {
    /// Places everything.
    ///
    /// # Errors
    /// Where something does not fit the format.
    pub(super) fn new(tree: &'a Tree, time_s: u64) -> Result<Self, WriteError> {
        let mut inodes = collect(tree)?;
        let end = place_inodes(&mut inodes, time_s)?;
        let block_count = place_blocks(&mut inodes, end.div_ceil(BLOCK_BYTES))?;
        Ok(Self {
            inodes,
            time_s,
            block_count,
        })
    }

    /// What the superblock tells.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            inode_count: u64::try_from(self.inodes.len()).unwrap_or(u64::MAX),
            time_s: self.time_s,
            block_count: self.block_count,
        }
    }
}

/// The inodes in their order, each directory with what is in it.
fn collect(tree: &Tree) -> Result<Vec<Inode<'_>>, WriteError> {
    let hard_links = tree.hard_links();
    let mut linked: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut directories = tree.directories();
    let mut inodes = Vec::with_capacity(tree.len() + 1);
    inodes.push(inode(b"", tree.root(), &Kind::Directory, 1)?);
    // Directories that are still to be looked into, and their parents.
    let mut pending = vec![(0, 0)];
    while let Some((index, parent)) = pending.pop() {
        let children = directories.remove(inodes[index].path).unwrap_or_default();
        let mut entries = Vec::with_capacity(children.len() + 2);
        let first = pending.len();
        for (name, Item { path, id, node }) in children {
            check_name(path, name)?;
            let child = linked.get(&id).copied().unwrap_or(inodes.len());
            if child == inodes.len() {
                let links = hard_links.get(&id).copied().unwrap_or(1);
                inodes.push(inode(path, &node.attributes, &node.kind, links)?);
                if links > 1 {
                    linked.insert(id, child);
                }
            }
            if node.is_directory() {
                inodes[index].links += 1;
                pending.push((child, index));
            }
            entries.push(Entry { name, inode: child });
        }
        pending[first..].reverse();
        directory::insert_dots(&mut entries, index, parent);
        inodes[index].size_bytes = directory::size_bytes(&entries);
        inodes[index].entries = entries;
    }
    for (serial, inode) in (1..).zip(&mut inodes) {
        inode.serial = serial;
    }
    Ok(inodes)
}

/// An inode that is not placed yet; of a directory, size and links are not known yet either.
fn inode<'a>(
    path: &'a [u8],
    attributes: &'a Attributes,
    kind: &'a Kind,
    links: u32,
) -> Result<Inode<'a>, WriteError> {
    let mut place = 0;
    let mut size_bytes = 0;
    match kind {
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
        Kind::File(content) => size_bytes = content.size_bytes(),
        Kind::Symlink(target) => {
            check_target(path, target)?;
            size_bytes = u64::try_from(target.len()).unwrap_or(u64::MAX);
        }
        Kind::CharacterDevice(device) | Kind::BlockDevice(device) => {
            place = device.encode().ok_or_else(|| WriteError::Unsupported {
                path: shown(path),
                why: format!(
                    "Linux has no device {}:{}; its numbers end at 4095:1048575",
                    device.major, device.minor
                ),
            })?;
        }
    }
    Ok(Inode {
        path,
        attributes,
        kind,
        entries: Vec::new(),
        offset: 0,
        size_bytes,
        inline_bytes: 0,
        // A directory is in its parent and in itself.
        links: if matches!(kind, Kind::Directory) {
            2
        } else {
            links
        },
        place,
        serial: 0,
    })
}

fn check_name(path: &[u8], name: &[u8]) -> Result<(), WriteError> {
    let why = match name {
        b"" | b"." | b".." => "no file can have this name".to_owned(),
        _ if name.contains(&0) => "a name has no NUL".to_owned(),
        _ if name.len() > MAX_NAME_BYTES => {
            format!(
                "a name has at most {MAX_NAME_BYTES} bytes, not {}",
                name.len()
            )
        }
        _ => return Ok(()),
    };
    let path = shown(path);
    Err(WriteError::Name { path, why })
}

fn check_target(path: &[u8], target: &[u8]) -> Result<(), WriteError> {
    if (1..=MAX_TARGET_BYTES).contains(&target.len()) && !target.contains(&0) {
        return Ok(());
    }
    Err(WriteError::Name {
        path: shown(path),
        why: format!("a link's target has 1 to {MAX_TARGET_BYTES} bytes, none of them NUL"),
    })
}

/// Places inodes, attributes and short contents, from the second block on; returns where they end, in bytes.
///
/// Whatever fits into a block lies within one: Linux requires it of what lies behind inodes.
fn place_inodes(inodes: &mut [Inode<'_>], time_s: u64) -> Result<u64, WriteError> {
    let mut end = BLOCK_BYTES;
    for inode in inodes {
        let xattrs = xattrs::encode(inode.path, &inode.attributes.xattrs)?;
        let own_bytes =
            format::inode_bytes(inode, time_s) + u64::try_from(xattrs.len()).unwrap_or(u64::MAX);
        let tail_bytes = inode.size_bytes % BLOCK_BYTES;
        if !inode.is_file()
            && tail_bytes <= MAX_INLINE_BYTES.min(BLOCK_BYTES.saturating_sub(own_bytes))
        {
            inode.inline_bytes = tail_bytes;
        }
        let bytes = own_bytes + inode.inline_bytes;
        inode.offset = end.next_multiple_of(SLOT_BYTES);
        if inode.offset % BLOCK_BYTES + bytes > BLOCK_BYTES {
            inode.offset = inode.offset.next_multiple_of(BLOCK_BYTES);
        }
        end = inode.offset + bytes;
    }
    Ok(end)
}

/// Places what has blocks of its own from block `next` on, files last; returns how many blocks there are in all.
fn place_blocks(inodes: &mut [Inode<'_>], mut next: u64) -> Result<u32, WriteError> {
    for files in [false, true] {
        for inode in inodes.iter_mut() {
            let count = inode.block_count();
            if inode.is_file() == files && count > 0 {
                inode.place = u32::try_from(next).map_err(|_| too_large())?;
                next = next.checked_add(count).ok_or_else(too_large)?;
            }
        }
    }
    u32::try_from(next).map_err(|_| too_large())
}

fn too_large() -> WriteError {
    WriteError::TooLarge(
        "The files have more than 16 TiB together, which is more than an EROFS image can hold"
            .to_owned(),
    )
}
