//! Extended attributes of an inode: as many as fit in the inode itself, the others in one block. Source: Linux `fs/ext4/xattr.h`,
//! `fs/ext4/xattr.c`.
//!
//! Not written are attributes that need more than that (feature `ea_inode`), and blocks shared between inodes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::format::{BLOCK_LEN, Block, put, put_u16, put_u32};
use super::inode::XATTRS_LEN;
use super::superblock::Identity;
use crate::image::WriteError;
use crate::image::write_error::shown;

/// `EXT4_XATTR_MAGIC`.
const MAGIC: u32 = 0xea02_0000;

/// The length of the header in an inode, of the one in a block, and of an entry without its name, in bytes.
const INODE_HEADER_LEN: usize = 4;
const BLOCK_HEADER_LEN: usize = 32;
const ENTRY_LEN: usize = 16;

/// Four zero bytes end the entries.
const END_LEN: usize = 4;

/// Where the checksum of a block is.
const CHECKSUM_AT: usize = 16;

/// What the names of attributes begin with, and the number that stands for it (`EXT4_XATTR_INDEX_USER` and so on).
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];

/// Access control lists have no other name than their number.
const ACCESS_LISTS: [(&[u8], u8); 2] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
];

/// How an access control list begins for programs (`POSIX_ACL_XATTR_VERSION`), and on the disk (`EXT4_ACL_VERSION`).
const ACCESS_LIST_VERSION: [u8; 4] = [2, 0, 0, 0];
const STORED_ACCESS_LIST_VERSION: [u8; 4] = [1, 0, 0, 0];

/// The entries of an access control list that name somebody: `ACL_USER` and `ACL_GROUP`.
const NAMED_ENTRIES: [[u8; 2]; 2] = [[2, 0], [8, 0]];

/// An attribute as it is stored.
#[derive(Debug)]
struct Attribute<'a> {
    prefix: u8,
    name: &'a [u8],
    value: Cow<'a, [u8]>,
}

