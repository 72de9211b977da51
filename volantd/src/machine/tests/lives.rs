//! Ordinary lives: addresses, requests, restarts of the daemon and of the host.

use std::net::Ipv4Addr;
use std::time::Duration;

use common::agent::HealthState;
use common::api::{EventType, VmStatus};
use hyper::header::HeaderValue;
use tokio::time::Instant;

use super::lab::{Lab, in_made_up_time, name};
use super::world::Snapshot;
use crate::cause::{Cause, REQUEST_ID_HEADER};
use crate::machine::MachineError;
use crate::machine::ports::VmmExit;

#[test]
fn a_vm_goes_up_with_its_timeline() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let created = lab.create("web").await.unwrap();
        assert_eq!(created.status, VmStatus::Pending);
        assert_eq!(created.ip_address, "192.168.127.10");
        assert_eq!(created.mac_address, "02:f9:e8:54:fb:c4");
        assert!(
            created
                .kernel_cmdline
                .contains("ip=192.168.127.10::192.168.127.1:255.255.255.0:web:eth0:off")
        );
        let vm = lab.until_healthy("web").await;
        assert!(vm.generation > created.generation);
        assert_eq!(vm.pid, lab.world.pid("web"));
        assert_eq!(
            (vm.hypervisor.as_deref(), vm.accelerator.as_deref()),
            (Some("qemu"), Some("tcg"))
        );
        let boot = vm.boot.unwrap();
        let order = [
            boot.vmm_ms,
            boot.kernel_ms,
            boot.pid1_ms,
            boot.workload_ms,
            boot.ready_ms,
        ]
        .map(Option::unwrap);
        assert!(order.is_sorted(), "{order:?}");
        assert!(
            (400.0..700.0).contains(&order[4]),
            "found soon after the agent is up: {order:?}"
        );
        assert_eq!(lab.world.boots(), [boot], "counted once, complete");
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn work_is_done_for_the_request_that_asked_for_it() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let cause = |id: &'static str| {
            let mark = (REQUEST_ID_HEADER, HeaderValue::from_static(id));
            Cause::request(tracing::Span::none(), [mark].into_iter().collect())
        };
        let created = cause("r1").scope(lab.create("web")).await;
        assert_eq!(created.unwrap().status, VmStatus::Pending);
        lab.until_healthy("web").await;
        lab.world.end("web", VmmExit::Signalled { signal: 9 });
        lab.until_status("web", VmStatus::Crashed).await;
        lab.until_healthy("web").await;
        let web = name("web");
        let stopping = cause("r2").scope(lab.registry.stop(&web));
        stopping.await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        let expected = [Some("r1".to_owned()), None, Some("r2".to_owned())];
        assert_eq!(
            lab.world.causes(),
            expected,
            "a restart is nobody's request"
        );
    });
}

#[test]
fn ten_vms_get_ten_to_nineteen() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        for number in 10_u8..20 {
            let vm = lab.create(&format!("vm-{number}")).await.unwrap();
            assert_eq!(
                vm.ip_address,
                Ipv4Addr::new(192, 168, 127, number).to_string()
            );
        }
        lab.settle().await;
        lab.assert_nothing_leaked().await;
        lab.registry.delete(&name("vm-12")).await.unwrap();
        assert_eq!(
            lab.create("again").await.unwrap().ip_address,
            "192.168.127.12"
        );
        let ids: Vec<i64> = lab.records().await.iter().map(|record| record.id).collect();
        assert_eq!(
            ids.last(),
            Some(&11),
            "a number is never used again: {ids:?}"
        );
    });
}

#[test]
fn bad_requests_change_nothing() {
    in_made_up_time(async {
        let lab = Lab::with_subnet("10.0.0.0/29").await;
        for vm in ["a", "b", "c", "d", "e"] {
            lab.create(vm).await.unwrap();
        }
        let full = lab.create("f").await.unwrap_err();
        assert!(matches!(full, MachineError::NoAddress(_)), "{full:?}");
        let twice = lab.create("a").await.unwrap_err();
        assert!(matches!(&twice, MachineError::Exists { .. }), "{twice:?}");
        let unknown = lab.registry.stop(&name("x")).await.unwrap_err();
        assert!(
            matches!(&unknown, MachineError::NotFound { .. }),
            "{unknown:?}"
        );
        let mut long = Lab::new_vm("g");
        long.config.kernel_cmdline = Some("x".repeat(3000));
        let long = lab.registry.create(long).await.unwrap_err();
        assert!(matches!(&long, MachineError::Cmdline(_)), "{long:?}");
        lab.world.refuse_launches();
        let refused = lab.create("h").await.unwrap_err();
        assert!(
            matches!(&refused, MachineError::CannotLaunch(_)),
            "{refused:?}"
        );
        assert_eq!(lab.records().await.len(), 5);
    });
}

