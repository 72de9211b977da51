//! Why two trees are not the same: what is only in one, and what changed how. Compares contents byte by byte, and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read};

use serde::Serialize;

use crate::tree::{Attributes, Content, Device, Item, Kind, Node, NodeId, Tree, shown};

/// How much of two contents is compared at once, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path, with its `/`.
    pub path: String,
    /// What is different.
    pub change: Change,
}

/// How something differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is in the second tree only.
    Added,
    /// It is in the first tree only.
    Removed,
    /// It is in both.
    Changed(Vec<Aspect>),
}

/// What about it differs, with the first tree's value and the second's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// What it is.
    Kind(&'static str, &'static str),
    /// Its permissions, in octal digits.
    Mode(String, String),
    /// Owner and group, as `uid:gid`.
    Owner(String, String),
    /// When it was changed last, in seconds since 1970.
    Time(i64, i64),
    /// The number of bytes.
    Size(u64, u64),
    /// The bytes, the first that differs being this one.
    Content(u64),
    /// Where it points.
    Target(String, String),
    /// The number of a device, as `major:minor`.
    Device(String, String),
    /// The name of an extended attribute.
    Xattr(String),
    /// Its other names: it has become a hard link of others, or is none any more.
    HardLink,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(a, b) => write!(f, "{a} became {b}"),
            Self::Mode(a, b) => write!(f, "mode {a} → {b}"),
            Self::Owner(a, b) => write!(f, "owner {a} → {b}"),
            Self::Time(a, b) => write!(f, "time {a} → {b}"),
            Self::Size(a, b) => write!(f, "size {a} → {b} bytes"),
            Self::Content(at) => write!(f, "content, from byte {at} on"),
            Self::Target(a, b) => write!(f, "target {a} → {b}"),
            Self::Device(a, b) => write!(f, "device {a} → {b}"),
            Self::Xattr(name) => write!(f, "extended attribute {name}"),
            Self::HardLink => f.write_str("hard links"),
        }
    }
}

/// A content that cannot be compared.
#[derive(Debug, thiserror::Error)]
#[error("Cannot read `{path}`")]
pub struct CompareError {
    path: String,
    #[source]
    source: io::Error,
}

/// All differences, by path.
///
/// # Errors
/// Where a content cannot be read.
pub fn compare(first: &Tree, second: &Tree) -> Result<Vec<Difference>, CompareError> {
    let mut differences = Vec::new();
    let root = attributes(first.root(), second.root());
    if !root.is_empty() {
        differences.push(changed(b"", root));
    }
    let of_second: BTreeMap<&[u8], Item<'_>> =
        second.iter().map(|item| (item.path, item)).collect();
    let of_first: BTreeMap<&[u8], Item<'_>> = first.iter().map(|item| (item.path, item)).collect();
    let (first_names, second_names) = (first_names(first), first_names(second));
    let paths: BTreeSet<&[u8]> = of_first.keys().chain(of_second.keys()).copied().collect();
    let mut compared: BTreeSet<(NodeId, NodeId)> = BTreeSet::new();
    for path in paths {
        let (a, b) = match (of_first.get(path), of_second.get(path)) {
            (Some(a), Some(b)) => (a, b),
            (one, _) => {
                let change = if one.is_some() {
                    Change::Removed
                } else {
                    Change::Added
                };
                let path = shown(path);
                differences.push(Difference { path, change });
                continue;
            }
        };
        let mut aspects = Vec::new();
        if first_names.get(&a.id) != second_names.get(&b.id) {
            aspects.push(Aspect::HardLink);
        }
        // What was said at one name of an inode is not said at the others.
        if compared.insert((a.id, b.id)) {
            let more = nodes(a.node, b.node).map_err(|source| CompareError {
                path: shown(path),
                source,
            })?;
            aspects.extend(more);
        }
        if !aspects.is_empty() {
            differences.push(changed(path, aspects));
        }
    }
    Ok(differences)
}

fn changed(path: &[u8], aspects: Vec<Aspect>) -> Difference {
    Difference {
        path: shown(path),
        change: Change::Changed(aspects),
    }
}

/// The first path of each inode that has several.
fn first_names(tree: &Tree) -> BTreeMap<NodeId, &[u8]> {
    let links = tree.hard_links();
    let mut names = BTreeMap::new();
    for item in tree.iter().filter(|item| links.contains_key(&item.id)) {
        names.entry(item.id).or_insert(item.path);
    }
    names
}

fn nodes(a: &Node, b: &Node) -> io::Result<Vec<Aspect>> {
    let mut aspects = Vec::new();
    match (&a.kind, &b.kind) {
        (Kind::File(a), Kind::File(b)) if a.size_bytes() != b.size_bytes() => {
            aspects.push(Aspect::Size(a.size_bytes(), b.size_bytes()));
        }
        (Kind::File(a), Kind::File(b)) => {
            aspects.extend(first_difference(a, b)?.map(Aspect::Content));
        }
        (Kind::Symlink(a), Kind::Symlink(b)) if a != b => {
            aspects.push(Aspect::Target(text(a), text(b)));
        }
        (Kind::CharacterDevice(a), Kind::CharacterDevice(b))
        | (Kind::BlockDevice(a), Kind::BlockDevice(b))
            if a != b =>
        {
            let number = |device: &Device| format!("{}:{}", device.major, device.minor);
            aspects.push(Aspect::Device(number(a), number(b)));
        }
        (one, other) if std::mem::discriminant(one) != std::mem::discriminant(other) => {
            aspects.push(Aspect::Kind(a.what(), b.what()));
        }
        _ => {}
    }
    aspects.extend(attributes(&a.attributes, &b.attributes));
    Ok(aspects)
}