impl Attribute<'_> {
    fn entry_len(&self) -> usize {
        ENTRY_LEN + self.name.len().next_multiple_of(4)
    }

    fn len(&self) -> usize {
        self.entry_len() + self.value.len().next_multiple_of(4)
    }

    /// What the kernel compares blocks by (`ext4_xattr_hash_entry`).
    fn hash(&self) -> u32 {
        let name = self
            .name
            .iter()
            .fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
        self.value.chunks(4).fold(name, |hash, chunk| {
            let mut word = [0; 4];
            put(&mut word, 0, chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

/// The attributes of an inode, ready to be written.
#[derive(Debug)]
pub(super) struct Stored {
    /// What goes into the inode.
    pub(super) in_inode: [u8; XATTRS_LEN],
    /// What goes into a block, but for its checksum.
    block: Option<Box<Block>>,
}

impl Stored {
    /// Those of what lies at `path`.
    ///
    /// # Errors
    /// [`WriteError::Unsupported`] where ext4 does not know an attribute, or all together are too large.
    pub(super) fn new(
        path: &[u8],
        xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Self, WriteError> {
        let mut stored = Self {
            in_inode: [0; XATTRS_LEN],
            block: None,
        };
        if xattrs.is_empty() {
            return Ok(stored);
        }
        let mut attributes = Vec::new();
        for (name, value) in xattrs {
            let attribute = parse(name, value).map_err(|why| WriteError::Unsupported {
                path: shown(path),
                why: format!("extended attribute `{}` {why}", name.escape_ascii()),
            })?;
            attributes.push(attribute);
        }
        // Linux looks for an attribute of a block in this order.
        attributes
            .sort_by_key(|attribute| (attribute.prefix, attribute.name.len(), attribute.name));
        let mut room = XATTRS_LEN - INODE_HEADER_LEN - END_LEN;
        let (in_inode, in_block): (Vec<_>, Vec<_>) =
            attributes.into_iter().partition(|attribute| {
                let fits = attribute.len() <= room;
                if fits {
                    room -= attribute.len();
                }
                fits
            });
        if !in_inode.is_empty() {
            put_u32(&mut stored.in_inode, 0, MAGIC);
            let area = &mut stored.in_inode[INODE_HEADER_LEN..];
            put_attributes(area, 0, &in_inode);
        }
        if !in_block.is_empty() {
            let length: usize = in_block.iter().map(Attribute::len).sum();
            if BLOCK_HEADER_LEN + length + END_LEN > BLOCK_LEN {
                return Err(WriteError::Unsupported {
                    path: shown(path),
                    why: format!(
                        "its extended attributes take {length} bytes, and ext4 has one block of {BLOCK_LEN} for them"
                    ),
                });
            }
            stored.block = Some(block(&in_block));
        }
        Ok(stored)
    }

    /// Whether a block is needed.
    pub(super) fn has_block(&self) -> bool {
        self.block.is_some()
    }

    /// The block as it is at `number`.
    pub(super) fn block_at(mut self, number: u32, identity: &Identity) -> Option<Box<Block>> {
        let block = self.block.as_mut()?;
        let checksum = identity
            .seed()
            .then(&u64::from(number).to_le_bytes())
            .then(&block[..]);
        put_u32(&mut block[..], CHECKSUM_AT, checksum.value());
        self.block
    }
}

/// Splits the number from the name, and brings the value to the form of the disk.
fn parse<'a>(name: &'a [u8], value: &'a [u8]) -> Result<Attribute<'a>, &'static str> {
    for (list, prefix) in ACCESS_LISTS {
        if name == list {
            let value = stored_access_list(value).ok_or("is not an access control list")?;
            return Ok(Attribute {
                prefix,
                name: b"",
                value: Cow::Owned(value),
            });
        }
    }
    for (text, prefix) in PREFIXES {
        if let Some(rest) = name.strip_prefix(text) {
            if rest.is_empty() || rest.len() > usize::from(u8::MAX) || rest.contains(&0) {
                return Err("has a name that ext4 cannot hold");
            }
            return Ok(Attribute {
                prefix,
                name: rest,
                value: Cow::Borrowed(value),
            });
        }
    }
    Err("is of a kind that ext4 does not have")
}

/// An access control list without the numbers of entries that need none (`ext4_acl_to_disk`).
fn stored_access_list(value: &[u8]) -> Option<Vec<u8>> {
    let entries = value.strip_prefix(&ACCESS_LIST_VERSION)?;
    let mut stored = STORED_ACCESS_LIST_VERSION.to_vec();
    let (entries, rest) = entries.as_chunks::<8>();
    for entry in entries {
        let is_named = NAMED_ENTRIES.iter().any(|tag| entry.starts_with(tag));
        stored.extend_from_slice(if is_named { entry } else { &entry[..4] });
    }
    rest.is_empty().then_some(stored)
}

/// Puts entries at `at` and on, and values at the end and down; offsets count from the beginning of `area`.
fn put_attributes(area: &mut [u8], mut at: usize, attributes: &[Attribute<'_>]) {
    let mut value_at = area.len();
    for attribute in attributes {
        let value = &attribute.value;
        area[at] = u8::try_from(attribute.name.len()).unwrap_or(u8::MAX);
        area[at + 1] = attribute.prefix;
        if !value.is_empty() {
            value_at -= value.len().next_multiple_of(4);
            put(area, value_at, value);
            put_u16(area, at + 2, u16::try_from(value_at).unwrap_or(0));
            put_u32(area, at + 8, u32::try_from(value.len()).unwrap_or(0));
        }
        put(area, at + ENTRY_LEN, attribute.name);
        at += attribute.entry_len();
    }
}

/// A block with attributes. Only there are they hashed (`ext4_xattr_rehash`).
fn block(attributes: &[Attribute<'_>]) -> Box<Block> {
    let mut block = Box::new([0; BLOCK_LEN]);
    put_attributes(&mut block[..], BLOCK_HEADER_LEN, attributes);
    let mut at = BLOCK_HEADER_LEN;
    let mut all = 0_u32;
    for attribute in attributes {
        let hash = attribute.hash();
        put_u32(&mut block[..], at + 12, hash);
        at += attribute.entry_len();
        all = all.rotate_left(16) ^ hash;
    }
    put_u32(&mut block[..], 0, MAGIC);
    put_u32(&mut block[..], 4, 1); // Inodes that use it.
    put_u32(&mut block[..], 8, 1); // Blocks that it takes.
    put_u32(&mut block[..], 12, all);
    block
}
