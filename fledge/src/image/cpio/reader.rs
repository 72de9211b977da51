//! Reads archives that may come from anywhere. Everything is bounded and checked; nothing is unpacked.
//!
//! Stricter than Linux where Linux would skip silently: overlong names, `..`, unknown types, and anything but NULs between
//! archives are errors. Like Linux it goes on with the next archive after a trailer.

use std::io::{self, Read};

use super::{
    HEADER_BYTES, MAGIC, MAX_NAME_BYTES, TRAILER, TYPE_BLOCK_DEVICE, TYPE_CHARACTER_DEVICE,
    TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_MASK, TYPE_SOCKET, TYPE_SYMLINK, padding,
};

/// How much is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all archives together, without trailers.
    pub entries: u64,
    /// Bytes of all archives together, headers and padding included.
    pub bytes: u64,
}

impl Default for Limits {
    /// Far above any plugin, and far below what hurts: a million entries, 8 GiB.
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            bytes: 8 << 30,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file; its content is what the visitor can read.
    File,
    /// A symbolic link and where it points.
    Symlink {
        /// The target, without NUL; not empty.
        target: Vec<u8>,
    },
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path without `/` or `./` in front and without empty, `.` or `..` components; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The lower twelve bits of its mode.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change, in seconds since 1970.
    pub mtime: u32,
    /// Inode number: files of one archive with the same one and `links` above 1 are hard links.
    pub inode: u32,
    /// Number of hard links.
    pub links: u32,
    /// Size of a file's content, in bytes; 0 for all else.
    pub size_bytes: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Archives, each with its trailer.
    pub archives: u64,
    /// Entries without trailers.
    pub entries: u64,
    /// All bytes.
    pub bytes: u64,
}

