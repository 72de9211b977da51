//! Extended attributes: sets of them, each stored once, however many inodes have it.

use std::collections::BTreeMap;
use std::io::Write;

use super::format::{NO_TABLE, NO_XATTRS};
use super::metadata::{Table, Tail, too_large};
use super::narrow;
use crate::image::WriteError;
use crate::image::write_error::shown;
use crate::tree::Attributes;

/// The namespaces that the format knows, by their numbers (`SQUASHFS_XATTR_USER` and so on).
const NAMESPACES: [(u16, &[u8]); 3] = [(0, b"user."), (1, b"trusted."), (2, b"security.")];

/// The longest name of an attribute that Linux takes (`XATTR_NAME_MAX`).
const MAX_XATTR_NAME_BYTES: usize = 255;

/// The longest value that Linux takes (`XATTR_SIZE_MAX`).
const MAX_XATTR_VALUE_BYTES: usize = 65536;

type Set = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug)]
pub(super) struct Xattrs<'a> {
    /// Names and values.
    pairs: Table,
    /// Where each set begins, and how large it is.
    sets: Table,
    known: BTreeMap<&'a Set, u32>,
}

impl<'a> Xattrs<'a> {
    pub(super) fn new(level: i32) -> Self {
        Self {
            pairs: Table::new(level),
            sets: Table::new(level),
            known: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The number of the set that `path` has.
    pub(super) fn add(
        &mut self,
        path: &[u8],
        attributes: &'a Attributes,
    ) -> Result<u32, WriteError> {
        let set = &attributes.xattrs;
        if set.is_empty() {
            return Ok(NO_XATTRS);
        }
        if let Some(&number) = self.known.get(set) {
            return Ok(number);
        }
        let reference = self.pairs.position()?.reference();
        let mut bytes = 0;
        for (name, value) in set {
            let pair = pair(path, name, value)?;
            bytes += pair.len();
            self.pairs.push(&pair)?;
        }
        let number = narrow(self.known.len());
        self.sets.push(&reference.to_le_bytes())?;
        self.sets.push(&narrow(set.len()).to_le_bytes())?;
        let bytes = u32::try_from(bytes).map_err(|_| too_large())?;
        self.sets.push(&bytes.to_le_bytes())?;
        self.known.insert(set, number);
        Ok(number)
    }

    /// Writes all of them; says where the table of sets is.
    pub(super) fn write<W: Write>(self, tail: &mut Tail<W>) -> Result<u64, WriteError> {
        if self.is_empty() {
            return Ok(NO_TABLE);
        }
        let count = narrow(self.known.len());
        let pairs_at = tail.table(self.pairs)?;
        // `struct squashfs_xattr_id_table`.
        tail.indexed(self.sets, |_| {
            [&pairs_at.to_le_bytes()[..], &count.to_le_bytes(), &[0; 4]].concat()
        })
    }
}

/// `struct squashfs_xattr_entry`, the name without its namespace, `struct squashfs_xattr_val`, the value.
fn pair(path: &[u8], name: &[u8], value: &[u8]) -> Result<Vec<u8>, WriteError> {
    let refused = |why: String| WriteError::Unsupported {
        path: shown(path),
        why,
    };
    let known = NAMESPACES.iter().find_map(|(number, namespace)| {
        let short = name.strip_prefix(*namespace)?;
        Some((number, short)).filter(|_| !short.is_empty())
    });
    let (number, short) = known.ok_or_else(|| {
        refused(format!(
            "squashfs holds attributes of `user`, `trusted` and `security`, and it has `{}`",
            name.escape_ascii()
        ))
    })?;
    if name.len() > MAX_XATTR_NAME_BYTES || value.len() > MAX_XATTR_VALUE_BYTES {
        return Err(refused(format!(
            "an attribute has at most {MAX_XATTR_NAME_BYTES} bytes of name and {MAX_XATTR_VALUE_BYTES} of value"
        )));
    }
    let name_bytes = u16::try_from(short.len()).map_err(|_| too_large())?;
    let mut pair = Vec::with_capacity(8 + short.len() + value.len());
    pair.extend(number.to_le_bytes());
    pair.extend(name_bytes.to_le_bytes());
    pair.extend_from_slice(short);
    pair.extend(narrow(value.len()).to_le_bytes());
    pair.extend_from_slice(value);
    Ok(pair)
}
