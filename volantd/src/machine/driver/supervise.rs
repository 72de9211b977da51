//! Watches a guest from its boot to its end: `Starting` and `Running`.

use std::sync::Arc;
use std::time::Duration;

use common::agent::{AgentStatus, GuestPhase, HealthState};
use common::api::{Failure, VmHealth};
use common::manifest::RestartPolicy;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::follow::{Follower, Observation};
use super::super::health::{self, View};
use super::super::outcome::{self, LAST_LINES, LastSeen, LastWords, Outcome};
use super::super::ports::{Instance, VmmExit};
use super::super::public::{Observed, Probed};
use super::super::state::{Event, Phase};
use super::{Driver, STABLE_AFTER, bug};
use crate::cause::Cause;

/// How long the last words of an agent may be on their way when its VMM has ended.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// How long the last console output may be on its way to the log.
const CONSOLE_SETTLE: Duration = Duration::from_millis(50);

/// How long a guest that says that it cannot go on may take to power off by itself, with its console complete.
const DYING_GRACE: Duration = Duration::from_secs(2);

/// What is seen of a guest.
enum Sight {
    Ended(VmmExit),
    Found(Observation),
    DeadlinePassed,
}

impl Driver {
    /// Returns when the guest has ended, or a request changed the phase.
    pub(super) async fn supervise(&mut self) {
        let Some(instance) = self.instance.clone() else {
            let failure = bug("A VM runs without a VMM");
            return self.apply(Event::Failed(failure)).await;
        };
        if !self.go_on(instance.as_ref()).await {
            return;
        }
        self.follow_log(instance.as_ref());
        // Of one that was adopted or stood still.
        if matches!(self.state().phase, Phase::Running { .. }) {
            self.set_clock();
        }
        let port = self.record.blueprint.manifest.workload.port();
        let is_up = matches!(self.state().phase, Phase::Running { .. });
        let mut follower =
            Follower::new(Arc::clone(&self.parts.guest), self.endpoint(), port, is_up);
        let boot_deadline = Instant::now() + self.parts.settings.boot_deadline;
        loop {
            let watched = self.phase_kind();
            let deadline = match self.state().phase {
                Phase::Starting => Some(boot_deadline),
                Phase::Running { .. } => self.stable_at(),
                _ => return,
            };
            let looking = look(instance.as_ref(), &mut follower, deadline);
            let looking = self.cause.clone().scope(looking);
            let sight = self.until_turned(watched, looking).await;
            match sight {
                None => {
                    self.last_heard = follower.status().cloned();
                    return;
                }
                Some(Sight::Ended(exit)) => return self.ended(&exit, Some(&mut follower)).await,
                Some(Sight::DeadlinePassed) if self.is_stable() => self.calm_down().await,
                Some(Sight::DeadlinePassed) => {
                    let waited_ms = self.parts.settings.boot_deadline.as_millis();
                    let words = self.last_words().await;
                    return self.fail(outcome::boot_deadline(waited_ms, &words)).await;
                }
                Some(Sight::Found(Observation::Silent(error))) => {
                    self.judge(health::silent(&error)).await;
                }
                Some(Sight::Found(Observation::Heard | Observation::Reached)) => {
                    let observing = self.cause.clone().scope(self.observe(&mut follower));
                    if let Some(cause) = observing.await {
                        return self.guest_failed(&cause, instance.as_ref()).await;
                    }
                }
            }
        }
    }

