//! VMs of a root file system from their creation to their removal, with fake VMMs: the disk that their guests write on is there as long as
//! they are, and nothing else is left of a launch that fails.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::agent::{AgentStatus, GuestHealth, GuestPhase, HealthState, WorkloadStatus};
use common::api::{ConfigResources, VmConfig, VmStatus};
use common::digest::Digest;
use common::manifest::{ArtifactKind, Manifest};
use common::name::Name;
use volantd::agent::AgentClient;
use volantd::console::Consoles;
use volantd::event::Events;
use volantd::limits::{EventLimits, LogLimits};
use volantd::log::Logs;
use volantd::machine::ports::{
    BoxFuture, Guest, GuestEndpoint, Lease, Network, StepError, VmmKind,
};
use volantd::machine::{NewVm, Parts, Pool, Registry, Settings, SystemClock};
use volantd::signature::Signatures;
use volantd::store::{ArtifactRecord, PluginRecord, Store};

use crate::stores::{Stores, erofs};
use crate::vmm::{Host, LONG};

const KINDS: [VmmKind; 2] = [VmmKind::CloudHypervisor, VmmKind::Qemu];

/// A network that is there at once, or never.
#[derive(Default)]
struct Wire {
    broken: AtomicBool,
}

impl Network for Wire {
    fn attach<'a>(&'a self, _lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async {
            if self.broken.load(Ordering::SeqCst) {
                return Err(StepError::new("The wire is cut"));
            }
            Ok(())
        })
    }

    fn detach<'a>(&'a self, _lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A guest that is ready at once, and does not know how to end.
struct Ready;

impl Guest for Ready {
    fn status<'a>(
        &'a self,
        _guest: &'a GuestEndpoint,
        after: Option<u64>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<AgentStatus, StepError>> {
        Box::pin(async move {
            if after.is_some() {
                tokio::time::sleep(wait).await;
            }
            Ok(AgentStatus {
                version: "1".to_owned(),
                generation: 1,
                now_us: 1,
                phase: GuestPhase::Ready,
                phases: Vec::new(),
                health: GuestHealth {
                    state: HealthState::Healthy,
                    reason: None,
                    probes: 1,
                    last_probe_us: None,
                    reachable_from_outside: None,
                },
                workload: WorkloadStatus::default(),
                failure: None,
            })
        })
    }

    fn shutdown<'a>(
        &'a self,
        _guest: &'a GuestEndpoint,
        _grace: Option<Duration>,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Err(StepError::new("It does not know how")) })
    }

    fn set_clock<'a>(
        &'a self,
        _guest: &'a GuestEndpoint,
        _now: jiff::Timestamp,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn reach(
        &self,
        _ip: Ipv4Addr,
        _port: u16,
        _wait: Duration,
    ) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A daemon's parts on a host with a fake VMM.
struct Daemon {
    host: Host,
    wire: Arc<Wire>,
    registry: Registry,
    store: Arc<Store>,
    artifact: Digest,
}

impl Daemon {
    async fn new(kind: VmmKind, script: &str) -> Self {
        let host = Host::fake(kind, script);
        let state_dir = host.root.join("state");
        let stores = Stores::open(&host.root, Signatures::default());
        let image = host.root.join("image");
        fs_err::write(&image, erofs()).unwrap();
        let rootfs = ArtifactKind::Rootfs(None);
        let artifact = stores.install(image, None, rootfs).await.unwrap();
        let wire = Arc::new(Wire::default());
        let store = Arc::new(Store::open(&state_dir.join("state.db")).unwrap());
        let events = Events::open(store.clone(), Arc::new(SystemClock), EventLimits::default());
        let events = Arc::new(events.await.unwrap());
        let agent = Arc::new(AgentClient::with_port(9));
        let clock = Arc::new(SystemClock);
        let logs = Logs::new(agent, events.clone(), clock, LogLimits::default());
        let registry = Registry::new(Parts {
            events,
            logs: Arc::new(logs),
            journal: store.clone(),
            media: stores.media,
            network: wire.clone(),
            vmm: Arc::new(host.hypervisors(LONG)),
            guest: Arc::new(Ready),
            console: Arc::new(Consoles::default()),
            boots: Arc::new(volantd::metrics::Metrics::default()),
            clock: Arc::new(SystemClock),
            settings: Settings {
                state_dir,
                run_dir: host.root.join("run"),
                pool: Pool {
                    subnet: "192.168.127.0/24".parse().unwrap(),
                    host_ip: "192.168.127.1".parse().unwrap(),
                },
                boot_deadline: LONG,
            },
        });
        Self {
            host,
            wire,
            registry,
            store,
            artifact,
        }
        .with_plugin()
        .await
    }

    async fn with_plugin(self) -> Self {
        let now = jiff::Timestamp::now();
        let manifest = manifest("");
        let plugin = PluginRecord {
            name: manifest.name.clone(),
            version: "1".to_owned(),
            enabled: true,
            artifact: ArtifactRecord {
                digest: self.artifact,
                size_bytes: 1,
            },
            pinned: false,
            source_url: "/x".to_owned(),
            manifest,
            installed_at: now,
            updated_at: now,
        };
        self.store.install_plugin(plugin).await.unwrap();
        self
    }

