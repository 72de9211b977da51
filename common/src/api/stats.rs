//! What VMs use, as counters and present values: a rate is the difference of two answers over that of their times.

use serde::{Deserialize, Serialize};

use crate::agent::stats::GuestStats;
use crate::name::Name;

/// What a VM uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmStats {
    /// The VM's name.
    pub name: Name,
    /// When this was read, RFC 3339.
    pub at: String,
    /// Its VMM on the host.
    pub host: HostStats,
    /// What the guest says of itself; absent if its agent did not answer soon enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestStats>,
    /// What went through its interface since it was started; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkStats>,
    /// What it did with its disks since it was started, as far as its VMM counts it.
    #[serde(default)]
    pub disks: Vec<DiskStats>,
}

/// What a VMM uses of its host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostStats {
    /// CPU time since it began, in microseconds.
    pub cpu_us: u64,
    /// Its share of the memory that it uses (PSS), in bytes; absent if the host does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_pss_bytes: Option<u64>,
}

/// Counters of a guest's interface, as the guest sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkStats {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets for the guest that the host dropped.
    pub rx_dropped: u64,
    /// Packets of the guest that the host dropped.
    pub tx_dropped: u64,
}

/// Counters of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskStats {
    /// The VMM's name for it; disks are numbered from 0 in the order in which the guest has them.
    pub name: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Requests that read.
    pub read_ops: u64,
    /// Requests that wrote.
    pub write_ops: u64,
}
