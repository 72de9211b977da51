//! Configurations of VMs that run, rest and are taken over: what was changed takes effect at the next launch and not before.

use common::api::{VmConfig, VmStatus};
use common::digest::Digest;
use tokio::time::Instant;

use super::lab::{Lab, in_made_up_time, name};
use crate::machine::{MachineError, NewConfig};

impl Lab {
    /// Changes a VM's newest configuration.
    async fn configure(
        &self,
        vm: &str,
        from: u64,
        change: impl FnOnce(&mut VmConfig),
    ) -> Result<u64, MachineError> {
        let vm = name(vm);
        let records = self.records().await;
        let record = records.iter().find(|record| record.blueprint.name == vm);
        let mut config = record.unwrap().config.config.clone();
        change(&mut config);
        let artifact = Digest::of(b"a");
        let new = NewConfig {
            config,
            artifact,
            from,
        };
        Ok(self.registry.reconfigure(&vm, new).await?.version)
    }
}

fn memory(memory_mb: u32) -> impl FnOnce(&mut VmConfig) {
    move |config| config.resources.memory_mb = Some(memory_mb)
}

#[test]
fn a_change_takes_effect_at_the_next_launch() {
    in_made_up_time(async {
        let mut lab = Lab::new().await;
        let up = lab.up("web").await;
        assert_eq!(
            (up.config_version, up.effective_config_version, up.memory_mb),
            (1, Some(1), 64)
        );
        assert_eq!(lab.configure("web", 1, memory(128)).await.unwrap(), 2);
        let changed = lab.registry.get(&name("web")).unwrap();
        assert!(changed.generation > up.generation);
        assert_eq!(
            (changed.config_version, changed.effective_config_version),
            (2, Some(1))
        );
        assert_eq!((changed.memory_mb, lab.world.memory("web")), (64, 64));
        // Taken over, it keeps what it runs with.
        lab.restart_daemon().await;
        let adopted = lab.until_healthy("web").await;
        assert_eq!(
            (
                adopted.pid,
                adopted.effective_config_version,
                adopted.memory_mb
            ),
            (up.pid, Some(1), 64)
        );
        lab.registry.restart(&name("web")).await.unwrap();
        lab.until("web", |vm| vm.effective_config_version == Some(2))
            .await;
        let restarted = lab.until_healthy("web").await;
        assert_eq!((restarted.memory_mb, lab.world.memory("web")), (128, 128));
        lab.assert_nothing_leaked().await;
    });
}

#[test]
fn a_vm_that_is_down_shows_what_it_would_start_with() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        lab.registry.stop(&name("web")).await.unwrap();
        let down = lab.until_status("web", VmStatus::Stopped).await;
        assert_eq!(down.effective_config_version, None);
        lab.configure("web", 1, memory(256)).await.unwrap();
        let changed = lab.registry.get(&name("web")).unwrap();
        assert_eq!((changed.memory_mb, changed.config_version), (256, 2));
        lab.registry.start(&name("web")).await.unwrap();
        lab.until_healthy("web").await;
        assert_eq!(lab.world.memory("web"), 256);
    });
}

#[test]
fn a_vm_that_comes_back_by_itself_takes_the_newest_configuration() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        let up = lab.up("web").await;
        lab.configure("web", 1, memory(128)).await.unwrap();
        let exit = crate::machine::ports::VmmExit::Signalled { signal: 9 };
        lab.world.end("web", exit);
        lab.until("web", |vm| vm.pid.is_some() && vm.pid != up.pid)
            .await;
        assert_eq!(lab.world.memory("web"), 128);
    });
}

#[test]
fn of_two_changes_from_one_version_one_is_refused() {
    in_made_up_time(async {
        let lab = Lab::new().await;
        lab.up("web").await;
        lab.configure("web", 1, memory(128)).await.unwrap();
        let late = lab.configure("web", 1, memory(96)).await.unwrap_err();
        assert!(
            matches!(&late, MachineError::VersionMismatch { present: 2, .. }),
            "{late:?}"
        );
        let long = |config: &mut VmConfig| config.kernel_cmdline = Some("x".repeat(3000));
        let long = lab.configure("web", 2, long).await.unwrap_err();
        assert!(matches!(&long, MachineError::Cmdline(_)), "{long:?}");
        assert_eq!(lab.store.vm_configs(1, 9).await.unwrap().len(), 2);
    });
}

#[test]
fn a_daemon_that_dies_while_it_records_a_configuration_has_it_whole_or_not_at_all() {
    for point in 1..=4 {
        in_made_up_time(async {
            let mut lab = Lab::new().await;
            lab.up("web").await;
            lab.world.die_at(Some(point));
            let patience = std::time::Duration::from_secs(1);
            drop(tokio::time::timeout(patience, lab.configure("web", 1, memory(128))).await);
            lab.world.die_at(None);
            lab.restart_daemon().await;
            let vm = lab.until_healthy("web").await;
            assert!((1..=2).contains(&vm.config_version), "{vm:?}");
            assert_eq!(vm.effective_config_version, Some(1));
            let began = Instant::now();
            lab.registry.restart(&name("web")).await.unwrap();
            let again = lab
                .until("web", |now| {
                    now.effective_config_version == Some(vm.config_version) && now.pid != vm.pid
                })
                .await;
            assert!(began.elapsed().as_secs() < 60, "{again:?}");
        });
    }
}
