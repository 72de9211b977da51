//! An EROFS image as a tree. Reads what [`crate::image::erofs`] writes: blocks of 4 KiB, nothing compressed, no shared attributes. The
//! image may come from anywhere: every number in it is checked. Offsets are those of Linux's `fs/erofs/erofs_fs.h`.

use std::collections::BTreeMap;
use std::fs::File;

use super::pieces::{Piece, Pieces, Source};
use super::walk::{self, Budget, Flaw, Found, ImageError, Inodes, damaged};
use crate::little_endian::{i64_at, u16_at, u32_at, u64_at};
use crate::tree::{Attributes, Device, Kind, Node, Tree};

/// Where the superblock is, and how long the part of it that is read.
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 128;

/// The size of a block, as a power of two and in bytes.
const BLOCK_BITS: u8 = 12;
const BLOCK_BYTES: u64 = 4096;

/// Inodes are numbered by the slots of this size in which they lie.
const SLOT_BYTES: u64 = 32;

/// How long an inode is: in full, and in its short form.
const INODE_BYTES: u64 = 64;
const SHORT_INODE_BYTES: u64 = 32;

/// What comes before an inode's first extended attribute.
const XATTR_HEADER_BYTES: usize = 12;

struct Image {
    source: Source,
    inodes_at: u64,
    time_s: i64,
}

/// Reads the image in `file`, which has `size_bytes`. Contents stay there.
///
/// # Errors
/// The first thing that is wrong.
pub fn read_erofs(file: File, size_bytes: u64) -> Result<Tree, ImageError> {
    let source = Source::new(file, size_bytes);
    let mut superblock = [0; SUPERBLOCK_BYTES];
    source
        .read(&mut superblock, SUPERBLOCK_AT)
        .map_err(ImageError::Superblock)?;
    let unsupported = |what| Err(ImageError::Superblock(Flaw::Unsupported { what }));
    if superblock[12] != BLOCK_BITS {
        return unsupported("blocks of another size than 4 KiB");
    }
    if u32_at(&superblock, 80) != 0 {
        return unsupported("compression or other extensions of the format");
    }
    let mut image = Image {
        source,
        inodes_at: u64::from(u32_at(&superblock, 40)) * BLOCK_BYTES,
        time_s: i64_at(&superblock, 24),
    };
    walk::tree(&mut image, u16_at(&superblock, 14).into())
}

/// What an inode says of itself.
struct Raw {
    format: u16,
    mode: u32,
    size_bytes: u64,
    /// Its first block, or the number of a device.
    place: u32,
    uid: u32,
    gid: u32,
    mtime_s: i64,
    xattrs: Vec<u8>,
    /// Where what does not fill a block would lie.
    inline_at: u64,
}

impl Inodes for Image {
    fn inode(&mut self, number: u64, budget: &mut Budget) -> Result<Found, Flaw> {
        let raw = self.raw(number)?;
        budget.read(INODE_BYTES)?;
        let mut entries = Vec::new();
        let kind = match raw.mode >> 12 {
            0o01 => Kind::Fifo,
            0o02 => Kind::CharacterDevice(Device::decode(raw.place)),
            0o04 => {
                entries = listed(&self.data(&raw)?.to_bytes(budget)?)?;
                Kind::Directory
            }
            0o06 => Kind::BlockDevice(Device::decode(raw.place)),
            0o10 => Kind::File(self.data(&raw)?.into_content()),
            0o12 => Kind::Symlink(self.data(&raw)?.to_bytes(budget)?),
            0o14 => Kind::Socket,
            _ => return Err(damaged("is of no known type")),
        };
        let xattrs = attributes(&raw.xattrs).ok_or(damaged("has broken extended attributes"))?;
        let attributes = Attributes {
            permissions: raw.mode & 0o7777,
            uid: raw.uid,
            gid: raw.gid,
            mtime_s: raw.mtime_s,
            xattrs,
        };
        let node = Node { attributes, kind };
        Ok(Found { node, entries })
    }
}

impl Image {
    fn raw(&self, number: u64) -> Result<Raw, Flaw> {
        let at = number
            .checked_mul(SLOT_BYTES)
            .and_then(|at| at.checked_add(self.inodes_at))
            .ok_or(Flaw::Beyond)?;
        let mut head = [0; 64];
        let (short, rest) = head.split_at_mut(32);
        self.source.read(short, at)?;
        let format = u16_at(short, 0);
        let is_long = format & 1 == 1;
        if is_long {
            self.source.read(rest, at + SHORT_INODE_BYTES)?;
        }
        let own_bytes = if is_long {
            INODE_BYTES
        } else {
            SHORT_INODE_BYTES
        };
        let (size_bytes, uid, gid, mtime_s) = if is_long {
            let (uid, gid) = (u32_at(&head, 24), u32_at(&head, 28));
            (u64_at(&head, 8), uid, gid, i64_at(&head, 32))
        } else {
            let (uid, gid) = (u16_at(&head, 24), u16_at(&head, 26));
            (u32_at(&head, 8).into(), uid.into(), gid.into(), self.time_s)
        };
        let xattr_bytes = match u16_at(&head, 2) {
            0 => 0,
            count => XATTR_HEADER_BYTES + 4 * (usize::from(count) - 1),
        };
        let mut xattrs = vec![0; xattr_bytes];
        self.source.read(&mut xattrs, at + own_bytes)?;
        Ok(Raw {
            format,
            mode: u16_at(&head, 4).into(),
            size_bytes,
            place: u32_at(&head, 16),
            uid,
            gid,
            mtime_s,
            xattrs,
            inline_at: at + own_bytes + u64::try_from(xattr_bytes).unwrap_or(0),
        })
    }

