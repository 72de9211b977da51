//! Reads the tar archive of a layer into entries, without its contents: those stay where they are. Applies nothing: see
//! [`super::apply`].
//!
//! Formats: ustar, GNU long names and base-256 numbers, PAX. Names are bytes. Sparse files are refused: no container tool writes them.

mod names;
#[cfg(test)]
mod tests;

use std::io::{self, BufReader, Read, Seek};

use super::budget::{Budget, Exhausted};
use crate::tar_format::{BLOCK_BYTES, Header, Records};
use crate::tree::{Attributes, Device, TreeError};
use names::{MAX_NAME_BYTES, MAX_PATH_BYTES, Marker, OUTSIDE, clean, marker};

/// The largest extended header or long name, in bytes, as in Go's archive/tar: an extended attribute has at most 64 KiB.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;

/// How much is read at once: headers of small files share it, large files are passed over.
const READ_BYTES: usize = 16 * 1024;

/// How much of a name is shown.
const MAX_SHOWN_BYTES: usize = 200;

/// A layer that is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It cannot be read.
    #[error("It cannot be read")]
    Read(#[from] io::Error),
    /// It is shorter than it says.
    #[error("It ends in the middle of `{entry}`")]
    Truncated {
        /// The entry.
        entry: String,
    },
    /// It ends where another entry may have followed.
    #[error("It ends after {at} bytes without the mark of an archive's end")]
    NoEnd {
        /// How long it is.
        at: u64,
    },
    /// Something is not tar.
    #[error("It is not a tar archive: there is no valid header at byte {at}")]
    Header {
        /// From the beginning of the archive.
        at: u64,
    },
    /// An entry that cannot be.
    #[error("`{entry}` {problem}")]
    Entry {
        /// Its name.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An entry of a type that no layer has.
    #[error("`{entry}` is of the unknown type `{kind}`")]
    Unknown {
        /// Its name.
        entry: String,
        /// The type flag.
        kind: String,
    },
    /// An entry that cannot lie where it should.
    #[error("`{entry}` cannot be placed")]
    Place {
        /// Its name.
        entry: String,
        /// Why.
        #[source]
        source: Box<TreeError>,
    },
    /// Too much of something.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

/// One thing that a layer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where, without empty, `.` and `..` components; empty for the root. Of a whiteout, what it hides.
    pub path: Vec<u8>,
    /// Owner, permissions, time and extended attributes.
    pub attributes: Attributes,
    /// What.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Where its content begins in the archive.
        offset: u64,
        /// How long it is.
        size_bytes: u64,
    },
    /// Another name of what is at this path, which is like [`Entry::path`].
    HardLink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// What is there in the layers below is gone.
    Whiteout,
    /// What is in this directory in the layers below is gone.
    Opaque,
}

/// How an archive must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With a block of zeros, as POSIX has it: so it is whole.
    Marked,
    /// Possibly without the mark, after an entry, as GNU tar and docker take it: its digest says that it is whole.
    Verified,
}

