//! What is remembered of a VM, and the seam to whatever remembers it. The store implements [`Journal`]; nothing here knows SQL.

use std::error::Error;
use std::sync::Arc;

use common::api::{BootTimeline, Failure, VmConfig};
use common::digest::Digest;
use common::guest_config::Secret;
use common::name::Name;
use jiff::Timestamp;

use super::blueprint::Blueprint;
use super::lease::{NoAddress, Pool};
use super::plan::Step;
use super::ports::{BoxFuture, InstanceRecord, Lease};
use super::state::State;

/// A version of a VM's configuration, with the artifact that it boots. Never changed: a change makes the next version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigVersion {
    /// Its number, from 1.
    pub version: u64,
    /// What was chosen.
    pub config: VmConfig,
    /// The stored artifact that it boots.
    pub artifact: Digest,
    /// When it was made.
    pub updated_at: Timestamp,
}

/// All that is remembered of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmRecord {
    /// Its number; never used again.
    pub id: i64,
    /// Its newest configuration, which its next launch takes.
    pub config: Arc<ConfigVersion>,
    /// What it is made of: the configuration of the present launch, else the newest one.
    pub blueprint: Arc<Blueprint>,
    /// What it holds of the network.
    pub lease: Lease,
    /// What a caller must know to change anything in its guest.
    pub secret: Secret,
    /// When it was created.
    pub created_at: Timestamp,
    /// How far it is.
    pub progress: Progress,
}

/// The part of a record that changes. It is always written as a whole, so a record is never half old.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Phase and desire.
    pub state: State,
    /// The steps of the present launch that were begun and not undone.
    pub begun: Vec<Step>,
    /// Names the present launch; see [`super::ports::Launch::instance`].
    pub launch: Option<String>,
    /// The version of the configuration that the present launch has.
    pub launched_version: Option<u64>,
    /// The VMM process of the present launch.
    pub instance: Option<InstanceRecord>,
    /// How often the VM was launched again after its VMM ended by itself.
    pub restarts: u32,
    /// Whether its guest was up since somebody started it. What was up once is launched again when it breaks.
    pub proven: bool,
    /// Why it failed or crashed last.
    pub failure: Option<Failure>,
    /// The timeline of the last launch.
    pub boot: Option<BootTimeline>,
    /// Ends in a row without being stable in between: whether the VM is in a crash loop, and how long it waits before it is launched again.
    pub quick_ends: u32,
    /// How long the workload may take to end, where the request that ends the present launch said so, in milliseconds.
    pub grace_ms: Option<u64>,
    /// See [`common::api::Vm::generation`].
    pub generation: u64,
    /// When this changed last.
    pub updated_at: Timestamp,
}

impl Progress {
    /// How far a VM is that was just created.
    pub fn new(now: Timestamp) -> Self {
        Self {
            state: State::NEW,
            begun: Vec::new(),
            launch: None,
            launched_version: None,
            instance: None,
            restarts: 0,
            proven: false,
            failure: None,
            boot: None,
            quick_ends: 0,
            grace_ms: None,
            generation: 1,
            updated_at: now,
        }
    }
}

/// A VM to be recorded.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its name.
    pub name: Name,
    /// What was chosen.
    pub config: VmConfig,
    /// The stored artifact that it boots.
    pub artifact: Digest,
    /// Its secret.
    pub secret: Secret,
    /// When it is created.
    pub created_at: Timestamp,
    /// Where its address comes from.
    pub pool: Pool,
}

/// How sure a write must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A user was told, or will be: it survives a power cut.
    Promised,
    /// It survives the daemon's end. A power cut ends everything that it is about as well.
    Noted,
}

/// The journal could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A VM of this name exists.
    #[error("A VM named `{name}` exists already")]
    Exists {
        /// The name.
        name: Name,
    },
    /// No address is left.
    #[error(transparent)]
    NoAddress(#[from] NoAddress),
    /// The store failed.
    #[error("Cannot {doing}")]
    Failed {
        /// What was tried, such as `record the VM`.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A record that is there and cannot be read, such as one that a later version wrote.
#[derive(Debug, thiserror::Error)]
#[error("The record of the VM `{name}` cannot be read")]
pub struct Unreadable {
    /// The VM's name as it is stored.
    pub name: String,
    /// Why not.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Remembers VMs over the end of the daemon.
pub trait Journal: Send + Sync {
    /// Chooses a lease and records the VM in one transaction.
    fn insert(&self, draft: Draft) -> BoxFuture<'_, Result<VmRecord, JournalError>>;
    /// All VMs, by number.
    fn all(&self) -> BoxFuture<'_, Result<Vec<Result<VmRecord, Unreadable>>, JournalError>>;
    /// Records how far a VM is.
    fn save<'a>(
        &'a self,
        id: i64,
        progress: &'a Progress,
        durability: Durability,
    ) -> BoxFuture<'a, Result<(), JournalError>>;
    /// Records a new version of a VM's configuration, and forgets the oldest beyond so many; but never the one
    /// of the present launch.
    fn reconfigure<'a>(
        &'a self,
        id: i64,
        config: &'a ConfigVersion,
    ) -> BoxFuture<'a, Result<(), JournalError>>;
    /// Forgets a VM with its configurations and frees its lease. One that is not there is fine.
    fn remove(&self, id: i64) -> BoxFuture<'_, Result<(), JournalError>>;
}
