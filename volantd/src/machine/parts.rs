//! What all machines share: the seams to the world, and the few numbers that the configuration sets. `app.rs` puts them together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::lease::Pool;
use super::ports::{
    BootSink, ConsoleSink, EventSink, Guest, LogSink, Media, Network, VmPaths, Vmm,
};
use super::record::{Journal, VmRecord};

/// How long a guest may take from its boot to its agent's first word, unless the configuration says otherwise, with hardware virtualization.
pub const BOOT_DEADLINE_KVM: Duration = Duration::from_mins(1);

/// The same with software emulation, on a host that may be busy with several of them.
pub const BOOT_DEADLINE_TCG: Duration = Duration::from_mins(5);

/// What the configuration says about machines.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The VMs' state folders are in its `vms`.
    pub state_dir: PathBuf,
    /// The VMs' run folders are in its `vm`. Lost when the host reboots.
    pub run_dir: PathBuf,
    /// Where addresses come from.
    pub pool: Pool,
    /// How long a guest may take from its boot to its agent's first word; see [`BOOT_DEADLINE_KVM`] and [`BOOT_DEADLINE_TCG`].
    pub boot_deadline: Duration,
}

impl Settings {
    /// The folders of a VM. The run folder goes by number: a socket's path has at most 107 bytes, and a name alone may have 63.
    pub fn paths(&self, record: &VmRecord) -> VmPaths {
        VmPaths {
            state_dir: self
                .state_dir
                .join("vms")
                .join(record.blueprint.name.as_str()),
            run_dir: self.run_dir.join("vm").join(record.id.to_string()),
        }
    }
}

/// What machines need from the world.
#[derive(Clone)]
pub struct Parts {
    /// Remembers VMs.
    pub journal: Arc<dyn Journal>,
    /// Makes what VMs boot.
    pub media: Arc<dyn Media>,
    /// Connects VMs.
    pub network: Arc<dyn Network>,
    /// Runs VMMs.
    pub vmm: Arc<dyn Vmm>,
    /// Talks to guests.
    pub guest: Arc<dyn Guest>,
    /// Keeps consoles.
    pub console: Arc<dyn ConsoleSink>,
    /// Keeps what workloads write.
    pub logs: Arc<dyn LogSink>,
    /// Hears of changes.
    pub events: Arc<dyn EventSink>,
    /// Hears how long starts took.
    pub boots: Arc<dyn BootSink>,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// Numbers.
    pub settings: Settings,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
