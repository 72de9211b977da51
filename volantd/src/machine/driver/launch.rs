//! Brings a VM up, step by step: `Pending` and `Preparing`.

use std::sync::Arc;
use std::time::Duration;

use common::api::Failure;
use tokio::time::{Instant, timeout};

use super::super::blueprint::Blueprint;
use super::super::outcome::{LastSeen, LastWords, Outcome, of_exit, step_failure};
use super::super::plan::Step;
use super::super::ports::{Launch, StepError};
use super::super::public::Observed;
use super::super::state::{Event, Phase};
use super::super::steps::{self, Hands, Made};
use super::super::timeline::Timeline;
use super::pause::Cpus;
use super::{CRASH_LOOP_ENDS, Driver};

/// How long one step may take. The longest makes an initramfs of some gigabytes on a slow disk.
const STEP_DEADLINE: Duration = Duration::from_mins(2);

/// How long the end of a VMM may take to be seen once its control socket is gone.
const DEATH_WAIT: Duration = Duration::from_millis(200);

impl Driver {
    /// Runs all steps, or none: what was begun is undone if one fails.
    pub(super) async fn launch(&mut self) {
        if let Err(failure) = self.unwind().await {
            return self.launch_failed(failure).await;
        }
        if self.state().phase != Phase::Pending {
            return;
        }
        self.take_newest_config();
        self.record.progress.launch = Some(uuid::Uuid::now_v7().to_string());
        self.record.progress.boot = None;
        self.launch = None;
        self.cpus = Cpus::Going;
        self.last_heard = None;
        self.record.progress.grace_ms = None;
        self.observed = Observed {
            crash_loop: self.record.progress.quick_ends >= CRASH_LOOP_ENDS,
            ..Observed::default()
        };
        self.timeline = Some(Timeline::new(self.arrived));
        self.apply(Event::Launching).await;
        for step in Step::ALL {
            if let Err(failure) = self.run_step(step).await {
                if let Err(left) = self.unwind().await {
                    tracing::error!(vm = %self.record.blueprint.name, step = left.step, error = left.cause, "step not undone");
                }
                return self.launch_failed(failure).await;
            }
            // A stop or delete came: its phase undoes what was begun.
            if self.state().phase != Phase::Preparing {
                return;
            }
        }
        self.apply(Event::Launched).await;
    }

    /// From here on to its unwinding the launch has this configuration, whatever is configured meanwhile.
    fn take_newest_config(&mut self) {
        let record = &mut self.record;
        record.progress.launched_version = Some(record.config.version);
        record.blueprint = Arc::new(Blueprint::of(&record.blueprint.name, &record.config));
    }

    /// What was up once is tried again; what never was stays down, with the reason.
    pub(super) async fn launch_failed(&mut self, failure: Failure) {
        let event = if self.is_launched_again() && self.state().phase != Phase::Pending {
            Event::Crashed(failure)
        } else {
            Event::Failed(failure)
        };
        self.apply(event).await;
    }

    async fn run_step(&mut self, step: Step) -> Result<(), Failure> {
        let (began, preparing) = (Instant::now(), self.phase_kind());
        self.record.progress.begun.push(step);
        self.observed.activity = Some(step.as_str());
        self.note_or_fail().await?;
        let make = timeout(STEP_DEADLINE, (steps::row(step).make)(self.hands()));
        let made = match step {
            // A VMM that is ended next can be left alone in the middle of its boot; all else is done in moments and undone whole.
            Step::Boot => match self.until_turned(preparing, make).await {
                Some(made) => made,
                None => return Ok(()),
            },
            Step::Directories | Step::Media | Step::Network | Step::Vmm => self.finish(make).await,
        };
        let made = made.unwrap_or_else(|_| {
            let limit_s = STEP_DEADLINE.as_secs();
            Err(StepError::new(format!(
                "The step took longer than {limit_s} s"
            )))
        });
        let made = match made {
            Ok(made) => made,
            Err(error) => return Err(self.explain(step, &error).await),
        };
        match made {
            Made::Nothing => {}
            Made::Media(media) => self.media = Some(Arc::new(media)),
            Made::Instance(instance) => {
                self.instance = Some(Arc::from(instance));
                if let Some(timeline) = &mut self.timeline {
                    timeline.vmm_spawned(Instant::now());
                }
            }
        }
        let elapsed_ms = began.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(vm = %self.record.blueprint.name, step = step.as_str(), elapsed_ms, "step done");
        self.record_instance(step).await
    }

    /// Why a step failed. A VMM that is dead can say it better than the call that it did not answer.
    async fn explain(&mut self, step: Step, error: &StepError) -> Failure {
        if step == Step::Boot
            && let Some(instance) = self.instance.clone()
            && let Ok(exit) = self.finish(timeout(DEATH_WAIT, instance.exited())).await
        {
            let seen = LastSeen {
                status: None,
                proven: false,
                policy: self.record.blueprint.manifest.workload.restart,
                vm_policy: self.record.blueprint.restart,
                words: &LastWords::default(),
                vmm: instance.record().vmm.as_str(),
            };
            if let Outcome::Failed(failure) = of_exit(&exit, &seen) {
                return failure;
            }
        }
        step_failure(step.as_str(), error)
    }

    /// Records the VMM as soon as it is there, and again with the serial line that its boot opened.
    async fn record_instance(&mut self, step: Step) -> Result<(), Failure> {
        if matches!(step, Step::Vmm | Step::Boot) {
            self.record.progress.instance =
                self.instance.as_ref().map(|instance| instance.record());
            self.record.progress.boot = self.timeline.as_ref().map(Timeline::so_far);
            self.note_or_fail().await?;
        }
        Ok(())
    }

    /// What a step works with.
    pub(super) fn hands(&mut self) -> Hands {
        let launch = if let Some(launch) = &self.launch {
            Arc::clone(launch)
        } else {
            let launch = Arc::new(self.make_launch());
            self.launch = Some(Arc::clone(&launch));
            launch
        };
        Hands {
            parts: Arc::clone(&self.parts),
            launch,
            media: self.media.clone(),
            instance: self.instance.clone(),
        }
    }

    fn make_launch(&self) -> Launch {
        let (record, blueprint) = (&self.record, &self.record.blueprint);
        // Without a recorded launch there is nothing to find: a new name finds nothing.
        let instance = record
            .progress
            .launch
            .clone()
            .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        Launch {
            vm: blueprint.name.clone(),
            instance,
            cpu_cores: blueprint.cpu_cores,
            memory_mib: blueprint.memory_mib,
            lease: record.lease.clone(),
            manifest: blueprint.manifest.clone(),
            artifact: blueprint.artifact,
            kernel: blueprint.kernel.clone(),
            disks: blueprint.disks.clone(),
            extra_cmdline: blueprint.extra_cmdline.clone(),
            api: blueprint.api.clone(),
            secret: record.secret.clone(),
            paths: self.paths.clone(),
        }
    }
}
