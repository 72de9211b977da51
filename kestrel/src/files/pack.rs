//! A file or directory of the guest as a tar archive, written as it is read. Follows no link.

use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::sys::open_plain;

/// The most directories within each other: each holds a file descriptor while it is read, of 1024 that a process has.
const MAX_DEPTH: usize = 512;

/// Files up to this size are read before their header is written: files of /proc and /sys do not have the size that they tell.
const WHOLE_FILE_BYTES: u64 = 64 * 1024;

/// Bytes of a block as `stat(2)` counts them.
const BLOCK_BYTES: u64 = 512;

/// Writes the archive of `path`. Its members begin with the last part of the path, or with nothing for the root.
///
/// What is deleted meanwhile is left out, and so are devices, pipes, sockets, and what is mounted below.
///
/// # Errors
/// Of reading or writing, and for a file that shrinks while it is read: what was written is no whole archive then.
pub(crate) fn pack(path: &Path, to: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(to);
    archive.follow_symlinks(false);
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let metadata = fs_err::symlink_metadata(path)?;
    let device = metadata.dev();
    let mut open = Vec::new();
    if append(&mut archive, path, &name, &metadata)? == Appended::Directory {
        open.push((fs_err::read_dir(path)?, name));
    }
    while let Some((entries, name)) = open.last_mut() {
        let Some(entry) = entries.next().transpose()? else {
            open.pop();
            continue;
        };
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let Some(metadata) = present(fs_err::symlink_metadata(&path))? else {
            continue;
        };
        let appended = append(&mut archive, &path, &name, &metadata)?;
        if appended != Appended::Directory || metadata.dev() != device {
            continue;
        }
        if open.len() >= MAX_DEPTH {
            return Err(io::Error::other("The directories are too deep"));
        }
        if let Some(entries) = present(fs_err::read_dir(&path))? {
            open.push((entries, name));
        }
    }
    archive.into_inner()?.flush()
}

#[derive(Debug, PartialEq, Eq)]
enum Appended {
    Directory,
    Another,
}

fn append(
    archive: &mut Builder<impl Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> io::Result<Appended> {
    let kind = metadata.file_type();
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    if kind.is_dir() {
        // The root has no name of its own in an archive.
        if !name.as_os_str().is_empty() {
            archive.append_data(&mut header, name, io::empty())?;
        }
        return Ok(Appended::Directory);
    }
    if kind.is_symlink() {
        if let Some(target) = present(fs_err::read_link(path))? {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, target)?;
        }
    } else if kind.is_file() {
        append_file(archive, path, name)?;
    }
    Ok(Appended::Another)
}

fn append_file(archive: &mut Builder<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    let Some(mut file) = present(open_plain(path))? else {
        return Ok(());
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let size = metadata.len();
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    if size <= WHOLE_FILE_BYTES {
        let mut contents = Vec::new();
        file.take(WHOLE_FILE_BYTES).read_to_end(&mut contents)?;
        header.set_size(u64::try_from(contents.len()).map_err(io::Error::other)?);
        archive.append_data(&mut header, name, contents.as_slice())
    } else if metadata.blocks().saturating_mul(BLOCK_BYTES) < size {
        // Holes stay holes. The size must be what the archive's list of pieces was made of.
        archive.append_file(name, &mut file)?;
        if file.metadata()?.len() == size {
            Ok(())
        } else {
            Err(changed(path))
        }
    } else {
        let whole = Whole {
            contents: file.take(size),
            path,
        };
        archive.append_data(&mut header, name, whole)
    }
}

/// A file that gives as many bytes as were announced, or fails.
struct Whole<'a, R> {
    contents: io::Take<R>,
    path: &'a Path,
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.contents.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.contents.limit() > 0 {
            return Err(changed(self.path));
        }
        Ok(count)
    }
}

fn changed(path: &Path) -> io::Error {
    let detail = format!("The size of `{}` changed while it was read", path.display());
    io::Error::other(detail)
}

/// What is there; nothing if it was deleted or replaced since its name was read.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
