//! Waits for VMs to be where somebody wants them. A wait changes nothing: whatever was asked for goes on when it is given up.

use std::time::Duration;

use common::agent::HealthState;
use common::api::{Vm, VmStatus, WaitGoal};
use common::name::Name;
use tokio::time::timeout;

use super::{ErrorKind, Service, ServiceError};
use crate::machine::MachineError;

/// What a VM is to a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Reached,
    NotYet,
    /// Not by itself.
    Never,
}

fn verdict(goal: WaitGoal, vm: &Vm) -> Verdict {
    use Verdict::{Never, NotYet, Reached};
    match (goal, vm.status) {
        (WaitGoal::Ready, VmStatus::Running) if vm.health.state == HealthState::Healthy => Reached,
        // One that failed is as down as one that was stopped; its status tells them apart.
        (WaitGoal::Running, VmStatus::Running)
        | (WaitGoal::Stopped, VmStatus::Stopped | VmStatus::Failed) => Reached,
        (
            WaitGoal::Ready | WaitGoal::Running,
            VmStatus::Stopped | VmStatus::Failed | VmStatus::Deleting,
        )
        | (WaitGoal::Stopped, VmStatus::Deleting) => Never,
        _ => NotYet,
    }
}

impl Service {
    /// A VM as soon as it is where `goal` wants it; nothing once it is gone, if that is the goal.
    ///
    /// # Errors
    /// If there is no such VM, it takes longer than `limit`, or it cannot come there any more without somebody's doing.
    pub async fn wait_for_vm(
        &self,
        name: &Name,
        goal: WaitGoal,
        limit: Duration,
    ) -> Result<Option<Vm>, ServiceError> {
        let mut public = match self.parts.registry.watch(name) {
            Err(MachineError::NotFound { .. }) if goal == WaitGoal::Gone => return Ok(None),
            public => public?,
        };
        let seen = timeout(
            limit,
            public.wait_for(|vm| verdict(goal, vm) != Verdict::NotYet),
        );
        let seen = seen.await.map(|seen| seen.map(|vm| Vm::clone(&vm)));
        match seen {
            Ok(Ok(vm)) if verdict(goal, &vm) == Verdict::Reached => {
                Ok(Some(self.versions.mark(vm)))
            }
            Ok(Ok(vm)) => Err(never(goal, &vm)),
            Ok(Err(_)) if goal == WaitGoal::Gone => Ok(None),
            Ok(Err(_)) => Err(ServiceError::no_vm(name)),
            Err(_) => Err(late(goal, name, limit, self.parts.registry.get(name).ok())),
        }
    }
}

fn never(goal: WaitGoal, vm: &Vm) -> ServiceError {
    let (name, goal, status) = (&vm.name, goal.as_str(), vm.status.as_str());
    let failure = vm
        .failure
        .as_ref()
        .filter(|_| vm.status == VmStatus::Failed);
    let why = failure.map_or_else(String::new, |failure| {
        format!(" in step `{}`: {}", failure.step, failure.cause)
    });
    let message = format!("The VM `{name}` does not become {goal}: it is {status}{why}");
    ServiceError {
        hints: failure.map_or_else(Vec::new, |failure| failure.hints.clone()),
        ..ServiceError::new(ErrorKind::WrongPhase, message)
    }
}

fn late(goal: WaitGoal, name: &Name, limit: Duration, vm: Option<Vm>) -> ServiceError {
    let (goal, limit_ms) = (goal.as_str(), limit.as_millis());
    let now = vm.map_or_else(String::new, |vm| {
        let reason = vm
            .health
            .reason
            .map_or_else(String::new, |reason| format!(" ({reason})"));
        format!(": it is {}{reason}", vm.status.as_str())
    });
    let message = format!("The VM `{name}` is not {goal} after {limit_ms} ms{now}");
    ServiceError::new(ErrorKind::WaitTimeout, message)
        .hint("What was asked for goes on; wait again, or with a longer `timeout`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_something_to_every_goal() {
        use Verdict::{Never, NotYet, Reached};
        use VmStatus::{
            Crashed, Deleting, Failed, Paused, Pending, Running, Starting, Stopped, Stopping,
        };
        // In the order ready, running, stopped, gone; of a VM that is not healthy.
        let table = [
            (Pending, [NotYet, NotYet, NotYet, NotYet]),
            (Starting, [NotYet, NotYet, NotYet, NotYet]),
            (Running, [NotYet, Reached, NotYet, NotYet]),
            (Paused, [NotYet, NotYet, NotYet, NotYet]),
            (Stopping, [NotYet, NotYet, NotYet, NotYet]),
            (Stopped, [Never, Never, Reached, NotYet]),
            (Crashed, [NotYet, NotYet, NotYet, NotYet]),
            (Failed, [Never, Never, Reached, NotYet]),
            (Deleting, [Never, Never, Never, NotYet]),
        ];
        for (status, expected) in table {
            let mut vm: Vm = serde_json::from_value(serde_json::json!({
                "id": 1, "name": "web", "status": "running", "generation": 1, "runtime": "x", "plugin": "x",
                "ip_address": "", "mac_address": "", "cpu_cores": 1, "memory_mb": 1, "kernel_cmdline": "",
                "serial_log": "", "health": {"state": "unhealthy"}, "restarts": {"vm": 0, "workload": 0},
                "created_at": "", "updated_at": ""
            }))
            .unwrap();
            vm.status = status;
            assert_eq!(
                WaitGoal::ALL.map(|goal| verdict(goal, &vm)),
                expected,
                "{status:?}"
            );
            vm.health.state = HealthState::Healthy;
            let ready = verdict(WaitGoal::Ready, &vm);
            assert_eq!(ready == Reached, status == Running, "{status:?}");
        }
    }
}
