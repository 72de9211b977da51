//! Files of the guest for the host: what is at a path, and copies of it both ways as tar archives. Blocking: it runs on threads of its own.
//!
//! Contents go through in small pieces, and nothing of an archive is kept but where it is.

mod destination;
#[cfg(test)]
mod hostile;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use common::agent::stats::{FileKind, FileStat};

pub(crate) use pack::pack;
pub(crate) use unpack::unpack;

/// Why a file cannot be copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The path names nothing that can be.
    #[error("`path` must be an absolute path without `..` at its end")]
    Path,
    /// Nothing is there.
    #[error("`{}` does not exist in the guest", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("`{}` is not a directory in the guest", path.display())]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// A device, pipe or socket.
    #[error("`{}` is a device, pipe or socket: it has no content to copy", path.display())]
    NoContent {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refuses to look.
    #[error("Cannot look at `{}`", path.display())]
    Look {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What came is not an archive, or broke off.
    #[error("The archive cannot be read")]
    Archive(#[source] io::Error),
    /// A member that would be written elsewhere, or is something that is not unpacked.
    #[error("The member `{}` of the archive is refused: {why}", member.display())]
    Member {
        /// The member.
        member: PathBuf,
        /// What is wrong with it, as a sentence's end.
        why: &'static str,
    },
    /// No room.
    #[error("The guest's disk is full: `{}` is not there, or not whole", member.display())]
    Full {
        /// The member.
        member: PathBuf,
    },
    /// The kernel refuses to write.
    #[error("Cannot unpack `{}`", member.display())]
    Unpack {
        /// The member.
        member: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The path in a request, without `.` parts and a `/` at its end.
pub(crate) fn path_of(bytes: Vec<u8>) -> Result<PathBuf, FileError> {
    let is_text = !bytes.contains(&0);
    let path: PathBuf = Path::new(&OsString::from_vec(bytes)).components().collect();
    let ends_well = path.components().next_back() != Some(Component::ParentDir);
    if is_text && path.is_absolute() && ends_well {
        Ok(path)
    } else {
        Err(FileError::Path)
    }
}

/// What is at a path. A link at its end is not followed.
pub(crate) fn stat(path: &Path) -> Result<FileStat, FileError> {
    let metadata = fs_err::symlink_metadata(path).map_err(|source| failed(path, source))?;
    let kind = metadata.file_type();
    let (kind, link_target) = if kind.is_symlink() {
        let target = fs_err::read_link(path).map_err(|source| failed(path, source))?;
        (FileKind::Link, Some(target.to_string_lossy().into_owned()))
    } else if kind.is_dir() {
        (FileKind::Directory, None)
    } else if kind.is_file() {
        (FileKind::File, None)
    } else {
        (FileKind::Other, None)
    };
    Ok(FileStat {
        name: name_of(path),
        kind,
        size_bytes: if kind == FileKind::File {
            metadata.len()
        } else {
            0
        },
        mode: metadata.permissions().mode() & 0o7777,
        link_target,
    })
}

/// The directory at a path, links followed.
pub(crate) fn directory(path: &Path) -> Result<PathBuf, FileError> {
    let found = fs_err::canonicalize(path).map_err(|source| failed(path, source))?;
    if found.is_dir() {
        Ok(found)
    } else {
        Err(FileError::NotDirectory {
            path: path.to_owned(),
        })
    }
}

/// The last part of a path; `/` for the root.
fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn failed(path: &Path, source: io::Error) -> FileError {
    let path = path.to_owned();
    match source.kind() {
        // The latter where a part before the last is a file.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileError::Missing { path },
        _ => FileError::Look { path, source },
    }
}
