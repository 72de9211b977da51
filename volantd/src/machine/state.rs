//! Where a VM is, and every way from there to somewhere else. Pure: no clock, no tokio, no file; the driver does what a phase says.
//!
//! ```text
//!           create              all steps done           agent answers
//!  (none) ─────────▶ Pending ─▶ Preparing ──────▶ Starting ──────▶ Running{health}
//!                      ▲           │ │               │ │             │  │  │
//!                      │           │ └── a step ─────┘ │             │  │  └─ workload done ─▶ Stopped
//!              start   │           │     fails         │             │  │
//!   Stopped ───────────┤           ▼                   ▼             ▼  │
//!   Failed{step,why} ──┤         Failed{step,why} ◀── guest fails ───┘  │
//!                      │                                                │
//!   Crashed ─ back-off ┤         Crashed ◀──── VMM ends by itself ──────┘      Running ◀─ resume, pause ─▶ Paused
//!                      │
//!   Stopping ─ unwound ┴─▶ Stopped          stop, restart: any of these ─▶ Stopping
//!
//!   delete: all of these ─▶ Deleting ─ removed ─▶ (none)
//! ```
//!
//! Users change [`Desired`], and a phase follows it; only what the driver reports changes a phase otherwise. The two move together,
//! so [`State::is_coherent`] holds in every state that [`step`] makes.
#![warn(clippy::wildcard_enum_match_arm)]

use common::api::{Failure, VmHealth};
use serde::{Deserialize, Serialize};

/// Where the user wants the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Up.
    Running,
    /// Down, and kept.
    Stopped,
    /// Gone.
    Deleted,
}

impl Desired {
    /// The word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// Where the VM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Phase {
    /// It is to be launched; nothing is done yet.
    Pending,
    /// The launch steps run, one after the other.
    Preparing,
    /// The guest boots; its agent has not answered.
    Starting,
    /// The agent has answered.
    Running {
        /// Whether the service works.
        health: VmHealth,
    },
    /// The agent had answered, and the guest's CPUs are made to stand still. It still is to be up.
    Paused {
        /// What was known of the service before.
        health: VmHealth,
    },
    /// It goes down and its launch steps are undone. [`Desired`] says what comes after.
    Stopping,
    /// It is down as it was asked to, or because its workload was done.
    Stopped,
    /// The VMM ended by itself; it is launched again after a back-off.
    Crashed {
        /// How it ended.
        failure: Failure,
    },
    /// It is down because something failed, and stays down until somebody starts it.
    Failed {
        /// The step and the reason.
        failure: Failure,
    },
    /// It is being removed.
    Deleting,
}

/// A phase and what the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where the VM is.
    pub phase: Phase,
    /// Where it should be.
    pub desired: Desired,
}

/// What happens to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The user wants it up.
    Start,
    /// The user wants it down.
    Stop,
    /// The user wants it down and up again.
    Restart,
    /// The user wants it gone.
    Delete,
    /// The user wants its CPUs to stand still.
    Pause,
    /// The user wants its CPUs to go on.
    Resume,
    /// The first step of a launch is about to run.
    Launching,
    /// All steps of the launch are done.
    Launched,
    /// The agent has answered.
    GuestUp,
    /// The service began or ceased to work.
    HealthChanged(VmHealth),
    /// The VMM did not make the CPUs stand still.
    NotPaused,
    /// The VMM did not make the CPUs go on.
    NotResumed,
    /// A step, the guest or the workload failed. What was made for the launch is undone.
    Failed(Failure),
    /// The VMM ended by itself and the VM is to be launched again. What was made for the launch is undone.
    Crashed(Failure),
    /// The workload ended well and its policy says that this is the end. What was made for the launch is undone.
    Completed,
    /// The back-off after a crash is over.
    BackOffOver,
    /// All steps of the launch are undone.
    Unwound,
    /// A step could not be undone.
    UnwindFailed(Failure),
    /// Nothing of the VM is left.
    Removed,
}

/// What an event makes of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This state is next.
    To(State),
    /// The event says nothing new here, or is late.
    Same,
    /// The VM does not exist any more.
    Gone,
}

impl State {
    /// A VM that was just created.
    pub const NEW: Self = Self {
        phase: Phase::Pending,
        desired: Desired::Running,
    };

    /// Whether phase and desire fit together. True of every state that [`step`] can reach from [`State::NEW`].
    pub fn is_coherent(&self) -> bool {
        match self.phase {
            Phase::Pending
            | Phase::Preparing
            | Phase::Starting
            | Phase::Running { .. }
            | Phase::Paused { .. }
            | Phase::Crashed { .. } => self.desired == Desired::Running,
            Phase::Stopped => self.desired == Desired::Stopped,
            Phase::Stopping | Phase::Failed { .. } => self.desired != Desired::Deleted,
            Phase::Deleting => self.desired == Desired::Deleted,
        }
    }
}

/// What `event` makes of `state`. Total: an event that comes late or does not fit changes nothing.
pub fn step(state: &State, event: Event) -> Next {
    match event {
        Event::Start => start(state),
        Event::Stop => stop(state),
        Event::Restart => restart(state),
        Event::Delete => delete(state),
        Event::Pause => pause(state),
        Event::Resume => resume(state),
        Event::Launching
        | Event::Launched
        | Event::GuestUp
        | Event::HealthChanged(_)
        | Event::NotPaused
        | Event::NotResumed
        | Event::Failed(_)
        | Event::Crashed(_)
        | Event::Completed
        | Event::BackOffOver
        | Event::Unwound
        | Event::UnwindFailed(_)
        | Event::Removed => progress(state, event),
    }
}

