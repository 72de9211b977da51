//! Keeps the workload running as its manifest's restart policy says, until the guest stops. How a process starts and ends is `workload`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use common::agent::GuestPhase;
use common::error_chain::Chain;
use common::manifest::{Manifest, RestartPolicy};
use tokio::time::Instant;

use crate::command_probe::Commands;
use crate::console;
use crate::log::{Log, Output};
use crate::probe::Probe;
use crate::reaper::{Child, Reaper};
use crate::session::Sessions;
use crate::signals::{Stop, StopOrder, StopReason};
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

/// The exit code of a workload that had to be ended because it did not do its work.
const FAILED: i32 = 1;

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
    /// It did not do its work any more, and was ended.
    NotAlive(Option<Reaped>),
}

impl Supervisor<'_> {
    /// Runs the workload until the guest stops. The workload and its processes are gone then.
    ///
    /// # Errors
    /// [`WorkloadError`] if it cannot be started the first time. Later that is one more failure to wait after.
    pub(crate) async fn run(&self) -> Result<StopReason, WorkloadError> {
        let plan = Plan::new(self.manifest)?;
        self.sessions.run_as(&plan);
        let commands = Commands::of(self.manifest, &plan, self.reaper)
            .map_err(|error| WorkloadError::ProbeCommand(Box::new(error)))?;
        let probe = Probe::new(self.manifest, self.own, commands);
        let output = Output::start(self.log, plan.user()).map_err(WorkloadError::Output)?;
        let mut back_off = BackOff::new();
        let mut child = plan.start(self.reaper, &output)?;
        loop {
            let began = Instant::now();
            self.board.workload_started(child.pid());
            let run = match self.one_run(&mut child, &probe).await {
                Ok(run) => run,
                Err(order) => {
                    self.end(&mut child, &output, order).await;
                    return Ok(order.reason);
                }
            };
            let mut ran = began.elapsed();
            clear_group(child.pid()).await;
            output.settle();
            let (mut what, code) = self.ended(&run);
            let policy = self.manifest.workload.restart;
            if !policy.restarts_after(code) {
                let policy = policy_name(policy);
                self.say(&format!(
                    "{what}; its restart policy is `{policy}`, so the guest powers off"
                ));
                self.board.enter(GuestPhase::Stopping);
                return Ok(StopReason::WorkloadEnded);
            }
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

    /// One run of the workload to its end, or until the guest is to stop.
    async fn one_run(&self, child: &mut Child, probe: &Probe) -> Result<RunEnd, StopOrder> {
        let stable = async {
            tokio::time::sleep(STABLE_AFTER).await;
            self.board.crash_loop(false);
            std::future::pending::<String>().await
        };
        let reason = tokio::select! {
            ended = child.ended() => return Ok(RunEnd::Ended(ended)),
            order = self.stop.asked() => return Err(order),
            reason = probe.watch(self.board) => reason,
            never = stable => never,
        };
        self.say(&format!(
            "The workload is not alive any more and is stopped: {reason}"
        ));
        let workload = &self.manifest.workload;
        let grace = Duration::from_millis(workload.stop_grace_ms);
        tokio::select! {
            (leader, _) = stop(child, workload.stop_signal(), grace) => Ok(RunEnd::NotAlive(leader)),
            order = self.stop.asked() => Err(order),
        }
    }

    /// Waits before a restart. Answers with a reason if the guest is to stop instead.
    async fn wait(&self, what: &str, wait: Duration) -> Option<StopReason> {
        let text = format!("{what}; it is started again in {} ms", wait.as_millis());
        self.say(&text);
        self.board.waits_for_restart(text);
        tokio::select! {
            () = tokio::time::sleep(wait) => None,
            order = self.stop.asked() => Some(order.reason),
        }
    }

    async fn end(&self, child: &mut Child, output: &Output, order: StopOrder) {
        self.board.enter(GuestPhase::Stopping);
        let workload = &self.manifest.workload;
        let grace = order
            .grace
            .unwrap_or_else(|| Duration::from_millis(workload.stop_grace_ms));
        self.say(&format!("Stopping: {}", order.reason));
        let (leader, ending) = stop(child, workload.stop_signal(), grace).await;
        output.settle();
        if ending == Ending::Forced {
            self.say(&format!(
                "The workload did not end within {} ms and was killed",
                grace.as_millis()
            ));
        }
        if let Some(ended) = leader {
            self.board.workload_ended(ended);
        }
        self.board.oom_kills(stats::oom_kills());
    }

    /// Tells the board how a run ended. Answers with it in words, and with the exit code that the restart policy goes by.
    fn ended(&self, run: &RunEnd) -> (String, i32) {
        let (ended, what, code) = match run {
            RunEnd::Ended(ended) => {
                let what = format!("The workload {}", how_it_ended(*ended));
                (Some(*ended), what, ended.code)
            }
            // However well it took its end, it has failed.
            RunEnd::NotAlive(ended) => {
                let what = "The workload was not alive any more".to_owned();
                (*ended, what, FAILED)
            }
        };
        if let Some(ended) = ended {
            self.board.workload_ended(ended);
        }
        self.board.oom_kills(stats::oom_kills());
        (what, code)
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
