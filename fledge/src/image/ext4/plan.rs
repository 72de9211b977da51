//! What is going to be written: inodes with their numbers, and how many blocks each needs. Writes nothing, reads no content.
//!
//! Directories come first, then everything else in the order of the tree, so that walking the tree reads one part of the image.

use std::collections::{BTreeMap, HashMap};

use super::directory::{Directory, Entry, MAX_NAME_BYTES};
use super::format::{BLOCK_BYTES, BLOCK_LEN};
use super::inode::{device_root, type_in_directory};
use super::space::{Need, ROOT_LEN};
use super::superblock::FIRST_INODE;
use super::xattr::Stored;
use crate::image::WriteError;
use crate::image::write_error::shown;
use crate::tree::{Attributes, Item, Kind, Node, NodeId, Tree};

/// The inode of the root (`EXT4_ROOT_INO`).
pub(super) const ROOT: u32 = 2;

/// Where `e2fsck` puts what it finds.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";

/// How many blocks it has from the beginning, so that there is room when the file system is damaged: 16 KiB, as in `mke2fs`.
pub(super) const LOST_AND_FOUND_BLOCKS: u32 = 4;

/// The most names that an inode has (`EXT4_LINK_MAX`).
const MAX_LINKS: u32 = 65_000;

/// The longest target that is kept in the inode, in bytes: one less than there is room, for the NUL.
pub(super) const MAX_SHORT_TARGET_BYTES: usize = ROOT_LEN - 1;

/// An inode to be.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    /// Its path, or one of them.
    pub(super) path: &'a [u8],
    pub(super) attributes: &'a Attributes,
    pub(super) kind: &'a Kind,
    /// How many names it has; a directory with too many subdirectories to count has 1.
    pub(super) links: u16,
    /// The directory it is in, if it is one itself.
    pub(super) parent: u32,
    pub(super) need: Need,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) root: Planned<'a>,
    /// From [`FIRST_INODE`] on.
    pub(super) others: Vec<Planned<'a>>,
    numbers: HashMap<NodeId, u32>,
    directories: BTreeMap<&'a [u8], Vec<(&'a [u8], Item<'a>)>>,
    /// The first of `others` is `lost+found`, because the tree has none.
    pub(super) has_own_lost_and_found: bool,
}

impl<'a> Plan<'a> {
    /// Plans `tree`, with `lost_and_found` unless it has one.
    ///
    /// # Errors
    /// Where something in it does not fit into ext4.
    pub(super) fn new(tree: &'a Tree, lost_and_found: &'a Node) -> Result<Self, WriteError> {
        let mut plan = Self {
            root: Planned {
                path: b"",
                attributes: tree.root(),
                kind: &Kind::Directory,
                links: 0,
                parent: ROOT,
                need: Need::default(),
            },
            others: Vec::new(),
            numbers: HashMap::new(),
            directories: tree.directories(),
            has_own_lost_and_found: false,
        };
        match tree.get(LOST_AND_FOUND) {
            None => plan.add_lost_and_found(lost_and_found),
            Some(node) if node.is_directory() => {}
            Some(node) => {
                return Err(WriteError::Unsupported {
                    path: shown(LOST_AND_FOUND),
                    why: format!(
                        "it is {}, and ext4 keeps this name for a directory",
                        node.what()
                    ),
                });
            }
        }
        let (need, links) = plan.directory(b"", tree.root())?;
        plan.root.need = need;
        plan.root.links = links;
        plan.add_directories(tree)?;
        plan.add_files(tree)?;
        Ok(plan)
    }

    /// The number after those of all inodes.
    pub(super) fn next_inode(&self) -> u32 {
        u32::try_from(self.others.len()).map_or(u32::MAX, |count| FIRST_INODE.saturating_add(count))
    }

