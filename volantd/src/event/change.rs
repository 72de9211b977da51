//! Which events a change of a VM is. Pure: it compares what clients saw before and see now, and knows nothing of phases or drivers.

use common::agent::HealthState;
use common::api::{BootTimeline, EventType, Vm, VmEvent, VmStatus};
use jiff::Timestamp;

/// The events between what a VM was and what it is, in the order in which they are told. Without `before` it came, without `after` it
/// went.
pub fn between(before: Option<&Vm>, after: Option<&Vm>, at: Timestamp) -> Vec<VmEvent> {
    match (before, after) {
        (None, None) => Vec::new(),
        (None, Some(vm)) => {
            vec![event(EventType::VmCreated, vm, at, "The VM is created")]
        }
        (Some(vm), None) => vec![VmEvent {
            status: None,
            pid: None,
            ..event(EventType::VmDeleted, vm, at, "The VM is deleted")
        }],
        (Some(before), Some(after)) => {
            let told = [
                phase(before, after, at),
                boot(before, after, at),
                restart(before, after, at),
                status(before, after, at),
                health(before, after, at),
                config(before, after, at),
            ];
            told.into_iter().flatten().collect()
        }
    }
}

fn event(kind: EventType, vm: &Vm, at: Timestamp, message: impl Into<String>) -> VmEvent {
    VmEvent {
        status: Some(vm.status),
        ip_address: Some(vm.ip_address.clone()),
        mac_address: Some(vm.mac_address.clone()),
        pid: vm.pid,
        message: Some(message.into()),
        ..VmEvent::new(kind, vm.name.clone(), at)
    }
}

/// What the Go system tells, and failures.
fn status(before: &Vm, after: &Vm, at: Timestamp) -> Option<VmEvent> {
    if before.status == after.status {
        return None;
    }
    let failed = |kind| {
        let cause = after.failure.as_ref().map(|failure| failure.cause.clone());
        VmEvent {
            failure: after.failure.clone(),
            ..event(
                kind,
                after,
                at,
                cause.unwrap_or_else(|| "The VM failed".to_owned()),
            )
        }
    };
    match after.status {
        VmStatus::Running if before.status == VmStatus::Paused => {
            Some(event(EventType::VmResumed, after, at, "The VM goes on"))
        }
        VmStatus::Running => Some(event(EventType::VmRunning, after, at, "The VM is running")),
        VmStatus::Paused => Some(event(EventType::VmPaused, after, at, "The VM is paused")),
        VmStatus::Stopped => Some(event(EventType::VmStopped, after, at, "The VM is stopped")),
        // A restart goes by `stopped`, where the VM never rests; a client of the Go system waits for that event all the same.
        VmStatus::Pending if before.status == VmStatus::Stopping => Some(VmEvent {
            status: Some(VmStatus::Stopped),
            ..event(
                EventType::VmStopped,
                after,
                at,
                "The VM is stopped, and starts again",
            )
        }),
        VmStatus::Crashed => Some(failed(EventType::VmCrashed)),
        VmStatus::Failed => Some(failed(EventType::VmFailed)),
        VmStatus::Pending | VmStatus::Starting | VmStatus::Stopping | VmStatus::Deleting => None,
    }
}

fn phase_of(vm: &Vm) -> &str {
    vm.step.as_deref().unwrap_or_else(|| vm.status.as_str())
}

fn phase(before: &Vm, after: &Vm, at: Timestamp) -> Option<VmEvent> {
    if (before.status, &before.step) == (after.status, &after.step) {
        return None;
    }
    let status = after.status.as_str();
    let message = match &after.step {
        Some(step) => format!("The VM is {status}: {step}"),
        None => format!("The VM is {status}"),
    };
    Some(VmEvent {
        phase: Some(phase_of(after).to_owned()),
        ..event(EventType::VmPhase, after, at, message)
    })
}

