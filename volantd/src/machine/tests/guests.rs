//! Guests and VMMs that misbehave, and what the VM then says of itself.

use std::time::Duration;

use common::agent::{GuestPhase, HealthState, WorkloadExit};
use common::api::{Vm, VmStatus};
use common::manifest::RestartPolicy;
use tokio::time::{Instant, sleep};

use super::lab::{Lab, in_made_up_time, name};
use super::world::{Behaviour, Snapshot, done};
use crate::machine::ports::VmmExit;

fn never_up(ends: Option<(Duration, VmmExit)>) -> Behaviour {
    Behaviour {
        boots_after: None,
        ends,
        ..Default::default()
    }
}

#[test]
fn a_guest_that_never_comes_up_fails_with_its_console() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.world.behave(never_up(None));
        lab.world
            .write_console("Linux version 6.12\nkestrel: waiting\n");
        let began = Instant::now();
        lab.create("web").await.unwrap();
        let vm = lab.until_status("web", VmStatus::Failed).await;
        assert!(began.elapsed() >= Duration::from_mins(1));
        let failure = vm.failure.unwrap();
        assert_eq!(
            (failure.step.as_str(), failure.cause.as_str()),
            ("guest", "The guest's agent did not answer within 60000 ms")
        );
        assert_eq!(
            failure.hints,
            ["The console ends with: Linux version 6.12 | kestrel: waiting"]
        );
        assert_eq!(lab.world.snapshot(), Snapshot::default());
    });
}

#[test]
fn a_vmm_that_ends_before_its_guest_is_up_fails_in_words() {
    let table = [
        (VmmExit::GuestReset, "guest", "The guest kernel panicked"),
        (
            VmmExit::Clean,
            "guest",
            "The guest powered off while it booted: Cannot mount /proc",
        ),
        (
            VmmExit::Failed {
                code: 1,
                stderr: "No such tap\n".to_owned(),
            },
            "vmm",
            "`qemu` ended with exit code 1: No such tap",
        ),
        (
            VmmExit::Signalled { signal: 9 },
            "vmm",
            "`qemu` was ended by signal 9",
        ),
    ];
    for (exit, step, cause) in table {
        in_made_up_time(async {
            let lab = Lab::new().await;
            lab.world
                .behave(never_up(Some((Duration::from_millis(30), exit))));
            lab.world.write_console("kestrel: Cannot mount /proc\n");
            lab.create("web").await.unwrap();
            let failure = lab
                .until_status("web", VmStatus::Failed)
                .await
                .failure
                .unwrap();
            assert_eq!(
                (failure.step.as_str(), failure.cause.as_str()),
                (step, cause)
            );
            lab.assert_nothing_leaked().await;
        });
    }
}

