//! What a build makes of the files, and the limits of each format. Values only: the formats themselves are written elsewhere.

/// The level that a squashfs is compressed with when the build spec does not say: small, and as the Go system had it.
pub const DEFAULT_SQUASHFS_LEVEL: u32 = 15;

/// The highest level of compression that a build spec may ask for: that of zstd.
pub const MAX_COMPRESSION_LEVEL: u32 = 22;

/// The most room that may be left free in an ext4 image, in MiB: 1 TiB. More is a mistake in the unit.
pub const MAX_SIZE_BUFFER_MB: u32 = 1024 * 1024;

/// What a build makes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// An archive that the kernel unpacks into memory at each boot.
    Initramfs {
        /// How the archive is compressed.
        compression: Compression,
    },
    /// An image of a file system that the VM mounts as a disk.
    Rootfs(Filesystem),
}

impl Output {
    /// The format's name in a manifest, such as `cpio.gz` or `erofs`.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Initramfs { compression } => match compression {
                Compression::Gzip => "cpio.gz",
                Compression::Zstd => "cpio.zst",
                Compression::None => "cpio",
            },
            Self::Rootfs(filesystem) => filesystem.kind.name(),
        }
    }
}

impl Default for Output {
    /// What every fledge has made, and every volantd boots.
    fn default() -> Self {
        Self::Initramfs {
            compression: Compression::default(),
        }
    }
}

/// How an initramfs is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// As gzip: every kernel reads it.
    #[default]
    Gzip,
    /// As zstd: unpacks several times faster.
    Zstd,
    /// Not at all: the largest file, and the fastest boot.
    None,
}

/// An image of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Its format.
    pub kind: FilesystemKind,
    /// The size of the layer that a VM writes to, in MiB; without it, whoever starts the VM chooses.
    pub writable_mb: Option<u32>,
    /// Whether what a VM writes is kept in its memory only, and lost when it stops.
    pub ephemeral: bool,
}

/// The format of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FilesystemKind {
    /// EROFS, read-only.
    #[default]
    Erofs,
    /// ext4.
    Ext4 {
        /// Room left free, in MiB; 0 for a share of the contents.
        size_buffer_mb: u32,
        /// Whether the file's blocks are allocated, instead of leaving holes where it is empty.
        preallocate: bool,
    },
    /// squashfs, read-only.
    Squashfs {
        /// From 1, fast, to [`MAX_COMPRESSION_LEVEL`], small.
        compression_level: u32,
    },
}

impl FilesystemKind {
    /// The format's name in a build spec and in a manifest.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Ext4 { .. } => "ext4",
            Self::Squashfs { .. } => "squashfs",
        }
    }
}
