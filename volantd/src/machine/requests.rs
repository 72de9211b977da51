//! Whether a request is taken up, is so already, or is refused. Pure: no locks, no waiting; the driver asks and obeys.
#![warn(clippy::wildcard_enum_match_arm)]

use super::state::{Event, Next, Phase, State, step};

/// What a user can ask of a VM that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Bring it up.
    Start,
    /// Take it down and keep it.
    Stop,
    /// Take it down and bring it up again.
    Restart,
    /// Remove it.
    Delete,
    /// Make its CPUs stand still.
    Pause,
    /// Make its CPUs go on.
    Resume,
}

impl Request {
    /// The word for logs and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Delete => "delete",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    const fn event(self) -> Event {
        match self {
            Self::Start => Event::Start,
            Self::Stop => Event::Stop,
            Self::Restart => Event::Restart,
            Self::Delete => Event::Delete,
            Self::Pause => Event::Pause,
            Self::Resume => Event::Resume,
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denial {
    /// Nothing brings back a VM that is on its way out.
    #[error("it is being deleted")]
    BeingDeleted,
    /// Only a guest that is up can stand still and go on.
    #[error("it does not run")]
    NotRunning,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It changes the VM to this state.
    Accepted(State),
    /// The VM is there, or on its way there: nothing to do, and no error.
    AlreadySo,
    /// It cannot be.
    Denied(Denial),
}

/// Decides about one request.
pub fn admit(state: &State, request: Request) -> Admission {
    if state.phase == Phase::Deleting && request != Request::Delete {
        return Admission::Denied(Denial::BeingDeleted);
    }
    let is_up = matches!(state.phase, Phase::Running { .. } | Phase::Paused { .. });
    if matches!(request, Request::Pause | Request::Resume) && !is_up {
        return Admission::Denied(Denial::NotRunning);
    }
    match step(state, request.event()) {
        Next::To(next) => Admission::Accepted(next),
        // A request never makes a VM vanish: only the end of its removal does.
        Next::Same | Next::Gone => Admission::AlreadySo,
    }
}

/// Puts what waits into the order in which it is decided: deletes before all else, the rest as it came.
pub fn prioritise<T>(waiting: &mut [T], is_delete: impl Fn(&T) -> bool) {
    waiting.sort_by_key(|item| !is_delete(item));
}

#[cfg(test)]
mod tests {
    use common::api::{Failure, VmHealth};
    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::super::state::Desired;
    use super::*;

    fn any_request() -> impl Strategy<Value = Request> {
        prop_oneof![
            Just(Request::Start),
            Just(Request::Stop),
            Just(Request::Restart),
            Just(Request::Delete),
            Just(Request::Pause),
            Just(Request::Resume)
        ]
    }

    fn state(phase: Phase, desired: Desired) -> State {
        State { phase, desired }
    }

    #[test]
    fn requests_meet_phases() {
        use Desired::{Deleted, Running, Stopped};
        let running = || Phase::Running {
            health: VmHealth::default(),
        };
        let failed = || Phase::Failed {
            failure: Failure {
                step: "vmm".into(),
                cause: "x".into(),
                hints: vec![],
            },
        };
        let accepted = |phase, desired| Admission::Accepted(state(phase, desired));
        let up = [
            (running(), Request::Start, Admission::AlreadySo),
            (running(), Request::Stop, accepted(Phase::Stopping, Stopped)),
            (
                running(),
                Request::Restart,
                accepted(Phase::Stopping, Running),
            ),
            (Phase::Pending, Request::Start, Admission::AlreadySo),
            (
                Phase::Preparing,
                Request::Stop,
                accepted(Phase::Stopping, Stopped),
            ),
            (
                Phase::Starting,
                Request::Delete,
                accepted(Phase::Deleting, Deleted),
            ),
            (
                Phase::Stopping,
                Request::Stop,
                accepted(Phase::Stopping, Stopped),
            ),
            (failed(), Request::Start, accepted(Phase::Pending, Running)),
        ];
        let down = [
            (Phase::Stopped, Request::Stop, Admission::AlreadySo),
            (
                Phase::Stopped,
                Request::Start,
                accepted(Phase::Pending, Running),
            ),
            (
                Phase::Stopped,
                Request::Restart,
                accepted(Phase::Pending, Running),
            ),
            (
                Phase::Stopping,
                Request::Start,
                accepted(Phase::Stopping, Running),
            ),
        ];
        let wanted =
            |desired| move |(phase, request, expected)| (phase, desired, request, expected);
        let table = up
            .map(wanted(Running))
            .into_iter()
            .chain(down.map(wanted(Stopped)));
        for (phase, desired, request, expected) in table {
            let state = state(phase, desired);
            assert_eq!(admit(&state, request), expected, "{request:?} in {state:?}");
        }
    }

    #[test]
    fn nothing_brings_back_what_is_deleted() {
        let leaving = state(Phase::Deleting, Desired::Deleted);
        for request in [Request::Start, Request::Stop, Request::Restart] {
            assert_eq!(
                admit(&leaving, request),
                Admission::Denied(Denial::BeingDeleted),
                "{request:?}"
            );
        }
        assert_eq!(admit(&leaving, Request::Delete), Admission::AlreadySo);
    }

    proptest! {
        #[test]
        fn a_delete_wins_over_all_that_waits(mut waiting in vec(any_request(), 1..12)) {
            let has_delete = waiting.contains(&Request::Delete);
            prioritise(&mut waiting, |request| *request == Request::Delete);
            let mut now = State::NEW;
            for request in waiting {
                let is_turn = matches!(request, Request::Pause | Request::Resume);
                match admit(&now, request) {
                    Admission::Accepted(next) => now = next,
                    Admission::AlreadySo => {}
                    Admission::Denied(Denial::NotRunning) => prop_assert!(is_turn),
                    Admission::Denied(denial) => {
                        prop_assert_eq!(denial, Denial::BeingDeleted);
                        prop_assert!(has_delete);
                    }
                }
                prop_assert!(!has_delete || now.phase == Phase::Deleting);
            }
        }

        #[test]
        fn the_order_of_other_requests_is_kept(waiting in vec(any_request(), 0..12)) {
            let numbered: Vec<(usize, Request)> = waiting.into_iter().enumerate().collect();
            let mut ordered = numbered.clone();
            prioritise(&mut ordered, |item| item.1 == Request::Delete);
            let others = |items: &[(usize, Request)]| -> Vec<(usize, Request)> {
                items.iter().copied().filter(|item| item.1 != Request::Delete).collect()
            };
            prop_assert_eq!(others(&ordered), others(&numbered));
        }
    }
}