#[test]
fn a_vmm_that_ends_before_its_boot_says_why() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let exit = VmmExit::Failed {
            code: 1,
            stderr: "Cannot lock the image\n".to_owned(),
        };
        lab.world.behave(Behaviour {
            stillborn: Some(exit),
            ..Default::default()
        });
        lab.create("web").await.unwrap();
        let failure = lab
            .until_status("web", VmStatus::Failed)
            .await
            .failure
            .unwrap();
        assert_eq!(failure.step, "vmm");
        assert_eq!(
            failure.cause,
            "`qemu` ended with exit code 1: Cannot lock the image"
        );
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_vm_that_crashes_is_started_again_ever_more_slowly() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        let mut waits = Vec::new();
        for crash in 1..=8 {
            lab.world.end("web", VmmExit::Signalled { signal: 11 });
            let vm = lab.until_status("web", VmStatus::Crashed).await;
            assert_eq!(vm.failure.unwrap().cause, "`qemu` was ended by signal 11");
            let began = Instant::now();
            let waiting = lab.until("web", |vm| vm.restarts.next_at.is_some()).await;
            assert_eq!(waiting.status, VmStatus::Crashed);
            let next_at: jiff::Timestamp = waiting.restarts.next_at.unwrap().parse().unwrap();
            assert!(next_at > waiting.updated_at.parse().unwrap());
            lab.until("web", |vm| vm.status != VmStatus::Crashed).await;
            waits.push(began.elapsed().as_secs());
            let vm = lab.until_healthy("web").await;
            assert_eq!(vm.restarts.next_at, None);
            assert!(vm.serial_socket.unwrap().ends_with("/console.sock"));
            assert_eq!(vm.restarts.vm, crash);
            assert!(vm.failure.is_some(), "it says why it crashed last");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        sleep(Duration::from_secs(130)).await;
        lab.world.end("web", VmmExit::GuestReset);
        let crashed = lab.until_status("web", VmStatus::Crashed).await;
        assert_eq!(crashed.failure.unwrap().cause, "The guest kernel panicked");
        let began = Instant::now();
        lab.until("web", |vm| vm.status != VmStatus::Crashed).await;
        assert_eq!(began.elapsed().as_secs(), 1, "it was stable in between");
        lab.until_healthy("web").await;
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn what_was_up_once_is_tried_again_when_a_relaunch_fails() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        lab.world.behave(never_up(Some((
            Duration::from_millis(5),
            VmmExit::GuestReset,
        ))));
        lab.world.end("web", VmmExit::Clean);
        lab.until("web", |vm| {
            vm.status == VmStatus::Crashed && vm.restarts.vm == 3
        })
        .await;
        lab.world.behave(Behaviour::default());
        lab.until_healthy("web").await;
    });
}

#[test]
fn a_crashed_vm_can_be_started_stopped_and_deleted_while_it_waits() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        lab.world.end("web", VmmExit::Clean);
        lab.until_status("web", VmStatus::Crashed).await;
        let vm = lab.registry.start(&name("web")).await.unwrap();
        assert_eq!(vm.failure, None);
        assert_eq!(lab.until_healthy("web").await.restarts.vm, 0);
        lab.world.end("web", VmmExit::Clean);
        lab.until_status("web", VmStatus::Crashed).await;
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        sleep(Duration::from_secs(100)).await;
        assert_eq!(
            lab.registry.get(&name("web")).unwrap().status,
            VmStatus::Stopped
        );
        lab.registry.delete(&name("web")).await.unwrap();
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_guest_that_cannot_go_on_says_why() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let cause = "Cannot start `/bin/hello`: No such file or directory".to_owned();
        lab.world.behave(Behaviour {
            phase: GuestPhase::Failed,
            failure: Some(cause.clone()),
            ..Default::default()
        });
        lab.create("web").await.unwrap();
        let failure = lab
            .until_status("web", VmStatus::Failed)
            .await
            .failure
            .unwrap();
        assert_eq!(
            (failure.step, failure.cause),
            ("workload".to_owned(), cause)
        );
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn the_manifests_policy_decides_when_the_workload_ends() {
    let table = [
        (RestartPolicy::Never, 0, VmStatus::Stopped, None),
        (RestartPolicy::OnFailure, 0, VmStatus::Stopped, None),
        (
            RestartPolicy::Never,
            7,
            VmStatus::Failed,
            Some("The workload ended with exit code 7"),
        ),
    ];
    for (policy, code, status, cause) in table {
        in_made_up_time(async {
            let mut lab = Lab::new().await;
            lab.create_with("web", policy).await;
            lab.until_healthy("web").await;
            lab.world.say("web", |status| done(status, code));
            lab.world.end("web", VmmExit::Clean);
            let vm = lab.until_status("web", status).await;
            assert_eq!(
                vm.failure.map(|failure| failure.cause).as_deref(),
                cause,
                "{policy:?} {code}"
            );
            assert_eq!(
                vm.last_exit,
                Some(WorkloadExit {
                    code,
                    signal: None,
                    at_us: 900_000
                })
            );
            lab.assert_nothing_leaked().await;
            lab.restart_daemon().await;
            sleep(Duration::from_secs(100)).await;
            assert_eq!(
                lab.registry.get(&name("web")).unwrap().status,
                status,
                "it stays so"
            );
        });
    }
}

