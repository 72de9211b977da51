//! A tar archive into a directory of the guest, as it comes. Nothing is written outside of the directory, whatever a workload does to the
//! file system meanwhile: we are root, and it need not be.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::{Archive, Entry, EntryType};

use super::FileError;
use super::destination::Destination;

/// The most bytes of one member's headers: names of a path's longest length, twice, and a list of holes.
const MAX_HEADER_BYTES: u64 = 1024 * 1024;

/// What may follow the archive's end: writers fill their last record.
const MAX_TRAILER_BYTES: u64 = 1024 * 1024;

/// The bits of a mode that are kept: permissions, set-user-ID, set-group-ID and sticky (inode(7)).
const MODE_BITS: u32 = 0o7777;

/// Unpacks an archive into `directory`, whose path has no link in it.
///
/// Modes and times are kept; everything belongs to root. A file that is there is replaced.
pub(crate) fn unpack(directory: &Path, from: impl Read) -> Result<(), FileError> {
    let destination = Destination::open(directory).map_err(|source| FileError::Look {
        path: directory.to_owned(),
        source,
    })?;
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
        times.leave(&destination, Some(&member));
        put(&destination, &member, &mut entry).map_err(|error| failed(&member, error))?;
        if is_directory(&entry) {
            times.enter(member, entry.header().mtime().unwrap_or_default());
        }
        left.set(Some(MAX_HEADER_BYTES));
    }
    times.leave(&destination, None);
    left.set(Some(MAX_TRAILER_BYTES));
    // The archive is whole; who sends on is cut off.
    drop(io::copy(&mut archive.into_inner(), &mut io::sink()));
    Ok(())
}

/// Writes a member. The destination itself has no member: only its time is the archive's.
fn put(
    destination: &Destination,
    member: &Path,
    entry: &mut Entry<'_, impl Read>,
) -> io::Result<()> {
    let kind = entry.header().entry_type();
    let Some(name) = member
        .file_name()
        .filter(|_| !kind.is_pax_global_extensions())
    else {
        return Ok(());
    };
    let folder = destination.folder_for(member)?;
    if is_directory(entry) {
        let made = folder.make(name);
        // One that is there is as good; something else of that name cannot be opened as one.
        if made
            .as_ref()
            .is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists)
        {
            return made;
        }
        let directory = folder.child(name)?;
        return match entry.header().mode() {
            Ok(mode) => directory.set_mode(mode & MODE_BITS),
            Err(_) => Ok(()),
        };
    }
    if kind.is_hard_link() {
        let other = entry.link_name()?.unwrap_or_default();
        return destination.link(&other, &folder, name);
    }
    // A file that is there is removed, and then none is taken that came in between; a link is never followed.
    entry.unpack(folder.path_of(name)).map(drop)
}

/// Whether a member is a directory; before POSIX, a name that ends with `/` told.
fn is_directory(entry: &Entry<'_, impl Read>) -> bool {
    match entry.header().entry_type() {
        EntryType::Directory => true,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            entry.header().as_ustar().is_none() && entry.path_bytes().ends_with(b"/")
        }
        _ => false,
    }
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
        // `.` parts are gone.
        Ok(member
            .components()
            .filter(|part| *part != Component::CurDir)
            .collect())
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

fn failed(member: &Path, error: io::Error) -> FileError {
    let source = reason(error);
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::Full {
            member: member.to_owned(),
        },
        io::ErrorKind::CrossesDevices => refused(member, "it leads out of the directory"),
        _ => FileError::Unpack {
            member: member.to_owned(),
            source,
        },
    }
}

/// The kernel's own words, where there are some: around them stands the path of an open file, which tells nobody anything.
fn reason(error: io::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        let code = inner.downcast_ref().and_then(io::Error::raw_os_error);
        if let Some(code) = code {
            return io::Error::from_raw_os_error(code);
        }
        // The source of an `io::Error` is that of what it wraps, which would be left out.
        cause = match inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => inner.source(),
        };
    }
    error
}

/// The times of directories that are still being filled: writing into one changes its time. No more than are within each other, as
/// archives have the members of a directory behind it.
#[derive(Debug, Default)]
struct Times(Vec<(PathBuf, u64)>);

impl Times {
    fn enter(&mut self, member: PathBuf, seconds: u64) {
        self.0.push((member, seconds));
    }

    /// Sets the times of all directories that the next member is not in.
    fn leave(&mut self, destination: &Destination, next: Option<&Path>) {
        let is_left = |member: &Path| next.is_none_or(|next| !next.starts_with(member));
        while let Some((member, seconds)) = self.0.pop_if(|(member, _)| is_left(member)) {
            let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            if let (Ok(directory), Some(time)) = (destination.directory(&member), time) {
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