    /// Takes in what the follower knows. Gives the reason if the guest says that it cannot go on.
    async fn observe(&mut self, follower: &mut Follower) -> Option<String> {
        let status = follower.status()?;
        self.take_in(status);
        if status.phase == GuestPhase::Failed {
            return Some(
                status
                    .failure
                    .clone()
                    .unwrap_or_else(|| "The guest cannot go on".to_owned()),
            );
        }
        if self.state().phase == Phase::Starting && status.phase != GuestPhase::Boot {
            self.may_have_agent = true;
            self.record.progress.proven = true;
            self.up_since = Some(Instant::now());
            self.apply(Event::GuestUp).await;
            tracing::info!(vm = %self.record.blueprint.name, "guest is up");
            self.set_clock();
        }
        let Phase::Running { health: known } = &self.state().phase else {
            return None;
        };
        let health_check = self.record.blueprint.manifest.health_check.as_ref();
        let verdict = health::verdict(&View {
            status,
            service: follower.service(),
            reach: follower.reach(),
            undecided: follower.undecided(),
            health_timeout: Duration::from_millis(health_check.map_or(0, |check| check.timeout_ms)),
            known,
        });
        self.judge(verdict).await;
        None
    }

    /// Takes what clients see from the agent's status, and publishes it if it is news.
    fn take_in(&mut self, status: &AgentStatus) {
        if let Some(timeline) = &mut self.timeline {
            timeline.heard(status, Instant::now());
            self.record.progress.boot = Some(timeline.so_far());
        }
        let before = self.observed.clone();
        self.observed.last_probe = self.probed_at(status);
        let probed = self.observed != before;
        let workload = &status.workload;
        self.observed.workload_restarts = workload.restarts;
        self.observed.workload_crash_loop = workload.crash_loop;
        self.observed.oom_kills = workload.oom_kills;
        self.observed.last_exit.clone_from(&workload.last_exit);
        let same = Observed {
            last_probe: self.observed.last_probe,
            ..before
        };
        if self.observed != same {
            self.advance();
            self.publish();
        } else if probed {
            // Another probe that says the same is no news, but whoever looks may know of it.
            self.publish();
        }
    }

    /// When the last probe ended, by the host's clock. The guest counts from its boot.
    fn probed_at(&self, status: &AgentStatus) -> Option<Probed> {
        let at_us = status.health.last_probe_us?;
        if let Some(known) = self.observed.last_probe
            && known.at_us == at_us
        {
            return Some(known);
        }
        let age = Duration::from_micros(status.now_us.saturating_sub(at_us));
        let time = self.parts.clock.now().checked_sub(age).ok()?;
        Some(Probed { at_us, time })
    }

    /// Whether what was up is launched again when it breaks.
    pub(super) fn is_launched_again(&self) -> bool {
        self.record.progress.proven && self.record.blueprint.restart != RestartPolicy::Never
    }

    fn is_stable(&self) -> bool {
        self.up_since
            .is_some_and(|since| since.elapsed() >= STABLE_AFTER)
    }

    /// Forgets how quickly it ended before.
    async fn calm_down(&mut self) {
        self.relaunches.reset();
        let ends = std::mem::take(&mut self.record.progress.quick_ends);
        let was_loop = std::mem::take(&mut self.observed.crash_loop);
        if ends > 0 || was_loop {
            self.note().await;
        }
    }

    /// When a VM that ended quickly before counts as stable again.
    fn stable_at(&self) -> Option<Instant> {
        let since = self
            .up_since
            .filter(|_| self.record.progress.quick_ends > 0)?;
        Some(since + STABLE_AFTER)
    }

    async fn judge(&mut self, verdict: VmHealth) {
        let Phase::Running { health: known } = &self.state().phase else {
            return;
        };
        if *known == verdict {
            return;
        }
        let vm = &self.record.blueprint.name;
        let reason = verdict.reason.as_deref();
        match verdict.state {
            HealthState::Healthy => tracing::info!(%vm, "vm is healthy"),
            HealthState::Unhealthy => tracing::warn!(%vm, error = reason, "vm is unhealthy"),
            HealthState::Unknown => tracing::debug!(%vm, reason, "health of vm is not known"),
        }
        if verdict.state == HealthState::Healthy
            && let Some(timeline) = &mut self.timeline
        {
            let is_first = timeline.ready(Instant::now());
            let boot = timeline.so_far();
            self.record.progress.boot = Some(boot);
            if is_first {
                self.parts.boots.booted(&boot);
            }
        }
        if verdict.state == HealthState::Healthy {
            // What comes from now on is nobody's request.
            self.cause = Cause::default();
        }
        self.apply(Event::HealthChanged(verdict)).await;
    }

