//! Takes a guest's archive apart on this host. The guest is hostile: nothing is written outside of the target, through no link, and what is
//! made has no more rights than a file of the user: the umask takes its part of every mode, and nothing is set-user-ID, set-group-ID or
//! sticky. A directory that was there keeps its mode.

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use tar::Archive;

use super::member::{Kind, Member, MemberError, Members};

/// The bits of a mode that are taken from a guest (inode(7)): read, write and execute.
const PERMISSIONS: u32 = 0o777;

/// The most members: a whole root file system has a tenth of it.
const MAX_MEMBERS: u64 = 2_000_000;

/// The most bytes of files: more than any disk of a VM that somebody copies by hand.
const MAX_BYTES: u64 = 256 * 1024 * 1024 * 1024;

/// The most bytes of names that are kept until the end, for links and for modes of directories: a root file system has some ten million.
const MAX_KEPT_BYTES: usize = 128 * 1024 * 1024;

/// What each of them takes beside its names: two pointers with lengths and capacities, and the allocator's own.
const KEPT_OVERHEAD_BYTES: usize = 80;

/// The most names of members that were left out; more are only counted in the last one.
const MAX_SKIPPED: usize = 20;

/// An archive that is not taken.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It, or a member.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// Nothing in it.
    #[error("The archive is empty")]
    Empty,
    /// Something else than what was asked for.
    #[error("The archive has `{}` beside what was asked for", path.display())]
    Beside {
        /// The member.
        path: PathBuf,
    },
    /// A link of this host is in the way.
    #[error("`{}` is a link: nothing is written through it", path.display())]
    ThroughLink {
        /// The link.
        path: PathBuf,
    },
    /// Too much.
    #[error("The archive has more than {MAX_MEMBERS} members or {MAX_BYTES} bytes")]
    TooLarge,
    /// Too many links or directories, or too long ones.
    #[error(
        "The archive has links and directories whose names take more than {MAX_KEPT_BYTES} bytes"
    )]
    TooManyNames,
    /// A file that cannot be written.
    #[error("Cannot write what is copied")]
    Write(#[source] io::Error),
}

/// Where the archive goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// A directory that is there.
    pub folder: PathBuf,
    /// The name there of what the archive begins with.
    pub name: OsString,
}

/// What came out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of files.
    pub bytes: u64,
    /// Members.
    pub members: u64,
    /// What was left out, with the reason.
    pub skipped: Vec<String>,
}

/// Takes an archive apart whose members all begin with one name.
///
/// # Errors
/// [`UnpackError`]; what was written before stays.
pub fn unpack(archive: impl Read, target: &Target) -> Result<Unpacked, UnpackError> {
    let mut work = Work {
        target,
        first: None,
        done: Unpacked::default(),
        links: Vec::new(),
        folders: Vec::new(),
        kept_bytes: 0,
    };
    let mut archive = Archive::new(archive);
    let mut members = Members::of(&mut archive)?;
    while let Some((member, content)) = members.next()? {
        work.done.members += 1;
        work.done.bytes = work.done.bytes.saturating_add(content.size());
        if work.done.members > MAX_MEMBERS || work.done.bytes > MAX_BYTES {
            return Err(UnpackError::TooLarge);
        }
        work.take(member, content)?;
    }
    if work.first.is_none() {
        return Err(UnpackError::Empty);
    }
    work.finish()
}

struct Work<'a> {
    target: &'a Target,
    /// What all members begin with.
    first: Option<OsString>,
    done: Unpacked,
    /// Made at the end, so that no member can go through one of them.
    links: Vec<(PathBuf, PathBuf)>,
    /// Their modes are set at the end: one may forbid to write.
    folders: Vec<(PathBuf, u32)>,
    /// What the names in both take.
    kept_bytes: usize,
}

