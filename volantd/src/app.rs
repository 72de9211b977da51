//! The daemon as a whole: the only place that names the implementations behind the seams, starts them in order and ends them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use common::api::SystemInfo;
use common::error_chain::Chain;
use fs_err as fs;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::agent::AgentClient;
use crate::artifact::{ArtifactConfig, ArtifactStore};
use crate::config::Config;
use crate::connections::Connections;
use crate::console::Consoles;
use crate::event::Events;
use crate::http::{self, Door, Gate, TokenCheck};
use crate::limits::ConnectionLimits;
use crate::log::Logs;
use crate::machine::ports::{Accelerator, Lease, Vmm as _};
use crate::machine::{BOOT_DEADLINE_KVM, BOOT_DEADLINE_TCG, Pool, Registry, Settings, SystemClock};
use crate::media::{MAX_IMAGE_BYTES, MediaConfig, MediaStore};
use crate::metrics::Metrics;
use crate::net::{LinuxNetwork, NetConfig};
use crate::service::{HostCapacity, Parts, Service};
use crate::state_lock::{StateLock, make_dir};
use crate::store::Store;
use crate::vmm::{self, Deadlines, Hypervisors};
use crate::{listeners, token};

/// How long open requests may take after SIGTERM; a long poll or a followed log would hold the daemon up for ever.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Runs the daemon until SIGTERM or SIGINT. VMs go on.
///
/// # Errors
/// Whatever keeps it from serving.
pub async fn run(config: Config) -> Result<()> {
    // reqwest is built without a TLS provider of its own; a second installation would mean that there is one already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let _lock = StateLock::acquire(&config.state_dir)?;
    make_dir(&config.runtime_dir, 0o755).context("Cannot make the runtime directory")?;
    let unix = listeners::unix(&config.api_socket)?;
    let tcp = match config.api_listen {
        Some(address) => Some(listeners::tcp(address).await?),
        None => None,
    };
    let token = api_token(&config)?;
    let service = assemble(&config).await?;
    let stop = CancellationToken::new();
    let gate = Gate {
        access: config.access.clone(),
        token: token.clone(),
    };
    let routers = Routers {
        unix: http::router(
            Arc::clone(&service),
            config.limits.requests,
            Door::Unix(token),
        ),
        tcp: http::router(
            Arc::clone(&service),
            config.limits.requests,
            Door::Tcp(gate),
        ),
    };
    let served = routers.serve(config.limits.connections, unix, tcp, stop.clone());
    notify(NotifyState::Ready);
    tracing::info!(
        api = %config.api_advertise,
        socket = %config.api_socket.display(),
        hypervisor = service.info().hypervisor,
        accelerator = service.info().accelerator,
        "volantd serves"
    );
    let ended = crate::task::spawn("api", served);
    wait_for_signal().await?;
    tracing::info!("volantd ends; VMs go on");
    notify(NotifyState::Stopping);
    stop.cancel();
    // Open long polls and followed logs are cut off: their clients try again.
    drop(tokio::time::timeout(SHUTDOWN_GRACE, ended).await);
    service.shutdown().await;
    drop(fs::remove_file(&config.api_socket));
    Ok(())
}

