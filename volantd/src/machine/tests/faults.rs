//! Every step fails in turn, every undo runs twice, and the daemon dies at every place where it can.

use std::sync::Arc;
use std::time::Duration;

use common::api::VmStatus;
use tokio::time::timeout;

use super::lab::{Lab, in_made_up_time, name};
use super::world::{Fault, Snapshot};
use crate::machine::MachineError;
use crate::machine::plan::Step;
use crate::machine::ports::Launch;
use crate::machine::steps::{self, Hands};

#[test]
fn a_step_that_fails_leaves_the_host_as_it_was() {
    let steps = [Step::Media, Step::Network, Step::Vmm, Step::Boot];
    for (step, fault) in steps
        .into_iter()
        .flat_map(|step| [(step, Fault::Before), (step, Fault::After)])
    {
        in_made_up_time(async {
            let lab = Lab::new().await;
            let before = lab.world.snapshot();
            lab.world.fail(Some((step, fault)));
            lab.create("web").await.unwrap();
            let vm = lab.until_status("web", VmStatus::Failed).await;
            let failure = vm.failure.unwrap();
            assert_eq!(failure.step, step.as_str(), "{fault:?}");
            assert_eq!(
                failure.cause,
                format!("The {} failed: On purpose", step.as_str())
            );
            assert_eq!(vm.pid, None);
            assert_eq!(lab.world.snapshot(), before, "{step:?} {fault:?}");
            lab.assert_nothing_leaked().await;
            // The VM is kept, and goes up once the fault is gone.
            lab.world.fail(None);
            lab.registry.start(&name("web")).await.unwrap();
            let vm = lab.until_healthy("web").await;
            assert_eq!(vm.failure, None);
            lab.registry.delete(&name("web")).await.unwrap();
            lab.assert_nothing_leaked().await;
        });
    }
}

#[test]
fn folders_that_cannot_be_made_fail_their_step() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        fs_err::write(lab.dir.path().join("run"), "in the way").unwrap();
        lab.create("web").await.unwrap();
        let vm = lab.until_status("web", VmStatus::Failed).await;
        assert_eq!(vm.failure.unwrap().step, "directories");
        assert_eq!(lab.world.snapshot(), Snapshot::default());
        fs_err::remove_file(lab.dir.path().join("run")).unwrap();
        lab.registry.start(&name("web")).await.unwrap();
        lab.until_healthy("web").await;
    });
}

#[test]
fn a_store_that_fails_stops_the_launch_before_the_step() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        lab.registry.stop(&name("web")).await.unwrap();
        lab.until_status("web", VmStatus::Stopped).await;
        lab.world.refuse_saves(1);
        let error = lab.registry.start(&name("web")).await.unwrap_err();
        assert!(matches!(error, MachineError::Store(_)), "{error:?}");
        assert_eq!(
            lab.registry.get(&name("web")).unwrap().status,
            VmStatus::Stopped,
            "nothing changed"
        );
        lab.registry.start(&name("web")).await.unwrap();
        lab.world.refuse_saves(2);
        let vm = lab.until_status("web", VmStatus::Failed).await;
        assert_eq!(vm.failure.unwrap().step, "store");
        assert_eq!(lab.world.snapshot(), Snapshot::default());
    });
}

#[test]
fn undoing_twice_is_undoing_once() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        let record = lab.records().await.remove(0);
        let parts = Arc::new(lab.parts());
        let blueprint = &record.blueprint;
        let launch = Launch {
            vm: blueprint.name.clone(),
            instance: record.progress.launch.clone().unwrap(),
            cpu_cores: 1,
            memory_mib: 64,
            lease: record.lease.clone(),
            manifest: blueprint.manifest.clone(),
            artifact: blueprint.artifact,
            kernel: None,
            disks: Vec::new(),
            extra_cmdline: String::new(),
            api: None,
            secret: record.secret.clone(),
            paths: parts.settings.paths(&record),
        };
        lab.registry.shutdown().await;
        let hands = Hands {
            parts,
            launch: Arc::new(launch),
            media: None,
            instance: None,
        };
        for step in Step::ALL.into_iter().rev() {
            for _ in 0..2 {
                (steps::row(step).undo)(hands.clone()).await.unwrap();
            }
        }
        assert_eq!(lab.world.snapshot(), Snapshot::default());
    });
}

/// What a user does to one VM, each request awaited.
#[derive(Debug, Clone, Copy)]
enum Act {
    Create,
    Stop,
    Start,
    Restart,
    Delete,
}

