//! Waits until a VM is where the user wants it, by long-polls. Prints nothing; the caller is told of each change.

use std::time::{Duration, Instant};

use common::agent::HealthState;
use common::api::{Vm, VmStatus};
use common::exit_code::ExitCode;
use common::name::Name;

use crate::client::{Answer, Client, ClientError};

/// How long volantd may be away while a VM is waited for: VMs live on when it is started again.
const MAX_ABSENCE: Duration = Duration::from_secs(15);

/// The pause before a call that failed is made again.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// The pause after a long-poll that told nothing new at once. A daemon that does not wait must not be asked in a busy loop.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

/// Where the VM is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Running and healthy.
    Ready,
    /// Running, however well.
    Running,
    /// Down as it was asked to.
    Stopped,
    /// Down however it came, a crash included.
    Down,
}

/// What a VM's state means for a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Reached,
    /// It may still come.
    NotYet,
    /// It will not come: it failed or crashed.
    Failed,
    /// It will not come: it is down.
    Ended,
}

/// Why a VM is not where it should be, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Reason(String);

/// A wait that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// It failed or crashed.
    #[error("VM `{}` {} at step `{step}`", vm.name, vm.status.as_str())]
    Failed {
        /// The step of its start.
        step: String,
        /// The VM.
        vm: Box<Vm>,
        /// What volantd says.
        #[source]
        reason: Reason,
    },
    /// It was stopped, or its workload ended for good.
    #[error("VM `{}` stopped before it was ready", vm.name)]
    Ended {
        /// The VM.
        vm: Box<Vm>,
        /// How its workload ended.
        #[source]
        reason: Reason,
    },
    /// The deadline passed.
    #[error("VM `{}` is not {} after {} s", vm.name, goal.word(), limit.as_secs_f64())]
    Deadline {
        /// Where it was wanted.
        goal: Goal,
        /// How long was waited.
        limit: Duration,
        /// The VM as it was last.
        vm: Box<Vm>,
        /// Where it is instead.
        #[source]
        reason: Reason,
    },
    /// Ctrl-C.
    #[error("Interrupted; VM `{name}` goes on {} without this command", goal.way())]
    Interrupted {
        /// Where it is going.
        goal: Goal,
        /// The VM.
        name: Name,
    },
    /// Somebody deleted it.
    #[error("VM `{0}` was deleted meanwhile")]
    Gone(Name),
    /// volantd cannot be asked any more.
    #[error("Cannot follow VM `{name}`")]
    Poll {
        /// The VM.
        name: Name,
        /// The cause.
        #[source]
        source: ClientError,
    },
}

impl Goal {
    const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Stopped | Self::Down => "down",
        }
    }

    const fn way(self) -> &'static str {
        match self {
            Self::Ready | Self::Running => "starting",
            Self::Stopped | Self::Down => "stopping",
        }
    }
}

impl WaitError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed { .. } | Self::Ended { .. } => ExitCode::Invalid,
            Self::Deadline { .. } => ExitCode::Timeout,
            Self::Interrupted { .. } => ExitCode::Interrupted,
            Self::Gone(_) => ExitCode::NotFound,
            Self::Poll { source, .. } => source.exit_code(),
        }
    }

    /// A VM that failed or crashed.
    pub fn of_failed(vm: Vm) -> Self {
        failed(vm)
    }

    /// The VM whose console may tell more.
    pub fn vm(&self) -> Option<&Vm> {
        match self {
            Self::Failed { vm, .. } | Self::Ended { vm, .. } => Some(vm),
            Self::Deadline { vm, goal, .. } => {
                matches!(goal, Goal::Ready | Goal::Running).then_some(vm)
            }
            Self::Interrupted { .. } | Self::Gone(_) | Self::Poll { .. } => None,
        }
    }
}

