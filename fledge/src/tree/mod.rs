//! The file system of an image, in memory: inodes of every kind, sorted by path. Contents stay where they are until they are written
//! out.
//!
//! What lies where does not depend on the order of insertion, except between directories that bring the same file: see [`Origin`].

mod content;
mod error;
pub mod host;
pub mod modes;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use common::build_spec::GuestPath;

pub use content::{Assembled, Content, CopyError, Reader};
pub use error::TreeError;
pub use node::{Attributes, Device, Kind, Node};

/// Permissions of directories that nobody describes: what lies above a mapped file.
pub const DIRECTORY_PERMISSIONS: u32 = 0o755;

/// The most entries that an image has. A bound against mapping `/` by mistake, and against hostile layers.
pub const MAX_ENTRIES: usize = 1_000_000;

/// Links followed before a path counts as a loop, as in Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Names an inode in its tree. Paths with the same number are hard links of one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(usize);

/// A path and what lies there.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The path without a `/` in front.
    pub path: &'a [u8],
    /// Which inode it is.
    pub id: NodeId,
    /// The inode.
    pub node: &'a Node,
}

/// Who put something into the tree, weakest first: the stronger one stays, whichever came first.
///
/// Between two directories the later one wins, so callers insert them in a fixed order. Two files mapped to one path are an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// What every image has.
    Base,
    /// The container image that it is built on.
    Image,
    /// The content of a mapped directory.
    Directory,
    /// A file that is mapped by itself.
    File,
    /// What the guest cannot boot without; nothing replaces it.
    Boot,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: NodeId,
    origin: Origin,
}

/// A file system. Paths are bytes without a `/` in front, because file names need not be text.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Attributes,
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Those that no path leads to any more stay: few are ever replaced.
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Attributes::new(DIRECTORY_PERMISSIONS),
            entries: BTreeMap::new(),
            nodes: Vec::new(),
        }
    }
}

impl Tree {
    /// Puts `node` at `path`, and makes the directories above it. Links of a container image are followed on the way, so that
    /// `/bin/x` lies in `/usr/bin` where the image says so.
    ///
    /// # Errors
    /// Where something else is in its way.
    pub fn insert(
        &mut self,
        path: &GuestPath,
        node: Node,
        origin: Origin,
    ) -> Result<(), TreeError> {
        self.insert_bytes(path.in_archive().as_bytes(), node, origin)
    }

    /// As [`Tree::insert`], for a path that need not be text; it must have no empty, `.` or `..` components.
    pub(crate) fn insert_bytes(
        &mut self,
        path: &[u8],
        node: Node,
        origin: Origin,
    ) -> Result<(), TreeError> {
        if path.is_empty() {
            return if node.is_directory() {
                Ok(())
            } else {
                Err(conflict(path, "a directory", &node))
            };
        }
        let path = self.through_image_links(path);
        self.make_parents(&path)?;
        let Some(&present) = self.entries.get(&path) else {
            return self.put(path, node, origin);
        };
        let there = &self.nodes[present.id.0];
        match (there.is_directory(), node.is_directory()) {
            (true, true) => return Ok(()),
            (false, false) => {}
            // What every image has gives way to whatever a container image made of it, such as a link.
            _ if origin == Origin::Base => return Ok(()),
            _ => return Err(conflict(&path, there.what(), &node)),
        }
        match (present.origin, origin) {
            (Origin::Boot, _) => Err(TreeError::Protected { path: shown(&path) }),
            (Origin::File, Origin::File) => Err(TreeError::Twice { path: shown(&path) }),
            (old, new) if new >= old => self.put(path, node, origin),
            _ => Ok(()),
        }
    }

