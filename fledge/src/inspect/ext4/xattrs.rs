//! Extended attributes: those in an inode, and those in a block of their own. Source: Linux `fs/ext4/xattr.h` and `fs/ext4/acl.h`.

use std::collections::BTreeMap;

use crate::inspect::walk::{Flaw, damaged};
use crate::little_endian::{u16_at, u32_at};

/// `EXT4_XATTR_MAGIC`.
const MAGIC: u32 = 0xea02_0000;

/// The length of the header in an inode, of the one in a block, and of an entry without its name, in bytes.
const INODE_HEADER_LEN: usize = 4;
const BLOCK_HEADER_LEN: usize = 32;
const ENTRY_LEN: usize = 16;

/// How an access control list begins for programs (`POSIX_ACL_XATTR_VERSION`), and on the disk (`EXT4_ACL_VERSION`).
const ACCESS_LIST_VERSION: [u8; 4] = [2, 0, 0, 0];
const STORED_ACCESS_LIST_VERSION: [u8; 4] = [1, 0, 0, 0];

/// The number of an entry that names nobody (`ACL_UNDEFINED_ID`).
const NOBODY: [u8; 4] = [0xff; 4];

/// The attributes, by their whole names.
type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// Adds those in what is left of an inode behind its fields.
pub(super) fn in_inode(area: &[u8], found: &mut Attributes) -> Result<(), Flaw> {
    if u32_at(area, 0) != MAGIC {
        return Ok(());
    }
    let area = area.get(INODE_HEADER_LEN..).unwrap_or_default();
    read(area, 0, found)
}

/// Adds those in a block.
pub(super) fn in_block(block: &[u8], found: &mut Attributes) -> Result<(), Flaw> {
    if u32_at(block, 0) != MAGIC || u32_at(block, 8) != 1 {
        return Err(bad());
    }
    read(block, BLOCK_HEADER_LEN, found)
}

fn bad() -> Flaw {
    damaged("has broken extended attributes")
}

/// Reads entries from `at` on, whose values are counted from the beginning of `area`. Four zero bytes end them.
fn read(area: &[u8], mut at: usize, found: &mut Attributes) -> Result<(), Flaw> {
    while u32_at(area, at) != 0 {
        let entry = area.get(at..).unwrap_or_default();
        let name_length = entry.first().copied().map_or(0, usize::from);
        let name = entry
            .get(ENTRY_LEN..ENTRY_LEN + name_length)
            .ok_or_else(bad)?;
        if u32_at(entry, 4) != 0 {
            let what = "an attribute in an inode of its own";
            return Err(Flaw::Unsupported { what });
        }
        let value_at = usize::from(u16_at(entry, 2));
        let value = match usize::try_from(u32_at(entry, 8)) {
            Ok(0) => &[][..],
            Ok(length) => value_at
                .checked_add(length)
                .and_then(|end| area.get(value_at..end))
                .ok_or_else(bad)?,
            Err(_) => return Err(bad()),
        };
        let (name, value) = whole(entry.get(1).copied().unwrap_or(0), name, value)?;
        found.insert(name, value);
        at += (ENTRY_LEN + name_length).next_multiple_of(4);
    }
    Ok(())
}

/// The whole name instead of the number of its beginning (`EXT4_XATTR_INDEX_USER` and so on), and the value as programs see it.
fn whole(prefix: u8, name: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Flaw> {
    let prefix: &[u8] = match prefix {
        1 => b"user.",
        2 | 3 => {
            let name: &[u8] = if prefix == 2 {
                b"system.posix_acl_access"
            } else {
                b"system.posix_acl_default"
            };
            return Ok((name.to_vec(), access_list(value).ok_or_else(bad)?));
        }
        4 => b"trusted.",
        6 => b"security.",
        7 => b"system.",
        _ => {
            let what = "an attribute of an unknown kind";
            return Err(Flaw::Unsupported { what });
        }
    };
    Ok(([prefix, name].concat(), value.to_vec()))
}

/// An access control list with a number in every entry (`ext4_acl_from_disk`).
fn access_list(value: &[u8]) -> Option<Vec<u8>> {
    let mut rest = value.strip_prefix(&STORED_ACCESS_LIST_VERSION)?;
    let mut list = ACCESS_LIST_VERSION.to_vec();
    while let Some((entry, after)) = rest.split_at_checked(4) {
        list.extend_from_slice(entry);
        // `ACL_USER` and `ACL_GROUP` say whom they are about.
        if matches!(u16_at(entry, 0), 2 | 8) {
            let (number, after) = after.split_at_checked(4)?;
            list.extend_from_slice(number);
            rest = after;
        } else {
            list.extend_from_slice(&NOBODY);
            rest = after;
        }
    }
    rest.is_empty().then_some(list)
}
