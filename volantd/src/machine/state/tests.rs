//! Tables and properties of the transitions.

use common::agent::HealthState;
use proptest::collection::vec;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_assert_ne, prop_oneof,
    proptest,
};

use super::*;

fn failure() -> Failure {
    Failure {
        step: "vmm".to_owned(),
        cause: "It ended".to_owned(),
        hints: Vec::new(),
    }
}

fn healthy() -> VmHealth {
    VmHealth {
        state: HealthState::Healthy,
        reason: None,
        last_probe_at: None,
    }
}

fn all_phases() -> Vec<Phase> {
    vec![
        Phase::Pending,
        Phase::Preparing,
        Phase::Starting,
        Phase::Running {
            health: VmHealth::default(),
        },
        Phase::Running { health: healthy() },
        Phase::Paused { health: healthy() },
        Phase::Stopping,
        Phase::Stopped,
        Phase::Crashed { failure: failure() },
        Phase::Failed { failure: failure() },
        Phase::Deleting,
    ]
}

fn all_events() -> Vec<Event> {
    vec![
        Event::Start,
        Event::Stop,
        Event::Restart,
        Event::Delete,
        Event::Pause,
        Event::Resume,
        Event::NotPaused,
        Event::NotResumed,
        Event::Launching,
        Event::Launched,
        Event::GuestUp,
        Event::HealthChanged(healthy()),
        Event::Failed(failure()),
        Event::Crashed(failure()),
        Event::Completed,
        Event::BackOffOver,
        Event::Unwound,
        Event::UnwindFailed(failure()),
        Event::Removed,
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let events = all_events();
    (0..events.len()).prop_map(move |at| events[at].clone())
}

/// States that can exist.
fn any_state() -> impl Strategy<Value = State> {
    let phases = all_phases();
    let desires = prop_oneof![
        Just(Desired::Running),
        Just(Desired::Stopped),
        Just(Desired::Deleted)
    ];
    ((0..phases.len()), desires)
        .prop_map(move |(at, desired)| State {
            phase: phases[at].clone(),
            desired,
        })
        .prop_filter("coherent", State::is_coherent)
}

fn walk(events: &[Event]) -> Option<State> {
    let mut state = State::NEW;
    for event in events {
        match step(&state, event.clone()) {
            Next::To(next) => state = next,
            Next::Same => {}
            Next::Gone => return None,
        }
    }
    Some(state)
}

#[test]
fn a_whole_life() {
    let life = [
        Event::Launching,
        Event::Launched,
        Event::GuestUp,
        Event::HealthChanged(healthy()),
        Event::Stop,
    ];
    let state = walk(&life).unwrap();
    assert_eq!(
        state,
        State {
            phase: Phase::Stopping,
            desired: Desired::Stopped
        }
    );
    let Next::To(stopped) = step(&state, Event::Unwound) else {
        panic!("not stopped")
    };
    assert_eq!(stopped.phase, Phase::Stopped);
    let Next::To(again) = step(&stopped, Event::Start) else {
        panic!("not started")
    };
    assert_eq!(again, State::NEW);
    let Next::To(deleting) = step(&again, Event::Delete) else {
        panic!("not deleted")
    };
    assert_eq!(step(&deleting, Event::Removed), Next::Gone);
}

#[test]
fn a_restart_goes_down_and_up() {
    let state = walk(&[
        Event::Launching,
        Event::Launched,
        Event::GuestUp,
        Event::Restart,
    ])
    .unwrap();
    assert_eq!(
        state,
        State {
            phase: Phase::Stopping,
            desired: Desired::Running
        }
    );
    assert_eq!(step(&state, Event::Unwound), Next::To(State::NEW));
}

#[test]
fn the_last_wish_counts_while_a_vm_goes_down() {
    let down = walk(&[
        Event::Launching,
        Event::Stop,
        Event::Start,
        Event::Stop,
        Event::Unwound,
    ])
    .unwrap();
    assert_eq!(down.phase, Phase::Stopped);
    let up = walk(&[
        Event::Launching,
        Event::Restart,
        Event::Stop,
        Event::Start,
        Event::Unwound,
    ])
    .unwrap();
    assert_eq!(up.phase, Phase::Pending);
}

#[test]
fn a_crash_is_relaunched_and_a_failure_is_not() {
    let crashed = [
        Event::Launching,
        Event::Launched,
        Event::GuestUp,
        Event::Crashed(failure()),
    ];
    let state = walk(&crashed).unwrap();
    assert_eq!(step(&state, Event::BackOffOver), Next::To(State::NEW));
    let failed = State {
        phase: Phase::Failed { failure: failure() },
        desired: Desired::Running,
    };
    for event in all_events() {
        let stays = matches!(step(&failed, event.clone()), Next::Same);
        let asked = matches!(
            event,
            Event::Start | Event::Stop | Event::Restart | Event::Delete
        );
        assert_eq!(stays, !asked, "{event:?}");
    }
}

#[test]
fn a_workload_that_is_done_is_not_wanted_again() {
    let done = walk(&[
        Event::Launching,
        Event::Launched,
        Event::GuestUp,
        Event::Completed,
    ])
    .unwrap();
    assert_eq!(
        done,
        State {
            phase: Phase::Stopped,
            desired: Desired::Stopped
        }
    );
}

#[test]
fn phases_survive_their_storage() {
    for phase in all_phases() {
        let json = serde_json::to_string(&phase).unwrap();
        assert_eq!(
            serde_json::from_str::<Phase>(&json).unwrap(),
            phase,
            "{json}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn every_sequence_keeps_phase_and_desire_together(events in vec(any_event(), 0..40)) {
        if let Some(state) = walk(&events) {
            prop_assert!(state.is_coherent(), "{state:?}");
        }
    }

    #[test]
    fn every_coherent_state_leads_to_coherent_states(state in any_state(), event in any_event()) {
        if let Next::To(next) = step(&state, event) {
            prop_assert!(next.is_coherent(), "{next:?}");
            prop_assert_ne!(next, state);
        }
    }

    #[test]
    fn deleting_is_left_only_to_nothing(events in vec(any_event(), 0..40)) {
        let mut state = State { phase: Phase::Deleting, desired: Desired::Deleted };
        for event in events {
            match step(&state, event.clone()) {
                Next::Gone => {
                    prop_assert_eq!(event, Event::Removed);
                    break;
                }
                Next::Same => {}
                Next::To(next) => {
                    state = next;
                    prop_assert!(false, "left to {:?}", state);
                }
            }
        }
    }

    #[test]
    fn a_delete_is_heard_in_every_state(state in any_state()) {
        match step(&state, Event::Delete) {
            Next::To(next) => prop_assert_eq!(next.phase, Phase::Deleting),
            Next::Same => prop_assert_eq!(state.phase, Phase::Deleting),
            Next::Gone => prop_assert!(false, "gone at once"),
        }
    }

    #[test]
    fn a_wish_said_twice_is_said_once(state in any_state(), at in 0_usize..4) {
        let wish = all_events()[at].clone();
        if let Next::To(next) = step(&state, wish.clone()) {
            let again = step(&next, wish.clone());
            let settled = matches!(again, Next::Same);
            // A VM that waits for its launch has nothing to restart.
            prop_assert!(settled, "{wish:?} in {next:?} gives {again:?}");
        }
    }

    #[test]
    fn only_users_change_what_is_desired_unless_the_workload_is_done(state in any_state(), event in any_event()) {
        let asked = matches!(event, Event::Start | Event::Stop | Event::Restart | Event::Delete | Event::Completed);
        if let (Next::To(next), false) = (step(&state, event), asked) {
            prop_assert_eq!(next.desired, state.desired);
        }
    }
}

#[test]
fn only_what_runs_is_paused_and_everything_else_is_asked_of_it_as_before() {
    let running = State {
        phase: Phase::Running { health: healthy() },
        desired: Desired::Running,
    };
    let paused = State {
        phase: Phase::Paused { health: healthy() },
        desired: Desired::Running,
    };
    let next = |phase, desired| Next::To(State { phase, desired });
    let table = [
        (&running, Event::Pause, Next::To(paused.clone())),
        (&running, Event::Resume, Next::Same),
        (&running, Event::NotResumed, Next::To(paused.clone())),
        (&paused, Event::Pause, Next::Same),
        (&paused, Event::Resume, Next::To(running.clone())),
        (&paused, Event::Start, Next::To(running.clone())),
        (&paused, Event::NotPaused, Next::To(running.clone())),
        (
            &paused,
            Event::HealthChanged(VmHealth::default()),
            Next::Same,
        ),
        (
            &paused,
            Event::Stop,
            next(Phase::Stopping, Desired::Stopped),
        ),
        (
            &paused,
            Event::Restart,
            next(Phase::Stopping, Desired::Running),
        ),
        (
            &paused,
            Event::Delete,
            next(Phase::Deleting, Desired::Deleted),
        ),
        (
            &paused,
            Event::Crashed(failure()),
            next(Phase::Crashed { failure: failure() }, Desired::Running),
        ),
    ];
    for (state, event, expected) in table {
        assert_eq!(step(state, event.clone()), expected, "{state:?} {event:?}");
    }
    for phase in all_phases() {
        if !matches!(phase, Phase::Running { .. }) {
            let state = State {
                phase,
                desired: Desired::Running,
            };
            assert_eq!(step(&state, Event::Pause), Next::Same, "{state:?}");
        }
    }
}
