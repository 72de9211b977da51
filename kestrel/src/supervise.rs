//! Keeps the workload running as its manifest's restart policy says, until the guest stops. How a process starts and ends is `workload`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use common::agent::GuestPhase;
use common::error_chain::Chain;
use common::manifest::{Manifest, RestartPolicy};
use tokio::time::Instant;

use crate::command_probe::CommandProbe;
use crate::console;
use crate::log::{Log, Output};
use crate::probe::Probe;
use crate::reaper::{Child, Reaper};
use crate::session::Sessions;
use crate::signals::{Stop, StopReason};
use crate::stats;
use crate::status::StatusBoard;
use crate::sys::Reaped;
use crate::workload::{Ending, Plan, WorkloadError, clear_group, stop};

/// The wait before the first restart.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);

/// The longest wait before a restart.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// A workload that ran this long is a healthy one: the next wait is short again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// So many ends in a row before any stable run are a crash loop.
const CRASH_LOOP_ENDS: u32 = 5;

/// The waits between restarts: they double while the workload ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BackOff {
    next: Duration,
    early_ends: u32,
}

impl BackOff {
    const fn new() -> Self {
        Self {
            next: FIRST_BACK_OFF,
            early_ends: 0,
        }
    }

    /// The wait after a run of `ran`.
    fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE_AFTER {
            *self = Self::new();
        } else {
            self.early_ends = self.early_ends.saturating_add(1);
        }
        let wait = self.next;
        self.next = (wait * 2).min(MAX_BACK_OFF);
        wait
    }

    const fn is_crash_loop(&self) -> bool {
        self.early_ends >= CRASH_LOOP_ENDS
    }
}

/// What is done with a workload, from its first start to the guest's end.
#[derive(Debug)]
pub(crate) struct Supervisor<'a> {
    /// What runs.
    pub(crate) manifest: &'a Manifest,
    /// The guest's own address, if it has one.
    pub(crate) own: Option<Ipv4Addr>,
    /// Who starts processes.
    pub(crate) reaper: &'a Reaper,
    /// Who is told.
    pub(crate) board: &'a StatusBoard,
    /// Who may end it.
    pub(crate) stop: &'a Stop,
    /// Where its output goes, and what is said about it.
    pub(crate) log: &'a Arc<Log>,
    /// Who runs other commands as it runs.
    pub(crate) sessions: &'a Sessions,
}

/// What ends one run of the workload.
enum RunEnd {
    /// It did.
    Ended(Reaped),
    /// The guest is to stop.
    Asked(StopReason),
}

impl Supervisor<'_> {
    /// Runs the workload until the guest stops. The workload and its processes are gone then.
    ///
    /// # Errors
    /// [`WorkloadError`] if it cannot be started the first time. Later that is one more failure to wait after.
    pub(crate) async fn run(&self) -> Result<StopReason, WorkloadError> {
        let plan = Plan::new(self.manifest)?;
        self.sessions.run_as(&plan);
        let command = CommandProbe::of(self.manifest, &plan, self.reaper)
            .map_err(|error| WorkloadError::HealthCommand(Box::new(error)))?;
        let probe = Probe::new(self.manifest, self.own, command);
        let output = Output::start(self.log, plan.user()).map_err(WorkloadError::Output)?;
        let mut back_off = BackOff::new();
        let mut child = plan.start(self.reaper, &output)?;
        loop {
            let began = Instant::now();
            self.board.workload_started(child.pid());
            let ended = match self.one_run(&mut child, &probe).await {
                RunEnd::Ended(ended) => ended,
                RunEnd::Asked(reason) => {
                    self.end(&mut child, &output, reason).await;
                    return Ok(reason);
                }
            };
            self.ended(ended);
            clear_group(child.pid()).await;
            output.settle();
            let mut what = format!("The workload {}", how_it_ended(ended));
            let policy = self.manifest.workload.restart;
            if !policy.restarts_after(ended.code) {
                let policy = policy_name(policy);
                self.say(&format!(
                    "{what}; its restart policy is `{policy}`, so the guest powers off"
                ));
                self.board.enter(GuestPhase::Stopping);
                return Ok(StopReason::WorkloadEnded);
            }
            let mut ran = began.elapsed();
            child = loop {
                let wait = back_off.after(ran);
                self.board.crash_loop(back_off.is_crash_loop());
                if let Some(reason) = self.wait(&what, wait).await {
                    self.board.enter(GuestPhase::Stopping);
                    return Ok(reason);
                }
                match plan.start(self.reaper, &output) {
                    Ok(child) => break child,
                    Err(error) => what = Chain(&error).to_string(),
                }
                ran = Duration::ZERO;
            };
        }
    }

    /// One run of the workload, until something ends it.
    async fn one_run(&self, child: &mut Child, probe: &Probe) -> RunEnd {
        let stable = async {
            tokio::time::sleep(STABLE_AFTER).await;
            self.board.crash_loop(false);
            std::future::pending().await
        };
        tokio::select! {
            ended = child.ended() => RunEnd::Ended(ended),
            reason = self.stop.asked() => RunEnd::Asked(reason),
            never = probe.watch(self.board) => match never {},
            never = stable => never,
        }
    }

    /// Waits before a restart. Answers with a reason if the guest is to stop instead.
    async fn wait(&self, what: &str, wait: Duration) -> Option<StopReason> {
        let text = format!("{what}; it is started again in {} ms", wait.as_millis());
        self.say(&text);
        self.board.waits_for_restart(text);
        tokio::select! {
            () = tokio::time::sleep(wait) => None,
            reason = self.stop.asked() => Some(reason),
        }
    }

    async fn end(&self, child: &mut Child, output: &Output, reason: StopReason) {
        self.board.enter(GuestPhase::Stopping);
        let workload = &self.manifest.workload;
        let grace_ms = workload.stop_grace_ms;
        self.say(&format!("Stopping: {reason}"));
        let (leader, ending) = stop(
            child,
            workload.stop_signal(),
            Duration::from_millis(grace_ms),
        )
        .await;
        output.settle();
        if ending == Ending::Forced {
            self.say(&format!(
                "The workload did not end within {grace_ms} ms and was killed"
            ));
        }
        if let Some(ended) = leader {
            self.ended(ended);
        }
    }

    fn ended(&self, ended: Reaped) {
        self.board.workload_ended(ended);
        self.board.oom_kills(stats::oom_kills());
    }

    /// Says it on the console, for whoever looks at the guest, and in the log, between the workload's own lines.
    fn say(&self, text: &str) {
        console::line(text);
        self.log.say(text);
    }
}

fn how_it_ended(ended: Reaped) -> String {
    match ended.signal {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("ended with exit code {}", ended.code),
    }
}

const fn policy_name(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    }
}

#[cfg(test)]
mod tests;
