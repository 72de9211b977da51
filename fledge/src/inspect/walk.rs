//! Goes through the image of a file system from its root on, and makes a tree of it, whatever the format: paths, hard links, and bounds
//! on all that a hostile image could make large. Knows no format.

use std::collections::HashMap;
use std::io;

use crate::tree::{Kind, MAX_ENTRIES, Node, Tree, TreeError, shown};

/// The longest path that is read, in bytes (`PATH_MAX` of Linux). With no bound, directories in directories would have paths of
/// gigabytes.
const MAX_PATH_BYTES: usize = 4096;

/// The longest name in a directory, in bytes (`NAME_MAX` of Linux).
const MAX_NAME_BYTES: usize = 255;

/// The longest target of a link, in bytes (`PATH_MAX` without the end).
const MAX_TARGET_BYTES: usize = 4095;

/// What an entry takes beside its path, in bytes, about.
const ENTRY_BYTES: usize = 64;

/// The most that is kept in memory, in bytes: paths, links, attributes, and where contents are. A million entries of the usual length
/// have a third of it.
const MAX_HELD_BYTES: u64 = 512 << 20;

/// The most that is read of tables and directories, in bytes, however often the same: a million directories of one block have half of
/// it.
const MAX_READ_BYTES: u64 = 8 << 30;

/// The most that all files have together, in bytes, holes included: reading zeros takes time too.
const MAX_CONTENT_BYTES: u64 = 4 << 40;

/// An image that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What describes the whole image is refused.
    #[error("The image is not read")]
    Superblock(#[source] Flaw),
    /// Something in it is refused.
    #[error("What lies at `{path}` in the image is not read")]
    Inode {
        /// Where it lies.
        path: String,
        /// Why.
        #[source]
        source: Flaw,
    },
    /// What is in it does not fit together.
    #[error("The image contradicts itself")]
    Tree(#[from] TreeError),
}

/// Why an image, or something in it, is refused.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// It uses what is not read.
    #[error("It has {what}, which is not read here")]
    Unsupported {
        /// A clause such as "compressed files".
        what: &'static str,
    },
    /// It makes no sense.
    #[error("It {why}")]
    Damaged {
        /// A clause such as "is of no known type".
        why: &'static str,
    },
    /// It names a place that is not there.
    #[error("It goes on behind the end of the image")]
    Beyond,
    /// There is too much of something.
    #[error("With it, the image has {what}")]
    TooMuch {
        /// A clause such as "more than 4 TiB in its files".
        what: &'static str,
    },
    /// It is compressed and cannot be unpacked.
    #[error("It cannot be decompressed")]
    Unpack(#[source] io::Error),
    /// The file cannot be read.
    #[error("The image cannot be read")]
    Read(#[source] io::Error),
}

/// A clause as an error.
pub(super) fn damaged(why: &'static str) -> Flaw {
    Flaw::Damaged { why }
}

/// What a format does not share with others.
pub(super) trait Inodes {
    /// The inode with this number, which is the image's own. Of a directory, `.` and `..` are left out.
    fn inode(&mut self, number: u64, budget: &mut Budget) -> Result<Found, Flaw>;
}

/// An inode: what it is, and of a directory the names in it with their inodes.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) node: Node,
    pub(super) entries: Vec<(Vec<u8>, u64)>,
}

/// What an image may still take, in bytes.
#[derive(Debug)]
pub(super) struct Budget {
    held: u64,
    read: u64,
    content: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            held: MAX_HELD_BYTES,
            read: MAX_READ_BYTES,
            content: MAX_CONTENT_BYTES,
        }
    }
}

impl Budget {
    /// For what is kept in memory.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Flaw> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let what = "more than 512 MiB of names, links, attributes and pieces";
        take(&mut self.held, bytes, what)
    }

    /// For what is read of tables and directories.
    pub(super) fn read(&mut self, bytes: u64) -> Result<(), Flaw> {
        let what = "more than 8 GiB of tables and directories";
        take(&mut self.read, bytes, what)
    }

    /// For a file's content, however it is stored.
    pub(super) fn content(&mut self, bytes: u64) -> Result<(), Flaw> {
        let what = "more than 4 TiB in its files";
        take(&mut self.content, bytes, what)
    }
}

fn take(left: &mut u64, bytes: u64, what: &'static str) -> Result<(), Flaw> {
    *left = left.checked_sub(bytes).ok_or(Flaw::TooMuch { what })?;
    Ok(())
}

/// Everything from the directory `root` on.
pub(super) fn tree(image: &mut impl Inodes, root: u64) -> Result<Tree, ImageError> {
    let mut tree = Tree::default();
    let mut budget = Budget::default();
    // Nothing for a directory, which has one name only.
    let mut first_names: HashMap<u64, Option<Vec<u8>>> = HashMap::new();
    let mut pending: Vec<(Vec<u8>, u64)> = vec![(Vec::new(), root)];
    while let Some((path, number)) = pending.pop() {
        let refused = |source| ImageError::Inode {
            path: shown(&path),
            source,
        };
        if tree.id(&path).is_some() {
            return Err(refused(damaged("is there twice")));
        }
        match first_names.get(&number) {
            Some(Some(first)) => {
                tree.hard_link(&path, first)?;
                continue;
            }
            // A directory in itself would never end.
            Some(None) => return Err(refused(damaged("is a directory in two places"))),
            None => {}
        }
        let Found { node, entries } = image.inode(number, &mut budget).map_err(refused)?;
        check(&node, &mut budget).map_err(refused)?;
        let is_directory = node.is_directory();
        first_names.insert(number, (!is_directory).then(|| path.clone()));
        tree.replace(&path, node)?;
        if tree.len() + pending.len() + entries.len() > MAX_ENTRIES {
            return Err(TreeError::TooMany.into());
        }
        for (name, child) in entries {
            let child_path = inside(&path, &name, &mut budget).map_err(refused)?;
            pending.push((child_path, child));
        }
    }
    Ok(tree)
}