    /// The names in the directory at `path`.
    pub(super) fn entries(&self, path: &[u8]) -> Vec<Entry<'a>> {
        let mut entries = Vec::new();
        if path.is_empty() && self.has_own_lost_and_found {
            entries.push(Entry {
                name: LOST_AND_FOUND,
                inode: FIRST_INODE,
                file_type: type_in_directory(&Kind::Directory),
            });
        }
        for (name, item) in self.directories.get(path).into_iter().flatten() {
            entries.push(Entry {
                name,
                // Every inode of the tree has a number by the time that names are written; before that, only names count.
                inode: self.numbers.get(&item.id).copied().unwrap_or(0),
                file_type: type_in_directory(&item.node.kind),
            });
        }
        entries
    }

    fn add_lost_and_found(&mut self, node: &'a Node) {
        self.has_own_lost_and_found = true;
        self.others.push(Planned {
            path: LOST_AND_FOUND,
            attributes: &node.attributes,
            kind: &node.kind,
            links: 2,
            parent: ROOT,
            need: Need::content(LOST_AND_FOUND_BLOCKS),
        });
    }

    fn add_directories(&mut self, tree: &'a Tree) -> Result<(), WriteError> {
        for item in tree.iter().filter(|item| item.node.is_directory()) {
            let number = self.next_inode();
            let attributes = &item.node.attributes;
            let (need, links) = self.directory(item.path, attributes)?;
            self.numbers.insert(item.id, number);
            self.others.push(Planned {
                path: item.path,
                attributes,
                kind: &item.node.kind,
                links,
                parent: self.parent_of(tree, item.path),
                need,
            });
        }
        Ok(())
    }

    fn parent_of(&self, tree: &Tree, path: &[u8]) -> u32 {
        let slash = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        tree.id(&path[..slash])
            .and_then(|id| self.numbers.get(&id).copied())
            .unwrap_or(ROOT)
    }

    /// What a directory needs, and how many links it has: its name, its `.`, and the `..` of those in it.
    fn directory(&self, path: &[u8], attributes: &Attributes) -> Result<(Need, u16), WriteError> {
        let own = (path.is_empty() && self.has_own_lost_and_found).then_some(LOST_AND_FOUND);
        let children = self.directories.get(path).map_or(&[][..], Vec::as_slice);
        for (name, item) in children {
            check_name(item.path, name)?;
        }
        let content = Directory::new(self.entries(path)).count_blocks();
        let subdirectories = usize::from(own.is_some())
            + children
                .iter()
                .filter(|(_, item)| item.node.is_directory())
                .count();
        let links = u32::try_from(subdirectories + 2).unwrap_or(u32::MAX);
        // One link stands for "more than can be counted" (feature `dir_nlink`).
        let links = if links < MAX_LINKS { links } else { 1 };
        let need = Need {
            content: u32::try_from(content).unwrap_or(u32::MAX),
            has_xattr_block: Stored::new(path, &attributes.xattrs)?.has_block(),
        };
        Ok((need, u16::try_from(links).unwrap_or(1)))
    }

    fn add_files(&mut self, tree: &'a Tree) -> Result<(), WriteError> {
        let hard_links = tree.hard_links();
        for item in tree.iter() {
            if self.numbers.contains_key(&item.id) {
                continue;
            }
            let links = hard_links.get(&item.id).copied().unwrap_or(1);
            let links = u16::try_from(links)
                .ok()
                .filter(|&links| u32::from(links) <= MAX_LINKS)
                .ok_or_else(|| WriteError::Unsupported {
                    path: shown(item.path),
                    why: format!("it has {links} hard links, and ext4 counts to {MAX_LINKS}"),
                })?;
            self.numbers.insert(item.id, self.next_inode());
            self.others.push(Planned {
                path: item.path,
                attributes: &item.node.attributes,
                kind: &item.node.kind,
                links,
                parent: 0,
                need: file_need(&item)?,
            });
        }
        Ok(())
    }
}

/// Whether ext4 can hold a name.
fn check_name(path: &[u8], name: &[u8]) -> Result<(), WriteError> {
    let why = if name.len() > MAX_NAME_BYTES {
        format!("a name has at most {MAX_NAME_BYTES} bytes")
    } else if name.is_empty() || name.contains(&0) {
        "a name has at least one byte, and none of them is zero".to_owned()
    } else {
        return Ok(());
    };
    Err(WriteError::Name {
        path: shown(path),
        why,
    })
}

/// What anything but a directory needs.
fn file_need(item: &Item<'_>) -> Result<Need, WriteError> {
    let unsupported = |why: &str| WriteError::Unsupported {
        path: shown(item.path),
        why: why.to_owned(),
    };
    let content = match &item.node.kind {
        Kind::File(content) => {
            let size_bytes = content.size_bytes();
            u32::try_from(size_bytes.div_ceil(u64::from(BLOCK_BYTES))).map_err(|_| {
                WriteError::FileTooLarge {
                    path: shown(item.path),
                    size_bytes,
                    why: "ext4 holds files of less than 16 TiB",
                }
            })?
        }
        Kind::Symlink(target) if target.is_empty() || target.contains(&0) => {
            return Err(unsupported(
                "it is a symbolic link to nothing that has a name",
            ));
        }
        Kind::Symlink(target) if target.len() >= BLOCK_LEN => {
            return Err(unsupported("a symbolic link has at most 4095 bytes"));
        }
        Kind::Symlink(target) if target.len() > MAX_SHORT_TARGET_BYTES => 1,
        Kind::CharacterDevice(device) | Kind::BlockDevice(device) => device_root(*device)
            .map(|_| 0)
            .ok_or_else(|| unsupported("Linux has no device with such a large number"))?,
        Kind::Directory | Kind::Symlink(_) | Kind::Fifo | Kind::Socket => 0,
    };
    Ok(Need {
        content,
        has_xattr_block: Stored::new(item.path, &item.node.attributes.xattrs)?.has_block(),
    })
}
