//! A daemon on a made-up host, which can be killed and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use common::agent::HealthState;
use common::api::{Vm, VmConfig, VmStatus};
use common::digest::Digest;
use common::manifest::{Manifest, RestartPolicy};
use common::name::Name;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::world::{Host, MortalJournal, Snapshot, World};
use crate::machine::record::{Journal, VmRecord};
use crate::machine::state::{Desired, Phase};
use crate::machine::{MachineError, NewVm, Parts, Pool, Registry, Settings, SystemClock};
use crate::store::{ArtifactRecord, PluginRecord, Store};

/// Longer than anything takes in a test whose time is made up.
const LONG: Duration = Duration::from_hours(1);

pub(super) const MANIFEST: &str = r#"{"schema_version": "1.0", "name": "hello", "version": "1", "initramfs": {"url": "/a.gz"},
    "resources": {"cpu_cores": 1, "memory_mb": 64}, "health_check": {"endpoint": "/", "timeout_ms": 10000},
    "workload": {"type": "http", "base_url": "http://127.0.0.1:80", "entrypoint": ["/bin/hello"]}}"#;

/// A daemon, its files and its host.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) world: Arc<World>,
    pub(super) dir: TempDir,
    pub(super) store: Store,
    pub(super) registry: Registry,
}

pub(super) fn name(name: &str) -> Name {
    name.parse().unwrap()
}

pub(super) fn manifest() -> Manifest {
    Manifest::from_json(MANIFEST.as_bytes()).unwrap()
}

/// Runs a test in made-up time.
pub(super) fn in_made_up_time<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

impl Lab {
    pub(super) async fn new() -> Self {
        Self::with_subnet("192.168.127.0/24").await
    }

    pub(super) async fn with_subnet(subnet: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::new(World::default());
        let store = Store::open(&dir.path().join("volant.db")).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let plugin = PluginRecord {
            name: name("hello"),
            version: "1".to_owned(),
            enabled: true,
            manifest: manifest(),
            artifact: ArtifactRecord {
                digest: Digest::of(b"a"),
                size_bytes: 1,
            },
            pinned: true,
            source_url: "/a.gz".to_owned(),
            installed_at: now,
            updated_at: now,
        };
        store.install_plugin(plugin).await.unwrap();
        let registry = Registry::new(parts(&world, &store, &dir, subnet));
        Self {
            world,
            dir,
            store,
            registry,
        }
    }

    pub(super) fn parts(&self) -> Parts {
        parts(&self.world, &self.store, &self.dir, "192.168.127.0/24")
    }

    pub(super) fn new_vm(vm: &str) -> NewVm {
        NewVm {
            name: name(vm),
            config: VmConfig::new(manifest()),
            artifact: Digest::of(b"a"),
            arrived: Instant::now().into_std(),
        }
    }

    pub(super) async fn create(&self, vm: &str) -> Result<Vm, MachineError> {
        self.registry.create(Self::new_vm(vm)).await
    }

    pub(super) async fn create_with(&self, vm: &str, restart: RestartPolicy) -> Vm {
        let mut new = Self::new_vm(vm);
        new.config.manifest.workload.restart = restart;
        self.registry.create(new).await.unwrap()
    }

    /// Creates a VM and waits until it is healthy.
    pub(super) async fn up(&self, vm: &str) -> Vm {
        self.create(vm).await.unwrap();
        self.until_healthy(vm).await
    }

    /// Waits until a VM is as it should be.
    pub(super) async fn until(&self, vm: &str, mut holds: impl FnMut(&Vm) -> bool) -> Vm {
        let mut public = self.registry.watch(&name(vm)).unwrap();
        let seen = timeout(LONG, public.wait_for(|vm| holds(vm)))
            .await
            .map(|seen| seen.map(|vm| Vm::clone(&vm)));
        match seen {
            Ok(Ok(seen)) => seen,
            other => panic!("{other:?}; it is {:?}", self.registry.get(&name(vm))),
        }
    }

    pub(super) async fn until_status(&self, vm: &str, status: VmStatus) -> Vm {
        self.until(vm, |vm| vm.status == status).await
    }

    pub(super) async fn until_healthy(&self, vm: &str) -> Vm {
        self.until(vm, |vm| {
            vm.status == VmStatus::Running && vm.health.state == HealthState::Healthy
        })
        .await
    }

    /// Ends the daemon wherever it is and starts another one.
    pub(super) async fn restart_daemon(&mut self) {
        self.registry.shutdown().await;
        self.registry = Registry::new(self.parts());
        self.registry.recover().await.unwrap();
    }

