//! An EROFS image as a tree. Reads what [`crate::image::erofs`] writes: blocks of 4 KiB, nothing compressed, no shared attributes. The
//! image may come from anywhere: every number in it is checked. Offsets are those of Linux's `fs/erofs/erofs_fs.h`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::tree::{Attributes, Content, Device, Kind, Node, Tree, TreeError};

/// Where the superblock is, and how long the part of it that is read.
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 128;

/// The size of a block, as a power of two and in bytes.
const BLOCK_BITS: u8 = 12;
const BLOCK_BYTES: u64 = 4096;

/// Inodes are numbered by the slots of this size in which they lie.
const SLOT_BYTES: u64 = 32;

/// How long an inode is: in full, and in its short form.
const INODE_BYTES: usize = 64;
const SHORT_INODE_BYTES: u64 = 32;

/// What comes before an inode's first extended attribute.
const XATTR_HEADER_BYTES: usize = 12;

/// The largest directory or link that is read, in bytes: a million names of the usual length have a quarter of it.
const MAX_DATA_BYTES: u64 = 128 << 20;

/// An image that is refused.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// It uses what our images do not.
    #[error("The image has {what}, which is not read here")]
    Unsupported {
        /// A clause such as "compressed files".
        what: &'static str,
    },
    /// It contradicts itself.
    #[error("Inode {inode} of the image {why}")]
    Damaged {
        /// Its number.
        inode: u64,
        /// A clause.
        why: &'static str,
    },
    /// What is in it does not fit together.
    #[error("The image contradicts itself")]
    Tree(#[from] TreeError),
    /// It cannot be read, or ends early.
    #[error("Cannot read the image")]
    Read(#[from] io::Error),
}

struct Image {
    file: Arc<File>,
    size_bytes: u64,
    inodes_at: u64,
    time_s: i64,
}

/// An inode: what it is, and of a directory its content.
struct Inode {
    node: Node,
    data: Vec<u8>,
}

/// Reads the image in `file`, which has `size_bytes`. Contents stay there.
///
/// # Errors
/// The first thing that is wrong.
pub fn read_erofs(file: File, size_bytes: u64) -> Result<Tree, ErofsError> {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    file.read_exact_at(&mut superblock, SUPERBLOCK_AT)?;
    let unsupported = |what| Err(ErofsError::Unsupported { what });
    if superblock[12] != BLOCK_BITS {
        return unsupported("blocks of another size than 4 KiB");
    }
    if u32_at(&superblock, 80) != 0 {
        return unsupported("compression or other extensions of the format");
    }
    let image = Image {
        file: Arc::new(file),
        size_bytes,
        inodes_at: u64::from(u32_at(&superblock, 40)) * BLOCK_BYTES,
        time_s: i64::from_le_bytes(array_at(&superblock, 24)),
    };
    let root = u64::from(u16_at(&superblock, 14));
    image.tree(root)
}

impl Image {
    fn tree(&self, root: u64) -> Result<Tree, ErofsError> {
        let mut tree = Tree::default();
        let mut first_names: HashMap<u64, Option<Vec<u8>>> = HashMap::new();
        let mut pending: Vec<(Vec<u8>, u64)> = vec![(Vec::new(), root)];
        while let Some((path, number)) = pending.pop() {
            match first_names.get(&number) {
                Some(Some(first)) => {
                    tree.hard_link(&path, first)?;
                    continue;
                }
                // A directory in itself would never end.
                Some(None) => return Err(damaged(number, "is a directory in two places")),
                None => {}
            }
            let Inode { node, data } = self.inode(number)?;
            let is_directory = node.is_directory();
            first_names.insert(number, (!is_directory).then(|| path.clone()));
            tree.replace(&path, node)?;
            if !is_directory {
                continue;
            }
            for (name, child) in entries(number, &data)? {
                let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                pending.push(([&path, separator, &name].concat(), child));
            }
        }
        Ok(tree)
    }

    fn inode(&self, number: u64) -> Result<Inode, ErofsError> {
        let bad = |why| damaged(number, why);
        let at = number
            .checked_mul(SLOT_BYTES)
            .and_then(|at| at.checked_add(self.inodes_at))
            .ok_or_else(|| bad("lies beyond the image"))?;
        let mut head = [0; INODE_BYTES];
        // The last one may be short: what is behind it is not looked at then.
        let there = self.size_bytes.saturating_sub(at).min(64);
        let there = usize::try_from(there).unwrap_or(0);
        if there < 32 {
            return Err(bad("lies beyond the image"));
        }
        self.file.read_exact_at(&mut head[..there], at)?;
        let format = u16_at(&head, 0);
        let is_long = format & 1 == 1;
        let own_bytes = if is_long { 64 } else { SHORT_INODE_BYTES };
        let mode = u32::from(u16_at(&head, 4));
        let (size, uid, gid, mtime_s) = if is_long {
            let size = u64::from_le_bytes(array_at(&head, 8));
            let mtime_s = i64::from_le_bytes(array_at(&head, 32));
            (size, u32_at(&head, 24), u32_at(&head, 28), mtime_s)
        } else {
            let (uid, gid) = (u16_at(&head, 24), u16_at(&head, 26));
            (u32_at(&head, 8).into(), uid.into(), gid.into(), self.time_s)
        };
        let xattr_bytes = match u16_at(&head, 2) {
            0 => 0,
            count => XATTR_HEADER_BYTES + 4 * (usize::from(count) - 1),
        };
        let mut xattrs = vec![0; xattr_bytes];
        self.file.read_exact_at(&mut xattrs, at + own_bytes)?;
        let inline_at = at + own_bytes + u64::try_from(xattr_bytes).unwrap_or(0);
        let place = u32_at(&head, 16);
        let data = Data {
            size,
            blocks_at: u64::from(place) * BLOCK_BYTES,
            inline_at: match format >> 1 & 7 {
                0 => None,
                2 => Some(inline_at),
                _ => return Err(bad("is compressed or in chunks")),
            },
        };
        let mut content = Vec::new();
        let kind = match mode >> 12 {
            0o01 => Kind::Fifo,
            0o02 => Kind::CharacterDevice(device(place)),
            0o04 => {
                content = self.data(number, &data)?;
                Kind::Directory
            }
            0o06 => Kind::BlockDevice(device(place)),
            0o10 => Kind::File(self.content(number, &data)?),
            0o12 => Kind::Symlink(self.data(number, &data)?),
            0o14 => Kind::Socket,
            _ => return Err(bad("is of no known type")),
        };
        let attributes = Attributes {
            permissions: mode & 0o7777,
            uid,
            gid,
            mtime_s,
            xattrs: attributes(&xattrs).ok_or_else(|| bad("has broken extended attributes"))?,
        };
        let node = Node { attributes, kind };
        Ok(Inode {
            node,
            data: content,
        })
    }

    /// The content of a file, where it is; its end is put beside it where it lies apart.
    fn content(&self, number: u64, data: &Data) -> Result<Content, ErofsError> {
        let in_blocks = data.in_blocks();
        let offset = match data.inline_at {
            Some(_) if in_blocks > 0 && in_blocks < data.size => {
                return Ok(Content::Bytes(self.data(number, data)?));
            }
            Some(inline_at) if in_blocks == 0 => inline_at,
            _ => data.blocks_at,
        };
        let end = offset.checked_add(data.size);
        if data.size > 0 && end.is_none_or(|end| end > self.size_bytes) {
            return Err(damaged(number, "has content beyond the image"));
        }
        Ok(Content::Part {
            file: Arc::clone(&self.file),
            offset,
            size_bytes: data.size,
        })
    }

    fn data(&self, number: u64, data: &Data) -> Result<Vec<u8>, ErofsError> {
        if data.size > MAX_DATA_BYTES.min(self.size_bytes) {
            return Err(damaged(number, "is too large"));
        }
        let size = usize::try_from(data.size).unwrap_or(0);
        let in_blocks = usize::try_from(data.in_blocks()).unwrap_or(0);
        let mut bytes = vec![0; size];
        let (blocks, rest) = bytes.split_at_mut(in_blocks);
        self.file.read_exact_at(blocks, data.blocks_at)?;
        if let Some(inline_at) = data.inline_at {
            self.file.read_exact_at(rest, inline_at)?;
        }
        Ok(bytes)
    }
}

/// Where an inode's bytes are.
struct Data {
    size: u64,
    blocks_at: u64,
    /// Where what does not fill a block lies, if not in a block of its own.
    inline_at: Option<u64>,
}

impl Data {
    fn in_blocks(&self) -> u64 {
        match self.inline_at {
            Some(_) => self.size / BLOCK_BYTES * BLOCK_BYTES,
            None => self.size,
        }
    }
}

/// The number of a device, in the order of its bits that Linux calls new (`new_decode_dev`).
fn device(number: u32) -> Device {
    Device {
        major: (number >> 8) & 0xfff,
        minor: (number & 0xff) | ((number >> 12) & 0xf_ff00),
    }
}

/// Names and inodes in a directory, without itself and the one above.
fn entries(number: u64, data: &[u8]) -> Result<Vec<(Vec<u8>, u64)>, ErofsError> {
    /// The length of an entry without its name.
    const ENTRY_BYTES: usize = 12;
    let bad = || damaged(number, "is a damaged directory");
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
            if name.is_empty() || name.contains(&b'/') {
                return Err(bad());
            }
            if name != b"." && name != b".." {
                let child = u64::from_le_bytes(array_at(block, index * ENTRY_BYTES));
                found.push((name.to_vec(), child));
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

fn damaged(inode: u64, why: &'static str) -> ErofsError {
    ErofsError::Damaged { inode, why }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// Zeros where there is nothing: callers see that as a name or number that does not fit.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::image::erofs;
    use crate::inspect::differences::compare;

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

    fn read(image: &[u8]) -> Result<Tree, ErofsError> {
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
