//! Reads images back for the tests, from `fs/erofs/erofs_fs.h` alone: shares no constant with the writer.

use std::collections::BTreeMap;

use crate::image::testing::line;
use crate::tree::{Attributes, Content, Device, Kind, Node};

/// An inode as it was found.
struct Found {
    node: Node,
    links: u32,
    data: Vec<u8>,
}

/// An image in memory.
pub(super) struct Image<'a>(pub(super) &'a [u8]);

impl Image<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    /// Everything in it, by paths, as the tests of all formats compare it. Panics where the format is not kept.
    pub(super) fn lines(&self) -> BTreeMap<Vec<u8>, String> {
        self.check_superblock();
        let mut lines = BTreeMap::new();
        let mut inodes: BTreeMap<u64, (Found, Vec<Vec<u8>>)> = BTreeMap::new();
        let root = u64::from(self.u16(1024 + 14));
        let mut pending = vec![(Vec::new(), root, root)];
        while let Some((path, number, parent)) = pending.pop() {
            let (found, paths) = inodes
                .entry(number)
                .or_insert_with(|| (self.inode(number), Vec::new()));
            if found.node.is_directory() {
                assert!(paths.is_empty(), "two paths lead to a directory");
                let entries = entries(&found.data);
                assert_eq!(entries[b".".as_slice()].0, number);
                assert_eq!(entries[b"..".as_slice()].0, parent);
                for (name, (child, kind)) in entries {
                    if name == b"." || name == b".." {
                        continue;
                    }
                    let mut inner = path.clone();
                    if !inner.is_empty() {
                        inner.push(b'/');
                    }
                    inner.extend(name);
                    assert_eq!(kind, self.u16(offset(child) + 4) >> 12);
                    pending.push((inner, child, number));
                }
            }
            paths.push(path);
        }
        assert_eq!(self.u64(1024 + 16), u64::try_from(inodes.len()).unwrap());
        for (found, paths) in inodes.into_values() {
            let group = paths.iter().min().unwrap().clone();
            if !found.node.is_directory() {
                assert_eq!(usize::try_from(found.links).unwrap(), paths.len());
            }
            for path in paths {
                lines.insert(path, line(&found.node, found.links, &group, &found.data));
            }
        }
        lines
    }

    fn check_superblock(&self) {
        assert_eq!(self.0.len() % (2 * 1024 * 1024), 0);
        assert_eq!(self.u32(1024), 0xe0f5_e1e2);
        assert_eq!(self.u32(1024 + 8), 3, "compatible features");
        assert_eq!(self.0[1024 + 12], 12, "size of a block");
        assert_eq!(self.u32(1024 + 80), 0, "incompatible features");
        assert_eq!(self.u32(1024 + 40), 0, "first block of inodes");
        let blocks = usize::try_from(self.u32(1024 + 36)).unwrap();
        assert_eq!((blocks * 4096).next_multiple_of(2 << 20), self.0.len());
        let mut block = self.0[1024..4096].to_vec();
        block[4..8].fill(0);
        // CRC-32C, bit by bit, without the inversion at its end.
        let mut sum = u32::MAX;
        for byte in block {
            sum ^= u32::from(byte);
            for _ in 0..8 {
                sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
            }
        }
        assert_eq!(self.u32(1024 + 4), sum, "checksum");
    }

    fn inode(&self, number: u64) -> Found {
        let at = offset(number);
        let format = self.u16(at);
        let is_extended = format & 1 == 1;
        let own = if is_extended { 64 } else { 32 };
        assert!(at % 4096 + own <= 4096, "an inode across blocks");
        let xattr_bytes = match self.u16(at + 2) {
            0 => 0,
            count => 12 + 4 * (usize::from(count) - 1),
        };
        let place = self.u32(at + 16);
        let mode = self.u16(at + 4);
        let (size, uid, gid, mtime_s, links) = if is_extended {
            let (uid, gid) = (self.u32(at + 24), self.u32(at + 28));
            let (mtime_s, links) = (self.i64(at + 32), self.u32(at + 44));
            (self.u64(at + 8), uid, gid, mtime_s, links)
        } else {
            let (uid, gid) = (self.u16(at + 24), self.u16(at + 26));
            let (mtime_s, links) = (self.i64(1024 + 24), self.u16(at + 6));
            let size = u64::from(self.u32(at + 8));
            (size, uid.into(), gid.into(), mtime_s, links.into())
        };
        let size = usize::try_from(size).unwrap();
        let is_inline = match format >> 1 {
            0 => false,
            2 => true,
            other => panic!("data layout {other}"),
        };
        let mut data = Vec::new();
        if size > 0 {
            let in_blocks = if is_inline { size / 4096 * 4096 } else { size };
            let from = usize::try_from(place).unwrap() * 4096;
            data.extend(&self.0[from..from + in_blocks]);
            let padding = &self.0[from + in_blocks..(from + in_blocks).next_multiple_of(4096)];
            assert!(in_blocks == 0 || padding.iter().all(|&byte| byte == 0));
            let behind = at + own + xattr_bytes;
            let rest = size - in_blocks;
            assert!(rest == 0 || behind % 4096 + rest <= 4096, "across blocks");
            data.extend(&self.0[behind..behind + rest]);
        }
        let device = Device {
            major: (place >> 8) & 0xfff,
            minor: (place & 0xff) | ((place >> 12) & 0xf_ff00),
        };
        let kind = match mode >> 12 {
            0o01 => Kind::Fifo,
            0o02 => Kind::CharacterDevice(device),
            0o04 => Kind::Directory,
            0o06 => Kind::BlockDevice(device),
            0o10 => {
                assert!(!is_inline, "a file that cannot be mapped");
                Kind::File(Content::Bytes(Vec::new()))
            }
            0o12 => Kind::Symlink(data.clone()),
            0o14 => Kind::Socket,
            other => panic!("type {other:o}"),
        };
        let attributes = Attributes {
            permissions: u32::from(mode & 0o7777),
            uid,
            gid,
            mtime_s,
            xattrs: xattrs(&self.0[at + own..at + own + xattr_bytes]),
        };
        let node = Node { attributes, kind };
        Found { node, links, data }
    }
}

