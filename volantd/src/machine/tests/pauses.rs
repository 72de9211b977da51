//! Guests that stand still and go on.

use std::time::Duration;

use common::agent::HealthState;
use common::api::VmStatus;
use tokio::time::{Instant, sleep};

use super::lab::{Lab, in_made_up_time, name};
use super::world::{Behaviour, Snapshot};
use crate::machine::MachineError;
use crate::machine::ports::VmmExit;
use crate::machine::state::Phase;

impl Lab {
    /// What is recorded of each VM's CPUs is so.
    pub(super) async fn assert_paused_as_recorded(&self) {
        for record in self.records().await {
            let vm = record.blueprint.name.as_str();
            match record.progress.state.phase {
                Phase::Running { .. } => assert!(!self.world.is_paused(vm), "{vm}"),
                Phase::Paused { .. } => assert!(self.world.is_paused(vm), "{vm}"),
                _ => {}
            }
        }
    }
}

#[test]
fn a_paused_vm_stands_still_and_is_not_called_unhealthy() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let up = lab.up("web").await;
        let web = name("web");
        let paused = lab.registry.pause(&web).await.unwrap();
        assert_eq!(paused.status, VmStatus::Paused);
        assert!(lab.world.is_paused("web"), "it is answered when it is so");
        let again = lab.registry.pause(&web).await.unwrap();
        assert_eq!(again.generation, paused.generation);
        sleep(Duration::from_hours(1)).await;
        let still = lab.registry.get(&web).unwrap();
        assert_eq!(still.generation, paused.generation, "nothing happened");
        assert_eq!(
            (still.health.state, still.pid),
            (HealthState::Healthy, up.pid)
        );
        let resumed = lab.registry.resume(&web).await.unwrap();
        assert_eq!(resumed.status, VmStatus::Running);
        assert!(!lab.world.is_paused("web"));
        lab.registry.resume(&web).await.unwrap();
        sleep(Duration::from_mins(1)).await;
        let after = lab.registry.get(&web).unwrap();
        assert_eq!(
            (after.health.state, after.pid, after.restarts.vm),
            (HealthState::Healthy, up.pid, 0)
        );
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_guests_clock_is_set_when_it_is_up_after_a_pause_and_by_a_new_daemon() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        lab.up("web").await;
        sleep(Duration::from_secs(10)).await;
        assert_eq!(lab.world.clocks(), 1, "the guest is up");
        lab.registry.pause(&name("web")).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(
            lab.world.clocks(),
            0,
            "nobody asks a guest that stands still"
        );
        lab.registry.resume(&name("web")).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(lab.world.clocks(), 1, "it goes on");
        lab.restart_daemon().await;
        sleep(Duration::from_secs(10)).await;
        assert_eq!(lab.world.clocks(), 1, "it is adopted");
    });
}

#[test]
fn a_start_resumes() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let up = lab.up("web").await;
        lab.registry.pause(&name("web")).await.unwrap();
        let started = lab.registry.start(&name("web")).await.unwrap();
        assert_eq!(
            (started.status, started.pid, started.boot),
            (VmStatus::Running, up.pid, up.boot)
        );
        assert!(!lab.world.is_paused("web"));
    });
}

#[test]
fn a_paused_vm_is_stopped_with_grace_restarted_and_deleted() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let web = name("web");
        lab.up("web").await;
        lab.registry.pause(&web).await.unwrap();
        let began = Instant::now();
        lab.registry.stop(&web).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        let took = began.elapsed();
        assert!(
            (200..1000).contains(&took.as_millis()),
            "the guest had its time: {took:?}"
        );
        lab.registry.start(&web).await.unwrap();
        let up = lab.until_healthy("web").await;
        lab.registry.pause(&web).await.unwrap();
        lab.registry.restart(&web).await.unwrap();
        lab.until("web", |vm| vm.pid.is_some() && vm.pid != up.pid)
            .await;
        lab.until_healthy("web").await;
        lab.registry.pause(&web).await.unwrap();
        lab.registry.delete(&web).await.unwrap();
        assert_eq!(lab.world.snapshot(), Snapshot::default());
    });
}

#[test]
fn only_what_runs_can_be_paused() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let web = name("web");
        lab.create("web").await.unwrap();
        for denied in [
            lab.registry.pause(&web).await,
            lab.registry.resume(&web).await,
        ] {
            assert!(
                matches!(&denied, Err(MachineError::Denied { .. })),
                "{denied:?}"
            );
        }
        lab.until_healthy("web").await;
        lab.registry.stop(&web).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        let denied = lab.registry.pause(&web).await.unwrap_err();
        assert_eq!(
            denied.to_string(),
            "Cannot pause the VM `web`: it does not run"
        );
    });
}

#[test]
fn a_vmm_that_refuses_leaves_the_vm_as_it_was() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let web = name("web");
        lab.world.behave(Behaviour {
            pauses: false,
            resumes: false,
            ..Default::default()
        });
        lab.up("web").await;
        let refused = lab.registry.pause(&web).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "The VM `web` did not pause: The VMM refuses"
        );
        let vm = lab.until_healthy("web").await;
        assert_eq!(vm.status, VmStatus::Running);
        lab.world.change("web", |behaviour| behaviour.pauses = true);
        lab.registry.pause(&web).await.unwrap();
        let refused = lab.registry.resume(&web).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "The VM `web` did not resume: The VMM refuses"
        );
        assert_eq!(lab.registry.get(&web).unwrap().status, VmStatus::Paused);
        // It cannot be asked, and is ended all the same.
        lab.registry.stop(&web).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_paused_vm_outlives_its_daemon_and_the_end_of_its_vmm_is_seen() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        let web = name("web");
        let up = lab.up("web").await;
        lab.registry.pause(&web).await.unwrap();
        lab.restart_daemon().await;
        let adopted = lab.until_status("web", VmStatus::Paused).await;
        assert_eq!((adopted.pid, lab.world.is_paused("web")), (up.pid, true));
        lab.registry.resume(&web).await.unwrap();
        lab.until_healthy("web").await;
        lab.registry.pause(&web).await.unwrap();
        lab.world.end("web", VmmExit::Signalled { signal: 9 });
        let crashed = lab.until_status("web", VmStatus::Crashed).await;
        assert_eq!(
            crashed.failure.unwrap().cause,
            "`qemu` was ended by signal 9"
        );
        let again = lab.until_healthy("web").await;
        assert!(!lab.world.is_paused("web") && again.restarts.vm == 1);
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_daemon_that_dies_while_it_pauses_or_resumes_is_followed_by_one_that_finishes() {
    for point in 1..=4 {
        for resumes in [false, true] {
            in_made_up_time(async {
                let mut lab = Lab::new().await;
                let web = name("web");
                let up = lab.up("web").await;
                if resumes {
                    lab.registry.pause(&web).await.unwrap();
                }
                lab.world.die_at(Some(point));
                let patience = Duration::from_secs(1);
                let asked = async {
                    if resumes {
                        lab.registry.resume(&web).await
                    } else {
                        lab.registry.pause(&web).await
                    }
                };
                drop(tokio::time::timeout(patience, asked).await);
                lab.world.die_at(None);
                lab.restart_daemon().await;
                sleep(Duration::from_secs(5)).await;
                lab.settle().await;
                lab.assert_paused_as_recorded().await;
                assert_eq!(lab.registry.get(&web).unwrap().pid, up.pid);
            });
        }
    }
}