/// Opens everything below the service, takes up what an earlier daemon left, and removes what nobody owns.
async fn assemble(config: &Config) -> Result<Arc<Service>> {
    let limits = config.limits;
    let store = Store::open(&config.state_dir.join("state.db"))?.with_limits(limits.store);
    let hypervisors = Arc::new(Hypervisors::new(vmm::Settings {
        wish: config.hypervisor,
        cloud_hypervisor: config.cloud_hypervisor.clone(),
        qemu: config.qemu.clone(),
        search_path: std::env::var_os("PATH").unwrap_or_default(),
        state_root: config.state_dir.clone(),
        deadlines: Deadlines::default(),
    }));
    let info = system_info(config, &hypervisors);
    let network = Arc::new(guest_network(config).await?);
    let media = Arc::new(media_store(config)?);
    let artifacts = Arc::new(artifact_store(config, media.clone())?);
    let consoles = Arc::new(Consoles::new(limits.consoles));
    let metrics = Arc::new(Metrics::default());
    let store = Arc::new(store);
    let (events, logs) = told(config, &store).await?;
    let tcg = info.accelerator == Accelerator::Tcg.as_str();
    let registry = Arc::new(Registry::new(crate::machine::Parts {
        journal: store.clone(),
        media: media.clone(),
        network: network.clone(),
        vmm: hypervisors.clone(),
        guest: Arc::new(AgentClient::default()),
        console: consoles.clone(),
        logs: logs.clone(),
        events: events.clone(),
        boots: metrics.clone(),
        clock: Arc::new(SystemClock),
        settings: Settings {
            state_dir: config.state_dir.clone(),
            run_dir: config.runtime_dir.clone(),
            pool: Pool {
                subnet: config.subnet,
                host_ip: config.host_ip,
            },
            boot_deadline: config.boot_timeout.unwrap_or(if tcg {
                BOOT_DEADLINE_TCG
            } else {
                BOOT_DEADLINE_KVM
            }),
        },
    }));
    remove_unowned(&store, &hypervisors, &network).await?;
    let taken_up = registry.recover().await?;
    tracing::info!(vms = taken_up, "vms taken up");
    let service = Arc::new(Service::new(Parts {
        store,
        artifacts,
        media,
        registry,
        consoles,
        state_dir: config.state_dir.clone(),
        logs,
        events,
        agent: AgentClient::default(),
        clock: Arc::new(SystemClock),
        metrics,
        capacity: host_capacity()?,
        limits,
        info,
    }));
    service.learn_plugins().await?;
    service.collect_artifacts().await;
    Ok(service)
}

/// What happens, and what workloads write.
async fn told(config: &Config, store: &Arc<Store>) -> Result<(Arc<Events>, Arc<Logs>)> {
    let clock = Arc::new(SystemClock);
    let events = Arc::new(Events::open(store.clone(), clock.clone(), config.limits.events).await?);
    let agents = Arc::new(AgentClient::default());
    let logs = Logs::new(agents, events.clone(), clock, config.limits.logs);
    Ok((events, Arc::new(logs)))
}

/// Makes sure that bridge, rules and forwarding are as configured.
async fn guest_network(config: &Config) -> Result<LinuxNetwork> {
    let network = LinuxNetwork::new(NetConfig {
        bridge: config.bridge.clone(),
        subnet: config.subnet,
        host_ip: config.host_ip,
        api_ports: config.api_listen.iter().map(SocketAddr::port).collect(),
    })?;
    network
        .ensure()
        .await
        .context("Cannot set the guests' network up")?;
    Ok(network)
}

fn artifact_store(config: &Config, media: Arc<MediaStore>) -> Result<ArtifactStore> {
    let limits = &config.limits.fetches;
    let store = ArtifactConfig {
        state_dir: config.state_dir.clone(),
        max_bytes: limits.max_artifact_bytes,
    };
    Ok(ArtifactStore::open(&store, media)?
        .with_limits(limits)
        .with_signatures(Arc::clone(&config.signatures)))
}

fn media_store(config: &Config) -> Result<MediaStore> {
    let media = MediaConfig {
        state_dir: config.state_dir.clone(),
        kernel: config.kernel.clone(),
        kernel_dirs: config.kernel_dirs.clone(),
        disk_dirs: config.disk_dirs.clone(),
        subnet: config.subnet,
        host_ip: config.host_ip,
        max_image_bytes: MAX_IMAGE_BYTES,
    };
    Ok(MediaStore::open_with(
        media,
        Arc::clone(&config.signatures),
    )?)
}

