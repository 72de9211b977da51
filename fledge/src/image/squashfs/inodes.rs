//! Inodes, and the directories that name them: each directory is written when everything in it is.

use std::collections::{BTreeMap, HashMap};

use super::data::Data;
use super::directories::{self, Child, Listing};
use super::format::{
    DIRECTORY_EXTRA_BYTES, EXTENDED, MAX_NAME_BYTES, MAX_TARGET_BYTES, NO_FRAGMENT, NO_XATTRS,
};
use super::metadata::{Position, Table, too_large};
use super::narrow;
use super::xattrs::Xattrs;
use crate::image::WriteError;
use crate::image::write_error::shown;
use crate::tree::{Attributes, Content, Device, Item, Kind, NodeId, Tree};

/// The root's number: numbers begin with 1, and it comes first.
const ROOT_NUMBER: u32 = 1;

/// The most bits of a device's numbers (Linux `new_decode_dev`).
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Owners and groups, each once, in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Ids {
    list: Vec<u32>,
    numbers: HashMap<u32, u16>,
}

impl Ids {
    pub(super) fn list(&self) -> &[u32] {
        &self.list
    }

    fn number(&mut self, id: u32) -> Result<u16, WriteError> {
        if let Some(&number) = self.numbers.get(&id) {
            return Ok(number);
        }
        // The superblock counts them with 16 bits too.
        let number = u16::try_from(self.list.len())
            .ok()
            .filter(|&number| number < u16::MAX)
            .ok_or_else(|| {
                WriteError::TooLarge(
                    "The files have more than 65535 different owners and groups, and squashfs holds no more"
                        .to_owned(),
                )
            })?;
        self.numbers.insert(id, number);
        self.list.push(id);
        Ok(number)
    }
}

/// All inodes and directories of a tree.
#[derive(Debug)]
pub(super) struct Inodes<'a> {
    pub(super) table: Table,
    pub(super) directories: Table,
    pub(super) ids: Ids,
    pub(super) xattrs: Xattrs<'a>,
    data: &'a Data,
    /// How many names lead to those with several.
    links: BTreeMap<NodeId, u32>,
    /// In the order of the tree, the root first.
    numbers: HashMap<NodeId, u32>,
    /// By number, from 1; nothing for those that are not written yet.
    positions: Vec<Option<Position>>,
}

/// What a directory's inode says beside its attributes.
struct Directory<'a> {
    path: &'a [u8],
    attributes: &'a Attributes,
    number: u32,
    parent: u32,
    subdirectories: usize,
}

impl<'a> Inodes<'a> {
    pub(super) fn of(tree: &'a Tree, data: &'a Data, level: i32) -> Result<Self, WriteError> {
        let mut inodes = Self {
            table: Table::new(level),
            directories: Table::new(level),
            ids: Ids::default(),
            xattrs: Xattrs::new(level),
            data,
            links: tree.hard_links(),
            numbers: HashMap::new(),
            positions: vec![None],
        };
        let mut directories: Vec<(&[u8], &Attributes, u32)> = vec![(b"", tree.root(), ROOT_NUMBER)];
        for item in tree.iter() {
            let next = narrow(inodes.numbers.len()) + ROOT_NUMBER + 1;
            let number = *inodes.numbers.entry(item.id).or_insert(next);
            if number == next {
                inodes.positions.push(None);
            }
            if item.node.is_directory() {
                directories.push((item.path, &item.node.attributes, number));
            }
        }
        let by_path: HashMap<&[u8], u32> = directories
            .iter()
            .map(|&(path, _, number)| (path, number))
            .collect();
        let contents = tree.directories();
        // A directory's path is the beginning of those below it: from behind, what is in it comes before it.
        for (path, attributes, number) in directories.into_iter().rev() {
            let children = contents.get(path).map_or(&[][..], Vec::as_slice);
            let parent = by_path.get(parent_of(path)).copied();
            let subdirectories = children
                .iter()
                .filter(|(_, item)| item.node.is_directory())
                .count();
            let directory = Directory {
                path,
                attributes,
                number,
                parent: parent.unwrap_or(ROOT_NUMBER),
                subdirectories,
            };
            inodes.add_directory(&directory, children)?;
        }
        Ok(inodes)
    }

