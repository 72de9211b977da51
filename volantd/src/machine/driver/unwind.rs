//! Takes a VM down, and keeps it there: `Stopping`, `Stopped`, `Failed`, `Crashed` and `Deleting`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use common::agent::tcp_port_beside;
use common::api::Failure;
use common::error_chain::Chain;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::backoff::Backoff;
use super::super::blueprint::Blueprint;
use super::super::error::MachineError;
use super::super::outcome::step_failure;
use super::super::plan::{self, Step, word};
use super::super::ports::{GuestEndpoint, StepError};
use super::super::record::Durability;
use super::super::requests::Request;
use super::super::state::{Event, Phase};
use super::super::steps;
use super::{Asked, CRASH_LOOP_ENDS, Driver, receive};

/// How long undoing one step may take. Ending a VMM by SIGKILL alone may need 25 s, and its network as long again on a busy host.
const UNDO_DEADLINE: Duration = Duration::from_mins(1);

/// How long an agent may take to accept that its guest ends. One that is stuck must not hold up a stop.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// How much longer than its workload's grace a guest may take to power off: it syncs, and may be emulated.
const POWER_OFF_MARGIN: Duration = Duration::from_secs(10);

/// The waits between rounds of a removal that fails, and after how many rounds whoever waits is told.
const FIRST_REMOVAL_RETRY: Duration = Duration::from_millis(100);
const SLOWEST_REMOVAL_RETRY: Duration = Duration::from_secs(30);
const ROUNDS_UNTIL_TOLD: u32 = 3;

impl Driver {
    /// `Stopping`.
    pub(super) async fn stop(&mut self) {
        let event = match self.wind_down().await {
            Ok(()) => Event::Unwound,
            Err(failure) => Event::UnwindFailed(failure),
        };
        self.apply(event).await;
    }

    /// `Stopped` and `Failed`: waits to be asked for something else.
    pub(super) async fn rest(&mut self) {
        let resting = self.phase_kind();
        let left_behind = !self.record.progress.begun.is_empty();
        if let Err(left) = self.unwind().await {
            tracing::error!(vm = %self.record.blueprint.name, step = left.step, error = left.cause, "step not undone");
        }
        if left_behind {
            self.note().await;
        }
        self.until_turned(resting, std::future::pending::<()>())
            .await;
    }

    /// `Crashed`: waits a little, then launches again.
    pub(super) async fn back_off(&mut self) {
        let waiting = self.phase_kind();
        if let Err(left) = self.unwind().await {
            tracing::error!(vm = %self.record.blueprint.name, step = left.step, error = left.cause, "step not undone");
        }
        let progress = &mut self.record.progress;
        progress.quick_ends = progress.quick_ends.saturating_add(1);
        let ends = progress.quick_ends;
        let is_loop = ends >= CRASH_LOOP_ENDS;
        if is_loop != std::mem::replace(&mut self.observed.crash_loop, is_loop) {
            tracing::warn!(vm = %self.record.blueprint.name, ends, "vm is in a crash loop");
        }
        let wait = self.relaunches.next();
        let now = self.parts.clock.now();
        self.observed.next_launch = now.checked_add(wait).ok();
        self.note().await;
        if self.until_turned(waiting, sleep(wait)).await.is_some() {
            self.record.progress.restarts = self.record.progress.restarts.saturating_add(1);
            self.arrived = Instant::now();
            self.apply(Event::BackOffOver).await;
        }
    }

    /// `Deleting`: returns when nothing is left.
    pub(super) async fn remove(&mut self) {
        let mut retries = Backoff::new(FIRST_REMOVAL_RETRY, SLOWEST_REMOVAL_RETRY);
        let mut rounds = 0;
        while let Err(failure) = self.remove_all().await {
            rounds += 1;
            tracing::error!(vm = %self.record.blueprint.name, step = failure.step, error = failure.cause, "vm not removed");
            self.record.progress.failure = Some(failure.clone());
            self.note().await;
            if rounds >= ROUNDS_UNTIL_TOLD {
                for waiting in std::mem::take(&mut self.deleters) {
                    let name = self.record.blueprint.name.clone();
                    drop(waiting.send(Err(MachineError::NotRemoved {
                        name,
                        failure: failure.clone(),
                    })));
                }
            }
            self.finish(sleep(retries.next())).await;
        }
        tracing::info!(vm = %self.record.blueprint.name, "vm removed");
    }

    /// The record goes last: as long as anything may be left, a daemon that starts anew must know of it.
    async fn remove_all(&mut self) -> Result<(), Failure> {
        self.wind_down().await?;
        self.show_activity(word::FILES);
        self.parts.logs.remove(&self.record.blueprint.name);
        self.parts.console.remove(&self.record.blueprint.name);
        let state_dir = self.paths.state_dir.clone();
        self.finish(async move { steps::remove_dir(&state_dir).await })
            .await
            .map_err(|error| step_failure(word::FILES, &error))?;
        let (journal, id) = (Arc::clone(&self.parts.journal), self.record.id);
        self.finish(async move { journal.remove(id).await })
            .await
            .map_err(|error| Failure {
                step: word::STORE.to_owned(),
                cause: Chain(&error).to_string(),
                hints: Vec::new(),
            })
    }

    /// Ends the guest with grace where there is one, then undoes the launch.
    async fn wind_down(&mut self) -> Result<(), Failure> {
        if self.may_have_agent {
            self.end_guest().await;
        }
        self.unwind().await
    }

