//! Keeps the workload running as its manifest's restart policy says, until the guest stops. How a process starts and ends is `workload`.

use std::net::Ipv4Addr;
use std::time::Duration;

use common::agent::GuestPhase;
use common::error_chain::Chain;
use common::manifest::{Manifest, RestartPolicy};
use tokio::time::Instant;

use crate::command_probe::CommandProbe;
use crate::console;
use crate::probe::Probe;
use crate::reaper::{Child, Reaper};
use crate::signals::{Stop, StopReason};
use crate::status::StatusBoard;
use crate::sys::Reaped;
use crate::workload::{Ending, Plan, WorkloadError, clear_group, stop};

/// The wait before the first restart.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);

/// The longest wait before a restart.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// A workload that ran this long is a healthy one: the next wait is short again.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// The waits between restarts: they double while the workload ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BackOff {
    next: Duration,
}

impl BackOff {
    const fn new() -> Self {
        Self {
            next: FIRST_BACK_OFF,
        }
    }

    /// The wait after a run of `ran`.
    fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE_AFTER {
            *self = Self::new();
        }
        let wait = self.next;
        self.next = (wait * 2).min(MAX_BACK_OFF);
        wait
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
}

impl Supervisor<'_> {
    /// Runs the workload until the guest stops. The workload and its processes are gone then.
    ///
    /// # Errors
    /// [`WorkloadError`] if it cannot be started the first time. Later that is one more failure to wait after.
    pub(crate) async fn run(&self) -> Result<StopReason, WorkloadError> {
        let workload = &self.manifest.workload;
        let plan = Plan::new(self.manifest)?;
        let command = CommandProbe::of(self.manifest, &plan, self.reaper)
            .map_err(|error| WorkloadError::HealthCommand(Box::new(error)))?;
        let probe = Probe::new(self.manifest, self.own, command);
        let mut back_off = BackOff::new();
        let mut child = plan.start(self.reaper)?;
        loop {
            let began = Instant::now();
            self.board.workload_started(child.pid());
            let ended = tokio::select! {
                ended = child.ended() => ended,
                reason = self.stop.asked() => {
                    self.end(&mut child, reason).await;
                    return Ok(reason);
                }
                never = probe.watch(self.board) => match never {},
            };
            self.board.workload_ended(ended);
            clear_group(child.pid()).await;
            if !workload.restart.restarts_after(ended.code) {
                console::line(&format!(
                    "The workload {}; its restart policy is `{}`, so the guest powers off",
                    how_it_ended(ended),
                    policy_name(workload.restart)
                ));
                self.board.enter(GuestPhase::Stopping);
                return Ok(StopReason::WorkloadEnded);
            }
            let mut what = format!("The workload {}", how_it_ended(ended));
            let mut ran = began.elapsed();
            child = loop {
                if let Some(reason) = self.wait(&what, back_off.after(ran)).await {
                    self.board.enter(GuestPhase::Stopping);
                    return Ok(reason);
                }
                match plan.start(self.reaper) {
                    Ok(child) => break child,
                    Err(error) => what = Chain(&error).to_string(),
                }
                ran = Duration::ZERO;
            };
        }
    }

    /// Waits before a restart. Answers with a reason if the guest is to stop instead.
    async fn wait(&self, what: &str, wait: Duration) -> Option<StopReason> {
        let text = format!("{what}; it is started again in {} ms", wait.as_millis());
        console::line(&text);
        self.board.waits_for_restart(text);
        tokio::select! {
            () = tokio::time::sleep(wait) => None,
            reason = self.stop.asked() => Some(reason),
        }
    }

    async fn end(&self, child: &mut Child, reason: StopReason) {
        self.board.enter(GuestPhase::Stopping);
        let workload = &self.manifest.workload;
        let grace_ms = workload.stop_grace_ms;
        console::line(&format!("Stopping: {reason}"));
        let (leader, ending) = stop(
            child,
            workload.stop_signal(),
            Duration::from_millis(grace_ms),
        )
        .await;
        if ending == Ending::Forced {
            console::line(&format!(
                "The workload did not end within {grace_ms} ms and was killed"
            ));
        }
        if let Some(ended) = leader {
            self.board.workload_ended(ended);
        }
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
