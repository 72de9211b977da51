//! What an image costs at each boot, estimated from its sizes. Measures nothing: it says which boot media is cheap for an image, and
//! about how much; `cargo xtask bench` measures.
//!
//! Origin of the figures: guest instructions until PID 1 ran, counted under QEMU's `-icount shift=0` for one kernel and examples/caddy
//! (52 MB) on three boot media. What EROFS mapped by virtio-pmem needs is the boot itself; the rest is unpacking, and grows with
//! the size.

use std::collections::HashSet;

use serde::Serialize;

use crate::tree::{Kind, NodeId, Tree};

/// The image that was counted, in bytes unpacked.
const COUNTED_BYTES: u64 = 52_000_000;

/// Guest instructions until PID 1 with that image, by boot media.
const GZIP_INSTRUCTIONS: u64 = 1_360_000_000;
const PLAIN_INSTRUCTIONS: u64 = 460_000_000;
const MAPPED_INSTRUCTIONS: u64 = 320_000_000;

/// zstd's share of gzip's decompression, in percent. Unpacking one cpio archive of 38.7 MB in user space took 241 ms by gzip and
/// 77 ms by zstd (its levels differ little), of which 16 ms were the archive's own.
const ZSTD_PERCENT: u64 = (77 - 16) * 100 / (241 - 16);

/// Instructions in a millisecond: with it the count for gzip agrees with those 225 ms for 38.7 MB.
const INSTRUCTIONS_PER_MS: u64 = 2_980_000;

/// What a file or directory of an unpacked initramfs takes beside its content, in bytes: inode and directory entry in tmpfs.
const INODE_BYTES: u64 = 1024;

/// Contents lie in whole pages.
const PAGE_BYTES: u64 = 4096;

/// What compression leaves of that image, in percent: 17.7 MB by gzip, 14.6 MB by zstd.
const GZIP_LEFT_PERCENT: u64 = 34;
const ZSTD_LEFT_PERCENT: u64 = 28;

/// A megabyte, as memory is bought.
const MB: u64 = 1024 * 1024;

/// How an image gets into a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Media {
    /// An initramfs compressed by gzip, unpacked by each guest.
    GzipInitramfs,
    /// An initramfs compressed by zstd.
    ZstdInitramfs,
    /// An initramfs that is not compressed.
    PlainInitramfs,
    /// A file system on a disk: read when needed, into memory that can be given back.
    Disk,
    /// A file system mapped from the host (virtio-pmem with DAX): all VMs share the host's one copy.
    Mapped,
}

impl Media {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::GzipInitramfs => "initramfs, gzip",
            Self::ZstdInitramfs => "initramfs, zstd",
            Self::PlainInitramfs => "initramfs, not compressed",
            Self::Disk => "root file system on a disk",
            Self::Mapped => "root file system, mapped",
        }
    }
}

/// The sizes of an image, as far as they matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of all files, each rounded up to pages; hard links count once.
    pub content_bytes: u64,
    /// Inodes of all kinds.
    pub inodes: u64,
}

impl Sizes {
    /// Those of `tree`.
    pub fn of(tree: &Tree) -> Self {
        let mut seen: HashSet<NodeId> = HashSet::new();
        let mut sizes = Self {
            content_bytes: 0,
            inodes: 0,
        };
        for item in tree.iter().filter(|item| seen.insert(item.id)) {
            sizes.inodes += 1;
            if let Kind::File(content) = &item.node.kind {
                let pages = content.size_bytes().div_ceil(PAGE_BYTES);
                sizes.content_bytes = sizes.content_bytes.saturating_add(pages * PAGE_BYTES);
            }
        }
        sizes
    }
}

/// What one boot media costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Which one.
    pub media: Media,
    /// Time for unpacking before PID 1 runs, in milliseconds of one core, beyond what every boot takes.
    pub unpack_ms: u64,
    /// RAM that the image takes from each VM for as long as it runs, in MB.
    pub ram_mb: u64,
    /// RAM that the image takes while the VM boots, in MB: packed and unpacked lie there side by side.
    pub boot_ram_mb: u64,
}

/// What an image of these sizes costs on each boot media.
pub fn estimate(sizes: &Sizes) -> [Cost; 5] {
    let unpacked = sizes
        .content_bytes
        .saturating_add(sizes.inodes * INODE_BYTES);
    let initramfs = |media, instructions, left_percent| Cost {
        media,
        unpack_ms: unpack_ms(sizes.content_bytes, instructions),
        ram_mb: unpacked.div_ceil(MB),
        boot_ram_mb: share(sizes.content_bytes, left_percent, 100)
            .saturating_add(unpacked)
            .div_ceil(MB),
    };
    let none = |media| Cost {
        media,
        unpack_ms: 0,
        ram_mb: 0,
        boot_ram_mb: 0,
    };
    let plain = PLAIN_INSTRUCTIONS - MAPPED_INSTRUCTIONS;
    let gzip = GZIP_INSTRUCTIONS - PLAIN_INSTRUCTIONS;
    [
        initramfs(Media::GzipInitramfs, plain + gzip, GZIP_LEFT_PERCENT),
        initramfs(
            Media::ZstdInitramfs,
            plain + share(gzip, ZSTD_PERCENT, 100),
            ZSTD_LEFT_PERCENT,
        ),
        initramfs(Media::PlainInitramfs, plain, 100),
        none(Media::Disk),
        none(Media::Mapped),
    ]
}

fn unpack_ms(bytes: u64, instructions_counted: u64) -> u64 {
    share(bytes, instructions_counted, COUNTED_BYTES) / INSTRUCTIONS_PER_MS
}

/// `value * numerator / denominator`, which must not be 0, without running over.
fn share(value: u64, numerator: u64, denominator: u64) -> u64 {
    let share = u128::from(value) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Node};

    #[test]
    fn the_counted_image_costs_what_was_counted() {
        let sizes = Sizes {
            content_bytes: COUNTED_BYTES,
            inodes: 20,
        };
        let [gzip, zstd, plain, disk, mapped] = estimate(&sizes);
        assert_eq!(gzip.unpack_ms, 1_040_000_000 / INSTRUCTIONS_PER_MS);
        assert_eq!(plain.unpack_ms, 140_000_000 / INSTRUCTIONS_PER_MS);
        assert!(plain.unpack_ms < zstd.unpack_ms && zstd.unpack_ms < gzip.unpack_ms / 2);
        assert_eq!((gzip.ram_mb, gzip.boot_ram_mb), (50, 67));
        assert_eq!((plain.ram_mb, plain.boot_ram_mb), (50, 100));
        assert_eq!((disk.ram_mb, mapped.unpack_ms), (0, 0));
    }

    #[test]
    fn no_size_runs_over() {
        let sizes = Sizes {
            content_bytes: u64::MAX,
            inodes: 1_000_000,
        };
        assert_eq!(estimate(&sizes)[2].boot_ram_mb, u64::MAX.div_ceil(MB));
    }

    #[test]
    fn sizes_are_pages_of_inodes() {
        let mut tree = Tree::default();
        let file = |bytes| Node::file(0o644, Content::Bytes(vec![0; bytes]));
        tree.replace(b"a", file(1)).unwrap();
        tree.replace(b"d/b", file(4097)).unwrap();
        tree.hard_link(b"c", b"a").unwrap();
        let expected = Sizes {
            content_bytes: 3 * 4096,
            inodes: 3,
        };
        assert_eq!(Sizes::of(&tree), expected);
    }
}
