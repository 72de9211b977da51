//! The order of a launch, of its unwinding, and what a new daemon does with a VM that an old one left. Pure; `steps` does the work.
#![warn(clippy::wildcard_enum_match_arm)]

use serde::{Deserialize, Serialize};

use super::ports::InstanceRecord;
use super::state::{Desired, Phase, State};

/// A step of a launch. Each is recorded before it runs and undone in reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The VM's folders.
    Directories,
    /// What it boots.
    Media,
    /// Its tap on the bridge.
    Network,
    /// The VMM process, with the guest not booted.
    Vmm,
    /// The guest is set going and its console is read.
    Boot,
}

impl Step {
    /// All steps in the order in which they run.
    pub const ALL: [Self; 5] = [
        Self::Directories,
        Self::Media,
        Self::Network,
        Self::Vmm,
        Self::Boot,
    ];

    /// The word for the API and for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Directories => "directories",
            Self::Media => "media",
            Self::Network => "network",
            Self::Vmm => "vmm",
            Self::Boot => "boot",
        }
    }
}

/// The words for what is not a launch step, in [`common::api::Failure::step`] and [`common::api::Vm::step`].
pub mod word {
    /// The guest's kernel and agent.
    pub const GUEST: &str = "guest";
    /// The process in the guest.
    pub const WORKLOAD: &str = "workload";
    /// The wait for the service.
    pub const HEALTH: &str = "health";
    /// The database.
    pub const STORE: &str = "store";
    /// The VM's files, at its removal.
    pub const FILES: &str = "files";
    /// Volant itself.
    pub const DAEMON: &str = "daemon";
}

/// The steps to undo, in the order to undo them: the reverse of the order in which they run, whatever order they were recorded in.
pub fn unwinding(begun: &[Step]) -> Vec<Step> {
    Step::ALL
        .iter()
        .rev()
        .copied()
        .filter(|step| begun.contains(step))
        .collect()
}

/// Whether a VMM that lives can be taken over: only then is its guest known to be set going. Everything else is undone and done anew.
pub fn is_adoptable(state: &State, begun: &[Step], instance: Option<&InstanceRecord>) -> bool {
    let complete = instance.is_some() && Step::ALL.iter().all(|step| begun.contains(step));
    complete
        && match state.phase {
            // The last two are taken over to be ended with grace.
            Phase::Starting
            | Phase::Running { .. }
            | Phase::Paused { .. }
            | Phase::Stopping
            | Phase::Deleting => true,
            Phase::Pending
            | Phase::Preparing
            | Phase::Stopped
            | Phase::Crashed { .. }
            | Phase::Failed { .. } => false,
        }
}

/// The state in which a VM goes on when a new daemon finds no VMM of it.
pub fn without_vmm(state: &State) -> State {
    match state.phase {
        Phase::Pending
        | Phase::Preparing
        | Phase::Starting
        | Phase::Running { .. }
        // What stood still in its memory is lost with it.
        | Phase::Paused { .. }
        | Phase::Crashed { .. } => State {
            phase: Phase::Pending,
            desired: Desired::Running,
        },
        Phase::Stopping | Phase::Stopped | Phase::Failed { .. } | Phase::Deleting => state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use common::api::VmHealth;
    use proptest::prelude::{prop_assert_eq, proptest};
    use proptest::sample::subsequence;

    use super::super::ports::{Accelerator, VmmKind};
    use super::*;

    fn instance() -> InstanceRecord {
        InstanceRecord {
            instance: "i".to_owned(),
            pid: 7,
            start_ticks: 1,
            boot_id: "b".to_owned(),
            vmm: VmmKind::Qemu,
            accelerator: Accelerator::Tcg,
            control_socket: "/run/s".into(),
            serial: None,
            vsock: None,
        }
    }

    #[test]
    fn only_a_complete_launch_is_adopted() {
        let running = Phase::Running {
            health: VmHealth::default(),
        };
        let paused = Phase::Paused {
            health: VmHealth::default(),
        };
        let table = [
            (running.clone(), Desired::Running, 5, true, true),
            (paused, Desired::Running, 5, true, true),
            (running.clone(), Desired::Running, 4, true, false),
            (running, Desired::Running, 5, false, false),
            (Phase::Starting, Desired::Running, 5, true, true),
            (Phase::Stopping, Desired::Stopped, 5, true, true),
            (Phase::Deleting, Desired::Deleted, 5, true, true),
            (Phase::Preparing, Desired::Running, 5, true, false),
            (Phase::Stopped, Desired::Stopped, 5, true, false),
        ];
        for (phase, desired, steps, recorded, expected) in table {
            let state = State { phase, desired };
            let instance = recorded.then(instance);
            let adoptable = is_adoptable(&state, &Step::ALL[..steps], instance.as_ref());
            assert_eq!(adoptable, expected, "{state:?} after {steps} steps");
        }
    }

    #[test]
    fn what_should_live_is_launched_again_and_the_rest_stays() {
        let stays = |phase: Phase, desired| {
            let state = State { phase, desired };
            assert_eq!(without_vmm(&state), state);
        };
        stays(Phase::Stopped, Desired::Stopped);
        stays(Phase::Deleting, Desired::Deleted);
        stays(Phase::Stopping, Desired::Running);
        for phase in [Phase::Pending, Phase::Preparing, Phase::Starting] {
            assert_eq!(
                without_vmm(&State {
                    phase,
                    desired: Desired::Running
                }),
                State::NEW
            );
        }
    }

    proptest! {
        #[test]
        fn unwinding_is_the_reverse_of_doing(begun in subsequence(Step::ALL.to_vec(), 0..=5)) {
            let mut undone = unwinding(&begun);
            undone.reverse();
            prop_assert_eq!(undone, begun);
        }
    }
}
