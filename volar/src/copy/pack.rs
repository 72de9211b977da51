//! Puts a file or directory of this host into a tar archive. Follows no link but the one that was named.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fs_err as fs;
use tar::{Builder, EntryType, Header, HeaderMode};

/// Something that cannot be put into an archive.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It cannot be read.
    #[error("Cannot read what is to be copied")]
    Read(#[source] io::Error),
    /// The archive cannot be written: most likely nobody takes it any more.
    #[error("Cannot pass `{}` on", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What was put into an archive.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of files.
    pub bytes: u64,
    /// Members.
    pub members: u64,
    /// What was left out: sockets, devices and pipes.
    pub skipped: Vec<PathBuf>,
}

/// Writes `source` into an archive, as `name`; returns when all is written.
///
/// # Errors
/// [`PackError`].
pub fn pack(source: &Path, name: &OsStr, out: impl Write) -> Result<Packed, PackError> {
    let mut builder = Builder::new(out);
    builder.follow_symlinks(false);
    let mut packed = Packed::default();
    // What the user names is meant itself, not a link to it.
    let metadata = fs::metadata(source).map_err(PackError::Read)?;
    let top = Item {
        source: source.to_owned(),
        name: PathBuf::from(name),
    };
    let mut waiting = vec![(top, metadata)];
    while let Some((item, metadata)) = waiting.pop() {
        packed.add(&mut builder, &item, &metadata)?;
        if metadata.is_dir() {
            let mut children = item.children()?;
            // The last one is taken first.
            children.sort_by(|(a, _), (b, _)| b.name.cmp(&a.name));
            waiting.extend(children);
        }
    }
    let wrote = builder.into_inner().and_then(|mut out| out.flush());
    wrote.map_err(|error| failed(source, error))?;
    Ok(packed)
}

/// A file here, and its name there.
struct Item {
    source: PathBuf,
    name: PathBuf,
}

impl Item {
    fn children(&self) -> Result<Vec<(Self, std::fs::Metadata)>, PackError> {
        let mut children = Vec::new();
        for entry in fs::read_dir(&self.source).map_err(PackError::Read)? {
            let entry = entry.map_err(PackError::Read)?;
            let source = entry.path();
            let metadata = match fs::symlink_metadata(&source) {
                Ok(metadata) => metadata,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(PackError::Read(error)),
            };
            let name = self.name.join(entry.file_name());
            children.push((Self { source, name }, metadata));
        }
        Ok(children)
    }
}

impl Packed {
    fn add(
        &mut self,
        builder: &mut Builder<impl Write>,
        item: &Item,
        metadata: &std::fs::Metadata,
    ) -> Result<(), PackError> {
        let kind = metadata.file_type();
        if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
            self.skipped.push(item.source.clone());
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_metadata_in_mode(metadata, HeaderMode::Complete);
        // Numbers of this host's users mean nothing in the guest.
        header.set_uid(0);
        header.set_gid(0);
        header.set_mode(metadata.permissions().mode() & 0o777);
        let write = |error| failed(&item.source, error);
        if kind.is_symlink() {
            let target = fs::read_link(&item.source).map_err(PackError::Read)?;
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            let wrote = builder.append_link(&mut header, &item.name, target);
            wrote.map_err(write)?;
        } else if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            let mut name = item.name.as_os_str().as_bytes().to_vec();
            name.push(b'/');
            let wrote = builder.append_data(&mut header, OsStr::from_bytes(&name), io::empty());
            wrote.map_err(write)?;
        } else {
            let file = fs::File::open(&item.source).map_err(PackError::Read)?;
            // A file that grows meanwhile must not end up in the next member, nor one that shrinks leave a hole.
            let size = file.metadata().map_err(PackError::Read)?.len();
            header.set_size(size);
            let content = Exactly { file, left: size };
            let wrote = builder.append_data(&mut header, &item.name, content);
            wrote.map_err(write)?;
            self.bytes += size;
        }
        self.members += 1;
        Ok(())
    }
}

fn failed(path: &Path, source: io::Error) -> PackError {
    let path = path.to_owned();
    PackError::Write { path, source }
}

/// As many bytes of a file as were promised.
struct Exactly {
    file: fs::File,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let length = self.file.read(&mut buffer[..most])?;
        if length == 0 && most > 0 {
            let message = "the file became shorter while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.left -= u64::try_from(length).unwrap_or(self.left);
        Ok(length)
    }
}