fn start(state: &State) -> Next {
    match state.phase {
        Phase::Pending
        | Phase::Preparing
        | Phase::Starting
        | Phase::Running { .. }
        | Phase::Deleting => Next::Same,
        Phase::Stopping if state.desired == Desired::Running => Next::Same,
        // It goes down first, then up again.
        Phase::Stopping => to(Phase::Stopping, Desired::Running),
        Phase::Paused { .. } => resume(state),
        Phase::Stopped | Phase::Crashed { .. } | Phase::Failed { .. } => {
            to(Phase::Pending, Desired::Running)
        }
    }
}

fn stop(state: &State) -> Next {
    match state.phase {
        Phase::Stopped | Phase::Deleting => Next::Same,
        Phase::Stopping if state.desired == Desired::Stopped => Next::Same,
        // A failed VM may have left something behind, so it is unwound like the others.
        Phase::Pending
        | Phase::Preparing
        | Phase::Starting
        | Phase::Running { .. }
        | Phase::Paused { .. }
        | Phase::Stopping
        | Phase::Crashed { .. }
        | Phase::Failed { .. } => to(Phase::Stopping, Desired::Stopped),
    }
}

/// Only a guest that is up stands still.
fn pause(state: &State) -> Next {
    match &state.phase {
        Phase::Running { health } => {
            let health = health.clone();
            to(Phase::Paused { health }, state.desired)
        }
        Phase::Pending
        | Phase::Preparing
        | Phase::Starting
        | Phase::Paused { .. }
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Crashed { .. }
        | Phase::Failed { .. }
        | Phase::Deleting => Next::Same,
    }
}

fn resume(state: &State) -> Next {
    match &state.phase {
        Phase::Paused { health } => {
            let health = health.clone();
            to(Phase::Running { health }, state.desired)
        }
        Phase::Pending
        | Phase::Preparing
        | Phase::Starting
        | Phase::Running { .. }
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Crashed { .. }
        | Phase::Failed { .. }
        | Phase::Deleting => Next::Same,
    }
}

fn restart(state: &State) -> Next {
    match state.phase {
        // One that waits for its launch has nothing to take down.
        Phase::Pending | Phase::Deleting => Next::Same,
        Phase::Stopping if state.desired == Desired::Running => Next::Same,
        Phase::Preparing
        | Phase::Starting
        | Phase::Running { .. }
        | Phase::Paused { .. }
        | Phase::Stopping => to(Phase::Stopping, Desired::Running),
        // Nothing is up: starting it is all there is to do.
        Phase::Stopped | Phase::Crashed { .. } | Phase::Failed { .. } => {
            to(Phase::Pending, Desired::Running)
        }
    }
}

fn delete(state: &State) -> Next {
    match state.phase {
        Phase::Deleting => Next::Same,
        Phase::Pending
        | Phase::Preparing
        | Phase::Starting
        | Phase::Running { .. }
        | Phase::Paused { .. }
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Crashed { .. }
        | Phase::Failed { .. } => to(Phase::Deleting, Desired::Deleted),
    }
}

/// What the driver's own reports make of a state. Each is valid in the phases whose work makes it, and late in all others.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else is reported in a phase is late there and changes nothing"
)]
fn progress(state: &State, event: Event) -> Next {
    let desired = state.desired;
    match &state.phase {
        Phase::Pending => match event {
            Event::Launching => to(Phase::Preparing, desired),
            Event::Failed(failure) => to(Phase::Failed { failure }, desired),
            _ => Next::Same,
        },
        Phase::Preparing => match event {
            Event::Launched => to(Phase::Starting, desired),
            Event::Failed(failure) => to(Phase::Failed { failure }, desired),
            Event::Crashed(failure) => to(Phase::Crashed { failure }, desired),
            _ => Next::Same,
        },
        Phase::Starting => match event {
            Event::GuestUp => to(
                Phase::Running {
                    health: VmHealth::default(),
                },
                desired,
            ),
            Event::Failed(failure) => to(Phase::Failed { failure }, desired),
            Event::Crashed(failure) => to(Phase::Crashed { failure }, desired),
            Event::Completed => to(Phase::Stopped, Desired::Stopped),
            _ => Next::Same,
        },
        Phase::Running { health: known } => match event {
            Event::HealthChanged(health) if health != *known => {
                to(Phase::Running { health }, desired)
            }
            Event::NotResumed => pause(state),
            Event::Failed(failure) => to(Phase::Failed { failure }, desired),
            Event::Crashed(failure) => to(Phase::Crashed { failure }, desired),
            Event::Completed => to(Phase::Stopped, Desired::Stopped),
            _ => Next::Same,
        },
        Phase::Paused { .. } => match event {
            Event::NotPaused => resume(state),
            Event::Failed(failure) => to(Phase::Failed { failure }, desired),
            Event::Crashed(failure) => to(Phase::Crashed { failure }, desired),
            Event::Completed => to(Phase::Stopped, Desired::Stopped),
            _ => Next::Same,
        },
        Phase::Stopping => match event {
            Event::Unwound if desired == Desired::Running => to(Phase::Pending, desired),
            Event::Unwound => to(Phase::Stopped, desired),
            Event::UnwindFailed(failure) => to(Phase::Failed { failure }, desired),
            _ => Next::Same,
        },
        Phase::Crashed { .. } => match event {
            Event::BackOffOver => to(Phase::Pending, desired),
            Event::Failed(failure) => to(Phase::Failed { failure }, desired),
            _ => Next::Same,
        },
        Phase::Deleting => match event {
            Event::Removed => Next::Gone,
            _ => Next::Same,
        },
        Phase::Stopped | Phase::Failed { .. } => Next::Same,
    }
}

fn to(phase: Phase, desired: Desired) -> Next {
    Next::To(State { phase, desired })
}

#[cfg(test)]
mod tests;
