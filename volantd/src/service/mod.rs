//! What the daemon can do, without HTTP: plugins and VMs, and the errors of both. The front ends translate.

mod actions;
mod answers;
mod artifacts;
mod configs;
mod downloads;
mod error;
mod events;
mod guest;
mod host_use;
mod logs;
mod metrics;
mod plugins;
mod stats;
mod system;
mod versions;
mod vm_list;
mod vms;
mod wait;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::api::SystemInfo;

use crate::agent::AgentClient;
use crate::artifact::ArtifactStore;
use crate::console::Consoles;
use crate::event::Events;
use crate::limits::Limits;
use crate::log::Logs;
use crate::machine::{Clock, Registry};
use crate::media::MediaStore;
use crate::metrics::Metrics;
pub use crate::store::KeptAnswer;
use crate::store::Store;
use versions::PluginVersions;

use guest::Places;

pub use actions::{ActionAnswer, ApiDescription};
pub use artifacts::Prune;
pub use configs::Afterwards;
pub use error::{ErrorKind, ServiceError};
pub use guest::{GuestWay, Hold, Session, Way};
pub use vm_list::{Order, SortKey, VmFilter};

/// How long the last events may take to be written at the daemon's end.
const EVENT_FLUSH: Duration = Duration::from_secs(2);

/// What the host has to give to VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCapacity {
    /// CPUs.
    pub cpu_cores: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

/// The parts that the service drives; `app.rs` makes them.
#[expect(
    missing_debug_implementations,
    reason = "its fields have none, and nobody prints it"
)]
pub struct Parts {
    /// The database.
    pub store: Arc<Store>,
    /// Stored artifacts.
    pub artifacts: Arc<ArtifactStore>,
    /// Boot media made of them.
    pub media: Arc<MediaStore>,
    /// All VMs.
    pub registry: Arc<Registry>,
    /// Their consoles.
    pub consoles: Arc<Consoles>,
    /// Database, artifacts, media and VM folders are here.
    pub state_dir: PathBuf,
    /// What their workloads write.
    pub logs: Arc<Logs>,
    /// What happens to all of it.
    pub events: Arc<Events>,
    /// Talks to guests.
    pub agent: AgentClient,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What VMs may have.
    pub capacity: HostCapacity,
    /// How much there may be of everything.
    pub limits: Limits,
    /// Facts about the daemon.
    pub info: SystemInfo,
}

/// What the daemon can do.
pub struct Service {
    parts: Parts,
    /// Held from an artifact's arrival until it is recorded, and while artifacts are collected. Never while one is fetched.
    installing: tokio::sync::Mutex<()>,
    versions: PluginVersions,
    host_use: host_use::HostUse,
    keys: answers::Keys,
    places: Places,
    began: Instant,
    /// One scrape measures at a time: many of them must not fill the blocking threads.
    measuring: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("capacity", &self.parts.capacity)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// A service of these parts.
    pub fn new(parts: Parts) -> Self {
        let places = Places::new(parts.limits.ways);
        Self {
            parts,
            installing: tokio::sync::Mutex::new(()),
            versions: PluginVersions::default(),
            host_use: host_use::HostUse::default(),
            keys: answers::Keys::default(),
            places,
            began: Instant::now(),
            measuring: Arc::default(),
        }
    }

    /// Facts about the daemon.
    pub fn info(&self) -> &SystemInfo {
        &self.parts.info
    }

    /// Reads which plugins are installed: once at the start, and whenever that changed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn learn_plugins(&self) -> Result<(), ServiceError> {
        self.versions.learn(&self.parts.store.plugins().await?);
        Ok(())
    }

    /// Lets go of all VMs; they go on.
    pub async fn shutdown(&self) {
        self.parts.registry.shutdown().await;
        self.parts.events.flush(EVENT_FLUSH).await;
    }
}