/// Reads the entries of an archive of `size_bytes`, in its order.
///
/// # Errors
/// The first entry that is malformed, leads out of the image or cannot be in a layer.
pub(super) fn read(
    tar: impl Read + Seek,
    size_bytes: u64,
    end: End,
    budget: &Budget,
) -> Result<Vec<Entry>, LayerError> {
    let mut reader = Reader {
        tar: BufReader::with_capacity(READ_BYTES, tar),
        at: 0,
        size_bytes,
        end,
        budget,
    };
    let mut entries = Vec::new();
    while let Some(raw) = reader.next()? {
        if let Some(entry) = reader.entry(&raw)? {
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// A header with all that was said about it before.
struct Raw {
    header: Header,
    records: Records,
    name: Vec<u8>,
    link_target: Vec<u8>,
    offset: u64,
    size_bytes: u64,
}

struct Reader<'a, R> {
    tar: BufReader<R>,
    at: u64,
    size_bytes: u64,
    end: End,
    budget: &'a Budget,
}

impl<R: Read + Seek> Reader<'_, R> {
    /// The next entry that is no extension, with its content passed over.
    fn next(&mut self) -> Result<Option<Raw>, LayerError> {
        let mut records = Records::default();
        let mut long_name = None;
        let mut long_target = None;
        let mut is_announced = false;
        loop {
            let start = self.at;
            let malformed = || LayerError::Header { at: start };
            let Some(header) = self.header()? else {
                // An extended header describes an entry, which is not there.
                return if is_announced {
                    Err(malformed())
                } else {
                    Ok(None)
                };
            };
            is_announced |= matches!(header.kind(), b'x' | b'L' | b'K');
            let size_bytes = header.size_bytes().ok_or_else(malformed)?;
            match header.kind() {
                b'x' => {
                    let bytes = self.extension(&header, size_bytes)?;
                    records = Records::parse(&bytes).ok_or_else(malformed)?;
                }
                // Records for all that follows: container tools write comments there, such as git's commit.
                b'g' => self.skip(&header.name(), size_bytes)?,
                b'L' => long_name = Some(self.long(&header, size_bytes)?),
                b'K' => long_target = Some(self.long(&header, size_bytes)?),
                kind => {
                    // Only files have a content, whatever the size of a link says.
                    let has_content = !matches!(kind, b'1'..=b'6');
                    let size_bytes = if has_content {
                        records.size_bytes.unwrap_or(size_bytes)
                    } else {
                        0
                    };
                    let name = records.path.take().or(long_name);
                    let target = records.link_target.take().or(long_target);
                    let raw = Raw {
                        name: name.unwrap_or_else(|| header.name()),
                        link_target: target.unwrap_or_else(|| header.link_target().to_vec()),
                        offset: self.at,
                        size_bytes,
                        header,
                        records,
                    };
                    self.skip(&raw.name, size_bytes)?;
                    return Ok(Some(raw));
                }
            }
        }
    }

    /// The next header; none at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let start = self.at;
        if start == self.size_bytes {
            return match self.end {
                End::Verified => Ok(None),
                End::Marked => Err(LayerError::NoEnd { at: start }),
            };
        }
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block, b"its header")?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        match Header::parse(&block) {
            Some(header) => Ok(Some(header)),
            None => Err(LayerError::Header { at: start }),
        }
    }

    fn fill(&mut self, out: &mut [u8], entry: &[u8]) -> Result<(), LayerError> {
        let length = u64::try_from(out.len()).unwrap_or(u64::MAX);
        self.check_room(entry, length)?;
        self.tar.read_exact(out)?;
        self.at += length;
        Ok(())
    }

    fn check_room(&self, entry: &[u8], length: u64) -> Result<(), LayerError> {
        if length > self.size_bytes - self.at {
            return Err(LayerError::Truncated {
                entry: shown(entry),
            });
        }
        Ok(())
    }

    /// Passes over a content and what fills its last block.
    fn skip(&mut self, entry: &[u8], size_bytes: u64) -> Result<(), LayerError> {
        self.advance(entry, filled(size_bytes))
    }

    fn advance(&mut self, entry: &[u8], bytes: u64) -> Result<(), LayerError> {
        self.check_room(entry, bytes)?;
        let distance = i64::try_from(bytes).map_err(|_| LayerError::Header { at: self.at })?;
        self.tar.seek_relative(distance)?;
        self.at += bytes;
        Ok(())
    }

    fn extension(&mut self, header: &Header, size_bytes: u64) -> Result<Vec<u8>, LayerError> {
        let name = header.name();
        if size_bytes > MAX_EXTENSION_BYTES {
            return Err(refused(&name, "has an extended header of more than 1 MiB"));
        }
        let length = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        self.check_room(&name, size_bytes)?;
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, &name)?;
        self.advance(&name, filled(size_bytes) - size_bytes)?;
        Ok(bytes)
    }

    /// A GNU long name, which ends with a NUL.
    fn long(&mut self, header: &Header, size_bytes: u64) -> Result<Vec<u8>, LayerError> {
        let mut bytes = self.extension(header, size_bytes)?;
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    /// What an entry says; nothing where it means nothing.
    fn entry(&self, raw: &Raw) -> Result<Option<Entry>, LayerError> {
        self.budget.take_entry()?;
        let path = clean(&raw.name).map_err(|problem| refused(&raw.name, problem))?;
        let marker = marker(&path).map_err(|problem| refused(&raw.name, problem))?;
        let (path, kind) = match marker {
            Marker::Ignored => return Ok(None),
            Marker::Whiteout(hidden) => (hidden, EntryKind::Whiteout),
            Marker::Opaque(directory) => (directory, EntryKind::Opaque),
            Marker::None => {
                let kind = kind(raw)?;
                (path, kind)
            }
        };
        let mut attributes = attributes(raw)?;
        if let EntryKind::Symlink(_) = kind {
            // Linux knows no other permissions of links, whatever an archive says.
            attributes.permissions = 0o777;
        }
        let target_bytes = match &kind {
            EntryKind::HardLink(target) | EntryKind::Symlink(target) => target.len(),
            _ => 0,
        };
        self.budget.take_name(path.len() + target_bytes)?;
        for (name, value) in &attributes.xattrs {
            self.budget.take_xattrs(name.len() + value.len())?;
        }
        Ok(Some(Entry {
            path,
            attributes,
            kind,
        }))
    }
}