    /// `path` with the links followed that a container image brought above it. One that leads nowhere is left as it is.
    fn through_image_links(&self, path: &[u8]) -> Vec<u8> {
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
            return path.to_vec();
        };
        let (parent, name) = path.split_at(slash);
        let is_link = |at: usize| {
            self.entries.get(&path[..at]).is_some_and(|entry| {
                entry.origin == Origin::Image
                    && matches!(self.nodes[entry.id.0].kind, Kind::Symlink(_))
            })
        };
        let Some(link) = slashes(path).find(|&at| is_link(at)) else {
            return path.to_vec();
        };
        // What lies below the link need not exist yet: only as far as the link is resolved.
        match self.resolve(&path[..link]) {
            Some((at, node)) if node.is_directory() => {
                let rest = &parent[link..];
                self.through_image_links(&[at.as_slice(), rest, name].concat())
            }
            _ => path.to_vec(),
        }
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<(), TreeError> {
        for at in slashes(path) {
            let parent = &path[..at];
            match self.get(parent) {
                Some(node) if node.is_directory() => {}
                Some(other) => {
                    return Err(TreeError::NotADirectory {
                        path: shown(path),
                        parent: shown(parent),
                        what: other.what(),
                    });
                }
                None => {
                    let node = Node::directory(DIRECTORY_PERMISSIONS);
                    self.put(parent.to_vec(), node, Origin::Base)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, path: Vec<u8>, node: Node, origin: Origin) -> Result<(), TreeError> {
        let id = NodeId(self.nodes.len());
        self.place(path, Entry { id, origin })?;
        self.nodes.push(node);
        Ok(())
    }

    fn place(&mut self, path: Vec<u8>, entry: Entry) -> Result<(), TreeError> {
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&path) {
            return Err(TreeError::TooMany);
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    /// Puts `node` where a layer of a container image says, in place of whatever was there: a directory keeps what is in it if it
    /// stays one. Directories above are made; one that is no directory gives way, as when an archive is extracted.
    ///
    /// `path` must have no empty, `.` or `..` components; empty means the root, of which only the attributes are taken.
    ///
    /// # Errors
    /// [`TreeError::Conflict`] where the root would be no directory, [`TreeError::TooMany`].
    pub fn replace(&mut self, path: &[u8], node: Node) -> Result<(), TreeError> {
        if path.is_empty() {
            if !node.is_directory() {
                return Err(conflict(path, "a directory", &node));
            }
            self.root = node.attributes;
            return Ok(());
        }
        self.make_room(path, node.is_directory())?;
        self.put(path.to_vec(), node, Origin::Image)
    }

    /// Makes `path` another name of the inode at `target`, as a layer of a container image says. Both paths as in [`Tree::replace`].
    ///
    /// # Errors
    /// [`TreeError::HardLink`] where there is none, or a directory; [`TreeError::TooMany`].
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let what = match self.entries.get(target) {
            Some(&entry) if !self.nodes[entry.id.0].is_directory() => {
                if path == target {
                    return Ok(());
                }
                if path.is_empty() {
                    return Err(conflict(path, "a directory", &self.nodes[entry.id.0]));
                }
                self.make_room(path, false)?;
                return self.place(path.to_vec(), entry);
            }
            Some(_) => "a directory",
            None if target.is_empty() => "a directory",
            None => "not there",
        };
        Err(TreeError::HardLink {
            path: shown(path),
            target: shown(target),
            what,
        })
    }

    fn make_room(&mut self, path: &[u8], for_directory: bool) -> Result<(), TreeError> {
        for at in slashes(path) {
            let parent = &path[..at];
            if !self.get(parent).is_some_and(Node::is_directory) {
                let node = Node::directory(DIRECTORY_PERMISSIONS);
                self.put(parent.to_vec(), node, Origin::Image)?;
            }
        }
        if !for_directory {
            self.clear(path);
        }
        Ok(())
    }

    /// Removes what lies at `path`, with everything below it; says whether there was anything.
    pub fn remove(&mut self, path: &[u8]) -> bool {
        self.clear(path);
        self.entries.remove(path).is_some()
    }

    /// Removes everything below the directory at `path`, an empty one being the root.
    pub fn clear(&mut self, path: &[u8]) {
        self.retain_below(path, |_| false);
    }

    /// As [`Tree::clear`], but leaves the paths that `keep` wants; it must want every directory above such a path too.
    pub fn retain_below(&mut self, path: &[u8], keep: impl Fn(&[u8]) -> bool) {
        let below = self.below(path).map(|(path, _)| path);
        let below: Vec<Vec<u8>> = below.filter(|path| !keep(path)).cloned().collect();
        for path in below {
            self.entries.remove(&path);
        }
    }

    /// Everything below the directory at `path`, at any depth.
    fn below(&self, path: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Entry)> {
        let mut prefix = path.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        self.entries
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
    }

    /// The attributes of the root directory.
    pub fn root(&self) -> &Attributes {
        &self.root
    }

    /// Sets what can be the same for all: no time is later than `latest_s`, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub fn clamp_times(&mut self, latest_s: i64) {
        self.root.mtime_s = self.root.mtime_s.min(latest_s);
        for node in &mut self.nodes {
            node.attributes.mtime_s = node.attributes.mtime_s.min(latest_s);
        }
    }

    /// Removes the extended attributes that are not to be kept, and returns of how many inodes each of them was.
    pub fn retain_xattrs(&mut self, keep: impl Fn(&[u8]) -> bool) -> BTreeMap<Vec<u8>, usize> {
        let mut removed: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let mut retain = |attributes: &mut Attributes| {
            attributes.xattrs.retain(|name, _| {
                let stays = keep(name);
                if !stays {
                    *removed.entry(name.clone()).or_default() += 1;
                }
                stays
            });
        };
        retain(&mut self.root);
        // Inodes without a path are not part of the image any more.
        let ids: BTreeSet<NodeId> = self.entries.values().map(|entry| entry.id).collect();
        for id in ids {
            retain(&mut self.nodes[id.0].attributes);
        }
        removed
    }

    /// Sets the time of everything that is not of a container image, in seconds since 1970.
    pub fn set_own_times(&mut self, mtime_s: i64) {
        if !self
            .entries
            .values()
            .any(|entry| entry.origin == Origin::Image)
        {
            self.root.mtime_s = mtime_s;
        }
        for entry in self.entries.values() {
            if entry.origin != Origin::Image {
                self.nodes[entry.id.0].attributes.mtime_s = mtime_s;
            }
        }
    }

    /// How many entries there are, the root not counted.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All paths but the root's, in the order of their bytes: a directory comes before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.entries.iter().map(|(path, entry)| Item {
            path,
            id: entry.id,
            node: &self.nodes[entry.id.0],
        })
    }

    /// What is directly in each directory that is not empty, by the directory's path (empty for the root): names in the order of
    /// their bytes.
    pub fn directories(&self) -> BTreeMap<&[u8], Vec<(&[u8], Item<'_>)>> {
        let mut directories: BTreeMap<&[u8], Vec<_>> = BTreeMap::new();
        for item in self.iter() {
            let (parent, name) = match item.path.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => (&item.path[..slash], &item.path[slash + 1..]),
                None => (&[][..], item.path),
            };
            directories.entry(parent).or_default().push((name, item));
        }
        directories
    }

    /// How many paths lead to each inode, where that is more than one.
    pub fn hard_links(&self) -> BTreeMap<NodeId, u32> {
        let mut links: BTreeMap<NodeId, u32> = BTreeMap::new();
        for item in self.iter().filter(|item| !item.node.is_directory()) {
            *links.entry(item.id).or_default() += 1;
        }
        links.retain(|_, count| *count > 1);
        links
    }

    /// The bytes of all files; hard links count once.
    pub fn content_bytes(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        self.iter()
            .filter(|item| seen.insert(item.id))
            .map(|item| match &item.node.kind {
                Kind::File(content) => content.size_bytes(),
                _ => 0,
            })
            // Whoever writes an image may say that a file has any size.
            .fold(0, u64::saturating_add)
    }

    /// What lies at `path` itself, without following a link. Nothing for the root: see [`Tree::root`].
    pub fn get(&self, path: &[u8]) -> Option<&Node> {
        self.entries.get(path).map(|entry| &self.nodes[entry.id.0])
    }

    /// Which inode lies at `path` itself. Nothing for the root.
    pub fn id(&self, path: &[u8]) -> Option<NodeId> {
        self.entries.get(path).map(|entry| entry.id)
    }

    /// How many directories are directly in the directory at `path`.
    pub fn subdirectories(&self, path: &[u8]) -> u32 {
        let skip = if path.is_empty() { 0 } else { path.len() + 1 };
        let mut count = 0;
        for (child, entry) in self.below(path) {
            if self.nodes[entry.id.0].is_directory() && !child[skip..].contains(&b'/') {
                count += 1;
            }
        }
        count
    }

    /// Follows links from the absolute `path` to what is not a link, and returns where that is.
    pub fn resolve(&self, path: &[u8]) -> Option<(Vec<u8>, &Node)> {
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut node = None;
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                let parent = at.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                at.truncate(parent);
                node = self.get(&at);
                continue;
            }
            let parent_bytes = at.len();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(&component);
            let found = self.get(&at)?;
            if let Kind::Symlink(target) = &found.kind {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                at.truncate(if target.starts_with(b"/") {
                    0
                } else {
                    parent_bytes
                });
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
                node = self.get(&at);
            } else {
                node = Some(found);
            }
        }
        node.map(|node| (at, node))
    }
}

fn conflict(path: &[u8], present: &'static str, new: &Node) -> TreeError {
    TreeError::Conflict {
        path: shown(path),
        present,
        new: new.what(),
    }
}

/// Where the slashes of a path are.
fn slashes(path: &[u8]) -> impl Iterator<Item = usize> {
    path.iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'/')
        .map(|(at, _)| at)
}

/// The components of a path without those that mean nothing.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
}

/// A path as it is shown: with its `/`, escaped.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).escape_debug())
}

#[cfg(test)]
mod tests;