/// What `vm` means for `goal`. `was_starting` says whether it was seen on its way up before: only then is being down the end,
/// and not a part of a restart.
pub fn judge(goal: Goal, vm: &Vm, was_starting: bool) -> Verdict {
    let healthy = vm.health.state == HealthState::Healthy;
    match (goal, vm.status) {
        (Goal::Ready, VmStatus::Running) if healthy => Verdict::Reached,
        (Goal::Ready | Goal::Running, VmStatus::Failed | VmStatus::Crashed) => Verdict::Failed,
        // A batch workload that ended well while nobody looked did what it should.
        (Goal::Ready | Goal::Running, VmStatus::Stopped) if was_starting => match &vm.last_exit {
            Some(exit) if exit.code == 0 => Verdict::Reached,
            _ => Verdict::Ended,
        },
        (Goal::Running, VmStatus::Running)
        | (Goal::Stopped | Goal::Down, VmStatus::Stopped | VmStatus::Failed)
        | (Goal::Down, VmStatus::Crashed) => Verdict::Reached,
        _ => Verdict::NotYet,
    }
}

/// The word for where a VM is on its way: the step, else the status.
pub fn phase(vm: &Vm) -> &str {
    match (&vm.step, vm.status) {
        (Some(step), _) => step,
        (None, VmStatus::Running) if vm.health.state != HealthState::Healthy => "health",
        (None, status) => status.as_str(),
    }
}

/// Follows a VM from its state `first` on until it is at `goal`, for at most `limit`.
///
/// # Errors
/// [`WaitError`] if it will not get there, does not in time, or Ctrl-C is pressed.
pub async fn wait(
    client: &Client,
    goal: Goal,
    first: Answer<Vm>,
    limit: Duration,
    mut watch: impl FnMut(&Vm),
) -> Result<Answer<Vm>, WaitError> {
    let name = first.value.name.clone();
    let follow = follow(client, goal, first, limit, &mut watch);
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(WaitError::Interrupted { goal, name }),
        result = follow => result,
    }
}

/// The same as [`wait`] without an eye on Ctrl-C, for those who do more at it.
///
/// # Errors
/// [`WaitError`] if it will not get there or does not in time.
pub async fn follow(
    client: &Client,
    goal: Goal,
    first: Answer<Vm>,
    limit: Duration,
    watch: &mut impl FnMut(&Vm),
) -> Result<Answer<Vm>, WaitError> {
    let begun = Instant::now();
    let mut was_starting = false;
    let mut answer = first;
    loop {
        watch(&answer.value);
        match judge(goal, &answer.value, was_starting) {
            Verdict::Reached => return Ok(answer),
            Verdict::Failed => return Err(failed(answer.value)),
            Verdict::Ended => return Err(ended(answer.value)),
            Verdict::NotYet => {}
        }
        was_starting |= matches!(answer.value.status, VmStatus::Pending | VmStatus::Starting);
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(deadline(goal, limit, answer.value));
        }
        let asked = Instant::now();
        let generation = answer.value.generation;
        answer = poll(client, &answer.value, left).await?;
        if answer.value.generation == generation && asked.elapsed() < IDLE_PAUSE {
            tokio::time::sleep(IDLE_PAUSE.min(left)).await;
        }
    }
}

/// One long-poll, made again while volantd is only away for a moment.
async fn poll(client: &Client, vm: &Vm, left: Duration) -> Result<Answer<Vm>, WaitError> {
    let begun = Instant::now();
    let patience = left.min(MAX_ABSENCE);
    loop {
        match client.vm_after(&vm.name, vm.generation, left).await {
            Ok(answer) => return Ok(answer),
            Err(ClientError::Refused(problem)) if problem.status == 404 => {
                return Err(WaitError::Gone(vm.name.clone()));
            }
            Err(source) if source.is_passing() && begun.elapsed() < patience => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(source) => {
                let name = vm.name.clone();
                return Err(WaitError::Poll { name, source });
            }
        }
    }
}

fn failed(vm: Vm) -> WaitError {
    let (step, cause) = match &vm.failure {
        Some(failure) => (failure.step.clone(), failure.cause.clone()),
        None => (phase(&vm).to_owned(), "volantd gives no reason".to_owned()),
    };
    WaitError::Failed {
        step,
        vm: Box::new(vm),
        reason: Reason(cause),
    }
}