/// A length with what fills its last block.
fn filled(size_bytes: u64) -> u64 {
    let block = u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX);
    size_bytes
        .checked_next_multiple_of(block)
        .unwrap_or(u64::MAX)
}

fn attributes(raw: &Raw) -> Result<Attributes, LayerError> {
    let of = |problem| refused(&raw.name, problem);
    for name in raw.records.xattrs.keys() {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(&0) {
            return Err(of("has an extended attribute whose name is not one"));
        }
    }
    let uid = raw.records.uid.or_else(|| raw.header.uid());
    let gid = raw.records.gid.or_else(|| raw.header.gid());
    let mtime = raw.records.mtime_s.or_else(|| raw.header.mtime_s());
    Ok(Attributes {
        permissions: raw.header.mode().ok_or_else(|| of("has no mode"))? & 0o7777,
        uid: uid.ok_or_else(|| of("has an owner that is not a 32-bit number"))?,
        gid: gid.ok_or_else(|| of("has a group that is not a 32-bit number"))?,
        mtime_s: mtime.ok_or_else(|| of("has a time that is not a number"))?,
        xattrs: raw.records.xattrs.clone(),
    })
}

fn kind(raw: &Raw) -> Result<EntryKind, LayerError> {
    let of = |problem| refused(&raw.name, problem);
    let device = || {
        let major = raw.header.device_major();
        let minor = raw.header.device_minor();
        match (major, minor) {
            (Some(major), Some(minor)) => Ok(Device { major, minor }),
            _ => Err(of("is a device without a number")),
        }
    };
    if raw.records.is_sparse {
        return Err(of(
            "is a sparse file in GNU's format, which layers cannot have",
        ));
    }
    Ok(match raw.header.kind() {
        // Archives from before POSIX mark directories by their name only.
        b'0' | 0 if raw.name.ends_with(b"/") => EntryKind::Directory,
        b'0' | 0 | b'7' => EntryKind::File {
            offset: raw.offset,
            size_bytes: raw.size_bytes,
        },
        b'1' => EntryKind::HardLink(clean(&raw.link_target).map_err(|problem| match problem {
            OUTSIDE => of("is a hard link that leads out of the image"),
            _ => of("is a hard link to a name that cannot be"),
        })?),
        b'2' => {
            let target = &raw.link_target;
            if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
                return Err(of("is a symbolic link whose target cannot be one"));
            }
            EntryKind::Symlink(target.clone())
        }
        b'3' => EntryKind::CharacterDevice(device()?),
        b'4' => EntryKind::BlockDevice(device()?),
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        b'S' => {
            return Err(of(
                "is a sparse file in GNU's format, which layers cannot have",
            ));
        }
        kind => {
            return Err(LayerError::Unknown {
                entry: shown(&raw.name),
                kind: kind.escape_ascii().to_string(),
            });
        }
    })
}

fn refused(entry: &[u8], problem: &'static str) -> LayerError {
    LayerError::Entry {
        entry: shown(entry),
        problem,
    }
}

/// A name for people: escaped, and not longer than what they read.
pub(super) fn shown(name: &[u8]) -> String {
    let end = name.len().min(MAX_SHOWN_BYTES);
    let dots = if end < name.len() { "..." } else { "" };
    let text = String::from_utf8_lossy(&name[..end]);
    format!("{}{dots}", text.escape_debug())
}