    /// Asks the agent to end its workload and power off, and waits for that. What it does not do, unwinding does without it.
    async fn end_guest(&mut self) {
        let Some(instance) = self.instance.clone() else {
            return;
        };
        self.may_have_agent = false;
        self.hurried = None;
        self.show_activity(word::GUEST);
        if !self.wake(instance.as_ref()).await {
            tracing::warn!(vm = %self.record.blueprint.name, "guest cannot go on and is ended without grace");
            return;
        }
        let (guest, endpoint) = (Arc::clone(&self.parts.guest), self.endpoint());
        let asked = self.record.progress.grace_ms.map(Duration::from_millis);
        let configured = self.record.blueprint.stop_grace_ms;
        let chosen = asked.or_else(|| configured.map(Duration::from_millis));
        let grace = asked.unwrap_or_else(|| self.configured_grace());
        let asked =
            async move { timeout(SHUTDOWN_DEADLINE, guest.shutdown(&endpoint, chosen)).await };
        match self.finish(asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(vm = %self.record.blueprint.name, error = %Chain(&error), "guest not asked to end");
                return;
            }
            Err(_) => {
                tracing::warn!(vm = %self.record.blueprint.name, "guest does not answer and is ended without grace");
                return;
            }
        }
        if !self.powers_off(instance.exited(), grace).await {
            tracing::warn!(vm = %self.record.blueprint.name, "guest did not power off in time and is ended without grace");
        }
    }

    /// Whether the guest has ended by itself within `grace`, or within what requests make of it meanwhile.
    async fn powers_off(&mut self, exited: impl Future, grace: Duration) -> bool {
        let mut exited = pin!(exited);
        let mut limit = Instant::now() + grace;
        loop {
            if let Some(left) = self.hurried.take() {
                limit = limit.min(Instant::now() + left);
            }
            tokio::select! {
                biased;
                _ = &mut exited => return true,
                batch = receive(&mut self.inbox) => self.decide(batch).await,
                () = sleep_until(limit + POWER_OFF_MARGIN) => return false,
            }
        }
    }

    /// Takes up what a request says of how long the guest may take that ends already: its end comes sooner for it, and never later.
    pub(super) fn hurry(&mut self, command: &Asked) {
        if !matches!(self.state().phase, Phase::Stopping | Phase::Deleting) {
            return;
        }
        let left = match command.request {
            Request::Stop | Request::Restart => command.grace,
            // The first one also says that what a stop was given is not wanted any more.
            Request::Delete if self.state().phase == Phase::Stopping => {
                Some(self.configured_grace())
            }
            Request::Delete | Request::Start | Request::Pause | Request::Resume => None,
        };
        if let Some(left) = left {
            self.hurried = Some(self.hurried.map_or(left, |known| known.min(left)));
        }
    }

    fn configured_grace(&self) -> Duration {
        let blueprint = &self.record.blueprint;
        let of_manifest = blueprint.manifest.workload.stop_grace_ms;
        Duration::from_millis(blueprint.stop_grace_ms.unwrap_or(of_manifest))
    }

    pub(super) fn endpoint(&self) -> GuestEndpoint {
        GuestEndpoint {
            ip: self.record.lease.ip,
            agent_port: tcp_port_beside(self.record.blueprint.manifest.workload.port()),
            vsock: self
                .instance
                .as_ref()
                .and_then(|instance| instance.record().vsock),
            secret: self.record.secret.clone(),
        }
    }

    /// Undoes all steps that were begun, last first. One that fails does not keep the others from being undone; the first failure is
    /// given back, and its step stays recorded for the next time.
    pub(super) async fn unwind(&mut self) -> Result<(), Failure> {
        if self.record.progress.begun.is_empty() {
            self.release_config();
            return Ok(());
        }
        let mut failed = None;
        for step in plan::unwinding(&self.record.progress.begun) {
            self.show_activity(step.as_str());
            let undo = timeout(UNDO_DEADLINE, (steps::row(step).undo)(self.hands()));
            let undone = self.finish(undo).await.unwrap_or_else(|_| {
                let limit_s = UNDO_DEADLINE.as_secs();
                Err(StepError::new(format!(
                    "Undoing the step took longer than {limit_s} s"
                )))
            });
            match undone {
                Ok(()) => self.forget(step),
                Err(error) => {
                    let failure = step_failure(step.as_str(), &error);
                    tracing::warn!(vm = %self.record.blueprint.name, step = failure.step, error = failure.cause, "undo failed");
                    failed.get_or_insert(failure);
                }
            }
        }
        self.may_have_agent = false;
        self.up_since = None;
        self.observed.activity = None;
        if failed.is_none() {
            self.record.progress.launch = None;
            self.release_config();
            self.launch = None;
            self.media = None;
        }
        // One record is enough: until then a new daemon undoes it all once more. Publishing is the caller's, with what comes next.
        if let Err(error) = self.save(Durability::Noted).await {
            tracing::error!(vm = %self.record.blueprint.name, error = %Chain(&error), "progress not recorded");
        }
        failed.map_or(Ok(()), Err)
    }

    /// Nothing of a launch is left: what there is to say of the VM is what its next launch will have.
    fn release_config(&mut self) {
        let record = &mut self.record;
        if record.progress.launched_version.take().is_some() {
            record.blueprint = Arc::new(Blueprint::of(&record.blueprint.name, &record.config));
        }
    }

    fn forget(&mut self, step: Step) {
        self.record.progress.begun.retain(|begun| *begun != step);
        if step == Step::Vmm {
            self.instance = None;
            self.record.progress.instance = None;
        }
    }
}
