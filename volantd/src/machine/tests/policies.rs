//! What becomes of VMs that end by themselves, how long their ends may take, and what is known of their guests.

use std::time::Duration;

use common::api::VmStatus;
use common::manifest::RestartPolicy;
use tokio::time::{Instant, sleep};

use super::lab::{Lab, in_made_up_time, name};
use super::world::done;
use crate::machine::ports::VmmExit;

const KILLED: VmmExit = VmmExit::Signalled { signal: 9 };

/// A VM with the workload's policy and its own, up.
async fn up(lab: &Lab, inside: RestartPolicy, outside: Option<RestartPolicy>) {
    let mut new = Lab::new_vm("web");
    new.config.manifest.workload.restart = inside;
    new.config.restart_policy = outside;
    lab.registry.create(new).await.unwrap();
    lab.until_healthy("web").await;
}

#[test]
fn a_vmm_that_breaks_is_followed_by_what_the_policy_says() {
    use RestartPolicy::{Always, Never, OnFailure};
    let table = [
        (Always, None, VmStatus::Crashed),
        (OnFailure, None, VmStatus::Crashed),
        (Never, None, VmStatus::Failed),
        (Always, Some(Never), VmStatus::Failed),
        (Never, Some(OnFailure), VmStatus::Crashed),
    ];
    for (inside, outside, expected) in table {
        in_made_up_time(async {
            let lab = Lab::new().await;
            up(&lab, inside, outside).await;
            lab.world.end("web", KILLED);
            let vm = lab.until("web", |vm| vm.status != VmStatus::Running).await;
            assert_eq!(vm.status, expected, "{inside:?} {outside:?}");
            assert_eq!(vm.failure.unwrap().cause, "`qemu` was ended by signal 9");
            if expected == VmStatus::Failed {
                sleep(Duration::from_hours(1)).await;
                let vm = lab.registry.get(&name("web")).unwrap();
                assert_eq!(vm.status, VmStatus::Failed);
            }
            lab.registry.start(&name("web")).await.unwrap();
            lab.until_healthy("web").await;
            lab.assert_nothing_leaked().await;
        });
    }
}

#[test]
fn a_workload_that_ends_is_followed_by_what_the_policy_says() {
    use RestartPolicy::{Always, Never, OnFailure};
    let table = [
        (0, None, VmStatus::Stopped),
        (1, None, VmStatus::Failed),
        (0, Some(Always), VmStatus::Crashed),
        (1, Some(Always), VmStatus::Crashed),
        (0, Some(OnFailure), VmStatus::Stopped),
        (1, Some(OnFailure), VmStatus::Crashed),
    ];
    for (code, outside, expected) in table {
        in_made_up_time(async {
            let lab = Lab::new().await;
            up(&lab, Never, outside).await;
            lab.world.say("web", |status| done(status, code));
            sleep(Duration::from_millis(50)).await;
            lab.world.end("web", VmmExit::Clean);
            let vm = lab.until("web", |vm| vm.status != VmStatus::Running).await;
            assert_eq!(vm.status, expected, "{code} {outside:?}: {vm:?}");
            if expected == VmStatus::Crashed {
                assert_eq!(lab.until_healthy("web").await.restarts.vm, 1);
            }
        });
    }
}

#[test]
fn a_vm_that_is_never_restarted_stays_down_when_the_host_was_down() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        up(&lab, RestartPolicy::Always, Some(RestartPolicy::Never)).await;
        lab.registry.shutdown().await;
        lab.world.reboot();
        lab.restart_daemon().await;
        let vm = lab.until_status("web", VmStatus::Failed).await;
        assert!(vm.failure.unwrap().cause.contains("while no daemon ran"));
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_crash_loop_is_said_so_until_the_vm_is_stable() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        for end in 1..=5 {
            lab.world.end("web", KILLED);
            let crashed = lab
                .until("web", |vm| {
                    vm.status == VmStatus::Crashed && vm.restarts.crash_loop == (end >= 5)
                })
                .await;
            assert_eq!(crashed.restarts.vm, end - 1);
            let again = lab.until_healthy("web").await;
            assert_eq!(again.restarts.crash_loop, end >= 5);
        }
        let calm = lab.until("web", |vm| !vm.restarts.crash_loop).await;
        assert_eq!(calm.status, VmStatus::Running);
        lab.world.end("web", KILLED);
        let crashed = lab.until_status("web", VmStatus::Crashed).await;
        assert!(!crashed.restarts.crash_loop, "it was stable in between");
    });
}