/// The path of `name` in the directory at `path`.
fn inside(path: &[u8], name: &[u8], budget: &mut Budget) -> Result<Vec<u8>, Flaw> {
    let is_name = !matches!(name, b"" | b"." | b"..")
        && name.len() <= MAX_NAME_BYTES
        && !name.contains(&b'/')
        && !name.contains(&0);
    if !is_name {
        return Err(damaged("has a name in it that no file can have"));
    }
    let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
    let path = [path, separator, name].concat();
    if path.len() > MAX_PATH_BYTES {
        return Err(Flaw::TooMuch {
            what: "a path of more than 4096 bytes",
        });
    }
    budget.hold(path.len() + ENTRY_BYTES)?;
    Ok(path)
}

/// What no format may bring.
fn check(node: &Node, budget: &mut Budget) -> Result<(), Flaw> {
    for (name, value) in &node.attributes.xattrs {
        budget.hold(name.len() + value.len() + ENTRY_BYTES)?;
    }
    match &node.kind {
        Kind::File(content) => budget.content(content.size_bytes()),
        Kind::Symlink(target)
            if target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(&0) =>
        {
            Err(damaged("is a symbolic link to nothing that has a name"))
        }
        Kind::Symlink(target) => budget.hold(target.len()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Content;
    use common::error_chain::Chain;

    /// An image that makes itself up.
    struct Made<F>(F);

    impl<F: FnMut(u64) -> (Kind, Vec<(&'static str, u64)>)> Inodes for Made<F> {
        fn inode(&mut self, number: u64, _: &mut Budget) -> Result<Found, Flaw> {
            let (kind, entries) = (self.0)(number);
            let mut node = Node::directory(0o755);
            node.kind = kind;
            let entries = entries.into_iter();
            let entries = entries
                .map(|(name, number)| (name.as_bytes().to_vec(), number))
                .collect();
            Ok(Found { node, entries })
        }
    }

    fn refused(make: impl FnMut(u64) -> (Kind, Vec<(&'static str, u64)>)) -> String {
        Chain(&tree(&mut Made(make), 0).unwrap_err()).to_string()
    }

    fn file() -> Kind {
        Kind::File(Content::Bytes(b"x".to_vec()))
    }

    #[test]
    fn names_of_one_inode_are_hard_links() {
        let made = |number| match number {
            0 => (Kind::Directory, vec![("a", 1), ("d", 2), ("b", 1)]),
            2 => (Kind::Directory, vec![("c", 1), ("empty", 3)]),
            3 => (Kind::Directory, vec![]),
            _ => (file(), vec![]),
        };
        let tree = tree(&mut Made(made), 0).unwrap();
        let paths: Vec<&[u8]> = tree.iter().map(|item| item.path).collect();
        assert_eq!(paths, [&b"a"[..], b"b", b"d", b"d/c", b"d/empty"]);
        assert_eq!(tree.hard_links().into_values().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_never_ends_or_makes_no_sense_is_a_sentence() {
        let said = refused(|_| (Kind::Directory, vec![("loop", 0)]));
        assert!(
            said.contains("`/loop`") && said.contains("in two places"),
            "{said}"
        );
        let said = refused(|number| (Kind::Directory, vec![("deeper-and-deeper", number + 1)]));
        assert!(said.contains("a path of more than 4096 bytes"), "{said}");
        let said = refused(|_| (file(), vec![]));
        assert!(said.contains("`/` is both"), "{said}");
        for name in ["", ".", "..", "a/b", "a\0"] {
            let said = refused(|_| (Kind::Directory, vec![(name, 1)]));
            assert!(
                said.contains("a name in it that no file can have"),
                "{said}"
            );
        }
        let in_root = |kind: Kind, entries: Vec<(&'static str, u64)>| {
            refused(move |number| match number {
                0 => (Kind::Directory, entries.clone()),
                _ => (kind.clone(), vec![]),
            })
        };
        let said = in_root(file(), vec![("a", 1), ("a", 2)]);
        assert!(
            said.contains("`/a`") && said.contains("is there twice"),
            "{said}"
        );
        for target in [Vec::new(), vec![0], vec![b'x'; 4096]] {
            let said = in_root(Kind::Symlink(target), vec![("a", 1)]);
            assert!(said.contains("nothing that has a name"), "{said}");
        }
    }

    #[test]
    fn what_is_too_large_is_a_sentence() {
        let many: Vec<_> = std::iter::repeat_n(("many", 1), MAX_ENTRIES + 1).collect();
        let said = refused(move |_| (Kind::Directory, many.clone()));
        assert!(said.contains("more than 1000000"), "{said}");
        let mut budget = Budget::default();
        for _ in 0..4 {
            budget.content(1 << 40).unwrap();
            budget.read(2 << 30).unwrap();
            budget.hold(128 << 20).unwrap();
        }
        assert!(budget.content(1).is_err() && budget.read(1).is_err() && budget.hold(1).is_err());
        assert!(budget.content(u64::MAX).is_err());
    }
}
