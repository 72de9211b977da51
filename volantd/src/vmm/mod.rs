//! The VMMs: processes that run guests, behind the seams of `machine::ports`.
//!
//! ```text
//! facts ──▶ detect ──▶ Hypervisors ──▶ cloud_hypervisor ─┐
//!                                  └─▶ qemu ─────────────┴──▶ launch, process, socket ──▶ sys
//! ```
//!
//! Does not make taps, media or folders, and keeps no records: that is the machine's business. After a launch's end its runtime folder is
//! the caller's to remove.

mod cloud_hypervisor;
pub mod detect;
pub mod facts;
mod identity;
mod launch;
mod process;
mod qemu;
mod socket;
mod stderr;
mod sys;

use std::ffi::OsString;
use std::path::PathBuf;

use self::detect::{Choice, Facts, Refusal, Wish};
use self::facts::{Host, Programs};
use self::launch::Order;
use self::process::{Identity, Process};
use self::sys::End;
use crate::machine::ports::{
    Adopted, BootMedia, BoxFuture, Instance, InstanceRecord, Launch, StepError, Vmm, VmmKind,
};

pub use self::identity::{INSTANCE_MARK, STATE_MARK};
pub use self::launch::Deadlines;
pub use self::process::LOG_FILE;
pub use self::socket::MAX_SOCKET_PATH_BYTES;

/// How VMMs are chosen and started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which VMM new VMs get.
    pub wish: Wish,
    /// The `cloud-hypervisor` program, else searched in `search_path`.
    pub cloud_hypervisor: Option<PathBuf>,
    /// The `qemu-system-x86_64` program, else searched in `search_path`.
    pub qemu: Option<PathBuf>,
    /// `PATH`, for the search and for the VMMs.
    pub search_path: OsString,
    /// The daemon's state folder: marks its VMMs among those of other daemons.
    pub state_root: PathBuf,
    /// How long calls may take.
    pub deadlines: Deadlines,
}

/// What every launch gets from the daemon.
#[derive(Debug)]
struct Daemon {
    search_path: OsString,
    state_root: PathBuf,
    deadlines: Deadlines,
}

/// Launches VMs with the VMM that suits the host, and adopts those of either kind.
pub struct Hypervisors {
    wish: Wish,
    daemon: Daemon,
    facts: Box<dyn Fn() -> Facts + Send + Sync>,
}

impl std::fmt::Debug for Hypervisors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hypervisors")
            .field("wish", &self.wish)
            .field("daemon", &self.daemon)
            .finish_non_exhaustive()
    }
}

impl Hypervisors {
    /// Chooses by the facts of this host, anew at each launch.
    pub fn new(settings: Settings) -> Self {
        let host = Host::new(Programs {
            cloud_hypervisor: settings.cloud_hypervisor.clone(),
            qemu: settings.qemu.clone(),
            search_path: settings.search_path.clone(),
        });
        Self::with_facts(settings, move || host.facts())
    }

    /// Chooses by facts that the caller gathers.
    pub fn with_facts(
        settings: Settings,
        facts: impl Fn() -> Facts + Send + Sync + 'static,
    ) -> Self {
        Self {
            wish: settings.wish,
            daemon: Daemon {
                search_path: settings.search_path,
                state_root: settings.state_root,
                deadlines: settings.deadlines,
            },
            facts: Box::new(facts),
        }
    }

    /// What is known about the host, for `doctor`.
    pub fn facts(&self) -> Facts {
        (self.facts)()
    }

    /// The VMM and accelerator that the next VM gets, and why.
    ///
    /// # Errors
    /// [`Refusal`] if no VM can be launched here.
    pub fn choice(&self) -> Result<Choice, Refusal> {
        detect::choose(self.wish, &self.facts())
    }

    /// The instance ids of all living VMMs that carry this daemon's mark, with their process ids: to find those that nobody owns.
    ///
    /// # Errors
    /// [`StepError`] if /proc cannot be read.
    pub async fn living(&self) -> Result<Vec<(u32, String)>, StepError> {
        let failed = |error| StepError::caused("Cannot look for VMM processes", error);
        let found = process::marked(INSTANCE_MARK).await.map_err(failed)?;
        let mine = found.into_iter().filter(|(pid, _)| {
            identity::is_marked(*pid, STATE_MARK, self.daemon.state_root.as_os_str())
        });
        Ok(mine
            .map(|(pid, instance)| (pid, String::from_utf8_lossy(&instance).into_owned()))
            .collect())
    }

    async fn launch(
        &self,
        launch: &Launch,
        media: &BootMedia,
    ) -> Result<Box<dyn Instance>, StepError> {
        let choice = self.choice()?;
        tracing::debug!(
            vm = %launch.vm,
            vmm = choice.kind.as_str(),
            accelerator = choice.accelerator.as_str(),
            "vmm chosen"
        );
        let order = Order {
            program: &choice.program,
            accelerator: choice.accelerator,
            daemon: &self.daemon,
            launch,
            media,
        };
        match choice.kind {
            VmmKind::CloudHypervisor => cloud_hypervisor::spawn(order).await,
            VmmKind::Qemu => qemu::spawn(order).await,
        }
    }

    async fn take_over(&self, record: &InstanceRecord) -> Result<Option<Adopted>, StepError> {
        let identity = Identity {
            pid: record.pid,
            start_ticks: record.start_ticks,
            boot_id: record.boot_id.clone(),
        };
        let found = Process::adopt(&identity, &record.instance).map_err(|error| {
            StepError::caused(
                format!(
                    "Cannot tell whether process {} still is the VMM",
                    record.pid
                ),
                error,
            )
        })?;
        let Some(process) = found else {
            return Ok(None);
        };
        let deadlines = self.daemon.deadlines;
        Ok(Some(match record.vmm {
            VmmKind::CloudHypervisor => cloud_hypervisor::adopt(process, record, deadlines),
            VmmKind::Qemu => qemu::adopt(process, record, deadlines).await,
        }))
    }
}

impl Vmm for Hypervisors {
    fn check(&self) -> Result<(), StepError> {
        self.choice()?;
        Ok(())
    }

    fn spawn<'a>(
        &'a self,
        launch: &'a Launch,
        media: &'a BootMedia,
    ) -> BoxFuture<'a, Result<Box<dyn Instance>, StepError>> {
        Box::pin(self.launch(launch, media))
    }

    fn adopt<'a>(
        &'a self,
        record: &'a InstanceRecord,
    ) -> BoxFuture<'a, Result<Option<Adopted>, StepError>> {
        Box::pin(self.take_over(record))
    }

    fn kill_instance<'a>(&'a self, instance: &'a str) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            process::kill_marked(instance)
                .await
                .map_err(|error| StepError::caused("Cannot end the VMM's processes", error))
        })
    }
}

fn signal(process: &Process, kind: VmmKind, force: bool) -> Result<(), StepError> {
    let end = if force { End::Kill } else { End::Term };
    process
        .signal(end)
        .map_err(|error| StepError::caused(format!("Cannot signal {}", launch::title(kind)), error))
}

#[cfg(test)]
mod tests;