#[test]
fn a_new_daemon_goes_on_counting_ends_and_waits_as_long() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        lab.up("web").await;
        for end in 1..=5 {
            lab.world.end("web", KILLED);
            lab.until_status("web", VmStatus::Crashed).await;
            lab.until_healthy("web").await;
            lab.restart_daemon().await;
            let vm = lab.registry.get(&name("web")).unwrap();
            assert_eq!(vm.restarts.crash_loop, end >= 5, "{end}");
        }
        let calm = lab.until("web", |vm| !vm.restarts.crash_loop).await;
        assert_eq!(calm.status, VmStatus::Running);
        lab.restart_daemon().await;
        let vm = lab.registry.get(&name("web")).unwrap();
        assert!(!vm.restarts.crash_loop, "that it is stable is kept as well");
        assert_eq!(lab.records().await[0].progress.quick_ends, 0);
    });
}

#[test]
fn a_new_daemon_ends_a_guest_within_the_time_that_was_asked_for() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        lab.world.behave(super::world::Behaviour {
            obeys: false,
            ..Default::default()
        });
        lab.up("web").await;
        let grace = Duration::from_secs(3);
        lab.registry.stop_within(&name("web"), grace).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(lab.world.graces(), [Some(grace)]);
        lab.restart_daemon().await;
        lab.until_status("web", VmStatus::Stopped).await;
        assert_eq!(lab.world.graces(), [Some(grace)]);
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_long_grace_is_cut_short_by_another_stop_and_by_a_delete() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.world.behave(super::world::Behaviour {
            obeys: false,
            ..Default::default()
        });
        let web = name("web");
        let hour = Duration::from_hours(1);
        // What the manifest gives is 10 s, and powering off may take as long again.
        for deletes in [false, true] {
            lab.up("web").await;
            lab.registry.stop_within(&web, hour).await.unwrap();
            sleep(Duration::from_secs(5)).await;
            let began = Instant::now();
            if deletes {
                lab.registry.delete(&web).await.unwrap();
                assert!(began.elapsed() < Duration::from_secs(30));
            } else {
                let longer = Duration::from_hours(2);
                lab.registry.stop_within(&web, longer).await.unwrap();
                sleep(Duration::from_mins(1)).await;
                assert_eq!(lab.registry.get(&web).unwrap().status, VmStatus::Stopping);
                let began = Instant::now();
                let soon = Duration::from_secs(1);
                lab.registry.stop_within(&web, soon).await.unwrap();
                lab.until_status("web", VmStatus::Stopped).await;
                assert!(began.elapsed() < Duration::from_secs(20));
                lab.registry.delete(&web).await.unwrap();
            }
        }
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn the_grace_of_a_stop_is_the_requests_then_the_configurations_then_the_manifests() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let web = name("web");
        let mut new = Lab::new_vm("web");
        new.config.stop_grace_ms = Some(7000);
        lab.registry.create(new).await.unwrap();
        lab.up("plain").await;
        for (grace, expected) in [(Some(3), 3), (None, 7)] {
            lab.until_healthy("web").await;
            match grace {
                Some(grace) => {
                    lab.registry
                        .stop_within(&web, Duration::from_secs(grace))
                        .await
                }
                None => lab.registry.stop(&web).await,
            }
            .unwrap();
            lab.until_status("web", VmStatus::Stopped).await;
            assert_eq!(lab.world.graces(), [Some(Duration::from_secs(expected))]);
            lab.registry.start(&web).await.unwrap();
        }
        lab.registry.stop(&name("plain")).await.unwrap();
        lab.until_status("plain", VmStatus::Stopped).await;
        assert_eq!(lab.world.graces(), [None]);
    });
}

#[test]
fn what_the_agent_knows_of_its_guest_is_shown() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let up = lab.up("web").await;
        assert_eq!(
            (up.oom_kills, up.health.last_probe_at, up.vsock_cid),
            (0, None, 3)
        );
        lab.world.say("web", |status| {
            status.workload.oom_kills = 2;
            status.workload.crash_loop = true;
            status.health.last_probe_us = Some(status.now_us - 1000);
        });
        let vm = lab.until("web", |vm| vm.oom_kills == 2).await;
        assert!(vm.restarts.crash_loop && vm.health.last_probe_at.is_some());
        // Another probe with the same result is no news to whoever waits for news.
        lab.world.say("web", |status| {
            status.health.last_probe_us = Some(status.now_us);
        });
        let probed = lab
            .until("web", |now| {
                now.health.last_probe_at != vm.health.last_probe_at
            })
            .await;
        assert_eq!(probed.generation, vm.generation);
    });
}
