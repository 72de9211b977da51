//! What a guest uses of what it has, as kestrel reads it in its kernel's files.

use serde::{Deserialize, Serialize};

/// The answer of `GET` [`STATS_PATH`](super::STATS_PATH).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestStats {
    /// Time since the guest's kernel began, in microseconds.
    pub uptime_us: u64,
    /// CPU time that is not idle, over all CPUs, in microseconds. From `/proc/stat`.
    pub cpu_us: u64,
    /// All memory that the guest's kernel has, in bytes: `MemTotal` of `/proc/meminfo`.
    pub memory_total_bytes: u64,
    /// Memory that a new program could have, in bytes: `MemAvailable`.
    pub memory_available_bytes: u64,
    /// Size of the root file system in bytes.
    pub disk_total_bytes: u64,
    /// What of it is used, in bytes.
    pub disk_used_bytes: u64,
    /// Processes that the kernel ended for lack of memory since it began: `oom_kill` of `/proc/vmstat`.
    pub oom_kills: u64,
    /// Processes there are, the kernel's own threads included.
    pub processes: u32,
}

/// What [`FILES_PATH`](super::FILES_PATH) names, as the header [`FILE_STAT_HEADER`] of its answers carries it in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// The last part of its path; `/` for the root.
    pub name: String,
    /// What it is. Links in the path before the last part are followed, the last part is not.
    pub kind: FileKind,
    /// Bytes, of a file.
    pub size_bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

/// The kind of a file in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket: it has no content to copy.
    Other,
}

/// The header that carries a [`FileStat`]; what is not printable ASCII in it is escaped as JSON allows.
pub const FILE_STAT_HEADER: &str = "x-volant-file-stat";
