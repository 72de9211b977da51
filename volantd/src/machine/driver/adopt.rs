//! Takes up a VM that an earlier daemon, or an earlier driver, left.

use std::sync::Arc;
use std::time::Duration;

use common::error_chain::Chain;
use common::manifest::RestartPolicy;
use tokio::time::{Instant, timeout};

use super::super::outcome;
use super::super::plan;
use super::super::ports::Adopted;
use super::super::state::{Desired, Event, Phase, State};
use super::pause::Cpus;
use super::{CRASH_LOOP_ENDS, Driver, GENERATION_LEAP, bug};

/// How long it may take to find out whether a VMM lives and to take it over.
const ADOPT_DEADLINE: Duration = Duration::from_secs(30);

/// Ends after which the wait before a launch does not grow any more, however long it is.
const MANY_ENDS: u32 = 32;

impl Driver {
    /// Goes on with a VMM that lives, or with what the VM should be.
    pub(super) async fn resume(&mut self) {
        self.record.progress.generation += GENERATION_LEAP;
        let ends = self.record.progress.quick_ends;
        self.observed.crash_loop = ends >= CRASH_LOOP_ENDS;
        for _ in 0..ends.min(MANY_ENDS) {
            self.relaunches.next();
        }
        match self.adopt().await {
            Some(adopted) => self.take_over(adopted),
            None => self.go_on_without_vmm().await,
        }
        self.note().await;
    }

    async fn adopt(&mut self) -> Option<Adopted> {
        let progress = &self.record.progress;
        if !plan::is_adoptable(&progress.state, &progress.begun, progress.instance.as_ref()) {
            return None;
        }
        let (parts, instance) = (Arc::clone(&self.parts), progress.instance.clone()?);
        let adopting = async move { timeout(ADOPT_DEADLINE, parts.vmm.adopt(&instance)).await };
        let vm = self.record.blueprint.name.clone();
        match self.finish(adopting).await {
            Ok(Ok(adopted)) => adopted,
            // What cannot be driven is ended and launched anew, else it would live for ever and nobody would know of it.
            Ok(Err(error)) => {
                tracing::error!(%vm, error = %Chain(&error), "vmm not adopted");
                None
            }
            Err(_) => {
                tracing::error!(%vm, "vmm not adopted in time");
                None
            }
        }
    }

    fn take_over(&mut self, adopted: Adopted) {
        let vm = &self.record.blueprint.name;
        tracing::info!(%vm, pid = adopted.instance.record().pid, "vmm adopted");
        match adopted.serial {
            Some(serial) => self.parts.console.attach(vm, &self.paths, serial),
            None => {
                tracing::warn!(%vm, "serial line not opened again: the console stays silent until the next start");
            }
        }
        let instance: Arc<_> = Arc::from(adopted.instance);
        self.instance = Some(instance);
        self.may_have_agent = true;
        // The daemon before this one may have died between its record and its call. A guest that boots is never paused.
        self.cpus = match self.state().phase {
            Phase::Starting => Cpus::Going,
            _ => Cpus::Unknown,
        };
        self.up_since = Some(Instant::now());
    }

    async fn go_on_without_vmm(&mut self) {
        let was_up = matches!(
            self.state().phase,
            Phase::Running { .. } | Phase::Paused { .. }
        );
        if was_up && self.record.blueprint.restart == RestartPolicy::Never {
            return self.undo_and(Event::Failed(outcome::lost())).await;
        }
        let progress = &mut self.record.progress;
        if was_up {
            progress.restarts = progress.restarts.saturating_add(1);
        }
        progress.state = plan::without_vmm(&progress.state);
    }

    /// The driver before this one panicked: the VM is marked as failed, and what is left of it is undone. A removal goes on.
    pub(super) async fn give_up(&mut self) {
        let progress = &mut self.record.progress;
        progress.generation += GENERATION_LEAP;
        if progress.state.desired != Desired::Deleted {
            let failure = bug("The VM's driver failed");
            progress.failure = Some(failure.clone());
            progress.state = State {
                phase: Phase::Failed { failure },
                desired: progress.state.desired,
            };
        }
        self.note().await;
    }
}