/// When the last probe was is no news.
fn health(before: &Vm, after: &Vm, at: Timestamp) -> Option<VmEvent> {
    let (was, is) = (&before.health, &after.health);
    // What is down has no health, which is no news either.
    let is_up = matches!(after.status, VmStatus::Running | VmStatus::Paused);
    let is_down = !is_up && is.state == HealthState::Unknown;
    if is_down || (was.state, &was.reason) == (is.state, &is.reason) {
        return None;
    }
    let word = match is.state {
        HealthState::Healthy => "The VM is healthy",
        HealthState::Unhealthy => "The VM is unhealthy",
        HealthState::Unknown => "The VM's health is not known",
    };
    let message = match &is.reason {
        Some(reason) => format!("{word}: {reason}"),
        None => word.to_owned(),
    };
    Some(VmEvent {
        health: Some(is.clone()),
        ..event(EventType::VmHealth, after, at, message)
    })
}

/// A number that is smaller is a guest that booted anew.
fn restart(before: &Vm, after: &Vm, at: Timestamp) -> Option<VmEvent> {
    let (was, is) = (&before.restarts, &after.restarts);
    let message = if is.vm > was.vm {
        "The VM is started again"
    } else if is.workload > was.workload {
        "The workload is started again"
    } else {
        return None;
    };
    Some(VmEvent {
        restarts: Some(is.clone()),
        ..event(EventType::VmRestart, after, at, message)
    })
}

/// Told when another part is reached. Times of parts that are known may still be corrected, which is no news.
fn boot(before: &Vm, after: &Vm, at: Timestamp) -> Option<VmEvent> {
    let timeline = after.boot?;
    let newest = parts(&timeline)
        .into_iter()
        .zip(parts(&before.boot.unwrap_or_default()))
        .rev()
        .find_map(|((part, is), (_, was))| (is.is_some() && was.is_none()).then_some(part))?;
    Some(VmEvent {
        boot: Some(timeline),
        ..event(
            EventType::VmBoot,
            after,
            at,
            format!("The start reached: {newest}"),
        )
    })
}

/// A new configuration, which may be in effect only after the next start.
fn config(before: &Vm, after: &Vm, at: Timestamp) -> Option<VmEvent> {
    let version = after.config_version;
    (version != before.config_version).then(|| {
        event(
            EventType::VmConfig,
            after,
            at,
            format!("The VM has version {version} of its configuration"),
        )
    })
}