fn ended(vm: Vm) -> WaitError {
    let reason = match (&vm.failure, &vm.last_exit) {
        (Some(failure), _) => failure.cause.clone(),
        (None, Some(exit)) => format!("Its workload ended with exit code {}", exit.code),
        (None, None) => "It was told to stop".to_owned(),
    };
    WaitError::Ended {
        vm: Box::new(vm),
        reason: Reason(reason),
    }
}

fn deadline(goal: Goal, limit: Duration, vm: Vm) -> WaitError {
    let reason = match (vm.status, vm.health.state) {
        (VmStatus::Running, HealthState::Unhealthy) => match &vm.health.reason {
            Some(reason) => format!("It runs and is unhealthy: {reason}"),
            None => "It runs and is unhealthy".to_owned(),
        },
        (VmStatus::Running, _) => match &vm.health.reason {
            Some(reason) => format!("It runs and is not healthy yet: {reason}"),
            None => "It runs and is not healthy yet".to_owned(),
        },
        (status, _) => format!("It is {}, at step `{}`", status.as_str(), phase(&vm)),
    };
    WaitError::Deadline {
        goal,
        limit,
        vm: Box::new(vm),
        reason: Reason(reason),
    }
}

#[cfg(test)]
mod tests {
    use common::agent::WorkloadExit;
    use common::api::VmHealth;

    use super::*;
    use crate::test_data::vm;

    #[test]
    fn each_state_means_something_for_each_goal() {
        use Goal::{Ready, Stopped};
        use HealthState::{Healthy, Unhealthy, Unknown};
        use Verdict::{Ended, Failed, NotYet, Reached};
        let table = [
            (VmStatus::Pending, Unknown, [NotYet, NotYet]),
            (VmStatus::Starting, Unknown, [NotYet, NotYet]),
            (VmStatus::Running, Unknown, [NotYet, NotYet]),
            (VmStatus::Running, Unhealthy, [NotYet, NotYet]),
            (VmStatus::Running, Healthy, [Reached, NotYet]),
            (VmStatus::Stopping, Healthy, [NotYet, NotYet]),
            (VmStatus::Stopped, Unknown, [Ended, Reached]),
            (VmStatus::Crashed, Unknown, [Failed, NotYet]),
            (VmStatus::Failed, Unknown, [Failed, Reached]),
            (VmStatus::Deleting, Unknown, [NotYet, NotYet]),
        ];
        for (status, state, expected) in table {
            let mut vm = vm("web");
            vm.status = status;
            vm.health = VmHealth {
                state,
                ..VmHealth::default()
            };
            for (goal, expected) in [Ready, Stopped].into_iter().zip(expected) {
                assert_eq!(
                    judge(goal, &vm, true),
                    expected,
                    "{goal:?} {status:?} {state:?}"
                );
            }
        }
    }

    #[test]
    fn a_vm_that_is_down_during_a_restart_has_not_ended() {
        let mut vm = vm("web");
        vm.status = VmStatus::Stopped;
        assert_eq!(judge(Goal::Ready, &vm, false), Verdict::NotYet);
    }

    #[test]
    fn a_batch_that_ended_well_was_ready() {
        let mut vm = vm("job");
        vm.status = VmStatus::Stopped;
        for (code, expected) in [(0, Verdict::Reached), (3, Verdict::Ended)] {
            vm.last_exit = Some(WorkloadExit {
                code,
                signal: None,
                at_us: 1,
            });
            assert_eq!(judge(Goal::Ready, &vm, true), expected);
        }
    }

    #[test]
    fn a_deadline_says_what_is_missing() {
        let mut vm = vm("web");
        vm.status = VmStatus::Running;
        vm.health = VmHealth {
            state: HealthState::Unhealthy,
            reason: Some("Connection refused".to_owned()),
            last_probe_at: None,
        };
        let error = deadline(Goal::Ready, Duration::from_secs(3), vm);
        let chain = common::error_chain::Chain(&error).to_string();
        assert_eq!(
            chain,
            "VM `web` is not ready after 3 s: It runs and is unhealthy: Connection refused"
        );
        assert_eq!(error.exit_code(), ExitCode::Timeout);
    }
}
