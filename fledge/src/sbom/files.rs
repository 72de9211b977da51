//! Hashes all files, and looks into the programs among them, on as many threads as there are processors. The result is in the tree's
//! order, whichever thread was first.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::digest::Digest;

use super::{Package, Packages, SbomError, golang, rust, sections};
use crate::image::hashed::Hashed;
use crate::tree::{Content, CopyError, Kind, NodeId, Tree, shown};

/// More threads than this wait for the disk.
const MAX_THREADS: usize = 16;

/// What every ELF program begins with.
const ELF_MAGIC: &[u8; 4] = b"\x7fELF";

/// A regular file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: Vec<u8>,
    pub(super) digest: Digest,
}

/// What is in a file.
struct Examined {
    digest: Digest,
    packages: Vec<Package>,
    /// A compiler's list that is in no known form.
    is_broken: bool,
}

/// Every path of a file, and the packages that the programs name.
pub(super) fn read(
    tree: &Tree,
    packages: &mut Packages,
    is_unwanted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<File>, SbomError> {
    // Of hard links the first stands for all.
    let mut inodes: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut contents: Vec<(&[u8], &Content)> = Vec::new();
    let mut paths = Vec::new();
    for item in tree.iter() {
        if let Kind::File(content) = &item.node.kind {
            let index = *inodes.entry(item.id).or_insert_with(|| {
                contents.push((item.path, content));
                contents.len() - 1
            });
            paths.push((item.path, index));
        }
    }
    let mut examined = Vec::with_capacity(contents.len());
    for ((path, _), result) in contents
        .iter()
        .zip(on_all_processors(&contents, is_unwanted))
    {
        let mut one = result?;
        if one.is_broken {
            packages.warn(format!(
                "What `{}` says about its modules cannot be understood and is left out",
                shown(path)
            ));
        }
        for package in one.packages.drain(..) {
            packages.add(package, Some(path));
        }
        examined.push(one.digest);
    }
    let files = paths.into_iter().filter_map(|(path, index)| {
        let digest = *examined.get(index)?;
        let path = path.to_vec();
        Some(File { path, digest })
    });
    Ok(files.collect())
}

/// What [`examine`] gives for each, in their order.
fn on_all_processors(
    contents: &[(&[u8], &Content)],
    is_unwanted: &(dyn Fn() -> bool + Sync),
) -> Vec<Result<Examined, SbomError>> {
    let threads = thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(MAX_THREADS);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, content)) = contents.get(index) else {
                return done;
            };
            let result = examine(path, content, is_unwanted);
            let has_failed = result.is_err();
            done.push((index, result));
            if has_failed {
                // The others stop too: the first in the tree's order is reported, and all before it were begun.
                next.store(contents.len(), Ordering::Relaxed);
            }
        }
    };
    let mut results: Vec<(usize, Result<Examined, SbomError>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Takes bytes while somebody wants them.
struct Wanted<'a, W> {
    inner: W,
    is_unwanted: &'a (dyn Fn() -> bool + Sync),
}

impl<W: Write> Write for Wanted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.is_unwanted)() {
            return Err(io::ErrorKind::Other.into());
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn examine(
    path: &[u8],
    content: &Content,
    is_unwanted: &(dyn Fn() -> bool + Sync),
) -> Result<Examined, SbomError> {
    if is_unwanted() {
        return Err(SbomError::Interrupted);
    }
    let failed = |source| SbomError::Read {
        path: shown(path),
        source,
    };
    let mut hashed = Wanted {
        inner: Hashed::new(io::sink()),
        is_unwanted,
    };
    content.copy_to(&mut hashed).map_err(|error| match error {
        // Nothing else can be wrong with what goes nowhere.
        CopyError::Write(_) => SbomError::Interrupted,
        CopyError::Read(source) => failed(source),
        CopyError::Changed => SbomError::Changed { path: shown(path) },
    })?;
    let (_, digest) = hashed.inner.finish();
    let mut packages = Vec::new();
    let mut is_broken = false;
    for (section, parse) in named_by_compilers(content).map_err(failed)? {
        match parse(&section) {
            Some(found) => packages.extend(found),
            None => is_broken = true,
        }
    }
    Ok(Examined {
        digest,
        packages,
        is_broken,
    })
}

type Parse = fn(&[u8]) -> Option<Vec<Package>>;

/// The sections in which compilers list what they put in, each with who understands it.
fn named_by_compilers(content: &Content) -> io::Result<Vec<(Vec<u8>, Parse)>> {
    let mut reader = content.open()?;
    let mut magic = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    if magic != ELF_MAGIC {
        return Ok(Vec::new());
    }
    reader.rewind()?;
    let [go, rust] = sections::read(&mut reader, [golang::SECTION, rust::SECTION])?;
    let parsers: [Parse; 2] = [golang::packages, rust::packages];
    let sections = [go, rust].into_iter().zip(parsers);
    Ok(sections
        .filter_map(|(section, parse)| Some((section?, parse)))
        .collect())
}
