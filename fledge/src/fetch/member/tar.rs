//! Tar archives: plain, with the long names of GNU tar, and with POSIX's extended headers. Sparse files are recognised, not read.

use std::borrow::Cow;
use std::io::{self, Read};

use tar::{EntryType, Header};

use super::MemberError;
use super::archive::{Archive, Kind, Member, Visitor};
use super::names;
use crate::tar_format::{self, BLOCK_BYTES, Records};

/// The longest extended header, in bytes: names have at most 4096, attributes 64 KiB.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;

/// What headers of their own say of the next member.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    is_sparse: bool,
}

/// Shows all members to `visitor`.
pub(super) fn scan(
    archive: &Archive<'_>,
    mut stream: impl Read,
    visitor: &mut dyn Visitor,
) -> Result<(), MemberError> {
    let broken = |source| archive.broken(source);
    let mut start = Vec::new();
    let block = u64::try_from(BLOCK_BYTES).unwrap_or(0);
    (&mut stream)
        .take(block)
        .read_to_end(&mut start)
        .map_err(broken)?;
    if !is_header(&start) {
        return Err(archive.not_an_archive());
    }
    let mut reader = tar::Archive::new(start.chain(stream));
    let mut extension = Extension::default();
    let mut count = 0;
    // Raw: the library's own handling of extended headers takes them at any length.
    for entry in reader.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        count += 1;
        archive.check_count(count)?;
        let kind = entry.header().entry_type();
        if extension.read(kind, &mut entry).map_err(broken)? {
            continue;
        }
        let extension = std::mem::take(&mut extension);
        let Some(member) = member(entry.header(), extension).map_err(broken)? else {
            continue;
        };
        if visitor.wants(&member) {
            let size_bytes = entry.size();
            let mut content = Exact {
                inner: &mut entry,
                left: size_bytes,
            };
            visitor
                .take(member, &mut content)
                .map_err(|error| archive.untaken(error))?;
        }
    }
    Ok(())
}

/// Whether it is the header of a member, or the end of an archive without any.
fn is_header(block: &[u8]) -> bool {
    let Some(block) = block.first_chunk::<BLOCK_BYTES>() else {
        return false;
    };
    block.iter().all(|&byte| byte == 0) || tar_format::Header::parse(block).is_some()
}

/// The member that a header describes; nothing for one that cannot be asked for.
fn member(header: &Header, extension: Extension) -> io::Result<Option<Member>> {
    let name = extension
        .path
        .unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extension
        .link
        .or_else(|| header.link_name_bytes().map(Cow::into_owned))
        .unwrap_or_default();
    let kind = match header.entry_type() {
        _ if extension.is_sparse => Kind::Other("a sparse file, which is not supported"),
        // Before POSIX, a directory was a file with `/` at its end.
        EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(link),
        EntryType::Link => Kind::HardLink(names::normal(&link)),
        EntryType::GNUSparse => Kind::Other("a sparse file, which is not supported"),
        EntryType::Char | EntryType::Block => Kind::Other("a device"),
        EntryType::Fifo => Kind::Other("a named pipe"),
        _ => Kind::Other("of an unknown kind"),
    };
    let permissions = header.mode()?;
    Ok(names::normal(&name).map(|path| Member {
        path,
        kind,
        permissions,
    }))
}

impl Extension {
    /// Reads a header that describes the next member; says whether it was one.
    fn read(&mut self, kind: EntryType, content: &mut impl Read) -> io::Result<bool> {
        if kind.is_gnu_longname() {
            self.path = Some(without_nul(bounded(content)?));
        } else if kind.is_gnu_longlink() {
            self.link = Some(without_nul(bounded(content)?));
        } else if kind.is_pax_local_extensions() {
            self.records(&bounded(content)?)?;
        } else {
            // What is said of all members is never a name.
            return Ok(kind.is_pax_global_extensions());
        }
        Ok(true)
    }

    fn records(&mut self, bytes: &[u8]) -> io::Result<()> {
        let records = Records::parse(bytes).ok_or_else(bad_record)?;
        self.path = records.path.or(self.path.take());
        self.link = records.link_target.or(self.link.take());
        self.is_sparse |= records.is_sparse;
        Ok(())
    }
}

fn bad_record() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "an extended header is not as it should be",
    )
}

fn bounded(content: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content
        .take(MAX_EXTENSION_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_EXTENSION_BYTES) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an extended header has more than 1 MiB",
        ));
    }
    Ok(bytes)
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

/// Notices where an archive ends within a member.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self
            .left
            .saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}
