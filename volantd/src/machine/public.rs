//! A VM as clients see it, made of what is recorded and what was last seen of its guest. The only place that turns phases into statuses.

use common::agent::{HealthState, WorkloadExit};
use common::api::{Restarts, Vm, VmDesired, VmHealth, VmStatus};
use common::cmdline::{IpConfig, base_line};
use common::net::host_name;
use jiff::Timestamp;

use super::parts::Settings;
use super::plan::word;
use super::record::VmRecord;
use super::state::{Desired, Phase};
use crate::console::CONSOLE_SOCKET;

/// The console log's name in a VM's state folder; the one before it ends in `.1`.
pub const CONSOLE_LOG_NAME: &str = "console.log";

/// What is seen of a guest and not recorded: a new daemon asks the guest again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// The step that runs or is undone just now.
    pub(super) activity: Option<&'static str>,
    /// How often the workload was started again since the guest booted.
    pub(super) workload_restarts: u32,
    /// Whether the workload ends again and again.
    pub(super) workload_crash_loop: bool,
    /// Whether the VM itself does.
    pub(super) crash_loop: bool,
    /// When it is launched again, while it waits for that.
    pub(super) next_launch: Option<Timestamp>,
    /// Processes that the guest's kernel ended for lack of memory.
    pub(super) oom_kills: u64,
    /// How the workload ended last.
    pub(super) last_exit: Option<WorkloadExit>,
    /// The last probe in the guest.
    pub(super) last_probe: Option<Probed>,
}

/// A probe in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probed {
    /// When it ended, by the guest's clock: microseconds since its boot.
    pub(super) at_us: u64,
    /// When it ended, by the host's clock.
    pub(super) time: Timestamp,
}

/// The public word for a phase.
const fn status(phase: &Phase) -> VmStatus {
    match phase {
        Phase::Pending => VmStatus::Pending,
        // Both are one wait to a user; `step` tells them apart.
        Phase::Preparing | Phase::Starting => VmStatus::Starting,
        Phase::Running { .. } => VmStatus::Running,
        Phase::Paused { .. } => VmStatus::Paused,
        Phase::Stopping => VmStatus::Stopping,
        Phase::Stopped => VmStatus::Stopped,
        Phase::Crashed { .. } => VmStatus::Crashed,
        Phase::Failed { .. } => VmStatus::Failed,
        Phase::Deleting => VmStatus::Deleting,
    }
}

const fn desired(desired: Desired) -> VmDesired {
    match desired {
        Desired::Running => VmDesired::Running,
        Desired::Stopped => VmDesired::Stopped,
        Desired::Deleted => VmDesired::Deleted,
    }
}

/// The step that a user waits for.
fn step(phase: &Phase, observed: &Observed) -> Option<String> {
    let step = match phase {
        Phase::Preparing | Phase::Stopping | Phase::Deleting => observed.activity,
        Phase::Starting => Some(observed.activity.unwrap_or(word::GUEST)),
        Phase::Running { health } if health.state == HealthState::Unknown => Some(word::HEALTH),
        Phase::Pending
        | Phase::Running { .. }
        | Phase::Paused { .. }
        | Phase::Stopped
        | Phase::Crashed { .. }
        | Phase::Failed { .. } => None,
    };
    step.map(str::to_owned)
}

/// The health of what runs; nothing that is down has any.
fn health(phase: &Phase) -> VmHealth {
    match phase {
        Phase::Running { health } | Phase::Paused { health } => health.clone(),
        Phase::Pending
        | Phase::Preparing
        | Phase::Starting
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Crashed { .. }
        | Phase::Failed { .. }
        | Phase::Deleting => VmHealth::default(),
    }
}

/// The address as the guest's kernel command line gives it.
pub(super) fn ip_config(record: &VmRecord, settings: &Settings) -> IpConfig {
    IpConfig {
        address: record.lease.ip,
        gateway: settings.pool.host_ip,
        netmask: settings.pool.subnet.netmask(),
        host_name: host_name(record.blueprint.name.as_str()),
        device: "eth0".to_owned(),
    }
}

/// A VM as clients see it.
pub(super) fn vm(record: &VmRecord, observed: &Observed, settings: &Settings) -> Vm {
    let (blueprint, progress) = (&record.blueprint, &record.progress);
    let phase = &progress.state.phase;
    let instance = progress.instance.as_ref();
    Vm {
        id: record.id,
        name: blueprint.name.clone(),
        status: status(phase),
        desired: desired(progress.state.desired),
        step: step(phase, observed),
        generation: progress.generation,
        runtime: blueprint.manifest.runtime.clone(),
        plugin: blueprint.plugin.clone(),
        plugin_version: blueprint.manifest.version.clone(),
        plugin_digest: Some(blueprint.build),
        // Which plugins are installed is not the machine's to know.
        upgrade_available: None,
        config_version: record.config.version,
        effective_config_version: progress.launched_version,
        pid: instance.map(|instance| instance.pid),
        ip_address: record.lease.ip.to_string(),
        mac_address: record.lease.mac.clone(),
        vsock_cid: record.lease.cid,
        cpu_cores: blueprint.cpu_cores,
        memory_mb: blueprint.memory_mib,
        kernel_cmdline: base_line(&ip_config(record, settings), &blueprint.extra_cmdline),
        serial_log: settings
            .paths(record)
            .state_dir
            .join(CONSOLE_LOG_NAME)
            .to_string_lossy()
            .into_owned(),
        serial_socket: instance.map(|_| {
            let socket = settings.paths(record).run_dir.join(CONSOLE_SOCKET);
            socket.to_string_lossy().into_owned()
        }),
        hypervisor: instance.map(|instance| instance.vmm.as_str().to_owned()),
        accelerator: instance.map(|instance| instance.accelerator.as_str().to_owned()),
        health: VmHealth {
            last_probe_at: observed.last_probe.map(|probed| probed.time.to_string()),
            ..health(phase)
        },
        failure: progress.failure.clone(),
        restarts: Restarts {
            vm: progress.restarts,
            workload: observed.workload_restarts,
            crash_loop: observed.crash_loop || observed.workload_crash_loop,
            next_at: observed
                .next_launch
                .filter(|_| matches!(phase, Phase::Crashed { .. }))
                .map(|at| at.to_string()),
        },
        last_exit: observed.last_exit.clone(),
        oom_kills: observed.oom_kills,
        boot: progress.boot,
        created_at: record.created_at.to_string(),
        updated_at: progress.updated_at.to_string(),
    }
}
