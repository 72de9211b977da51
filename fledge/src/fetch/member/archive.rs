//! An archive as a list of members, whatever its format is. Chooses nothing: see [`super::select`].

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::names::Names;
use super::{MAX_MEMBERS, MAX_UNPACKED_BYTES, MemberError, tar, zip};
use crate::image::zstd;
use crate::tree::TreeError;

/// How much is read at once, in bytes: large enough that the system calls do not count.
const BUFFER_BYTES: usize = 256 * 1024;

/// The most memory for unpacking xz, in KiB: `xz -9` needs 65 MiB.
const MAX_XZ_KIB: u32 = 256 * 1024;

/// What the members are and hold, one after the other.
pub(super) trait Visitor {
    /// Whether the member is to be taken.
    fn wants(&mut self, member: &Member) -> bool;

    /// Takes it; called right after [`Visitor::wants`].
    fn take(&mut self, member: Member, content: &mut dyn Read) -> Result<(), TakeError>;
}

/// Why a member cannot be taken.
#[derive(Debug)]
pub(super) enum TakeError {
    /// What the archive says is wrong.
    Read(io::Error),
    /// The temporary file cannot be written.
    Write(io::Error),
    /// It would be more than [`super::MAX_TAKEN_BYTES`].
    TooLarge(u64),
}

/// A member of an archive.
#[derive(Debug)]
pub(super) struct Member {
    /// Its path without empty, `.` or `..` components.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Mode bits as the archive has them.
    pub(super) permissions: u32,
}

/// What a member is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// With its target as it is.
    Symlink(Vec<u8>),
    /// With the path of another member, nothing for one that cannot be asked for.
    HardLink(Option<Vec<u8>>),
    /// What nobody can want.
    Other(&'static str),
}

/// Something that was downloaded.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    path: &'a Path,
    /// Where it is from, for people.
    name: String,
}

impl<'a> Archive<'a> {
    pub(super) fn new(path: &'a Path, name: String) -> Self {
        Self { path, name }
    }

    /// Shows all members to `visitor`.
    pub(super) fn scan(&self, visitor: &mut dyn Visitor) -> Result<(), MemberError> {
        let unread = |source| MemberError::Read {
            path: self.path.to_path_buf(),
            source,
        };
        let file = fs_err::File::open(self.path).map_err(unread)?.into_file();
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        let start = file.fill_buf().map_err(unread)?.to_vec();
        // Of an empty zip archive there is only the end.
        if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            return zip::scan(self, file, visitor);
        }
        let is_exceeded = Rc::new(Cell::new(false));
        let stream = Bounded {
            inner: self.unpacked(file, &start)?,
            left: MAX_UNPACKED_BYTES,
            is_exceeded: Rc::clone(&is_exceeded),
        };
        let result = tar::scan(self, stream, visitor);
        if is_exceeded.get() {
            return Err(self.too_large(MAX_UNPACKED_BYTES, "bytes when unpacked"));
        }
        result
    }

    /// The stream behind the compression, if there is one: gzip (RFC 1952), xz (its format's §2.1.1.1), zstd (RFC 8878).
    fn unpacked(&self, file: BufReader<File>, start: &[u8]) -> Result<Box<dyn Read>, MemberError> {
        Ok(if start.starts_with(b"\x1f\x8b") {
            Box::new(MultiGzDecoder::new(file))
        } else if start.starts_with(b"\xfd7zXZ\0") {
            Box::new(XzReader::new_mem_limit(file, true, MAX_XZ_KIB))
        } else if start.starts_with(b"\x28\xb5\x2f\xfd") {
            Box::new(zstd::reader(file).map_err(|source| self.broken(source))?)
        } else {
            Box::new(file)
        })
    }

    /// Checks that there are not too many members.
    pub(super) fn check_count(&self, members: usize) -> Result<(), MemberError> {
        if members > MAX_MEMBERS {
            let limit = u64::try_from(MAX_MEMBERS).unwrap_or(u64::MAX);
            return Err(self.too_large(limit, "members"));
        }
        Ok(())
    }

    pub(super) fn untaken(&self, error: TakeError) -> MemberError {
        match error {
            TakeError::Read(source) => self.broken(source),
            TakeError::Write(source) => MemberError::Spool {
                archive: self.name.clone(),
                source,
            },
            TakeError::TooLarge(limit) => self.too_large(limit, "bytes to take out"),
        }
    }

    pub(super) fn not_an_archive(&self) -> MemberError {
        MemberError::NotAnArchive {
            archive: self.name.clone(),
        }
    }

    pub(super) fn broken(&self, source: io::Error) -> MemberError {
        MemberError::Unpack {
            archive: self.name.clone(),
            source,
        }
    }

    fn too_large(&self, limit: u64, what: &'static str) -> MemberError {
        MemberError::TooLarge {
            archive: self.name.clone(),
            limit,
            what,
        }
    }

    pub(super) fn missing(&self, member: &str, names: &Names) -> MemberError {
        MemberError::Missing {
            archive: self.name.clone(),
            member: member.to_owned(),
            others: names.clause(),
        }
    }

    pub(super) fn wrong_kind(&self, member: &[u8], what: &'static str) -> MemberError {
        MemberError::WrongKind {
            archive: self.name.clone(),
            member: shown(member),
            what,
        }
    }

    pub(super) fn dead_link(&self, member: &[u8]) -> MemberError {
        MemberError::DeadLink {
            archive: self.name.clone(),
            member: shown(member),
        }
    }

    pub(super) fn too_deep(&self, member: &[u8]) -> MemberError {
        MemberError::TooDeep {
            archive: self.name.clone(),
            member: shown(member),
        }
    }

    pub(super) fn unplaced(&self, member: &[u8], source: TreeError) -> MemberError {
        MemberError::Place {
            archive: self.name.clone(),
            member: shown(member),
            source,
        }
    }
}

fn shown(member: &[u8]) -> String {
    let text = String::from_utf8_lossy(member);
    text.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

/// Fails when more is read than may be.
struct Bounded<R> {
    inner: R,
    left: u64,
    is_exceeded: Rc<Cell<bool>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let read = u64::try_from(count).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(read) else {
            self.is_exceeded.set(true);
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.left = left;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_may_be() {
        let is_exceeded = Rc::new(Cell::new(false));
        let bounded = |left| {
            let mut stream = Bounded {
                inner: io::repeat(1).take(10),
                left,
                is_exceeded: Rc::clone(&is_exceeded),
            };
            let result = stream.read_to_end(&mut Vec::new());
            (result.is_ok(), is_exceeded.get())
        };
        assert_eq!(bounded(10), (true, false));
        assert_eq!(bounded(9), (false, true));
    }
}