#[test]
fn requests_that_are_met_already_are_fine() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let up = lab.up("web").await;
        let again = lab.registry.start(&name("web")).await.unwrap();
        assert_eq!((again.pid, again.generation), (up.pid, up.generation));
        for _ in 0..2 {
            let vm = lab.registry.stop(&name("web")).await.unwrap();
            assert!(
                matches!(vm.status, VmStatus::Stopping | VmStatus::Stopped),
                "{vm:?}"
            );
            lab.until_status("web", VmStatus::Stopped).await;
        }
        assert_eq!(lab.world.snapshot(), Snapshot::default());
        let vm = lab.registry.restart(&name("web")).await.unwrap();
        assert_eq!(
            vm.status,
            VmStatus::Pending,
            "a restart of what is down starts it"
        );
        let vm = lab.until_healthy("web").await;
        let restarted = lab.registry.restart(&name("web")).await.unwrap();
        assert_eq!(restarted.status, VmStatus::Stopping);
        let after = lab
            .until("web", |now| {
                now.status == VmStatus::Running && now.pid != vm.pid
            })
            .await;
        assert_eq!(after.restarts.vm, 0, "asked for, so not counted");
        assert_eq!(after.ip_address, "192.168.127.10", "the lease stays");
    });
}

#[test]
fn a_stop_is_graceful_and_a_deaf_guest_is_ended_all_the_same() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        let began = Instant::now();
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        assert!(
            began.elapsed() >= Duration::from_millis(200),
            "the guest had its time"
        );
        assert!(began.elapsed() < Duration::from_secs(1));
        lab.world.behave(super::world::Behaviour {
            obeys: false,
            ..Default::default()
        });
        lab.registry.start(&name("web")).await.unwrap();
        lab.until_healthy("web").await;
        let began = Instant::now();
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        assert!(
            began.elapsed() >= Duration::from_secs(20),
            "10 s of the manifest and 10 s to power off"
        );
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_request_interrupts_a_boot() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.world.behave(super::world::Behaviour {
            boots_after: None,
            ..Default::default()
        });
        lab.create("web").await.unwrap();
        lab.until("web", |vm| vm.step.as_deref() == Some("guest"))
            .await;
        let began = Instant::now();
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        lab.registry.start(&name("web")).await.unwrap();
        lab.until("web", |vm| vm.pid.is_some()).await;
        lab.registry.delete(&name("web")).await.unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert!(matches!(
            lab.registry.get(&name("web")),
            Err(MachineError::NotFound { .. })
        ));
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_delete_wins_over_requests_that_wait_with_it() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        let web = name("web");
        let (stop, restart, delete, start) = tokio::join!(
            lab.registry.stop(&web),
            lab.registry.restart(&web),
            lab.registry.delete(&web),
            lab.registry.start(&web)
        );
        delete.unwrap();
        for other in [stop, restart, start] {
            assert!(
                matches!(&other, Err(MachineError::Denied { .. })),
                "{other:?}"
            );
        }
        lab.assert_nothing_leaked().await;
        lab.up("web").await;
    });
}

#[test]
fn what_is_opened_while_a_vm_is_removed_goes_with_it() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        let web = name("web");
        let reading = async {
            let mut opened = 0;
            while lab
                .registry
                .open(&web, |_| lab.world.read_log("web"))
                .is_ok()
            {
                opened += 1;
                // The made-up time goes on only while all wait.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            opened
        };
        let (deleted, opened) = tokio::join!(lab.registry.delete(&web), reading);
        deleted.unwrap();
        assert!(opened > 1 && !lab.world.is_log_read("web"));
    });
}