    /// Where each inode is, in the order of their numbers.
    pub(super) fn positions(&self) -> impl Iterator<Item = Position> {
        self.positions.iter().copied().flatten()
    }

    fn add_directory(
        &mut self,
        directory: &Directory<'a>,
        children: &[(&'a [u8], Item<'a>)],
    ) -> Result<(), WriteError> {
        let mut listed = Vec::with_capacity(children.len());
        for (name, item) in children {
            if name.len() > MAX_NAME_BYTES {
                return Err(WriteError::Name {
                    path: shown(item.path),
                    why: format!("a name has at most {MAX_NAME_BYTES} bytes"),
                });
            }
            let number = self.numbers.get(&item.id).copied().unwrap_or_default();
            let position = match self.position_of(number) {
                Some(position) => position,
                None => self.add(item, number)?,
            };
            listed.push(Child {
                name,
                format: format_of(&item.node.kind),
                number,
                position,
            });
        }
        let listing = directories::write(&mut self.directories, &listed)?;
        self.add_directory_inode(directory, &listing)
    }

    fn position_of(&self, number: u32) -> Option<Position> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.positions.get(at).copied().flatten()
    }

    fn add_directory_inode(
        &mut self,
        directory: &Directory<'a>,
        listing: &Listing,
    ) -> Result<(), WriteError> {
        let xattrs = self.xattrs.add(directory.path, directory.attributes)?;
        let bytes = listing.bytes + DIRECTORY_EXTRA_BYTES;
        let links = narrow(directory.subdirectories).saturating_add(2);
        let short = u16::try_from(bytes)
            .ok()
            .filter(|_| xattrs == NO_XATTRS && listing.index_count == 0);
        let kind = format_of(&Kind::Directory) + if short.is_some() { 0 } else { EXTENDED };
        let mut inode = self.common(kind, directory.attributes, directory.number)?;
        if let Some(bytes) = short {
            inode.extend(listing.position.block.to_le_bytes());
            inode.extend(links.to_le_bytes());
            inode.extend(bytes.to_le_bytes());
            inode.extend(listing.position.offset.to_le_bytes());
            inode.extend(directory.parent.to_le_bytes());
        } else {
            let bytes = u32::try_from(bytes).map_err(|_| too_large())?;
            let index_count = u16::try_from(listing.index_count).map_err(|_| too_large())?;
            inode.extend(links.to_le_bytes());
            inode.extend(bytes.to_le_bytes());
            inode.extend(listing.position.block.to_le_bytes());
            inode.extend(directory.parent.to_le_bytes());
            inode.extend(index_count.to_le_bytes());
            inode.extend(listing.position.offset.to_le_bytes());
            inode.extend(xattrs.to_le_bytes());
            inode.extend_from_slice(&listing.index);
        }
        self.push(directory.number, &inode).map(drop)
    }

    /// Writes the inode of something that is not a directory.
    fn add(&mut self, item: &Item<'a>, number: u32) -> Result<Position, WriteError> {
        let attributes = &item.node.attributes;
        let xattrs = self.xattrs.add(item.path, attributes)?;
        let links = self.links.get(&item.id).copied().unwrap_or(1);
        let basic = format_of(&item.node.kind);
        let format = basic + if xattrs == NO_XATTRS { 0 } else { EXTENDED };
        let mut inode = match &item.node.kind {
            Kind::File(content) => {
                let body = self.file(item, content, links, xattrs);
                let format = basic + if body.extended { EXTENDED } else { 0 };
                let mut inode = self.common(format, attributes, number)?;
                inode.extend(body.bytes);
                return self.push(number, &inode);
            }
            _ => self.common(format, attributes, number)?,
        };
        inode.extend(links.to_le_bytes());
        match &item.node.kind {
            Kind::Symlink(target) => {
                if target.is_empty() || target.len() > MAX_TARGET_BYTES {
                    return Err(WriteError::Name {
                        path: shown(item.path),
                        why: format!("a link has 1 to {MAX_TARGET_BYTES} bytes"),
                    });
                }
                inode.extend(narrow(target.len()).to_le_bytes());
                inode.extend_from_slice(target);
            }
            Kind::CharacterDevice(device) | Kind::BlockDevice(device) => {
                inode.extend(device_number(item.path, *device)?.to_le_bytes());
            }
            Kind::Directory | Kind::File(_) | Kind::Fifo | Kind::Socket => {}
        }
        if xattrs != NO_XATTRS {
            inode.extend(xattrs.to_le_bytes());
        }
        self.push(number, &inode)
    }

    fn file(&self, item: &Item<'_>, content: &Content, links: u32, xattrs: u32) -> FileBody {
        let data = self.data.of(item.id);
        let (start, sizes) = data.map_or((0, Vec::new()), |file| self.data.blocks(file));
        let end = data.and_then(|file| file.end);
        let (fragment, offset) = end.map_or((NO_FRAGMENT, 0), |end| (end.fragment, end.offset));
        let hole_bytes = data.map_or(0, |file| file.hole_bytes);
        let short = u32::try_from(start)
            .ok()
            .zip(u32::try_from(content.size_bytes()).ok())
            .filter(|_| links == 1 && xattrs == NO_XATTRS && hole_bytes == 0);
        let mut bytes = Vec::with_capacity(40 + 4 * sizes.len());
        if let Some((start, size)) = short {
            for number in [start, fragment, offset, size] {
                bytes.extend(number.to_le_bytes());
            }
        } else {
            for number in [start, content.size_bytes(), hole_bytes] {
                bytes.extend(number.to_le_bytes());
            }
            for number in [links, fragment, offset, xattrs] {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes.extend(sizes.into_iter().flat_map(u32::to_le_bytes));
        FileBody {
            extended: short.is_none(),
            bytes,
        }
    }

    /// What all inodes begin with (`struct squashfs_base_inode`).
    fn common(
        &mut self,
        format: u16,
        attributes: &Attributes,
        number: u32,
    ) -> Result<Vec<u8>, WriteError> {
        let permissions = u16::try_from(attributes.permissions & 0o7777).unwrap_or(0);
        let mtime_s = attributes.mtime_s.clamp(0, i64::from(u32::MAX));
        let mut bytes = Vec::with_capacity(64);
        for number in [
            format,
            permissions,
            self.ids.number(attributes.uid)?,
            self.ids.number(attributes.gid)?,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(u32::try_from(mtime_s).unwrap_or(0).to_le_bytes());
        bytes.extend(number.to_le_bytes());
        Ok(bytes)
    }

    fn push(&mut self, number: u32, inode: &[u8]) -> Result<Position, WriteError> {
        let position = self.table.position()?;
        self.table.push(inode)?;
        let at = usize::try_from(number).map_err(|_| too_large())? - 1;
        self.positions[at] = Some(position);
        Ok(position)
    }
}

/// A file's inode behind what all have in common.
struct FileBody {
    extended: bool,
    bytes: Vec<u8>,
}

/// The basic inode type, which is also the type in a directory (`SQUASHFS_DIR_TYPE` and so on).
fn format_of(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory => 1,
        Kind::File(_) => 2,
        Kind::Symlink(_) => 3,
        Kind::BlockDevice(_) => 4,
        Kind::CharacterDevice(_) => 5,
        Kind::Fifo => 6,
        Kind::Socket => 7,
    }
}

/// As Linux packs it.
fn device_number(path: &[u8], device: Device) -> Result<u32, WriteError> {
    device.encode().ok_or_else(|| WriteError::Unsupported {
        path: shown(path),
        why: format!(
            "a device has a major number of at most {MAX_MAJOR} and a minor one of at most {MAX_MINOR}"
        ),
    })
}

fn parent_of(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|&byte| byte == b'/');
    &path[..slash.unwrap_or(0)]
}