    async fn create(&self, member: &str) {
        let new = NewVm {
            name: name(),
            config: VmConfig {
                resources: ConfigResources {
                    cpu_cores: Some(1),
                    memory_mb: Some(64),
                },
                ..VmConfig::new(manifest(member))
            },
            artifact: self.artifact,
            arrived: Instant::now(),
        };
        self.registry.create(new).await.unwrap();
    }

    async fn until(&self, status: VmStatus) {
        let deadline = Instant::now() + LONG;
        loop {
            let vm = self.registry.get(&name()).unwrap();
            if vm.status == status {
                return;
            }
            assert!(Instant::now() < deadline, "never {status:?}: {vm:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is in the VM's state folder beside logs, which tell of failed launches too.
    fn files(&self) -> BTreeSet<String> {
        let folder = self.host.root.join("state/vms/disk");
        fs_err::read_dir(folder)
            .map(|entries| {
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .filter(|name| !name.contains(".log"))
                    .collect()
            })
            .unwrap_or_default()
    }

    fn writable(&self) -> PathBuf {
        self.host.root.join("state/vms/disk/writable.ext4")
    }

    fn run_files(&self) -> usize {
        fs_err::read_dir(self.host.root.join("run/vm")).map_or(0, Iterator::count)
    }
}

fn manifest(member: &str) -> Manifest {
    let json = format!(
        r#"{{"name":"app","version":"1","rootfs":{{"url":"/x","writable_mb":16{member}}},"workload":{{"entrypoint":["/x"]}}}}"#
    );
    Manifest::from_json(json.as_bytes()).unwrap()
}

fn name() -> Name {
    "disk".parse().unwrap()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_lives_from_create_to_delete() {
    for kind in KINDS {
        let daemon = Daemon::new(kind, "").await;
        daemon.create("").await;
        daemon.until(VmStatus::Running).await;
        assert_eq!(daemon.files(), names(["config.img", "writable.ext4"]));
        fs_err::write(daemon.writable(), "what the guest wrote").unwrap();

        daemon.registry.stop(&name()).await.unwrap();
        daemon.until(VmStatus::Stopped).await;
        assert_eq!(daemon.files(), names(["writable.ext4"]));
        daemon.registry.start(&name()).await.unwrap();
        daemon.until(VmStatus::Running).await;
        let kept = fs_err::read_to_string(daemon.writable()).unwrap();
        assert_eq!(kept, "what the guest wrote");

        daemon.registry.delete(&name()).await.unwrap();
        assert!(!daemon.writable().exists());
        assert_eq!(daemon.run_files(), 0);
        daemon.registry.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_vm_has_none() {
    let daemon = Daemon::new(VmmKind::Qemu, "").await;
    daemon.create(r#","ephemeral":true"#).await;
    daemon.until(VmStatus::Running).await;
    assert_eq!(daemon.files(), names(["config.img"]));
    daemon.registry.delete(&name()).await.unwrap();
    daemon.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_leaves_nothing_but_the_disk() {
    for kind in KINDS {
        // Without a kernel there are not even media; then the network; then the VMM.
        for (fault, left) in [
            ("media", names([])),
            ("network", names(["writable.ext4"])),
            ("vmm", names(["writable.ext4"])),
        ] {
            let script = if fault == "vmm" { "die-at-once" } else { "" };
            let daemon = Daemon::new(kind, script).await;
            if fault == "media" {
                fs_err::remove_file(daemon.host.root.join("vmlinux")).unwrap();
            }
            daemon
                .wire
                .broken
                .store(fault == "network", Ordering::SeqCst);
            daemon.create("").await;
            daemon.until(VmStatus::Failed).await;
            assert_eq!(daemon.files(), left, "{kind:?} {fault}");
            assert_eq!(daemon.run_files(), 0, "{kind:?} {fault}");
            daemon.registry.delete(&name()).await.unwrap();
            assert_eq!(daemon.files(), names([]), "{kind:?} {fault}");
            daemon.registry.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_artifact_of_a_vm_is_kept_without_its_plugin() {
    let daemon = Daemon::new(VmmKind::Qemu, "").await;
    daemon.create("").await;
    daemon.until(VmStatus::Running).await;
    daemon
        .store
        .remove_plugin(&"app".parse().unwrap())
        .await
        .unwrap();
    // No plugin names it any more: only the VM, which reads from it.
    daemon.store.forget_unused_artifacts().await.unwrap();
    let recorded = daemon.store.artifacts().await.unwrap();
    assert!(
        recorded
            .iter()
            .any(|artifact| artifact.digest == daemon.artifact)
    );
    daemon.registry.delete(&name()).await.unwrap();
    daemon.store.forget_unused_artifacts().await.unwrap();
    assert!(daemon.store.artifacts().await.unwrap().is_empty());
    daemon.registry.shutdown().await;
}
