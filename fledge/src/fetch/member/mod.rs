//! Puts what was downloaded into a tree: the file itself, a member of the archive that it is, or what is in a directory of it.
//!
//! Archives are recognised by their content, not by their name. Nothing is unpacked but what is named, into one temporary file without
//! a name; so where other members would lie does not matter, and nothing can lead out of the tree. Owners and times of the archive are
//! not taken: they are those of whoever packed it.

mod archive;
mod names;
mod select;
mod tar;
mod zip;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use common::build_spec::{Fetch, MAX_GUEST_PATH_BYTES, Member};

use crate::tree::host::{self, HostError};
use crate::tree::{DIRECTORY_PERMISSIONS, Node, Origin, Tree, TreeError, modes};
use archive::Archive;
use select::{Directory, File, Item, Spool};

/// The most bytes that are taken from one archive. Programs and their libraries have a tenth of it.
pub const MAX_TAKEN_BYTES: u64 = 4 << 30;

/// The most bytes that an archive may unpack to, whether they are taken or not: a bound on the time that a bomb costs.
pub const MAX_UNPACKED_BYTES: u64 = 16 << 30;

/// The most members of an archive. The tree has the same limit.
pub const MAX_MEMBERS: usize = crate::tree::MAX_ENTRIES;

/// Links that are followed from a member to the file that is meant.
const MAX_LINKS: usize = 8;

