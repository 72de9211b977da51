//! A VM as clients see it.

use serde::{Deserialize, Serialize};

use super::config::{ConfigPatch, lenient};
use crate::agent::{HealthState, WorkloadExit};
use crate::digest::Digest;
use crate::name::Name;

/// The longest time that `GET /api/v1/vms/{name}?after=<generation>&timeout_ms=<n>` waits, in milliseconds.
pub const MAX_LONG_POLL_MS: u64 = 30_000;

/// How long `volar vms create` and `start` wait for a VM to be ready unless told otherwise, in milliseconds. Software emulation needs much of it.
pub const DEFAULT_CREATE_WAIT_MS: u64 = 180_000;

/// Body of `POST /api/v1/vms`. Only a name and a plugin are needed; empty texts and zeros are as if they were not there. Resources: this, else `config`, else the manifest, else the defaults of `common::manifest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateVm {
    /// The VM's name.
    pub name: Name,
    /// The plugin to run, in whatever case. If not given: `config.plugin`, or the name in `config.manifest`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::plugin"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub plugin: Option<Name>,
    /// Must be the plugin's runtime if given.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::text"
    )]
    pub runtime: Option<String>,
    /// vCPUs.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::number"
    )]
    pub cpu_cores: Option<u32>,
    /// Memory in MiB.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::number"
    )]
    pub memory_mb: Option<u32>,
    /// Arguments added to the kernel command line.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::text"
    )]
    pub kernel_cmdline: Option<String>,
    /// Whether what the guest writes is lost when it stops, where it boots a root file system; else as its manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// Address of an API that the guest may ask for its manifest.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::text"
    )]
    pub api_host: Option<String>,
    /// Port of that API, as a number or a text.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::port"
    )]
    #[cfg_attr(feature = "openapi", schema(schema_with = port_schema))]
    pub api_port: Option<u16>,
    /// Everything else about the VM. What is named above wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigPatch>,
}

/// How a port may be given.
#[cfg(feature = "openapi")]
pub(super) fn port_schema() -> utoipa::openapi::Schema {
    use utoipa::openapi::schema::{Object, OneOf, SchemaType, Type};
    let number = Object::builder()
        .schema_type(SchemaType::Type(Type::Integer))
        .minimum(Some(0))
        .maximum(Some(u16::MAX));
    let text = Object::builder()
        .schema_type(SchemaType::Type(Type::String))
        .pattern(Some("^([1-9][0-9]{0,3})?$"));
    let none = Object::builder().schema_type(SchemaType::Type(Type::Null));
    OneOf::builder()
        .item(number)
        .item(text)
        .item(none)
        .description(Some("A port, as a number or a text"))
        .into()
}

/// The public word for where a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum VmStatus {
    /// Recorded, nothing started yet.
    Pending,
    /// Its media, network or VMM are being made, or the guest boots.
    Starting,
    /// The guest is up; `health` says how well.
    Running,
    /// The guest is up, and its CPUs stand still.
    Paused,
    /// Going down as it was asked to.
    Stopping,
    /// Down as it was asked to.
    Stopped,
    /// The VMM ended by itself; it may be started again soon.
    Crashed,
    /// Could not be started; `failure` says why.
    Failed,
    /// Being removed.
    Deleting,
}

impl VmStatus {
    /// The word that the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }
}

/// Where the user wants a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum VmDesired {
    /// Up.
    #[default]
    Running,
    /// Down, and kept.
    Stopped,
    /// Gone.
    Deleted,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Vm {
    /// Its number; never used again.
    pub id: i64,
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub status: VmStatus,
    /// Where it is going.
    #[serde(default)]
    pub desired: VmDesired,
    /// The step it is in while starting or stopping (such as `media`, `network`, `vmm`, `guest`, `health`), for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Grows with each change; for `?after=`.
    pub generation: u64,
    /// The plugin's runtime.
    pub runtime: String,
    /// The plugin that it runs.
    pub plugin: Name,
    /// The version of the plugin that it runs.
    #[serde(default)]
    pub plugin_version: String,
    /// What it has of its plugin, manifest and artifact, as one digest: another content under the same version has another digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_digest: Option<Digest>,
    /// The version of the plugin that is installed, where an upgrade would change the VM and the version is a newer one, or another one where
    /// either is no dotted numbers. It is the VM's own `plugin_version` where the plugin
    /// was installed again with another content under the same version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_available: Option<String>,
    /// The newest version of its configuration; it takes effect at the next start.
    #[serde(default)]
    pub config_version: u64,
    /// The version of its configuration that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_config_version: Option<u64>,
    /// The VMM's process id, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its address.
    pub ip_address: String,
    /// Its MAC address.
    pub mac_address: String,
    /// Its vsock context id.
    #[serde(default)]
    pub vsock_cid: u32,
    /// vCPUs.
    pub cpu_cores: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// The kernel command line without `volant.*` keys.
    pub kernel_cmdline: String,
    /// Where its serial console is kept on the host.
    pub serial_log: String,
    /// The unix socket of its console on the host, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_socket: Option<String>,
    /// The VMM, `cloud-hypervisor` or `qemu`, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// `kvm` or `tcg`, while there is a VMM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Whether the service works.
    pub health: VmHealth,
    /// Why it failed or crashed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How often things were started again.
    pub restarts: Restarts,
    /// How the workload ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<WorkloadExit>,
    /// Processes that the guest's kernel ended for lack of memory since it booted.
    #[serde(default)]
    pub oom_kills: u64,
    /// When each part of the last start was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootTimeline>,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// When it changed last, RFC 3339.
    pub updated_at: String,
}

/// Whether the service in a VM works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmHealth {
    /// The verdict. `healthy` needs both the agent's word and that the host reaches the port.
    pub state: HealthState,
    /// Why not, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the guest was last probed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_at: Option<String>,
}

/// Why a start failed or a VM ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// The step that failed.
    pub step: String,
    /// What happened, in one sentence.
    pub cause: String,
    /// What to try.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// How often things were started again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restarts {
    /// The VM, after its VMM ended by itself.
    pub vm: u32,
    /// The workload inside the guest, since the guest booted.
    pub workload: u32,
    /// Whether either ends again and again soon after its start: it is started ever more seldom.
    #[serde(default)]
    pub crash_loop: bool,
    /// When the VM is started again, RFC 3339, while it waits for that after its VMM ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
}

/// When each part of a start was reached, in milliseconds after the request arrived at the API. Guest times are read off the
/// guest's boot-time clock, so `kernel_ms` is when that clock began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BootTimeline {
    /// Media, network and directories are there, the VMM process is spawned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_ms: Option<f64>,
    /// The guest's clock began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ms: Option<f64>,
    /// The agent runs as PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid1_ms: Option<f64>,
    /// The workload was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_ms: Option<f64>,
    /// Healthy inside, and reached from the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<f64>,
}
