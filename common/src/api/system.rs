//! The daemon about itself and the disk that it uses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::Name;

/// Answer of `GET /api/v1/system/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SystemStatus {
    /// `ok`.
    pub status: String,
    /// Number of VMs.
    pub vm_count: usize,
    /// How busy the host's CPUs are, in percent of all of them, since the last time that somebody asked.
    pub cpu_percent: f64,
    /// How much of the host's memory is used, in percent.
    pub mem_percent: f64,
}

/// Answer of `GET /api/v1/system/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SystemInfo {
    /// `ok`.
    pub status: String,
    /// The daemon's version.
    pub version: String,
    /// Where the API listens on TCP; empty where it does not.
    pub api_listen_addr: String,
    /// The address that others reach it at.
    pub api_advertise_addr: String,
    /// The host's address on the bridge.
    pub host_ip: String,
    /// The VMM that new VMs get, `cloud-hypervisor` or `qemu`.
    pub hypervisor: String,
    /// `kvm` or `tcg` (software emulation).
    pub accelerator: String,
    /// Why this VMM and accelerator were chosen, in one sentence.
    pub hypervisor_reason: String,
}

/// Answer of `GET /api/v1/system/summary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SystemSummary {
    /// Number of VMs.
    pub total_vms: usize,
    /// Number of VMs by status.
    pub by_status: BTreeMap<String, usize>,
    /// Number of VMs by runtime.
    pub by_runtime: BTreeMap<String, usize>,
    /// Number of plugins.
    pub total_plugins: usize,
    /// Number of enabled plugins.
    pub enabled_plugins: usize,
    /// The plugins, by name.
    #[serde(default)]
    pub plugins: Vec<PluginState>,
}

/// A plugin in few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginState {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: String,
    /// Whether VMs can be created from it.
    pub enabled: bool,
}

/// Answer of `GET /api/v1/system/df`. Bytes are what is taken on the disk: files of disks have holes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskUse {
    /// What is in the state folder.
    pub items: Vec<DiskItem>,
    /// What `POST /api/v1/system/prune` would free, in bytes.
    pub reclaimable_bytes: u64,
    /// Size of the file system that holds the state folder.
    pub disk_total_bytes: u64,
    /// What of it is free for the daemon.
    pub disk_free_bytes: u64,
}

/// One kind of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskItem {
    /// Which: `artifacts`, `media` (made of artifacts, to boot them), `vms` (disks and logs of VMs), `database`, `other`.
    pub kind: String,
    /// Number of files.
    pub files: u64,
    /// What they take on the disk, in bytes.
    pub size_bytes: u64,
}

/// Answer of `POST /api/v1/system/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pruned {
    /// Whether it was only looked at what would be removed.
    pub dry_run: bool,
    /// The artifacts that were removed: nobody needed them.
    pub removed: Vec<PrunedArtifact>,
    /// Their size in bytes. Media made of them are freed besides.
    pub freed_bytes: u64,
}

/// An artifact that nobody needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrunedArtifact {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}
