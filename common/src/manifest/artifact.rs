//! What a plugin boots: an initramfs or a root file system. Plain data; where it lies is read in `source`.

use serde::{Deserialize, Serialize};

use super::Manifest;
use crate::digest::Digest;

/// Where a file of the plugin is, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Artifact {
    /// `http(s)://`, `file://` or an absolute path; in a manifest file also a path relative to it.
    pub url: String,
    /// The SHA-256 that the file must have. Without it the artifact is unpinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Digest>,
    /// The format's name as its builder wrote it, such as `cpio.gz`. Information only: the content decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// A root file system that is attached as a read-only disk, with a writable layer over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rootfs {
    /// `http(s)://`, `file://` or an absolute path; in a manifest file also a path relative to it.
    pub url: String,
    /// The SHA-256 that the file must have. Without it the artifact is unpinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Digest>,
    /// The file system that the file must hold. Without it the content decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<RootfsFormat>,
    /// Whether what the guest writes is kept in its memory only, and lost when it stops.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ephemeral: bool,
    /// The most that the guest can write, in MiB, from [`MIN_WRITABLE_MB`] to [`MAX_WRITABLE_MB`]; the host's default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable_mb: Option<u32>,
}

/// The smallest writable layer in MiB: below it the tables of its own file system take most of it.
pub const MIN_WRITABLE_MB: u32 = 16;

/// The largest writable layer in MiB, 1 TiB: more is a mistake in the unit.
pub const MAX_WRITABLE_MB: u32 = 1024 * 1024;

/// A file system that the guest's kernel mounts as its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum RootfsFormat {
    /// EROFS, read-only and the default of `fledge build`.
    Erofs,
    /// ext4, mounted read-only as well: what is written goes to the layer above.
    Ext4,
    /// squashfs.
    Squashfs,
}

impl RootfsFormat {
    /// All that a guest can boot.
    pub const ALL: [Self; 3] = [Self::Erofs, Self::Ext4, Self::Squashfs];

    /// The name in manifests, and the kernel's name for `rootfstype=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Squashfs => "squashfs",
        }
    }
}

impl std::fmt::Display for RootfsFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one file that a plugin boots, whichever kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactRef<'a> {
    /// What it is.
    pub kind: ArtifactKind,
    /// As in [`Artifact::url`].
    pub url: &'a str,
    /// The SHA-256 that it must have.
    pub checksum: Option<Digest>,
}

/// What a plugin's artifact is to the machine that boots it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArtifactKind {
    /// A cpio archive that the kernel unpacks into memory.
    Initramfs,
    /// A file system that the kernel mounts from a disk; the format only where the manifest says it.
    Rootfs(Option<RootfsFormat>),
}

impl ArtifactKind {
    /// The name of the manifest's member, and the kind in the API: `initramfs` or `rootfs`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initramfs => "initramfs",
            Self::Rootfs(_) => "rootfs",
        }
    }

    /// The JSON pointer of a member of the artifact, such as `/rootfs/url`.
    pub fn pointer(self, member: &str) -> String {
        format!("/{}/{member}", self.as_str())
    }
}

impl Manifest {
    /// The one file that the plugin boots.
    pub fn artifact(&self) -> ArtifactRef<'_> {
        match (&self.rootfs, &self.initramfs) {
            (Some(rootfs), _) => ArtifactRef {
                kind: ArtifactKind::Rootfs(rootfs.format),
                url: &rootfs.url,
                checksum: rootfs.checksum,
            },
            (None, Some(initramfs)) => ArtifactRef {
                kind: ArtifactKind::Initramfs,
                url: &initramfs.url,
                checksum: initramfs.checksum,
            },
            // No manifest that passed the checks: an empty address is refused wherever it is used.
            (None, None) => ArtifactRef {
                kind: ArtifactKind::Initramfs,
                url: "",
                checksum: None,
            },
        }
    }

    /// Replaces the address of the one file that the plugin boots.
    pub fn set_artifact_url(&mut self, url: String) {
        if let Some(rootfs) = &mut self.rootfs {
            rootfs.url = url;
        } else if let Some(initramfs) = &mut self.initramfs {
            initramfs.url = url;
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}
