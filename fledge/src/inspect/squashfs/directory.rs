//! The names in a directory: runs behind a header each, which says where in the table of inodes theirs are. The index of a large
//! directory says nothing more.

use super::metadata::{Cursor, Metadata};
use crate::inspect::walk::{Budget, Flaw, damaged};
use crate::little_endian::{u16_at, u32_at};

/// The length of a header and of an entry without its name, in bytes (`struct squashfs_dir_header`, `struct squashfs_dir_entry`).
const HEADER_LEN: usize = 12;
const ENTRY_LEN: usize = 8;

/// The most entries behind one header (`SQUASHFS_DIR_COUNT`).
const MAX_RUN: u32 = 256;

/// Names, and references to their inodes, of the directory that takes `bytes` from `cursor` on.
pub(super) fn entries(
    metadata: &mut Metadata,
    mut cursor: Cursor,
    bytes: u32,
    budget: &mut Budget,
) -> Result<Vec<(Vec<u8>, u64)>, Flaw> {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let data = metadata.read(&mut cursor, length, budget)?;
    runs(&data).ok_or(damaged("is a damaged directory"))
}

fn runs(mut rest: &[u8]) -> Option<Vec<(Vec<u8>, u64)>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(HEADER_LEN)?;
        rest = after;
        let count = u32_at(header, 0).checked_add(1)?;
        if count > MAX_RUN {
            return None;
        }
        let block = u64::from(u32_at(header, 4)) << 16;
        for _ in 0..count {
            let (entry, after) = rest.split_at_checked(ENTRY_LEN)?;
            let name_len = usize::from(u16_at(entry, 6)) + 1;
            let (name, after) = after.split_at_checked(name_len)?;
            rest = after;
            found.push((name.to_vec(), block | u64::from(u16_at(entry, 0))));
        }
    }
    Some(found)
}
