//! What is worth knowing about an artifact, as plain data: how much of what is in it, whether a VM could start it, and what it costs.

use std::collections::{BTreeMap, HashSet};

use common::digest::Digest;
use common::error_chain::Chain;
use common::manifest::Manifest;
use serde::Serialize;

use super::{Artifact, Format, Packing};
use crate::budget::{self, Cost, Sizes};
use crate::tree::{Item, Kind, NodeId, Tree, shown};
use crate::workload::{self, WorkloadError};

/// How many of the largest files and directories are named.
const LARGEST: usize = 10;

/// Where every image has the agent.
const AGENT: &[u8] = b"bin/kestrel";

/// What the kernel starts in an initramfs.
const INIT: &[u8] = b"init";

/// What is known of an artifact.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What it is.
    pub format: Format,
    /// How it is compressed.
    pub packing: Packing,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its digest.
    pub digest: Digest,
    /// How many entries of each kind it has.
    pub entries: Counts,
    /// The bytes of all files; hard links count once.
    pub content_bytes: u64,
    /// The largest files, the largest first.
    pub largest_files: Vec<Sized>,
    /// The largest directories with all that is in them, the largest first.
    pub largest_directories: Vec<Sized>,
    /// Where `/init` leads, if it leads anywhere.
    pub init: Option<String>,
    /// Whether `/bin/kestrel` is a file.
    pub has_agent: bool,
    /// What the manifest beside it would start.
    pub workload: Option<Workload>,
    /// Programs that would not start for want of their loader.
    pub without_loader: Vec<WithoutLoader>,
    /// What it costs at each boot, by boot media.
    pub budget: [Cost; 5],
}

/// How many entries there are.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Of all kinds.
    pub all: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Devices, named pipes and sockets.
    pub special: u64,
}

/// A path and how much it takes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Sized {
    /// The path, with its `/`.
    pub path: String,
    /// The size, in bytes.
    pub size_bytes: u64,
}

/// What would be started.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Program and arguments.
    pub entrypoint: Vec<String>,
    /// Why it would not start.
    pub problem: Option<String>,
}

/// A program and what it needs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct WithoutLoader {
    /// The program's path.
    pub path: String,
    /// Its loader's, which is not there.
    pub loader: String,
}

/// Looks through `artifact`, and at the workload of `manifest` if there is one beside it.
///
/// # Errors
/// Where a file in it cannot be read.
pub fn compose(artifact: &Artifact, manifest: Option<&Manifest>) -> Result<Report, WorkloadError> {
    let tree = &artifact.tree;
    let without_loader = workload::without_loader(tree)?;
    Ok(Report {
        format: artifact.format,
        packing: artifact.packing,
        size_bytes: artifact.size_bytes,
        digest: artifact.digest,
        entries: count(tree),
        content_bytes: tree.content_bytes(),
        largest_files: largest_files(tree),
        largest_directories: largest_directories(tree),
        init: tree.resolve(INIT).map(|(path, _)| shown(&path)),
        has_agent: tree
            .resolve(AGENT)
            .is_some_and(|(_, node)| matches!(node.kind, Kind::File(_))),
        workload: manifest.map(|manifest| Workload {
            entrypoint: manifest.workload.entrypoint.clone(),
            problem: workload::check(tree, &manifest.workload)
                .err()
                .map(|error| Chain(&error).to_string()),
        }),
        without_loader: without_loader
            .into_iter()
            .map(|(path, loader)| WithoutLoader { path, loader })
            .collect(),
        budget: budget::estimate(&Sizes::of(tree)),
    })
}

fn count(tree: &Tree) -> Counts {
    let mut counts = Counts::default();
    for item in tree.iter() {
        counts.all += 1;
        match item.node.kind {
            Kind::File(_) => counts.files += 1,
            Kind::Directory => counts.directories += 1,
            Kind::Symlink(_) => counts.links += 1,
            Kind::CharacterDevice(_) | Kind::BlockDevice(_) | Kind::Fifo | Kind::Socket => {
                counts.special += 1;
            }
        }
    }
    counts
}

/// All files that take room: of hard links the first.
fn sizes(tree: &Tree) -> impl Iterator<Item = (Item<'_>, u64)> {
    let mut seen: HashSet<NodeId> = HashSet::new();
    tree.iter().filter_map(move |item| match &item.node.kind {
        Kind::File(content) if seen.insert(item.id) => Some((item, content.size_bytes())),
        _ => None,
    })
}

fn largest_files(tree: &Tree) -> Vec<Sized> {
    let files = sizes(tree).map(|(item, size_bytes)| (item.path, size_bytes));
    largest(files.collect())
}

fn largest_directories(tree: &Tree) -> Vec<Sized> {
    let mut directories: BTreeMap<&[u8], u64> = BTreeMap::new();
    for (item, size_bytes) in sizes(tree) {
        let slashes = item.path.iter().enumerate();
        for (at, _) in slashes.filter(|&(_, &byte)| byte == b'/') {
            let sum = directories.entry(&item.path[..at]).or_default();
            *sum = sum.saturating_add(size_bytes);
        }
    }
    largest(directories.into_iter().collect())
}

fn largest(mut paths: Vec<(&[u8], u64)>) -> Vec<Sized> {
    // Of the same size the first by name: the order does not depend on chance.
    paths.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let paths = paths.into_iter().filter(|(_, size_bytes)| *size_bytes > 0);
    paths
        .take(LARGEST)
        .map(|(path, size_bytes)| Sized {
            path: shown(path),
            size_bytes,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Node};

    #[test]
    fn sizes_are_summed_and_sorted() {
        let mut tree = Tree::default();
        let file = |bytes| Node::file(0o644, Content::Bytes(vec![0; bytes]));
        for (path, bytes) in [("usr/bin/a", 10), ("usr/b", 30), ("c", 20), ("etc/d", 0)] {
            tree.replace(path.as_bytes(), file(bytes)).unwrap();
        }
        tree.hard_link(b"usr/bin/z", b"usr/bin/a").unwrap();
        tree.replace(b"link", Node::symlink("c")).unwrap();
        let sized = |list: Vec<Sized>| -> Vec<(String, u64)> {
            list.into_iter()
                .map(|one| (one.path, one.size_bytes))
                .collect()
        };
        let expected = |list: &[(&str, u64)]| -> Vec<(String, u64)> {
            list.iter()
                .map(|&(path, bytes)| (path.to_owned(), bytes))
                .collect()
        };
        assert_eq!(
            sized(largest_files(&tree)),
            expected(&[("/usr/b", 30), ("/c", 20), ("/usr/bin/a", 10)])
        );
        assert_eq!(
            sized(largest_directories(&tree)),
            expected(&[("/usr", 40), ("/usr/bin", 10)])
        );
        let counts = Counts {
            all: 9,
            files: 5,
            directories: 3,
            links: 1,
            special: 0,
        };
        assert_eq!(count(&tree), counts);
    }
}