fn parts(boot: &BootTimeline) -> [(&'static str, Option<f64>); 5] {
    [
        ("VMM", boot.vmm_ms),
        ("kernel", boot.kernel_ms),
        ("agent", boot.pid1_ms),
        ("workload", boot.workload_ms),
        ("ready", boot.ready_ms),
    ]
}

#[cfg(test)]
mod tests {
    use common::api::{Failure, Restarts};

    use super::super::testing::vm;
    use super::*;

    fn kinds(before: &Vm, after: &Vm) -> Vec<EventType> {
        between(Some(before), Some(after), Timestamp::UNIX_EPOCH)
            .into_iter()
            .map(|event| event.kind)
            .collect()
    }

    #[test]
    fn what_does_not_concern_clients_is_no_event() {
        let before = vm("web");
        let mut after = before.clone();
        after.generation += 1;
        after.updated_at = "later".to_owned();
        assert_eq!(kinds(&before, &after), []);
        assert_eq!(between(None, None, Timestamp::UNIX_EPOCH), []);
    }

    #[test]
    fn a_vm_comes_and_goes() {
        let vm = vm("web");
        let came = between(None, Some(&vm), Timestamp::UNIX_EPOCH);
        assert_eq!(came.len(), 1);
        assert_eq!(
            (came[0].kind, came[0].status),
            (EventType::VmCreated, Some(VmStatus::Pending))
        );
        assert_eq!(came[0].ip_address.as_deref(), Some("192.168.127.10"));
        let went = between(Some(&vm), None, Timestamp::UNIX_EPOCH);
        assert_eq!((went[0].kind, went[0].status), (EventType::VmDeleted, None));
    }

    #[test]
    fn each_status_has_its_event() {
        let table = [
            (VmStatus::Starting, None),
            (VmStatus::Running, Some(EventType::VmRunning)),
            (VmStatus::Stopping, None),
            (VmStatus::Stopped, Some(EventType::VmStopped)),
            (VmStatus::Crashed, Some(EventType::VmCrashed)),
            (VmStatus::Failed, Some(EventType::VmFailed)),
            (VmStatus::Deleting, None),
        ];
        let before = vm("web");
        for (status, expected) in table {
            let after = Vm {
                status,
                ..before.clone()
            };
            let mut told = vec![EventType::VmPhase];
            told.extend(expected);
            assert_eq!(kinds(&before, &after), told, "{status:?}");
            assert_eq!(kinds(&after, &after), [], "{status:?}");
        }
    }

    #[test]
    fn a_restart_stops_a_vm_and_runs_it() {
        let through = [
            VmStatus::Running,
            VmStatus::Stopping,
            VmStatus::Pending,
            VmStatus::Starting,
            VmStatus::Running,
        ];
        let vms = through.map(|status| Vm {
            status,
            ..vm("web")
        });
        let told: Vec<_> = vms
            .windows(2)
            .flat_map(|pair| between(Some(&pair[0]), Some(&pair[1]), Timestamp::UNIX_EPOCH))
            .filter(|event| event.kind != EventType::VmPhase)
            .map(|event| (event.kind, event.status))
            .collect();
        assert_eq!(
            told,
            [
                (EventType::VmStopped, Some(VmStatus::Stopped)),
                (EventType::VmRunning, Some(VmStatus::Running))
            ]
        );
    }

    #[test]
    fn pauses_and_configurations_are_told() {
        let running = Vm {
            status: VmStatus::Running,
            ..vm("web")
        };
        let paused = Vm {
            status: VmStatus::Paused,
            ..running.clone()
        };
        let told = |kind| [EventType::VmPhase, kind];
        assert_eq!(kinds(&running, &paused), told(EventType::VmPaused));
        assert_eq!(kinds(&paused, &running), told(EventType::VmResumed));
        let changed = Vm {
            config_version: 2,
            ..running.clone()
        };
        assert_eq!(kinds(&running, &changed), [EventType::VmConfig]);
    }

    #[test]
    fn a_failure_says_why() {
        let before = vm("web");
        let after = Vm {
            status: VmStatus::Failed,
            failure: Some(Failure {
                step: "network".to_owned(),
                cause: "The bridge is down".to_owned(),
                hints: Vec::new(),
            }),
            ..before.clone()
        };
        let told = between(Some(&before), Some(&after), Timestamp::UNIX_EPOCH);
        assert_eq!(told[1].message.as_deref(), Some("The bridge is down"));
        assert_eq!(told[1].failure, after.failure);
    }

    #[test]
    fn steps_health_restarts_and_the_boot_are_told() {
        let before = vm("web");
        let mut after = before.clone();
        after.step = Some("media".to_owned());
        let told = between(Some(&before), Some(&after), Timestamp::UNIX_EPOCH);
        assert_eq!(told[0].phase.as_deref(), Some("media"));
        after = before.clone();
        after.health.state = HealthState::Unhealthy;
        after.health.reason = Some("No answer".to_owned());
        let told = between(Some(&before), Some(&after), Timestamp::UNIX_EPOCH);
        assert_eq!(
            (told[0].kind, told[0].message.as_deref()),
            (EventType::VmHealth, Some("The VM is unhealthy: No answer"))
        );
        let down = vm("web");
        assert_eq!(kinds(&after, &down), [], "nothing that is down has health");
        after = before.clone();
        after.restarts = Restarts {
            workload: 1,
            ..Restarts::default()
        };
        assert_eq!(kinds(&before, &after), [EventType::VmRestart]);
        assert_eq!(kinds(&after, &before), [], "a new guest counts anew");
    }

    #[test]
    fn each_part_of_a_boot_is_told_once() {
        let mut before = vm("web");
        let mut after = before.clone();
        after.boot = Some(BootTimeline {
            vmm_ms: Some(1.0),
            kernel_ms: Some(2.0),
            ..BootTimeline::default()
        });
        let told = between(Some(&before), Some(&after), Timestamp::UNIX_EPOCH);
        assert_eq!(
            told[0].message.as_deref(),
            Some("The start reached: kernel")
        );
        before = after.clone();
        after.boot = after.boot.map(|boot| BootTimeline {
            kernel_ms: Some(2.5),
            ..boot
        });
        assert_eq!(kinds(&before, &after), [], "corrected, not reached");
        after.boot = None;
        assert_eq!(kinds(&before, &after), []);
    }
}