/// An archive that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The data ends within an archive.
    #[error("The archive is cut off after {bytes} bytes")]
    Truncated {
        /// How many there were.
        bytes: u64,
    },
    /// It is not an archive, or something else follows one.
    #[error("There is no cpio header of format newc at byte {at}")]
    NoHeader {
        /// Where one was expected.
        at: u64,
    },
    /// A header that contradicts itself.
    #[error("The entry at byte {at} {why}")]
    BadEntry {
        /// Where its header is.
        at: u64,
        /// A clause such as "has no name".
        why: &'static str,
    },
    /// More than the limits allow.
    #[error("The archive has more than {limit} {what}")]
    TooLarge {
        /// `entries` or `bytes`.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// It cannot be read, or unpacked.
    #[error("Cannot read the archive")]
    Input(#[source] io::Error),
}

/// Calls `visit` with each entry and its content, in order.
///
/// What `visit` leaves unread of the content is skipped, and still checked to be there.
///
/// # Errors
/// The first thing that is wrong, or what `visit` returns. What was visited before must then be thrown away.
pub fn read_entries<R, E>(
    reader: R,
    limits: &Limits,
    mut visit: impl FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<Summary, E>
where
    R: Read,
    E: From<ReadError>,
{
    let mut input = Input {
        reader,
        at: 0,
        limit: limits.bytes,
    };
    let mut summary = Summary::default();
    while let Some(first) = input.skip_nuls()? {
        // Archives begin at a multiple of four, as entries do.
        if input.at % 4 != 1 {
            return Err(ReadError::NoHeader { at: input.at - 1 }.into());
        }
        let mut first = Some(first);
        while let Some((entry, content_bytes)) = input.header(first.take())? {
            summary.entries += 1;
            if summary.entries > limits.entries {
                return Err(ReadError::TooLarge {
                    what: "entries",
                    limit: limits.entries,
                }
                .into());
            }
            input.content(&entry, content_bytes, &mut visit)?;
        }
        summary.archives += 1;
    }
    if summary.archives == 0 {
        return Err(ReadError::Truncated { bytes: input.at }.into());
    }
    summary.bytes = input.at;
    Ok(summary)
}

/// The bytes, and how many of them were read.
struct Input<R> {
    reader: R,
    at: u64,
    limit: u64,
}

impl<R: Read> Input<R> {
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let count = loop {
            match self.reader.read(buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Decompressors report a stream that stops like this.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(ReadError::Truncated { bytes: self.at });
                }
                Err(error) => return Err(ReadError::Input(error)),
            }
        };
        self.at += u64::try_from(count).unwrap_or(u64::MAX);
        if self.at > self.limit {
            return Err(ReadError::TooLarge {
                what: "bytes",
                limit: self.limit,
            });
        }
        Ok(count)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 => return Err(ReadError::Truncated { bytes: self.at }),
                count => filled += count,
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_padding(&mut self) -> Result<(), ReadError> {
        let mut zeros = [0; 3];
        self.fill(&mut zeros[..padding(self.at)])
    }

    /// The first byte that is not NUL, or nothing at the end.
    fn skip_nuls(&mut self) -> Result<Option<u8>, ReadError> {
        let mut byte = [0];
        loop {
            match (self.read_some(&mut byte)?, byte) {
                (0, _) => return Ok(None),
                (_, [0]) => {}
                (_, [other]) => return Ok(Some(other)),
            }
        }
    }

    /// Reads a header with its name and, of a link, its target; nothing for a trailer. `first` is its first byte, where it was
    /// read already.
    fn header(&mut self, first: Option<u8>) -> Result<Option<(Entry, u64)>, ReadError> {
        let start = self.at - u64::from(first.is_some());
        let numbers = self.numbers(first, start)?;
        let [
            inode,
            mode,
            uid,
            gid,
            links,
            mtime,
            size,
            _,
            _,
            major,
            minor,
            name_bytes,
            _,
        ] = numbers;
        let bad = |why| ReadError::BadEntry { at: start, why };
        let name = self.name(name_bytes, start)?;
        if name == TRAILER {
            return if size == 0 {
                Ok(None)
            } else {
                Err(bad("is a trailer with content"))
            };
        }
        let path = plain_path(&name).ok_or_else(|| bad("has a path with `..`"))?;
        let kind = self.kind(mode, size, start)?;
        let content_bytes = match kind {
            Kind::Symlink { .. } => 0,
            _ => u64::from(size),
        };
        if content_bytes > 0 && kind != Kind::File {
            return Err(bad("has content, but is no file"));
        }
        if path.is_empty() && kind != Kind::Directory {
            return Err(bad("replaces the root directory"));
        }
        let entry = Entry {
            path,
            kind,
            permissions: mode & 0o7777,
            uid,
            gid,
            mtime,
            inode,
            links,
            size_bytes: content_bytes,
            device: (major, minor),
        };
        Ok(Some((entry, content_bytes)))
    }

    /// Reads magic and numbers of a header.
    fn numbers(&mut self, first: Option<u8>, start: u64) -> Result<[u32; 13], ReadError> {
        let mut header = [0; HEADER_BYTES];
        let known = usize::from(first.is_some());
        header[0] = first.unwrap_or(0);
        self.fill(&mut header[known..MAGIC.len()])?;
        if !header.starts_with(MAGIC) {
            return Err(ReadError::NoHeader { at: start });
        }
        self.fill(&mut header[MAGIC.len()..])?;
        let mut numbers = [0; 13];
        for (number, digits) in numbers.iter_mut().zip(header[MAGIC.len()..].chunks(8)) {
            *number = hexadecimal(digits).ok_or(ReadError::BadEntry {
                at: start,
                why: "has a number that is not hexadecimal",
            })?;
        }
        Ok(numbers)
    }

    /// Reads a name and its padding.
    fn name(&mut self, name_bytes: u32, start: u64) -> Result<Vec<u8>, ReadError> {
        let bad = |why| Err(ReadError::BadEntry { at: start, why });
        let name_bytes = usize::try_from(name_bytes).unwrap_or(usize::MAX);
        if name_bytes == 0 {
            return bad("has no name");
        }
        if name_bytes > MAX_NAME_BYTES {
            return bad("has a name of more than 4095 bytes");
        }
        let mut name = self.take(name_bytes)?;
        self.skip_padding()?;
        if name.pop() != Some(0) || name.contains(&0) {
            return bad("has a name that does not end where it should");
        }
        Ok(name)
    }

    /// What an entry of `mode` is; a link's target is read, because it belongs to it.
    fn kind(&mut self, mode: u32, size: u32, start: u64) -> Result<Kind, ReadError> {
        let bad = |why| Err(ReadError::BadEntry { at: start, why });
        Ok(match mode & TYPE_MASK {
            TYPE_DIRECTORY => Kind::Directory,
            TYPE_FILE => Kind::File,
            TYPE_SYMLINK => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                if size == 0 || size >= MAX_NAME_BYTES {
                    return bad("is a link with an empty or overlong target");
                }
                let target = self.take(size)?;
                self.skip_padding()?;
                if target.contains(&0) {
                    return bad("is a link whose target holds a NUL");
                }
                Kind::Symlink { target }
            }
            TYPE_CHARACTER_DEVICE => Kind::CharacterDevice,
            TYPE_BLOCK_DEVICE => Kind::BlockDevice,
            TYPE_FIFO => Kind::Fifo,
            TYPE_SOCKET => Kind::Socket,
            _ => return bad("is of no known type"),
        })
    }

    fn content<E: From<ReadError>>(
        &mut self,
        entry: &Entry,
        content_bytes: u64,
        visit: &mut impl FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut content = Content {
            input: self,
            left: content_bytes,
            failure: None,
        };
        let visited = visit(entry, &mut content);
        // A visitor that fails because the archive does should not hide why.
        if let Some(failure) = content.failure.take() {
            return Err(failure.into());
        }
        visited?;
        let mut rest = [0; 8192];
        while content.left > 0 {
            let room =
                usize::try_from(content.left).map_or(rest.len(), |left| left.min(rest.len()));
            content.left -= u64::try_from(room).unwrap_or(0);
            content.input.fill(&mut rest[..room])?;
        }
        self.skip_padding()?;
        Ok(())
    }
}

/// The content of one file, for its visitor.
struct Content<'a, R> {
    input: &'a mut Input<R>,
    left: u64,
    failure: Option<ReadError>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if room == 0 {
            return Ok(0);
        }
        let failure = match self.input.read_some(&mut buffer[..room]) {
            Ok(0) => ReadError::Truncated {
                bytes: self.input.at,
            },
            Ok(count) => {
                self.left -= u64::try_from(count).unwrap_or(0);
                return Ok(count);
            }
            Err(failure) => failure,
        };
        self.failure = Some(failure);
        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
    }
}

/// Eight hexadecimal digits, and nothing else, as a number.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// `name` without what means nothing; nothing where it climbs.
fn plain_path(name: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return None,
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Some(path)
}