fn offset(number: u64) -> usize {
    usize::try_from(number).unwrap() * 32
}

fn xattrs(bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut rest = bytes.get(12..).unwrap_or_default();
    while !rest.is_empty() {
        let name_bytes = usize::from(rest[0]);
        let value_bytes = usize::from(u16::from_le_bytes([rest[2], rest[3]]));
        let prefix = match rest[1] {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("prefix {other}"),
        };
        let (name, value) = rest[4..4 + name_bytes + value_bytes].split_at(name_bytes);
        let name = [prefix.as_bytes(), name].concat();
        assert!(found.insert(name, value.to_vec()).is_none());
        rest = &rest[(4 + name_bytes + value_bytes).next_multiple_of(4)..];
    }
    found
}

/// The entries of a directory: number and type, as the upper bits of a mode have it, by name.
fn entries(data: &[u8]) -> BTreeMap<Vec<u8>, (u64, u16)> {
    let mut entries = BTreeMap::new();
    for block in data.chunks(4096) {
        let name_at = |index: usize| {
            usize::from(u16::from_le_bytes([
                block[index * 12 + 8],
                block[index * 12 + 9],
            ]))
        };
        assert_eq!(name_at(0) % 12, 0);
        let count = name_at(0) / 12;
        for index in 0..count {
            let end = if index + 1 < count {
                name_at(index + 1)
            } else {
                let name = &block[name_at(index)..];
                let zero = name.iter().position(|&byte| byte == 0);
                name_at(index) + zero.unwrap_or(name.len())
            };
            let name = block[name_at(index)..end].to_vec();
            let at = index * 12;
            let number = u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
            let kind = match block[at + 10] {
                1 => 0o10,
                2 => 0o04,
                3 => 0o02,
                4 => 0o06,
                5 => 0o01,
                6 => 0o14,
                7 => 0o12,
                other => panic!("type {other}"),
            };
            let is_later = entries
                .last_key_value()
                .is_none_or(|(last, _)| *last < name);
            assert!(is_later, "names are not in order");
            entries.insert(name, (number, kind));
        }
    }
    entries
}
