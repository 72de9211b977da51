//! The REST API's JSON types, shared by volantd and its clients. Names are those of the Go system where it has them.

mod artifact;
mod config;
mod event;
mod log;
mod problem;
mod stats;
mod system;
mod vm;
mod wait;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::Name;

pub use artifact::{ArtifactUsers, PluginArtifact, PutArtifact, SignatureState, StoredArtifact};
pub use config::{
    ConfigApi, ConfigDisk, ConfigExpose, ConfigHistoryEntry, ConfigInitramfs, ConfigPatch,
    ConfigResources, ConfigRootfs, MAX_CONFIG_VERSIONS, MAX_DISK_NAME_BYTES, MAX_EXTRA_DISKS,
    ResourcesPatch, RollbackConfig, UpgradeVm, VersionedConfig, VmConfig,
};
pub use event::{
    Download, EventType, GAP_EVENT, KEPT_EVENTS, LAGGED_EVENT, MissedEvents, UnknownEventType,
    VmEvent,
};
pub use log::{CONSOLE_EVENT, ConsolePiece, LOG_EVENT, LogEntry, LogMessage, NDJSON_CONTENT_TYPE};
pub use problem::{PROBLEM_CONTENT_TYPE, PROBLEM_TYPE_BASE, Problem};
pub use stats::{DiskStats, HostStats, NetworkStats, VmStats};
pub use system::{
    DiskItem, DiskUse, PluginState, Pruned, PrunedArtifact, SystemInfo, SystemStatus, SystemSummary,
};
pub use vm::{
    BootTimeline, CreateVm, DEFAULT_CREATE_WAIT_MS, Failure, MAX_LONG_POLL_MS, Restarts, Vm,
    VmDesired, VmHealth, VmStatus,
};
pub use wait::{DEFAULT_STATE_WAIT_MS, InvalidWaitLimit, MAX_STATE_WAIT_MS, WaitGoal, WaitLimit};

/// Where volantd listens unless told otherwise.
pub const DEFAULT_API_LISTEN: &str = "127.0.0.1:7777";

/// The daemon's unix socket unless told otherwise.
pub const DEFAULT_API_SOCKET: &str = "/run/volant/volantd.sock";

/// The token file unless told otherwise, readable by group `volant`.
pub const DEFAULT_TOKEN_FILE: &str = "/run/volant/token";

/// Header that carries the API token (the Go system's name). `Authorization: Bearer` works as well.
pub const API_KEY_HEADER: &str = "x-volant-api-key";

/// Header by which a client names a request that it may send again: the same key and body get the same answer, and nothing is done twice.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// Header with the number of items before paging.
pub const TOTAL_COUNT_HEADER: &str = "x-total-count";

/// Answer of `GET /api/v1/plugins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginNames {
    /// Names, sorted.
    pub plugins: Vec<Name>,
}

/// Answer of `GET /api/v1/plugins?detail=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginList {
    /// The plugins, by name.
    pub plugins: Vec<InstalledPlugin>,
}

/// Body of `POST /api/v1/plugins/{plugin}/enabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetEnabled {
    /// Whether VMs can be created from the plugin.
    pub enabled: bool,
}

/// Answer of `POST /api/v1/plugins`: what was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstalledPlugin {
    /// The plugin's name.
    pub name: Name,
    /// Its version.
    pub version: String,
    /// Its runtime, as its manifest says.
    #[serde(default)]
    pub runtime: String,
    /// Whether VMs can be created from it.
    pub enabled: bool,
    /// The artifact that it boots.
    pub artifact: ArtifactInfo,
    /// When it was installed, RFC 3339.
    pub installed_at: String,
}

/// The artifact that an installed plugin boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArtifactInfo {
    /// What it is to the plugin: `initramfs` or `rootfs`.
    pub kind: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether the manifest named this digest. If not, it is `unpinned`: whatever the source gave at install.
    pub pinned: bool,
    /// Where it came from.
    pub source_url: String,
}