#[test]
fn a_service_on_the_loopback_only_is_told_so() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.world.behave(Behaviour {
            reach: false,
            reachable_from_outside: Some(false),
            ..Default::default()
        });
        lab.create("web").await.unwrap();
        let vm = lab
            .until("web", |vm| vm.health.state == HealthState::Unhealthy)
            .await;
        assert_eq!(vm.status, VmStatus::Running);
        assert_eq!(
            vm.health.reason.unwrap(),
            "The service listens on 127.0.0.1 only; bind 0.0.0.0:80"
        );
        assert_eq!(vm.boot.unwrap().ready_ms, None);
        // Whoever repairs it from the console is seen.
        lab.world.reach("web", true);
        lab.until_healthy("web").await;
    });
}

#[test]
fn ready_needs_the_hosts_own_connection() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.world.behave(Behaviour {
            reach: false,
            ..Default::default()
        });
        lab.create("web").await.unwrap();
        lab.until_status("web", VmStatus::Running).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(
            lab.registry.get(&name("web")).unwrap().health.state,
            HealthState::Unknown
        );
        let vm = lab
            .until("web", |vm| vm.health.state == HealthState::Unhealthy)
            .await;
        assert!(
            vm.health
                .reason
                .unwrap()
                .contains("the host cannot reach 192.168.127.10:80")
        );
        lab.world.reach("web", true);
        lab.until_healthy("web").await;
    });
}

#[test]
fn health_that_never_comes_leaves_the_vm_running_and_unhealthy() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.world.behave(Behaviour {
            phase: GuestPhase::Workload,
            health: HealthState::Unknown,
            ..Default::default()
        });
        lab.create("web").await.unwrap();
        lab.until_status("web", VmStatus::Running).await;
        let vm = lab
            .until("web", |vm| vm.health.state == HealthState::Unhealthy)
            .await;
        assert_eq!(vm.status, VmStatus::Running);
        assert_eq!(
            vm.health.reason.unwrap(),
            "The health check gave no result within 10000 ms"
        );
        lab.world.say("web", |status| {
            status.health.state = HealthState::Unhealthy;
            status.health.reason = Some("GET / gives 500".to_owned());
        });
        lab.until("web", |vm| {
            vm.health.reason.as_deref() == Some("GET / gives 500")
        })
        .await;
        lab.world
            .say("web", |status| status.health.state = HealthState::Healthy);
        lab.until_healthy("web").await;
    });
}

#[test]
fn restarts_of_the_workload_show_at_once() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        let began = Instant::now();
        lab.world.say("web", |status| {
            status.phase = GuestPhase::BackOff;
            status.health.state = HealthState::Unknown;
            status.workload.pid = None;
            status.workload.last_exit = Some(WorkloadExit {
                code: 137,
                signal: Some(9),
                at_us: 5,
            });
        });
        let vm = lab
            .until("web", |vm| vm.health.state == HealthState::Unhealthy)
            .await;
        assert!(vm.health.reason.unwrap().contains("exit code 137"));
        lab.world.say("web", |status| {
            status.phase = GuestPhase::Ready;
            status.health.state = HealthState::Healthy;
            status.workload.pid = Some(9);
            status.workload.restarts = 1;
        });
        let vm = lab.until_healthy("web").await;
        assert_eq!(vm.restarts.workload, 1);
        assert_eq!(vm.last_exit.unwrap().signal, Some(9));
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(vm.pid, lab.world.pid("web"));
    });
}

#[test]
fn an_agent_that_falls_silent_is_reported_and_nothing_is_killed() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let up = lab.up("web").await;
        lab.world.silence("web", true);
        let silent = |vm: &Vm| {
            vm.health
                .reason
                .as_deref()
                .is_some_and(|reason| reason.starts_with("The agent does not answer"))
        };
        let vm = lab.until("web", silent).await;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(
            lab.registry.get(&name("web")).unwrap().generation,
            vm.generation,
            "it is said once"
        );
        assert_eq!((vm.status, vm.pid), (VmStatus::Running, up.pid));
        lab.world.silence("web", false);
        lab.until_healthy("web").await;
    });
}
