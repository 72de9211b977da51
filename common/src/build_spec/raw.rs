//! `fledge.toml` as it arrives: which keys there are and of which types. What they must fulfil together is in `rules`.
//!
//! Every key is optional here, so that one missing does not hide what else is wrong.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::GuestPath;

/// A build spec.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Raw {
    /// The version of this format: `1`.
    pub(super) version: Option<Version>,
    /// What is built.
    pub(super) strategy: Option<Strategy>,
    /// How the initramfs is compressed; `gzip` if not given.
    pub(super) compression: Option<Compression>,
    /// Where the agent comes from; the one of the latest release if not given.
    pub(super) agent: Option<Agent>,
    /// PID 1, if it is not the agent.
    pub(super) init: Init,
    /// What the files of the build spec are laid over.
    pub(super) source: Source,
    /// The image of the root file system.
    pub(super) filesystem: Option<Filesystem>,
    /// Files and directories of this machine, and where they go.
    pub(super) mappings: BTreeMap<String, GuestPath>,
    /// Files to download, and where they go.
    pub(super) fetch: Vec<Fetch>,
}

/// The version of the format.
#[derive(Debug, Clone, Copy, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(super) enum Version {
    /// The only one.
    #[serde(rename = "1")]
    One,
}

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(super) enum Strategy {
    /// An archive that the kernel unpacks into memory at each boot.
    Initramfs,
    /// An image of a root file system, from a container image or a Dockerfile.
    OciRootfs,
}

/// How an initramfs is compressed.
#[derive(Debug, Clone, Copy, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum Compression {
    /// Every kernel reads it.
    Gzip,
    /// Unpacks several times faster.
    Zstd,
    /// The largest file, and the fastest boot.
    None,
}

/// Where the agent comes from.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct Agent {
    /// What kind of place it is.
    pub(super) source_strategy: Option<AgentStrategy>,
    /// `latest` or a tag such as `v0.1.0`; for `release`.
    pub(super) version: Option<String>,
    /// A file, relative to this one; for `local`.
    pub(super) path: Option<String>,
    /// Where it is downloaded from; for `http`.
    pub(super) url: Option<String>,
    /// Its SHA-256; for `http` it must be there.
    pub(super) checksum: Option<String>,
}

/// What kind of place the agent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum AgentStrategy {
    /// The one beside fledge, else that of a release of Volant.
    Release,
    /// A file of this machine.
    Local,
    /// A download.
    Http,
}

/// PID 1, if it is not the agent.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct Init {
    /// A program of this machine that becomes `/init`.
    pub(super) path: Option<String>,
    /// No init at all: a mapping brings `/init`.
    pub(super) none: bool,
}

/// What the files of the build spec are laid over.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct Source {
    /// The files of this container image, such as `nginx:alpine`.
    pub(super) image: Option<String>,
    /// The files of the image that this Dockerfile makes.
    pub(super) dockerfile: Option<String>,
    /// The directory that the Dockerfile's `COPY` sees; its own if not given.
    pub(super) context: Option<String>,
    /// The Dockerfile's stage to build; the last one if not given.
    pub(super) target: Option<String>,
    /// Values of the Dockerfile's `ARG`s.
    pub(super) build_args: Option<BTreeMap<String, String>>,
    /// Where the shell and its tools are downloaded from.
    pub(super) busybox_url: Option<String>,
    /// The SHA-256 of the busybox.
    pub(super) busybox_sha256: Option<String>,
}

/// The image of the root file system.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct Filesystem {
    /// Its format; `erofs` if not given.
    #[serde(rename = "type")]
    pub(super) kind: Option<FilesystemType>,
    /// From 1, fast, to 22, small; 0 for 15. For squashfs.
    pub(super) compression_level: Option<u32>,
    /// The size of the layer that a VM writes to, such as `512M` or `1G`.
    pub(super) overlay_size: Option<String>,
    /// The same in MiB.
    pub(super) writable_mb: Option<u32>,
    /// Whether what a VM writes is kept in its memory only.
    pub(super) ephemeral: bool,
    /// Room left free in MiB, 0 for a share of the contents. For ext4.
    pub(super) size_buffer_mb: Option<u32>,
    /// Whether the image's blocks are allocated at once. For ext4.
    pub(super) preallocate: Option<bool>,
}

/// The format of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum FilesystemType {
    /// Read-only and not compressed, so that all VMs of a host can share one copy in memory.
    Erofs,
    /// What Linux writes to elsewhere.
    Ext4,
    /// Read-only and compressed: smaller, and unpacked whenever it is read.
    Squashfs,
    /// Known from the Go system, and refused.
    Xfs,
    /// Known from the Go system, and refused.
    Btrfs,
}

/// A file to download, and where it goes.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fetch {
    /// Where it can be had.
    pub(super) url: Option<String>,
    /// Where it can be had, in the order in which they are tried.
    pub(super) urls: Option<Vec<String>>,
    /// Its SHA-256.
    pub(super) sha256: Option<String>,
    /// The file of the archive to take; with `/` at its end, what is in that directory.
    pub(super) member: Option<String>,
    /// Where it goes in the guest.
    pub(super) path: Option<GuestPath>,
    /// Its permissions in octal digits, such as `0755`.
    pub(super) mode: Option<String>,
}