/// Ends VMMs and removes taps that carry our mark but belong to no recorded VM.
async fn remove_unowned(
    store: &Store,
    hypervisors: &Hypervisors,
    network: &LinuxNetwork,
) -> Result<()> {
    use crate::machine::record::Journal as _;
    let records = store.all().await?;
    if records.iter().any(Result::is_err) {
        // What a record that cannot be read owns is not known, so nothing is removed.
        tracing::warn!("a record cannot be read: leftovers are not removed");
        return Ok(());
    }
    let known: BTreeSet<String> = records
        .iter()
        .flatten()
        .filter_map(|record| record.progress.launch.clone())
        .collect();
    for (pid, instance) in hypervisors.living().await? {
        if !known.contains(&instance) {
            tracing::warn!(pid, instance, "ending a vmm that belongs to no vm");
            // One that resists is nobody's VM: the others are not kept waiting for it.
            if let Err(error) = hypervisors.kill_instance(&instance).await {
                tracing::error!(pid, instance, error = %Chain(&error), "vmm not ended");
            }
        }
    }
    let leases: Vec<Lease> = records
        .into_iter()
        .flatten()
        .map(|record| record.lease)
        .collect();
    let reconciled = network.reconcile(&leases).await?;
    if !reconciled.removed_taps.is_empty() {
        tracing::warn!(taps = ?reconciled.removed_taps, "taps removed that belong to no vm");
    }
    Ok(())
}

fn system_info(config: &Config, hypervisors: &Hypervisors) -> SystemInfo {
    let (hypervisor, accelerator, reason) = match hypervisors.choice() {
        Ok(choice) => (
            choice.kind.as_str(),
            choice.accelerator.as_str(),
            choice.reason,
        ),
        Err(refusal) => {
            tracing::warn!(error = %Chain(&refusal), "no vm can be launched on this host");
            ("none", "none", refusal.to_string())
        }
    };
    SystemInfo {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_listen_addr: config
            .api_listen
            .map(|address| address.to_string())
            .unwrap_or_default(),
        api_advertise_addr: config.api_advertise.clone(),
        host_ip: config.host_ip.to_string(),
        hypervisor: hypervisor.to_owned(),
        accelerator: accelerator.to_owned(),
        hypervisor_reason: reason,
    }
}

/// The token that TCP clients must present, if any.
fn api_token(config: &Config) -> Result<Option<TokenCheck>> {
    if let Some(key) = &config.api_key {
        return Ok(Some(TokenCheck(key.clone())));
    }
    match (&config.token_file, config.api_listen) {
        (Some(path), Some(_)) => {
            let secret = token::load_or_create(path).context("The API token cannot be used")?;
            Ok(Some(TokenCheck(secret)))
        }
        _ => Ok(None),
    }
}

/// What is served on each listener.
struct Routers {
    unix: axum::Router,
    tcp: axum::Router,
}

impl Routers {
    /// Serves on both listeners until `stop`.
    async fn serve(
        self,
        limits: ConnectionLimits,
        unix: UnixListener,
        tcp: Option<TcpListener>,
        stop: CancellationToken,
    ) {
        let on_unix = Connections {
            routes: self.unix,
            limits,
            peer: |_| None,
        };
        let on_tcp = Connections {
            routes: self.tcp,
            limits,
            peer: |address: &SocketAddr| Some(*address),
        };
        let served_on_tcp = async {
            if let Some(tcp) = tcp {
                on_tcp.serve(tcp, stop.clone()).await;
            }
        };
        tokio::join!(on_unix.serve(unix, stop.clone()), served_on_tcp);
    }
}

async fn wait_for_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Tells systemd; without systemd nobody listens, and that is fine.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd not told");
    }
}

/// CPUs and memory of this host.
fn host_capacity() -> Result<HostCapacity> {
    let cpus = std::thread::available_parallelism().context("The number of CPUs is not known")?;
    let meminfo = fs::read_to_string(Path::new("/proc/meminfo"))?;
    let memory_kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    Ok(HostCapacity {
        cpu_cores: u32::try_from(cpus.get()).unwrap_or(u32::MAX),
        memory_mib: u32::try_from(memory_kib / 1024).unwrap_or(u32::MAX),
    })
}