    /// The guest says that it cannot go on.
    async fn guest_failed(&mut self, cause: &str, instance: &dyn Instance) {
        if self
            .until_turned(self.phase_kind(), timeout(DYING_GRACE, instance.exited()))
            .await
            .is_none()
        {
            return;
        }
        let words = self.last_words().await;
        let failure = outcome::workload_failure(cause, &words);
        self.undo_and(Event::Failed(failure)).await;
    }

    /// The VMM ended, and nobody asked it to.
    pub(super) async fn ended(&mut self, exit: &VmmExit, follower: Option<&mut Follower>) {
        let mut heard = self.last_heard.take();
        if let Some(follower) = follower {
            if let Ok(Observation::Heard) = timeout(LAST_WORDS, follower.next()).await
                && let Some(status) = follower.status()
            {
                self.take_in(status);
            }
            heard = follower.status().cloned().or(heard);
        }
        let words = self.last_words().await;
        let vmm = self
            .record
            .progress
            .instance
            .as_ref()
            .map_or("The VMM", |instance| instance.vmm.as_str());
        let outcome = outcome::of_exit(
            exit,
            &LastSeen {
                status: heard.as_ref(),
                proven: self.record.progress.proven,
                policy: self.record.blueprint.manifest.workload.restart,
                vm_policy: self.record.blueprint.restart,
                words: &words,
                vmm,
            },
        );
        tracing::info!(vm = %self.record.blueprint.name, ?exit, "vmm ended by itself");
        self.cause = Cause::default();
        if self.is_stable() {
            self.calm_down().await;
        }
        let event = match outcome {
            Outcome::Completed => Event::Completed,
            Outcome::Failed(failure) | Outcome::Unsuccessful(failure) => Event::Failed(failure),
            Outcome::Crashed(failure) => Event::Crashed(failure),
        };
        self.undo_and(event).await;
    }

    async fn fail(&mut self, failure: Failure) {
        self.undo_and(if self.is_launched_again() {
            Event::Crashed(failure)
        } else {
            Event::Failed(failure)
        })
        .await;
    }

    /// Undoes the launch, then says what happened: whoever reads `failed` finds nothing left.
    pub(super) async fn undo_and(&mut self, event: Event) {
        if let Err(left) = self.unwind().await {
            tracing::error!(vm = %self.record.blueprint.name, step = left.step, error = left.cause, "step not undone");
        }
        self.apply(event).await;
    }

    /// Fetches what the workload writes, also before the guest is known to be up: one that fails at once is gone soon.
    fn follow_log(&self, instance: &dyn Instance) {
        self.parts.logs.begin(
            &self.record.blueprint.name,
            &self.paths.state_dir,
            &instance.record().instance,
            self.endpoint(),
        );
    }

    /// The last lines of console and workload, once they had time to arrive.
    async fn last_words(&mut self) -> LastWords {
        let (parts, vm) = (Arc::clone(&self.parts), self.record.blueprint.name.clone());
        let state_dir = self.paths.state_dir.clone();
        self.finish(async move {
            sleep(CONSOLE_SETTLE).await;
            let read = tokio::task::spawn_blocking(move || LastWords {
                console: parts.console.tail(&vm, &state_dir, LAST_LINES),
                output: parts.logs.tail(&vm, &state_dir, LAST_LINES),
            });
            read.await.unwrap_or_default()
        })
        .await
    }
}

/// Waits for the next thing to be seen of a guest. Its end comes before all else.
async fn look(
    instance: &dyn Instance,
    follower: &mut Follower,
    deadline: Option<Instant>,
) -> Sight {
    let passed = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        exit = instance.exited() => Sight::Ended(exit),
        found = follower.next() => Sight::Found(found),
        () = passed => Sight::DeadlinePassed,
    }
}