async fn act(lab: &Lab, act: Act) {
    let web = name("web");
    match act {
        Act::Create => drop(lab.create("web").await),
        Act::Stop => drop(lab.registry.stop(&web).await),
        Act::Start => drop(lab.registry.start(&web).await),
        Act::Restart => drop(lab.registry.restart(&web).await),
        Act::Delete => drop(lab.registry.delete(&web).await),
    }
    lab.settle().await;
}

/// Plays `acts`, with the daemon dying at the `point`th place of the last one. False if it ended before.
async fn dies_at(lab: &mut Lab, acts: &[Act], point: usize) -> bool {
    let (last, before) = acts.split_last().unwrap();
    for step in before {
        act(lab, *step).await;
    }
    lab.world.die_at(Some(point));
    let world = Arc::clone(&lab.world);
    let died = tokio::select! {
        biased;
        () = world.daemon_died.notified() => true,
        () = act(lab, *last) => false,
    };
    lab.world.die_at(None);
    died
}

#[test]
fn a_daemon_that_dies_anywhere_is_taken_over_from() {
    let lives: [&[Act]; 5] = [
        &[Act::Create],
        &[Act::Create, Act::Stop],
        &[Act::Create, Act::Stop, Act::Start],
        &[Act::Create, Act::Restart],
        &[Act::Create, Act::Delete],
    ];
    for acts in lives {
        let mut point = 1;
        while in_made_up_time(async {
            let mut lab = Lab::new().await;
            let died = dies_at(&mut lab, acts, point).await;
            if died {
                lab.restart_daemon().await;
                lab.settle().await;
            }
            lab.assert_nothing_leaked().await;
            lab.assert_converged().await;
            let records = lab.records().await;
            if acts.len() > 1 && !matches!(acts.last(), Some(Act::Delete)) {
                assert_eq!(records.len(), 1, "{acts:?} lost its VM at {point}");
            }
            died
        }) {
            point += 1;
        }
        assert!(point > 5, "{acts:?} has {point} places to die at");
    }
}

#[test]
fn a_daemon_that_dies_while_it_recovers_is_taken_over_from_as_well() {
    for point in 1..40 {
        in_made_up_time(async {
            let mut lab = Lab::new().await;
            dies_at(&mut lab, &[Act::Create], 11).await;
            lab.registry.shutdown().await;
            lab.world.die_at(Some(point));
            lab.restart_daemon().await;
            let world = Arc::clone(&lab.world);
            drop(timeout(Duration::from_secs(100), world.daemon_died.notified()).await);
            lab.world.die_at(None);
            lab.restart_daemon().await;
            lab.settle().await;
            lab.assert_nothing_leaked().await;
            lab.assert_converged().await;
            assert_eq!(lab.until_healthy("web").await.status, VmStatus::Running);
        });
    }
}

#[test]
fn a_removal_that_is_stuck_is_told_and_tried_until_it_succeeds() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        lab.world.stick_network(true);
        let error = lab.registry.delete(&name("web")).await.unwrap_err();
        assert!(
            matches!(&error, MachineError::NotRemoved { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("The tap is stuck"), "{error}");
        let vm = lab.registry.get(&name("web")).unwrap();
        assert_eq!(vm.status, VmStatus::Deleting);
        let denied = lab.registry.start(&name("web")).await.unwrap_err();
        assert_eq!(
            denied.to_string(),
            "Cannot start the VM `web`: it is being deleted"
        );
        lab.world.stick_network(false);
        lab.registry.delete(&name("web")).await.unwrap();
        lab.assert_nothing_leaked().await;
        assert!(lab.records().await.is_empty());
    });
}

#[test]
fn a_stop_that_is_stuck_fails_and_is_cleaned_up_later() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        lab.world.stick_network(true);
        lab.registry.stop(&name("web")).await.unwrap();
        let vm = lab.until_status("web", VmStatus::Failed).await;
        assert_eq!(vm.failure.unwrap().step, "network");
        assert!(
            lab.world.snapshot().processes.is_empty(),
            "the VMM is ended all the same"
        );
        lab.world.stick_network(false);
        lab.registry.start(&name("web")).await.unwrap();
        lab.until_healthy("web").await;
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_driver_that_panics_marks_its_vm_and_takes_requests_again() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("other").await;
        lab.world.panic_next(2);
        lab.create("web").await.unwrap();
        let vm = lab.until_status("web", VmStatus::Failed).await;
        assert_eq!(vm.failure.unwrap().step, "daemon");
        assert_eq!(
            lab.registry.get(&name("other")).unwrap().status,
            VmStatus::Running
        );
        lab.registry.start(&name("web")).await.unwrap();
        lab.until_healthy("web").await;
        lab.assert_nothing_leaked().await;
        lab.registry.delete(&name("web")).await.unwrap();
        lab.assert_nothing_leaked().await;
    });
}