    /// Where an inode's bytes are.
    fn data(&self, raw: &Raw) -> Result<Pieces, Flaw> {
        let in_blocks = match raw.format >> 1 & 7 {
            0 => raw.size_bytes,
            2 => raw.size_bytes / BLOCK_BYTES * BLOCK_BYTES,
            _ => {
                let what = "content that is compressed or in chunks";
                return Err(Flaw::Unsupported { what });
            }
        };
        let blocks = Piece {
            logical: 0,
            at: u64::from(raw.place) * BLOCK_BYTES,
            bytes: in_blocks,
        };
        let inline = Piece {
            logical: in_blocks,
            at: raw.inline_at,
            bytes: raw.size_bytes - in_blocks,
        };
        let pieces = [blocks, inline].into_iter().filter(|piece| piece.bytes > 0);
        Pieces::new(&self.source, pieces.collect(), raw.size_bytes)
    }
}

/// Names and inodes in a directory, without itself and the one above.
fn listed(data: &[u8]) -> Result<Vec<(Vec<u8>, u64)>, Flaw> {
    /// The length of an entry without its name.
    const ENTRY_BYTES: usize = 12;
    let bad = || damaged("is a damaged directory");
    let mut found = Vec::new();
    for block in data.chunks(4096) {
        let name_at = |index: usize| {
            let at = usize::from(u16_at(block, index * ENTRY_BYTES + 8));
            (at <= block.len()).then_some(at)
        };
        let count = name_at(0).ok_or_else(bad)? / ENTRY_BYTES;
        for index in 0..count {
            let start = name_at(index).ok_or_else(bad)?;
            let end = if index + 1 < count {
                name_at(index + 1).ok_or_else(bad)?
            } else {
                block.len()
            };
            let name = block.get(start..end).ok_or_else(bad)?;
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                found.push((name.to_vec(), u64_at(block, index * ENTRY_BYTES)));
            }
        }
    }
    Ok(found)
}

/// The extended attributes behind an inode, by their whole names; nothing where they run over.
fn attributes(bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut rest = bytes.get(XATTR_HEADER_BYTES..).unwrap_or_default();
    while let Some(&[name_bytes, prefix, low, high]) = rest.first_chunk() {
        let prefix = match prefix {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            _ => return None,
        };
        let name_bytes = usize::from(name_bytes);
        let all_bytes = name_bytes + usize::from(u16::from_le_bytes([low, high]));
        let (name, value) = rest.get(4..4 + all_bytes)?.split_at(name_bytes);
        found.insert([prefix.as_bytes(), name].concat(), value.to_vec());
        rest = rest
            .get((4 + all_bytes).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::image::erofs;
    use crate::inspect::differences::compare;
    use crate::tree::Content;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        let file = |bytes: &[u8]| Node::file(0o644, Content::Bytes(bytes.to_vec()));
        tree.replace(b"usr/bin/app", file(&[7; 10_000])).unwrap();
        tree.hard_link(b"app", b"usr/bin/app").unwrap();
        tree.replace(b"empty", file(b"")).unwrap();
        tree.replace(b"link", Node::symlink("usr/bin")).unwrap();
        let mut owned = file(b"x");
        owned.attributes = Attributes {
            permissions: 0o4755,
            uid: 100_000,
            gid: 7,
            mtime_s: 99,
            xattrs: [(b"user.a".to_vec(), b"b".to_vec())].into(),
        };
        tree.replace(b"owned", owned).unwrap();
        let null = Kind::CharacterDevice(Device {
            major: 1,
            minor: 300,
        });
        let attributes = Attributes::new(0o666);
        let null = Node {
            attributes,
            kind: null,
        };
        tree.replace(b"dev/null", null).unwrap();
        for number in 0..500 {
            let path = format!("many/file-{number}");
            tree.replace(path.as_bytes(), file(path.as_bytes()))
                .unwrap();
        }
        tree
    }

    fn read(image: &[u8]) -> Result<Tree, ImageError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        read_erofs(file, u64::try_from(image.len()).unwrap())
    }

    #[test]
    fn what_was_written_comes_back() {
        let image = erofs::write(&tree(), 0, Vec::new()).unwrap();
        let back = read(&image).unwrap();
        assert_eq!(compare(&tree(), &back).unwrap(), []);
        assert_eq!(back.len(), tree().len());
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_makes_it_panic(at in 1024..40_000_usize, bytes in proptest::collection::vec(any::<u8>(), 1..40)) {
            let mut image = erofs::write(&tree(), 0, Vec::new()).unwrap();
            let end = image.len().min(at + bytes.len());
            image[at..end].copy_from_slice(&bytes[..end - at]);
            drop(read(&image));
        }
    }
}
