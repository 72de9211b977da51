//! A tar archive into a directory of the guest, as it comes. Nothing is written outside of the directory.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::{Archive, Entry, EntryType};

use super::FileError;
use crate::sys::open_plain;

/// The most bytes of one member's headers: names of a path's longest length, twice, and a list of holes.
const MAX_HEADER_BYTES: u64 = 1024 * 1024;

/// What may follow the archive's end: writers fill their last record.
const MAX_TRAILER_BYTES: u64 = 1024 * 1024;

/// Unpacks an archive into `directory`, whose path has no link in it.
///
/// Modes and times are kept; everything belongs to root. A file that is there is replaced.
pub(crate) fn unpack(directory: &Path, from: impl Read) -> Result<(), FileError> {
    let left = Cell::new(Some(MAX_HEADER_BYTES));
    let mut archive = Archive::new(Bounded { from, left: &left });
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(false);
    archive.set_overwrite(true);
    let mut times = Times::default();
    for entry in archive.entries().map_err(FileError::Archive)? {
        let mut entry = entry.map_err(FileError::Archive)?;
        left.set(None);
        let member = check(&entry)?;
        let path = directory.join(&member);
        times.leave(&path);
        match entry.unpack_in(directory) {
            Ok(true) => {}
            Ok(false) => return Err(refused(&member, "it leads out of the directory")),
            Err(error) => return Err(failed(member, error)),
        }
        if entry.header().entry_type().is_dir() {
            times.enter(path, entry.header().mtime().unwrap_or_default());
        }
        left.set(Some(MAX_HEADER_BYTES));
    }
    times.leave(Path::new(""));
    left.set(Some(MAX_TRAILER_BYTES));
    // The archive is whole; who sends on is cut off.
    drop(io::copy(&mut archive.into_inner(), &mut io::sink()));
    Ok(())
}

/// Refuses what would be written elsewhere, and what is neither file, directory nor link. Answers with the member's path, which is one.
fn check(entry: &Entry<'_, impl Read>) -> Result<PathBuf, FileError> {
    let member = entry.path().map_err(FileError::Archive)?.into_owned();
    let goes_down = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !member.components().all(|part| goes_down(&part)) {
        return Err(refused(&member, "its path is absolute or has `..`"));
    }
    let is_known = matches!(
        entry.header().entry_type(),
        EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link
            | EntryType::XGlobalHeader
    );
    if is_known {
        Ok(member)
    } else {
        Err(refused(
            &member,
            "it is neither a file, a directory nor a link",
        ))
    }
}

fn refused(member: &Path, why: &'static str) -> FileError {
    FileError::Member {
        member: member.to_owned(),
        why,
    }
}

fn failed(member: PathBuf, source: io::Error) -> FileError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::Full { member },
        _ => FileError::Unpack { member, source },
    }
}

/// The times of directories that are still being filled: writing into one changes its time. No more than are within each other, as
/// archives have the members of a directory behind it.
#[derive(Debug, Default)]
struct Times(Vec<(PathBuf, u64)>);

impl Times {
    fn enter(&mut self, path: PathBuf, seconds: u64) {
        self.0.push((path, seconds));
    }

    /// Sets the times of all directories that `next` is not in.
    fn leave(&mut self, next: &Path) {
        while let Some((path, seconds)) = self.0.pop_if(|(path, _)| !next.starts_with(path)) {
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            if let (Ok(directory), Some(time)) = (open_plain(&path), time) {
                // A wrong time is no reason to fail.
                drop(directory.set_modified(time));
            }
        }
    }
}

/// Bounds what is read between two members, which the reader of archives keeps in memory.
struct Bounded<'a, R> {
    from: R,
    left: &'a Cell<Option<u64>>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.left.get() else {
            return self.from.read(buffer);
        };
        if left == 0 {
            return Err(io::Error::other("A member's header is too long"));
        }
        let count = self.from.by_ref().take(left).read(buffer)?;
        let read = u64::try_from(count).map_err(io::Error::other)?;
        self.left.set(Some(left - read));
        Ok(count)
    }
}