fn attributes(a: &Attributes, b: &Attributes) -> Vec<Aspect> {
    let mut aspects = Vec::new();
    if a.permissions != b.permissions {
        let octal = |permissions| format!("{permissions:04o}");
        aspects.push(Aspect::Mode(octal(a.permissions), octal(b.permissions)));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        let owner = |attributes: &Attributes| format!("{}:{}", attributes.uid, attributes.gid);
        aspects.push(Aspect::Owner(owner(a), owner(b)));
    }
    if a.mtime_s != b.mtime_s {
        aspects.push(Aspect::Time(a.mtime_s, b.mtime_s));
    }
    let names: BTreeSet<&Vec<u8>> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
    let differing = names
        .into_iter()
        .filter(|&name| a.xattrs.get(name) != b.xattrs.get(name));
    aspects.extend(differing.map(|name| Aspect::Xattr(text(name))));
    aspects
}

/// Where two contents of one length differ first.
fn first_difference(a: &Content, b: &Content) -> io::Result<Option<u64>> {
    let size_bytes = a.size_bytes();
    let (mut a, mut b) = (a.open()?.take(size_bytes), b.open()?.take(size_bytes));
    let mut at = 0;
    let (mut left, mut right) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let (left, right) = (fill(&mut a, &mut left)?, fill(&mut b, &mut right)?);
        let differing = left
            .iter()
            .zip(right)
            .position(|(left, right)| left != right);
        if let Some(index) = differing {
            return Ok(Some(at + u64::try_from(index).unwrap_or(0)));
        }
        if left.len() != right.len() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if left.is_empty() {
            return Ok(None);
        }
        at += u64::try_from(left.len()).unwrap_or(0);
    }
}

/// As much as `buffer` holds, or there is.
fn fill<'a>(reader: &mut impl Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..filled])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(change: impl FnOnce(&mut Tree)) -> Tree {
        let mut tree = Tree::default();
        let file = |text: &str| Node::file(0o644, Content::Bytes(text.into()));
        tree.replace(b"a", file("same")).unwrap();
        tree.replace(b"d/b", file("bytes")).unwrap();
        tree.replace(b"link", Node::symlink("a")).unwrap();
        change(&mut tree);
        tree
    }

    fn differences(change: impl FnOnce(&mut Tree)) -> Vec<String> {
        let found = compare(&tree(|_| {}), &tree(change)).unwrap();
        found
            .into_iter()
            .map(|Difference { path, change }| match change {
                Change::Added => format!("+{path}"),
                Change::Removed => format!("-{path}"),
                Change::Changed(aspects) => {
                    let aspects: Vec<_> = aspects.iter().map(Aspect::to_string).collect();
                    format!("{path}: {}", aspects.join(", "))
                }
            })
            .collect()
    }

    #[test]
    fn the_same_trees_do_not_differ() {
        assert_eq!(differences(|_| {}), [""; 0]);
        // Nor do they where the inodes were made in another order.
        let file = Node::file(0o644, Content::Bytes(b"same".to_vec()));
        assert_eq!(
            differences(|tree| tree.replace(b"a", file).unwrap()),
            [""; 0]
        );
    }

    #[test]
    fn every_aspect_is_named() {
        let found = differences(|tree| {
            tree.remove(b"link");
            tree.replace(b"new", Node::directory(0o755)).unwrap();
            let mut node = Node::file(0o4755, Content::Bytes(b"bytEs".to_vec()));
            node.attributes.uid = 5;
            node.attributes.mtime_s = 7;
            node.attributes.xattrs.insert(b"user.x".to_vec(), vec![1]);
            tree.replace(b"d/b", node).unwrap();
            tree.replace(b"a", Node::symlink("x")).unwrap();
            let mut root = Node::directory(0o700);
            root.attributes.gid = 1;
            tree.replace(b"", root).unwrap();
        });
        assert_eq!(
            found,
            [
                "/: mode 0755 → 0700, owner 0:0 → 0:1",
                "/a: a file became a symbolic link, mode 0644 → 0777",
                "/d/b: content, from byte 3 on, mode 0644 → 4755, owner 0:0 → 5:0, time 0 → 7, extended attribute user.x",
                "-/link",
                "+/new",
            ]
        );
    }

    #[test]
    fn sizes_targets_devices_and_hard_links_are_compared() {
        let found = differences(|tree| {
            tree.replace(b"link", Node::symlink("b")).unwrap();
            tree.hard_link(b"d/b", b"a").unwrap();
        });
        assert_eq!(
            found,
            [
                "/a: hard links",
                "/d/b: hard links, size 5 → 4 bytes",
                "/link: target a → b",
            ]
        );
        let device = |minor| {
            let mut tree = Tree::default();
            let kind = Kind::CharacterDevice(Device { major: 1, minor });
            let attributes = Attributes::new(0o666);
            tree.replace(b"null", Node { attributes, kind }).unwrap();
            tree
        };
        let found = compare(&device(3), &device(5)).unwrap();
        assert_eq!(
            found[0].change,
            Change::Changed(vec![Aspect::Device("1:3".to_owned(), "1:5".to_owned())])
        );
    }
}
