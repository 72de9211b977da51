//! A cpio archive as a tree, as Linux would unpack it (`init/initramfs.c`). The archive may come from anywhere.
//!
//! Later entries replace earlier ones, links in the middle of a path are followed, and a hard link's content is that of whichever of
//! its names carries one. Unlike Linux it makes directories that no entry brings, where Linux would leave out what is in them.

use std::collections::HashMap;
use std::io::{self, Read};

use super::Spool;
use crate::image::cpio::{self, Entry, Limits, ReadError, read_entries};
use crate::tree::{Attributes, Content, Device, Kind, Node, Tree, TreeError};

/// An archive that cannot be read as a tree.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// It is refused.
    #[error("The initramfs is damaged")]
    Archive(#[from] ReadError),
    /// What is in it does not fit together.
    #[error("The initramfs contradicts itself")]
    Tree(#[from] TreeError),
    /// Its contents cannot be kept.
    #[error("Cannot keep what is in the initramfs")]
    Spool(#[source] io::Error),
}

/// An entry, its content put aside.
struct Kept {
    entry: Entry,
    content: Content,
}

/// Reads all archives that `reader` gives, one after the other, not compressed; contents go to `spool`.
///
/// # Errors
/// The first thing that is wrong.
pub fn read_cpio(reader: impl Read, limits: &Limits, spool: &mut Spool) -> Result<Tree, CpioError> {
    let mut kept: Vec<Kept> = Vec::new();
    read_entries(reader, limits, |entry, content| {
        let content = if entry.size_bytes == 0 {
            Content::Bytes(Vec::new())
        } else {
            spool.keep(content).map_err(CpioError::Spool)?
        };
        let entry = entry.clone();
        kept.push(Kept { entry, content });
        Ok::<_, CpioError>(())
    })?;
    let groups = link_groups(&kept);
    let mut tree = Tree::default();
    let mut first_names: HashMap<usize, Vec<u8>> = HashMap::new();
    for (index, group) in groups.iter().enumerate() {
        let entry = &kept[index].entry;
        let path = through_links(&tree, &entry.path);
        if let Some(first) = first_names.get(group) {
            // The first name may be something else by now; then this is a file of its own, as it has been since.
            match tree.hard_link(&path, first) {
                Ok(()) => continue,
                Err(TreeError::HardLink { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let content = kept[*group].content.clone();
        tree.replace(&path, node(entry, content))?;
        if entry.kind != cpio::Kind::Directory {
            first_names.insert(*group, path);
        }
    }
    Ok(tree)
}

/// For each entry, which one carries its content: itself, or of hard links the last one that has any.
fn link_groups(kept: &[Kept]) -> Vec<usize> {
    /// Names of an inode that were seen, out of as many as it has.
    struct Open {
        members: Vec<usize>,
        links: usize,
    }
    let mut groups: Vec<usize> = (0..kept.len()).collect();
    let mut open: HashMap<u32, Open> = HashMap::new();
    let mut close = |members: &[usize]| {
        let carrier = members
            .iter()
            .rfind(|&&member| kept[member].entry.size_bytes > 0)
            .or(members.last());
        for &member in members {
            groups[member] = carrier.copied().unwrap_or(member);
        }
    };
    for (index, Kept { entry, .. }) in kept.iter().enumerate() {
        if entry.links < 2 || entry.kind == cpio::Kind::Directory {
            continue;
        }
        let links = usize::try_from(entry.links).unwrap_or(usize::MAX);
        let group = open.entry(entry.inode).or_insert_with(|| Open {
            members: Vec::new(),
            links,
        });
        group.members.push(index);
        // The next archive counts its inodes anew.
        if group.members.len() >= group.links
            && let Some(group) = open.remove(&entry.inode)
        {
            close(&group.members);
        }
    }
    for group in open.values() {
        close(&group.members);
    }
    groups
}

/// `path` with the links above it followed. One that leads nowhere stays, and gives way to a directory.
fn through_links(tree: &Tree, path: &[u8]) -> Vec<u8> {
    let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
        return path.to_vec();
    };
    let (parent, name) = path.split_at(slash);
    match tree.resolve(parent) {
        Some((at, node)) if node.is_directory() => [at.as_slice(), name].concat(),
        _ => path.to_vec(),
    }
}

fn node(entry: &Entry, content: Content) -> Node {
    let (major, minor) = entry.device;
    let device = Device { major, minor };
    let kind = match &entry.kind {
        cpio::Kind::Directory => Kind::Directory,
        cpio::Kind::File => Kind::File(content),
        cpio::Kind::Symlink { target } => Kind::Symlink(target.clone()),
        cpio::Kind::CharacterDevice => Kind::CharacterDevice(device),
        cpio::Kind::BlockDevice => Kind::BlockDevice(device),
        cpio::Kind::Fifo => Kind::Fifo,
        cpio::Kind::Socket => Kind::Socket,
    };
    let mut attributes = Attributes::new(entry.permissions);
    attributes.uid = entry.uid;
    attributes.gid = entry.gid;
    attributes.mtime_s = i64::from(entry.mtime);
    Node { attributes, kind }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::image::initramfs;

    fn read(archive: &[u8]) -> Result<Tree, CpioError> {
        let mut spool = Spool::new(tempfile::tempfile().unwrap());
        read_cpio(archive, &Limits::default(), &mut spool)
    }

    fn text(tree: &Tree, path: &str) -> String {
        let Some(Kind::File(content)) = tree.get(path.as_bytes()).map(|node| &node.kind) else {
            return format!("no file at {path}");
        };
        let mut bytes = Vec::new();
        content.copy_to(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn file(text: &str) -> Node {
        Node::file(0o644, Content::Bytes(text.into()))
    }

    fn archive(build: impl FnOnce(&mut Tree)) -> Vec<u8> {
        let mut tree = Tree::default();
        build(&mut tree);
        initramfs::write(&tree, Vec::new()).unwrap()
    }

    #[test]
    fn what_was_written_comes_back() {
        let written = archive(|tree| {
            let mut owned = file("content");
            owned.attributes = Attributes {
                permissions: 0o4755,
                uid: 7,
                gid: 8,
                mtime_s: 9,
                ..Attributes::default()
            };
            tree.replace(b"b/file", owned).unwrap();
            tree.hard_link(b"a", b"b/file").unwrap();
            tree.replace(b"link", Node::symlink("a")).unwrap();
            tree.replace(b"empty", file("")).unwrap();
            let null = Kind::CharacterDevice(Device { major: 1, minor: 3 });
            let node = Node {
                attributes: Attributes::new(0o666),
                kind: null,
            };
            tree.replace(b"dev/null", node).unwrap();
        });
        let tree = read(&written).unwrap();
        assert_eq!(text(&tree, "b/file"), "content");
        assert_eq!(text(&tree, "a"), "content");
        assert_eq!(text(&tree, "empty"), "");
        let links: Vec<u32> = tree.hard_links().into_values().collect();
        assert_eq!(links, [2]);
        let attributes = &tree.get(b"a").unwrap().attributes;
        assert_eq!((attributes.permissions, attributes.uid), (0o4755, 7));
        // The best proof: it is written as it was.
        assert_eq!(initramfs::write(&tree, Vec::new()).unwrap(), written);
    }

    #[test]
    fn later_archives_replace_and_their_inodes_are_their_own() {
        let first = archive(|tree| {
            tree.replace(b"app", file("old")).unwrap();
            tree.replace(b"x", file("first")).unwrap();
            tree.hard_link(b"y", b"x").unwrap();
            tree.replace(b"usr/lib/a", file("a")).unwrap();
            tree.replace(b"lib", Node::symlink("usr/lib")).unwrap();
        });
        let second = archive(|tree| {
            tree.replace(b"app", file("new")).unwrap();
            tree.replace(b"p", file("second")).unwrap();
            tree.hard_link(b"q", b"p").unwrap();
            tree.replace(b"lib/b", file("b")).unwrap();
        });
        let tree = read(&[first, second].concat()).unwrap();
        for (path, expected) in [
            ("app", "new"),
            ("y", "first"),
            ("q", "second"),
            ("usr/lib/a", "a"),
        ] {
            assert_eq!(text(&tree, path), expected, "{path}");
        }
        // The second brings a directory where the first had a link: it takes the link's place.
        assert_eq!(text(&tree, "lib/b"), "b");
        assert_eq!(tree.hard_links().len(), 2);
    }

    #[test]
    fn damage_is_refused() {
        let whole = archive(|tree| tree.replace(b"app", file("x")).unwrap());
        for bytes in [&b""[..], b"text", &whole[..150]] {
            assert!(matches!(read(bytes), Err(CpioError::Archive(_))));
        }
        let mut spool = Spool::new(tempfile::tempfile().unwrap());
        let limits = Limits {
            bytes: 100,
            ..Limits::default()
        };
        assert!(read_cpio(&whole[..], &limits, &mut spool).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(at in 0..900_usize, bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let mut whole = archive(|tree| {
                tree.replace(b"b/file", file("content")).unwrap();
                tree.hard_link(b"a", b"b/file").unwrap();
                tree.replace(b"link", Node::symlink("b")).unwrap();
            });
            let end = whole.len().min(at + bytes.len());
            let at = at.min(end);
            whole[at..end].copy_from_slice(&bytes[..end - at]);
            drop(read(&whole));
        }
    }
}
