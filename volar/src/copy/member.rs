//! The members of a hostile archive, one by one, with bounded names. Writes nothing.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entries, Entry, EntryType};

/// The longest name that is read: Linux has no longer path (`PATH_MAX`, include/uapi/linux/limits.h).
const MAX_NAME_BYTES: u64 = 4096;

/// The most bytes of one block of PAX records: two names and some numbers.
const MAX_PAX_BYTES: u64 = 16 * 1024;

/// A member that is none of an archive that we take.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// It cannot be read.
    #[error("The archive cannot be read")]
    Read(#[source] io::Error),
    /// Its name is too long.
    #[error("The archive has a name of more than {MAX_NAME_BYTES} bytes")]
    LongName,
    /// Its name leads elsewhere.
    #[error("The archive has the member `{}`, which leads out of what is copied", shown.display())]
    Outside {
        /// The name.
        shown: PathBuf,
    },
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A symbolic link, with where it leads.
    Link(PathBuf),
    /// Another name of the member of this path.
    Same(PathBuf),
    /// Something that cannot be copied.
    Other,
}

/// A member's place and kind.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Relative, without `.` and `..`; never empty.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Permission bits without set-user-ID and the like.
    pub(super) mode: u32,
}

/// A key and its value.
type Record = (Vec<u8>, Vec<u8>);

/// Reads members in their order.
pub(super) struct Members<'a, R: Read>(Entries<'a, R>);

impl<'a, R: Read> Members<'a, R> {
    pub(super) fn of(archive: &'a mut Archive<R>) -> Result<Self, MemberError> {
        // Raw: the crate would read names of any length into memory.
        let entries = archive.entries().map_err(MemberError::Read)?.raw(true);
        Ok(Self(entries))
    }

    /// The next member and its content.
    pub(super) fn next(&mut self) -> Result<Option<(Member, Entry<'a, R>)>, MemberError> {
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(entry) = self.0.next() else {
                return Ok(None);
            };
            let mut entry = entry.map_err(MemberError::Read)?;
            match entry.header().entry_type() {
                EntryType::GNULongName => long_name = Some(long(&mut entry)?),
                EntryType::GNULongLink => long_link = Some(long(&mut entry)?),
                EntryType::XHeader => {
                    for (key, value) in pax(&mut entry)? {
                        match key.as_slice() {
                            b"path" => long_name = Some(value),
                            b"linkpath" => long_link = Some(value),
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => drop(pax(&mut entry)?),
                _ => {
                    let member = member(&entry, long_name, long_link.as_deref())?;
                    return Ok(Some((member, entry)));
                }
            }
        }
    }
}

fn member<R: Read>(
    entry: &Entry<'_, R>,
    long_name: Option<Vec<u8>>,
    long_link: Option<&[u8]>,
) -> Result<Member, MemberError> {
    let header = entry.header();
    let name = long_name.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = || {
        let short = || header.link_name_bytes().unwrap_or_default().into_owned();
        let link = long_link.map_or_else(short, <[u8]>::to_vec);
        (u64::try_from(link.len()).is_ok_and(|length| length <= MAX_NAME_BYTES))
            .then_some(link)
            .ok_or(MemberError::LongName)
    };
    if u64::try_from(name.len()).is_ok_and(|length| length > MAX_NAME_BYTES) {
        return Err(MemberError::LongName);
    }
    let path = inside(&name)?;
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Link(PathBuf::from(OsStr::from_bytes(&link()?))),
        EntryType::Link => Kind::Same(inside(&link()?)?),
        // The old format calls a directory a file whose name ends with `/`.
        EntryType::Regular if name.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        _ => Kind::Other,
    };
    let mode = header.mode().unwrap_or(0o644) & 0o777;
    Ok(Member { path, kind, mode })
}

/// A path below the top of the archive.
fn inside(name: &[u8]) -> Result<PathBuf, MemberError> {
    let path = Path::new(OsStr::from_bytes(name));
    let outside = || MemberError::Outside {
        shown: path.to_owned(),
    };
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(outside());
            }
        }
    }
    let good = !clean.as_os_str().is_empty() && !name.contains(&0);
    good.then_some(clean).ok_or_else(outside)
}

/// The name that is the content of an entry of GNU tar.
fn long<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, MemberError> {
    let mut name = bounded(entry, MAX_NAME_BYTES + 1)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The records of POSIX.1-2001 pax: `length key=value\n`.
fn pax<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<Record>, MemberError> {
    let bytes = bounded(entry, MAX_PAX_BYTES)?;
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    while let Some(blank) = rest.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&rest[..blank]).ok();
        let length = length.and_then(|text| text.parse::<usize>().ok());
        let Some(record) = length.and_then(|length| rest.get(blank + 1..length)) else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "a PAX record is damaged");
            return Err(MemberError::Read(error));
        };
        rest = &rest[blank + 1 + record.len()..];
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        if let Some(equals) = record.iter().position(|byte| *byte == b'=') {
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        }
    }
    Ok(records)
}

fn bounded<R: Read>(entry: &mut Entry<'_, R>, limit: u64) -> Result<Vec<u8>, MemberError> {
    if entry.size() > limit {
        return Err(MemberError::LongName);
    }
    let mut bytes = Vec::new();
    entry
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(MemberError::Read)?;
    Ok(bytes)
}
