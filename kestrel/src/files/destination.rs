//! The directory that an archive goes to: finds the directories of its members, and makes those that are missing. Links in it are followed
//! as long as they stay in it. Knows no archive.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::beneath::Folder;

/// A directory that is written into.
#[derive(Debug)]
pub(super) struct Destination {
    folder: Folder,
    path: PathBuf,
}

impl Destination {
    /// The directory at a path that has no link in it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = Folder::open(path)?;
        let path = path.to_owned();
        Ok(Self { folder, path })
    }

    /// The directory that a member is in, made if it is not there.
    pub(super) fn folder_for(&self, member: &Path) -> io::Result<Folder> {
        let mut there = member.parent().unwrap_or(Path::new(""));
        let mut missing = Vec::new();
        let mut folder = loop {
            match (self.find(there), there.file_name(), there.parent()) {
                (Err(error), Some(name), Some(above))
                    if error.kind() == io::ErrorKind::NotFound =>
                {
                    missing.push(name);
                    there = above;
                }
                (found, ..) => break found?,
            }
        };
        for name in missing.into_iter().rev() {
            match folder.make(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => folder = folder.child(name)?,
            }
        }
        Ok(folder)
    }

    /// The directory that a member is.
    pub(super) fn directory(&self, member: &Path) -> io::Result<Folder> {
        match (member.parent(), member.file_name()) {
            (Some(above), Some(name)) => self.find(above)?.child(name),
            _ => self.find(Path::new("")),
        }
    }

    /// Gives what is at `other` in this directory one more name.
    pub(super) fn link(&self, other: &Path, folder: &Folder, name: &OsStr) -> io::Result<()> {
        let path = self.path.join(other);
        let other = path
            .strip_prefix(&self.path)
            .map_err(|_| io::Error::from(io::ErrorKind::CrossesDevices))?;
        let (Some(above), Some(other)) = (other.parent(), other.file_name()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        self.find(above)?.link(other, folder, name)
    }

    /// An absolute link may lead back into this directory: then the place is looked for without it. What is found is what was looked
    /// for, or fails: the kernel goes no other way than down.
    fn find(&self, place: &Path) -> io::Result<Folder> {
        match self.folder.below(place) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let path = fs_err::canonicalize(self.path.join(place))?;
                match path.strip_prefix(&self.path) {
                    Ok(place) => self.folder.below(place),
                    Err(_) => Err(error),
                }
            }
            found => found,
        }
    }
}