#[test]
fn long_polls_see_each_change_and_the_end() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let mut seen = lab.create("web").await.unwrap();
        let mut steps = Vec::new();
        while seen.health.state != HealthState::Healthy {
            let next = lab
                .registry
                .wait_newer(&name("web"), seen.generation, Duration::from_secs(30))
                .await
                .unwrap();
            assert!(next.generation > seen.generation);
            steps.extend(next.step.clone());
            seen = next;
        }
        assert!(steps.contains(&"guest".to_owned()), "{steps:?}");
        let same = lab
            .registry
            .wait_newer(&name("web"), seen.generation, Duration::from_millis(5))
            .await
            .unwrap();
        assert_eq!(same.generation, seen.generation);
        let web = name("web");
        let follow = async {
            let mut after = seen.generation;
            loop {
                match lab
                    .registry
                    .wait_newer(&web, after, Duration::from_secs(30))
                    .await
                {
                    Ok(vm) => after = vm.generation,
                    Err(error) => break error,
                }
            }
        };
        let (end, deleted) = tokio::join!(follow, lab.registry.delete(&web));
        deleted.unwrap();
        assert!(matches!(&end, MachineError::NotFound { .. }), "{end:?}");
    });
}

#[test]
fn vms_outlive_their_daemon() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        let before = lab.up("web").await;
        lab.up("down").await;
        lab.registry.stop(&name("down")).await.unwrap();
        lab.until_status("down", VmStatus::Stopped).await;
        lab.restart_daemon().await;
        let after = lab.until_healthy("web").await;
        assert_eq!(
            (after.pid, after.boot, after.restarts),
            (before.pid, before.boot, before.restarts)
        );
        assert!(
            after.generation > before.generation,
            "long polls over the restart see it"
        );
        assert_eq!(lab.until_status("down", VmStatus::Stopped).await.pid, None);
        // It is managed as before.
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn what_should_live_is_started_again_after_the_host_was_down() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        let before = lab.up("web").await;
        lab.registry.shutdown().await;
        lab.world.reboot();
        lab.restart_daemon().await;
        let after = lab.until_healthy("web").await;
        assert_ne!(after.pid, before.pid);
        assert_eq!(after.restarts.vm, 1);
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_guest_that_is_still_booting_is_taken_over() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        lab.create("web").await.unwrap();
        let booting = lab
            .until("web", |vm| vm.step.as_deref() == Some("guest"))
            .await;
        lab.restart_daemon().await;
        assert_eq!(lab.until_healthy("web").await.pid, booting.pid);
    });
}

#[test]
fn a_vmm_that_ends_while_no_daemon_runs_is_replaced() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        lab.up("web").await;
        lab.registry.shutdown().await;
        lab.world.end("web", VmmExit::Signalled { signal: 9 });
        lab.restart_daemon().await;
        lab.until_healthy("web").await;
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_life_is_told_in_order() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        lab.up("web").await;
        lab.restart_daemon().await;
        lab.until_healthy("web").await;
        lab.world.end("web", VmmExit::Signalled { signal: 9 });
        lab.until("web", |vm| vm.restarts.vm == 1).await;
        lab.until_healthy("web").await;
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        lab.registry.delete(&name("web")).await.unwrap();
        let mut told = lab.world.told("web");
        told.retain(|kind| !matches!(kind, EventType::VmPhase | EventType::VmBoot));
        assert_eq!(
            told,
            [
                EventType::VmCreated,
                EventType::VmRunning,
                EventType::VmHealth,
                EventType::VmCrashed,
                EventType::VmRestart,
                EventType::VmRunning,
                EventType::VmHealth,
                EventType::VmStopped,
                EventType::VmDeleted,
            ],
            "a new daemon tells nothing of what did not change"
        );
    });
}

#[test]
fn a_log_is_followed_for_as_long_as_there_is_a_guest() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        lab.create("web").await.unwrap();
        lab.until("web", |vm| vm.step.as_deref() == Some("guest"))
            .await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let launch = lab.world.followed("web");
        assert!(launch.is_some(), "before the guest is up");
        lab.until_healthy("web").await;
        lab.restart_daemon().await;
        lab.until_healthy("web").await;
        assert_eq!(lab.world.followed("web"), launch, "the same launch goes on");
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        assert_eq!(lab.world.followed("web"), None);
        lab.registry.start(&name("web")).await.unwrap();
        lab.until_healthy("web").await;
        assert_ne!(lab.world.followed("web"), launch);
        lab.world.write_output("panicked at main.rs");
        lab.world.end("web", VmmExit::GuestReset);
        let crashed = lab.until_status("web", VmStatus::Crashed).await;
        let hints = crashed.failure.unwrap().hints;
        assert!(
            hints[0].contains("panicked at main.rs"),
            "its last words are told: {hints:?}"
        );
    });
}