/// Something that cannot be taken from what was downloaded.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The file cannot be opened.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No known format.
    #[error(
        "`{archive}` is neither a tar archive, plain or compressed with gzip, xz or zstd, nor a zip archive: nothing can be taken out of it"
    )]
    NotAnArchive {
        /// Where it is from.
        archive: String,
    },
    /// Broken, or a variant of the format that is not known.
    #[error("Cannot unpack `{archive}`")]
    Unpack {
        /// Where it is from.
        archive: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A limit is exceeded.
    #[error("`{archive}` has more than {limit} {what}")]
    TooLarge {
        /// Where it is from.
        archive: String,
        /// How many are taken.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// There is no such member.
    #[error("`{archive}` has no `{member}`{others}")]
    Missing {
        /// Where it is from.
        archive: String,
        /// What is missing.
        member: String,
        /// A clause about what there is, with what is in front of it.
        others: String,
    },
    /// The member is something else.
    #[error("`{member}` of `{archive}` is {what}")]
    WrongKind {
        /// Where the archive is from.
        archive: String,
        /// The member.
        member: String,
        /// What it is, and what can be done.
        what: &'static str,
    },
    /// A link leads to nothing in the archive, or in a circle.
    #[error("`{member}` of `{archive}` is a link to no file of the archive")]
    DeadLink {
        /// Where the archive is from.
        archive: String,
        /// The link.
        member: String,
    },
    /// The path in the guest gets too long.
    #[error("`{member}` of `{archive}` is nested too deeply for an image")]
    TooDeep {
        /// Where the archive is from.
        archive: String,
        /// The member.
        member: String,
    },
    /// The temporary file cannot be written.
    #[error("Cannot write a temporary file for what is in `{archive}`")]
    Spool {
        /// Where the archive is from.
        archive: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The member cannot lie where it should.
    #[error("Cannot place `{member}` of `{archive}`")]
    Place {
        /// Where the archive is from.
        archive: String,
        /// The member.
        member: String,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// The file cannot lie where it should.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Puts what `fetch` asks for into `tree`. `file` is what was downloaded; it must stay until the tree is written.
///
/// A single file goes to the path and counts as mapped by itself; a link in the archive is followed to it. What is in a directory goes
/// below the path and counts as the content of a mapped directory; symbolic links stay links. Permissions are those asked for, else
/// what [`modes`] makes of the archive's.
///
/// # Errors
/// Where it is not there, is too large or broken, or something else is in its way.
pub fn place(tree: &mut Tree, file: &Path, fetch: &Fetch) -> Result<(), MemberError> {
    let from = fetch.urls.first().cloned();
    let archive = Archive::new(file, from.unwrap_or_else(|| file.display().to_string()));
    match &fetch.member {
        None => Ok(host::add_file(
            tree,
            file,
            &fetch.path,
            fetch.mode,
            Origin::File,
        )?),
        Some(Member::File(member)) => place_file(tree, &archive, member, fetch),
        Some(Member::Directory(member)) => place_directory(tree, &archive, member, fetch),
    }
}

fn place_file(
    tree: &mut Tree,
    archive: &Archive<'_>,
    member: &str,
    fetch: &Fetch,
) -> Result<(), MemberError> {
    let mut spool = Spool::default();
    let mut wanted = member.as_bytes().to_vec();
    for links in 0..=MAX_LINKS {
        let mut file = File::new(&wanted, &mut spool);
        archive.scan(&mut file)?;
        let next = match file.found() {
            Some(Item::File {
                content,
                permissions,
            }) => {
                let permissions = fetch
                    .mode
                    .unwrap_or_else(|| modes::file_permissions(permissions, &fetch.path));
                let node = Node::file(permissions, content);
                return tree
                    .insert(&fetch.path, node, Origin::File)
                    .map_err(|source| archive.unplaced(member.as_bytes(), source));
            }
            Some(Item::HardLink(target)) => target,
            Some(Item::Symlink(target)) => names::follow(&wanted, &target),
            Some(Item::Directory) => {
                return Err(archive.wrong_kind(
                    member.as_bytes(),
                    "a directory; end it with `/` to take what is in it",
                ));
            }
            Some(Item::Other(what)) => {
                return Err(archive.wrong_kind(member.as_bytes(), what));
            }
            None if links == 0 => return Err(archive.missing(member, &file.names)),
            None => None,
        };
        wanted = next.ok_or_else(|| archive.dead_link(member.as_bytes()))?;
    }
    Err(archive.dead_link(member.as_bytes()))
}

fn place_directory(
    tree: &mut Tree,
    archive: &Archive<'_>,
    member: &str,
    fetch: &Fetch,
) -> Result<(), MemberError> {
    let mut spool = Spool::default();
    let mut directory = Directory::new(member.as_bytes(), &mut spool);
    archive.scan(&mut directory)?;
    if let Some(what) = directory.is_no_directory() {
        return Err(archive.wrong_kind(member.as_bytes(), what));
    }
    if directory.items.is_empty() && !directory.is_there {
        return Err(archive.missing(&format!("{member}/"), &directory.names));
    }
    let items = directory.resolve(archive)?;
    let top = fetch.path.in_archive().as_bytes();
    insert(
        tree,
        archive,
        (member.as_bytes(), top),
        Node::directory(DIRECTORY_PERMISSIONS),
    )?;
    for (inner, item) in items {
        let path = names::join(top, &inner);
        let name = names::join(member.as_bytes(), &inner);
        if path.len() >= MAX_GUEST_PATH_BYTES {
            return Err(archive.too_deep(&name));
        }
        let node = match item {
            Item::Directory => Node::directory(DIRECTORY_PERMISSIONS),
            Item::Symlink(target) => Node::symlink(target),
            Item::File {
                content,
                permissions,
            } => {
                let absolute = [b"/", path.as_slice()].concat();
                let permissions = fetch
                    .mode
                    .unwrap_or_else(|| modes::permissions(permissions, &absolute));
                Node::file(permissions, content)
            }
            Item::HardLink(_) => return Err(archive.dead_link(&name)),
            Item::Other(what) => return Err(archive.wrong_kind(&name, what)),
        };
        insert(tree, archive, (&name, &path), node)?;
    }
    Ok(())
}

fn insert(
    tree: &mut Tree,
    archive: &Archive<'_>,
    (member, path): (&[u8], &[u8]),
    node: Node,
) -> Result<(), MemberError> {
    tree.insert_bytes(path, node, Origin::Directory)
        .map_err(|source| archive.unplaced(member, source))
}
