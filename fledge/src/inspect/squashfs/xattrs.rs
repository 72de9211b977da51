//! Extended attributes: sets of them, which inodes share.

use std::collections::BTreeMap;

use super::metadata::{Cursor, Metadata};
use crate::inspect::walk::{Budget, Flaw, damaged};
use crate::little_endian::{u16_at, u32_at, u64_at};

/// The length of what is known of a set, in bytes (`struct squashfs_xattr_id`).
const SET_BYTES: u64 = 16;

/// The length of what the table of sets begins with, in bytes (`struct squashfs_xattr_id_table`).
const HEADER_BYTES: u64 = 16;

/// Set in an attribute's type where its value is elsewhere (`SQUASHFS_XATTR_VALUE_OOL`).
const ELSEWHERE: u16 = 0x100;

/// The most attributes in a set, and the largest value, in bytes (`XATTR_LIST_MAX` at two bytes each, `XATTR_SIZE_MAX` of Linux).
const MAX_ATTRIBUTES: u32 = 32_768;
const MAX_VALUE_BYTES: u32 = 65_536;

/// The table of sets.
#[derive(Debug)]
pub(super) struct Xattrs {
    /// Where names and values are.
    pairs_at: u64,
    /// Where it is said where the sets are, and how many there are.
    index_at: u64,
    count: u32,
}

impl Xattrs {
    /// The one at `at` in the image.
    pub(super) fn open(metadata: &mut Metadata, at: u64) -> Result<Self, Flaw> {
        let header = metadata.plain::<16>(at)?;
        Ok(Self {
            pairs_at: u64_at(&header, 0),
            index_at: at.checked_add(HEADER_BYTES).ok_or(Flaw::Beyond)?,
            count: u32_at(&header, 8),
        })
    }

    /// The set with this number, by the whole names of its attributes.
    pub(super) fn set(
        &self,
        metadata: &mut Metadata,
        number: u32,
        budget: &mut Budget,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Flaw> {
        if number >= self.count {
            return Err(damaged("has attributes that are not there"));
        }
        let set = metadata.looked_up(self.index_at, number.into(), SET_BYTES, budget)?;
        let mut cursor = Cursor::of(self.pairs_at, u64_at(&set, 0))?;
        let count = u32_at(&set, 8);
        if count > MAX_ATTRIBUTES {
            return Err(damaged("has more attributes than a file can have"));
        }
        let mut found = BTreeMap::new();
        for _ in 0..count {
            let (name, value) = self.pair(metadata, &mut cursor, budget)?;
            // Of a set of large values nothing more is kept than the budget has.
            budget.read(u64::try_from(value.len()).unwrap_or(u64::MAX))?;
            found.insert(name, value);
        }
        Ok(found)
    }

    /// `struct squashfs_xattr_entry` and `struct squashfs_xattr_val`.
    fn pair(
        &self,
        metadata: &mut Metadata,
        cursor: &mut Cursor,
        budget: &mut Budget,
    ) -> Result<(Vec<u8>, Vec<u8>), Flaw> {
        let entry = metadata.read(cursor, 4, budget)?;
        let kind = u16_at(&entry, 0);
        let prefix: &[u8] = match kind & !ELSEWHERE {
            0 => b"user.",
            1 => b"trusted.",
            2 => b"security.",
            _ => {
                let what = "an attribute of an unknown kind";
                return Err(Flaw::Unsupported { what });
            }
        };
        let name = metadata.read(cursor, u16_at(&entry, 2).into(), budget)?;
        let mut value = value(metadata, cursor, budget)?;
        if kind & ELSEWHERE != 0 {
            let mut elsewhere = Cursor::of(self.pairs_at, u64_at(&value, 0))?;
            value = self::value(metadata, &mut elsewhere, budget)?;
        }
        Ok(([prefix, &name].concat(), value))
    }
}

fn value(
    metadata: &mut Metadata,
    cursor: &mut Cursor,
    budget: &mut Budget,
) -> Result<Vec<u8>, Flaw> {
    let length = u32_at(&metadata.read(cursor, 4, budget)?, 0);
    if length > MAX_VALUE_BYTES {
        return Err(damaged("has an attribute that is larger than one can be"));
    }
    let length = usize::try_from(length).unwrap_or(0);
    metadata.read(cursor, length, budget)
}