impl Work<'_> {
    fn take(&mut self, member: Member, mut content: impl Read) -> Result<(), UnpackError> {
        let path = self.place(&member.path)?;
        self.clear_way(&path)?;
        match member.kind {
            Kind::Directory => {
                if make_folder(&path)? {
                    self.keep(&[&path])?;
                    self.folders.push((path, member.mode));
                }
            }
            Kind::File => {
                remove(&path)?;
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    // The kernel takes the umask off.
                    .mode(member.mode & PERMISSIONS)
                    .open(&path)
                    .map_err(UnpackError::Write)?;
                io::copy(&mut content, &mut file).map_err(UnpackError::Write)?;
            }
            Kind::Link(leads_to) if stays_inside(&member.path, &leads_to) => {
                self.keep(&[&path, &leads_to])?;
                self.links.push((path, leads_to));
            }
            Kind::Link(leads_to) => self.skip(format!(
                "{}: a link to {}, which is not part of what is copied",
                member.path.display(),
                leads_to.display()
            )),
            Kind::Same(other) => {
                let other = self.place(&other)?;
                self.clear_way(&other)?;
                let known = fs::symlink_metadata(&other).is_ok_and(|found| found.is_file());
                if known && other != path {
                    remove(&path)?;
                    fs::hard_link(&other, &path).map_err(UnpackError::Write)?;
                } else {
                    self.skip(format!("{}: it names no file", member.path.display()));
                }
            }
            Kind::Other => self.skip(format!(
                "{}: neither file, directory nor link",
                member.path.display()
            )),
        }
        Ok(())
    }

    /// Where a member goes on this host.
    fn place(&mut self, path: &Path) -> Result<PathBuf, UnpackError> {
        let mut parts = path.components();
        let first = parts.next().map_or(OsStr::new(""), Component::as_os_str);
        let expected = self.first.get_or_insert_with(|| first.to_owned());
        if expected != first {
            return Err(UnpackError::Beside {
                path: path.to_owned(),
            });
        }
        let top = self.target.folder.join(&self.target.name);
        Ok(top.join(parts.as_path()).components().collect())
    }

    /// Makes the directories above a member that are not there, and sees to it that none of them is a link.
    fn clear_way(&self, path: &Path) -> Result<(), UnpackError> {
        let below = path.strip_prefix(&self.target.folder).unwrap_or(path);
        let mut folder = self.target.folder.clone();
        let Some(above) = below.parent() else {
            return Ok(());
        };
        for part in above.components() {
            folder.push(part);
            make_folder(&folder)?;
        }
        Ok(())
    }

    /// Counts what is kept until the end.
    fn keep(&mut self, names: &[&Path]) -> Result<(), UnpackError> {
        let bytes: usize = names.iter().map(|name| name.as_os_str().len()).sum();
        self.kept_bytes = self.kept_bytes.saturating_add(bytes + KEPT_OVERHEAD_BYTES);
        if self.kept_bytes > MAX_KEPT_BYTES {
            return Err(UnpackError::TooManyNames);
        }
        Ok(())
    }

    fn skip(&mut self, reason: String) {
        if self.done.skipped.len() < MAX_SKIPPED {
            self.done.skipped.push(reason);
        } else if self.done.skipped.len() == MAX_SKIPPED {
            self.done.skipped.push("and more".to_owned());
        }
    }

    fn finish(self) -> Result<Unpacked, UnpackError> {
        for (path, leads_to) in &self.links {
            self.clear_way(path)?;
            remove(path)?;
            fs_err::os::unix::fs::symlink(leads_to, path).map_err(UnpackError::Write)?;
        }
        // The innermost first: the outer ones may forbid to reach them.
        for (path, mode) in self.folders.iter().rev() {
            let found = fs::symlink_metadata(path).ok();
            if let Some(found) = found.filter(std::fs::Metadata::is_dir) {
                // What the umask took when it was made stays away.
                let mode = found.permissions().mode() & mode & PERMISSIONS;
                let mode = std::fs::Permissions::from_mode(mode);
                fs::set_permissions(path, mode).map_err(UnpackError::Write)?;
            }
        }
        Ok(self.done)
    }
}

/// Makes a directory and says whether it did; one that is there is fine, a link to one is not.
fn make_folder(path: &Path) -> Result<bool, UnpackError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(false),
        Ok(found) if found.is_symlink() => Err(UnpackError::ThroughLink {
            path: path.to_owned(),
        }),
        Ok(_) | Err(_) => {
            fs::create_dir(path).map_err(UnpackError::Write)?;
            Ok(true)
        }
    }
}

/// Removes a file or link that is in the way, itself and not what it leads to.
fn remove(path: &Path) -> Result<(), UnpackError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(UnpackError::Write(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether a link at `path` in the archive leads to something in it. `..` is only taken at the beginning, where it cannot go through another
/// link.
fn stays_inside(path: &Path, leads_to: &Path) -> bool {
    // The first part is what is copied itself: as many directories of it are above the link.
    let Some(mut above) = path.components().count().checked_sub(2) else {
        return false;
    };
    let mut goes_down = false;
    for part in leads_to.components() {
        match part {
            Component::Normal(_) => goes_down = true,
            Component::CurDir => {}
            Component::ParentDir if above > 0 && !goes_down => above -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !leads_to.as_os_str().is_empty()
}
