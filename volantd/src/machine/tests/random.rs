//! Random lives of several VMs at once, with VMMs and daemons dying at random: nothing is lost, nothing leaks.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use tokio::time::sleep;

use super::lab::{Lab, in_made_up_time, name};
use super::world::Behaviour;
use crate::machine::ports::VmmExit;
use crate::machine::requests::Request;

/// What happens next.
#[derive(Debug, Clone)]
enum Happening {
    Create(u8),
    Ask(u8, Request),
    VmmEnds(u8),
    DaemonDies,
    HostReboots,
    GuestsBoot(bool),
    TimePasses(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    let vm = 0_u8..3;
    let request = prop_oneof![
        Just(Request::Start),
        Just(Request::Stop),
        Just(Request::Restart),
        Just(Request::Delete),
        Just(Request::Pause),
        Just(Request::Resume)
    ];
    prop_oneof![
        3 => vm.clone().prop_map(Happening::Create),
        6 => (vm.clone(), request).prop_map(|(vm, request)| Happening::Ask(vm, request)),
        2 => vm.prop_map(Happening::VmmEnds),
        2 => Just(Happening::DaemonDies),
        1 => Just(Happening::HostReboots),
        1 => any::<bool>().prop_map(Happening::GuestsBoot),
        5 => (0_u16..3000).prop_map(Happening::TimePasses),
    ]
}

fn vm_name(vm: u8) -> String {
    format!("vm{vm}")
}

async fn happen(lab: &mut Lab, happening: Happening) {
    match happening {
        Happening::Create(vm) => drop(lab.create(&vm_name(vm)).await),
        Happening::Ask(vm, request) => {
            let vm = name(&vm_name(vm));
            // A delete takes its time; nobody waits for it here.
            let patience = Duration::from_millis(5);
            match request {
                Request::Start => drop(lab.registry.start(&vm).await),
                Request::Stop => drop(lab.registry.stop(&vm).await),
                Request::Restart => drop(lab.registry.restart(&vm).await),
                Request::Pause => drop(lab.registry.pause(&vm).await),
                Request::Resume => drop(lab.registry.resume(&vm).await),
                Request::Delete => {
                    drop(tokio::time::timeout(patience, lab.registry.delete(&vm)).await);
                }
            }
        }
        Happening::VmmEnds(vm) => lab
            .world
            .end(&vm_name(vm), VmmExit::Signalled { signal: 9 }),
        Happening::DaemonDies => lab.restart_daemon().await,
        Happening::HostReboots => {
            lab.registry.shutdown().await;
            lab.world.reboot();
            lab.restart_daemon().await;
        }
        Happening::GuestsBoot(boot) => {
            let boots_after = boot.then_some(Duration::from_millis(300));
            lab.world.behave(Behaviour {
                boots_after,
                ..Default::default()
            });
        }
        Happening::TimePasses(ms) => sleep(Duration::from_millis(ms.into())).await,
    }
}

async fn names(lab: &Lab) -> BTreeSet<String> {
    lab.records()
        .await
        .iter()
        .map(|record| record.blueprint.name.to_string())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_life_loses_or_leaks_anything(happenings in vec(happening(), 1..25)) {
        in_made_up_time(async {
            let mut lab = Lab::new().await;
            // A VM that was created and that nobody asked to delete must be there at the end.
            let mut expected = BTreeSet::new();
            for happening in happenings {
                match &happening {
                    Happening::Create(vm) => drop(expected.insert(vm_name(*vm))),
                    Happening::Ask(vm, Request::Delete) => drop(expected.remove(&vm_name(*vm))),
                    _ => {}
                }
                let refused = match &happening {
                    // While an earlier VM of this name is on its way out, there is no new one.
                    Happening::Create(vm) if names(&lab).await.contains(&vm_name(*vm)) => Some(vm_name(*vm)),
                    _ => None,
                };
                happen(&mut lab, happening).await;
                if let Some(refused) = refused {
                    let leaving = lab.registry.get(&name(&refused)).is_ok_and(|vm| vm.status == common::api::VmStatus::Deleting);
                    if leaving {
                        expected.remove(&refused);
                    }
                }
            }
            lab.world.behave(Behaviour::default());
            // What happened last is heard of first.
            sleep(Duration::from_millis(100)).await;
            lab.settle().await;
            lab.assert_paused_as_recorded().await;
            lab.assert_nothing_leaked().await;
            lab.assert_converged().await;
            assert!(expected.is_subset(&names(&lab).await), "{expected:?} of {:?}", names(&lab).await);
        });
    }
}
