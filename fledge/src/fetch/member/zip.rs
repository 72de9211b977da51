//! Zip archives: members that are stored or deflated, not encrypted.

use std::io::{self, Read, Seek};

use zip::ZipArchive;
use zip::result::ZipError;

use super::MemberError;
use super::archive::{Archive, Kind, Member, TakeError, Visitor};
use super::names;

/// The permissions of members that were packed where there are none.
const DEFAULT_PERMISSIONS: u32 = 0o644;

/// The longest target of a symbolic link that Linux follows (`PATH_MAX` without its NUL).
const MAX_TARGET_BYTES: u64 = 4095;

/// Shows all members to `visitor`.
pub(super) fn scan(
    archive: &Archive<'_>,
    file: impl Read + Seek,
    visitor: &mut dyn Visitor,
) -> Result<(), MemberError> {
    let broken = |error: ZipError| archive.broken(error.into());
    let mut reader = ZipArchive::new(file).map_err(broken)?;
    archive.check_count(reader.len())?;
    for index in 0..reader.len() {
        let entry = reader.by_index_data(index).map_err(broken)?;
        let Some(path) = names::normal(entry.name_raw()) else {
            continue;
        };
        let is_link = entry.is_symlink();
        let kind = if is_link {
            // Its target is its content, and is read when it is wanted.
            Kind::Symlink(Vec::new())
        } else if entry.is_dir() {
            Kind::Directory
        } else {
            Kind::File
        };
        let member = Member {
            path,
            kind,
            permissions: entry.unix_mode().unwrap_or(DEFAULT_PERMISSIONS),
        };
        if !visitor.wants(&member) {
            continue;
        }
        let mut content = reader.by_index(index).map_err(broken)?;
        let taken = if is_link {
            target(&mut content).and_then(|target| {
                let kind = Kind::Symlink(target);
                visitor.take(Member { kind, ..member }, &mut io::empty())
            })
        } else {
            visitor.take(member, &mut content)
        };
        taken.map_err(|error| archive.untaken(error))?;
    }
    Ok(())
}

fn target(content: &mut impl Read) -> Result<Vec<u8>, TakeError> {
    let mut target = Vec::new();
    content
        .take(MAX_TARGET_BYTES + 1)
        .read_to_end(&mut target)
        .map_err(TakeError::Read)?;
    Ok(target)
}