    pub(super) async fn records(&self) -> Vec<VmRecord> {
        self.store
            .all()
            .await
            .unwrap()
            .into_iter()
            .map(Result::unwrap)
            .collect()
    }

    /// Waits until every VM is where it stays: up and healthy, stopped, failed or gone.
    pub(super) async fn settle(&self) {
        for vm in self.registry.list() {
            let Ok(mut public) = self.registry.watch(&vm.name) else {
                continue;
            };
            let stays = |vm: &Vm| match vm.status {
                VmStatus::Running => vm.health.state == HealthState::Healthy,
                VmStatus::Stopped | VmStatus::Failed | VmStatus::Paused => true,
                VmStatus::Pending
                | VmStatus::Starting
                | VmStatus::Stopping
                | VmStatus::Crashed
                | VmStatus::Deleting => false,
            };
            let settled = timeout(LONG, public.wait_for(|vm| stays(vm))).await;
            assert!(
                settled.is_ok(),
                "never settled: {:?}",
                self.registry.get(&vm.name)
            );
        }
    }

    /// What should be on the host by the records: each VM that is up has one of everything, all others nothing.
    pub(super) async fn assert_nothing_leaked(&self) {
        let records = self.records().await;
        let up = |record: &&VmRecord| {
            let phase = &record.progress.state.phase;
            matches!(phase, Phase::Running { .. } | Phase::Paused { .. })
        };
        let paths = |record: &VmRecord| self.parts().settings.paths(record);
        let expected = Snapshot {
            taps: records
                .iter()
                .filter(up)
                .map(|record| record.lease.tap.clone())
                .collect(),
            media: records
                .iter()
                .filter(up)
                .map(|record| paths(record).state_dir.join("initramfs"))
                .collect(),
            processes: records
                .iter()
                .filter(up)
                .map(|record| (record.blueprint.name.clone(), 1))
                .collect::<BTreeMap<_, _>>(),
        };
        assert_eq!(self.world.snapshot(), expected);
        let run_dirs = records
            .iter()
            .filter(up)
            .map(|record| record.id.to_string())
            .collect::<BTreeSet<_>>();
        assert_eq!(self.entries("run/vm"), run_dirs, "run folders");
        let names: BTreeSet<String> = records
            .iter()
            .map(|record| record.blueprint.name.to_string())
            .collect();
        assert!(
            self.entries("state/vms").is_subset(&names),
            "state folders {:?}",
            self.entries("state/vms")
        );
        for record in &records {
            let progress = &record.progress;
            assert!(progress.state.is_coherent(), "{progress:?}");
            assert_eq!(progress.begun.is_empty(), !up(&record), "{progress:?}");
            assert_eq!(progress.instance.is_some(), up(&record), "{progress:?}");
        }
        let listed: BTreeSet<String> = self
            .registry
            .list()
            .iter()
            .map(|vm| vm.name.to_string())
            .collect();
        assert_eq!(listed, names, "what is recorded is listed");
    }

    /// Whether each VM is where its user wants it; one that failed has said why.
    pub(super) async fn assert_converged(&self) {
        for record in self.records().await {
            let progress = &record.progress;
            match (&progress.state.phase, progress.state.desired) {
                (Phase::Running { .. } | Phase::Paused { .. }, Desired::Running)
                | (Phase::Stopped, Desired::Stopped) => {}
                (Phase::Failed { .. }, _) => assert!(progress.failure.is_some(), "{progress:?}"),
                other => panic!("{}: {other:?}", record.blueprint.name),
            }
        }
    }

    fn entries(&self, folder: &str) -> BTreeSet<String> {
        let Ok(entries) = fs_err::read_dir(self.dir.path().join(folder)) else {
            return BTreeSet::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

fn parts(world: &Arc<World>, store: &Store, dir: &TempDir, subnet: &str) -> Parts {
    let host = Arc::new(Host(Arc::clone(world)));
    let subnet: common::net::Subnet = subnet.parse().unwrap();
    let host_ip = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
    Parts {
        journal: Arc::new(MortalJournal {
            store: store.clone(),
            world: Arc::clone(world),
        }),
        media: host.clone(),
        network: host.clone(),
        vmm: host.clone(),
        guest: host.clone(),
        console: host.clone(),
        events: host.clone(),
        logs: host.clone(),
        boots: host,
        clock: Arc::new(SystemClock),
        settings: Settings {
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            pool: Pool { subnet, host_ip },
            boot_deadline: Duration::from_mins(1),
        },
    }
}
