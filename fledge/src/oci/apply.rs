//! Applies the entries of a layer to a tree. Links above an entry are followed inside the tree, as container engines do; nothing leads
//! out of it, and nothing of the host is looked at.
//!
//! A whiteout hides what the layers below brought, never what its own layer brings, whichever comes first in the archive.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::budget::Budget;
use super::layer::{Entry, EntryKind, LayerError, shown};
use crate::tree::{Content, Kind, Node, Tree, TreeError};

/// Links followed before a path counts as a loop, as in Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// The longest path after its links are followed, in bytes: Linux's `PATH_MAX` without its NUL.
const MAX_PATH_BYTES: usize = 4095;

/// Applies a layer's entries in their order. `content` makes the content from its place in the layer's archive.
///
/// # Errors
/// The first entry that cannot be applied; the tree is of no use then.
pub(super) fn apply(
    tree: &mut Tree,
    entries: Vec<Entry>,
    content: impl Fn(u64, u64) -> Content,
    budget: &Budget,
) -> Result<(), LayerError> {
    let hides = |entry: &Entry| matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque);
    let mut layer = Application {
        tree,
        budget,
        // Only whiteouts want to know.
        own: entries.iter().any(hides).then(BTreeSet::new),
    };
    for entry in entries {
        layer.apply(entry, &content)?;
    }
    Ok(())
}

struct Application<'a> {
    tree: &'a mut Tree,
    budget: &'a Budget,
    /// Where the layer put something, and all directories above.
    own: Option<BTreeSet<Vec<u8>>>,
}

impl Application<'_> {
    fn apply(
        &mut self,
        entry: Entry,
        content: &impl Fn(u64, u64) -> Content,
    ) -> Result<(), LayerError> {
        let Entry {
            path: named,
            attributes,
            kind,
        } = entry;
        let path = self.locate(&named, &named)?;
        let kind = match kind {
            EntryKind::Whiteout => {
                self.hide_below(&path);
                if !self.is_own(&path) {
                    self.tree.remove(&path);
                }
                return Ok(());
            }
            EntryKind::Opaque => {
                // The directory itself may be a link in a layer below.
                let directory = self.locate(&[&named, &b"/x"[..]].concat(), &named)?;
                self.hide_below(directory.strip_suffix(b"/x").unwrap_or_default());
                return Ok(());
            }
            EntryKind::HardLink(target) => {
                let target = self.locate(&target, &named)?;
                self.make_parents(&path)?;
                let linked = self.tree.hard_link(&path, &target);
                linked.map_err(|source| placed(&named, source))?;
                self.claim(&path);
                return Ok(());
            }
            EntryKind::Directory => Kind::Directory,
            EntryKind::File { offset, size_bytes } => Kind::File(content(offset, size_bytes)),
            EntryKind::Symlink(target) => Kind::Symlink(target),
            EntryKind::CharacterDevice(device) => Kind::CharacterDevice(device),
            EntryKind::BlockDevice(device) => Kind::BlockDevice(device),
            EntryKind::Fifo => Kind::Fifo,
        };
        self.make_parents(&path)?;
        let node = Node { attributes, kind };
        let replaced = self.tree.replace(&path, node);
        replaced.map_err(|source| placed(&named, source))?;
        self.claim(&path);
        Ok(())
    }

    /// Where `path` is once the links above its last component are followed. What does not exist leads where it is named.
    fn locate(&self, path: &[u8], entry: &[u8]) -> Result<Vec<u8>, LayerError> {
        let refused = |problem| LayerError::Entry {
            entry: shown(entry),
            problem,
        };
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => return Ok(path.to_vec()),
        };
        let mut rest: Vec<&[u8]> = components(parent).rev().collect();
        let mut at = Vec::with_capacity(path.len());
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                up(&mut at);
                continue;
            }
            let above_bytes = at.len();
            down(&mut at, component);
            if at.len() > MAX_PATH_BYTES {
                return Err(refused("has a path of more than 4095 bytes behind a link"));
            }
            if let Some(Kind::Symlink(target)) = self.tree.get(&at).map(|node| &node.kind) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(refused("lies behind links that go round in a circle"));
                }
                at.truncate(if target.starts_with(b"/") {
                    0
                } else {
                    above_bytes
                });
                rest.extend(components(target).rev());
            }
        }
        down(&mut at, name);
        Ok(at)
    }

    /// Counts the directories that will be made above `path`: their names cost memory too.
    fn make_parents(&self, path: &[u8]) -> Result<(), LayerError> {
        let mut above = path;
        while let Some(slash) = above.iter().rposition(|&byte| byte == b'/') {
            above = &above[..slash];
            if self.tree.get(above).is_some() {
                break;
            }
            self.budget.take_name(above.len())?;
        }
        Ok(())
    }

    fn claim(&mut self, path: &[u8]) {
        if let Some(own) = &mut self.own {
            let mut end = path.len();
            while own.insert(path[..end].to_vec()) {
                match path[..end].iter().rposition(|&byte| byte == b'/') {
                    Some(slash) => end = slash,
                    None => break,
                }
            }
        }
    }

    fn is_own(&self, path: &[u8]) -> bool {
        self.own.as_ref().is_some_and(|own| own.contains(path))
    }

    /// Removes what the layers below have in the directory at `path`.
    fn hide_below(&mut self, path: &[u8]) {
        let own = self.own.take().unwrap_or_default();
        self.tree.retain_below(path, |path| own.contains(path));
        self.own = Some(own);
    }
}

fn placed(entry: &[u8], source: TreeError) -> LayerError {
    LayerError::Place {
        entry: shown(entry),
        source: Box::new(source),
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
}

fn up(path: &mut Vec<u8>) {
    let parent_bytes = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    path.truncate(parent_bytes);
}

fn down(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}
