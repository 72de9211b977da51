//! The manifest: the JSON contract between a plugin's author, volantd and the agent. Reading and checking only, nothing is fetched.
//!
//! Both dialects of the Go system are read: the published one (`entrypoint` a list, `env` in `workload`) and the one that its
//! fledge wrote (`entrypoint` a string with `args`, `env` at the top). One dialect is written. Unknown members are ignored, as there.

mod artifact;
mod dialect;
#[cfg(feature = "openapi")]
mod openapi;
mod source;
mod stop_signal;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::Name;

pub use artifact::{
    Artifact, ArtifactKind, ArtifactRef, MAX_WRITABLE_MB, MIN_WRITABLE_MB, Rootfs, RootfsFormat,
};
pub(crate) use dialect::Raw as RawManifest;
#[cfg(feature = "openapi")]
pub use openapi::ManifestInput;
pub use source::{InvalidSource, Source, resolve};
pub use stop_signal::{InvalidStopSignal, StopSignal};
pub use validate::{
    FieldProblem, MAX_FAILURE_THRESHOLD, MAX_WAIT_MS, MIN_LIVENESS_INTERVAL_MS, ManifestError,
};

/// The largest manifest that is read, in bytes. The kernel command line bounds useful ones far below this.
pub const MAX_MANIFEST_BYTES: usize = 256 * 1024;

/// vCPUs of a VM when neither the request nor the manifest says.
pub const DEFAULT_CPU_CORES: u32 = 1;

/// Memory of a VM in MiB when neither the request nor the manifest says.
pub const DEFAULT_MEMORY_MIB: u32 = 256;

/// How long the first health probe may take to succeed when the manifest does not say, in milliseconds.
pub const DEFAULT_HEALTH_TIMEOUT_MS: u64 = 10_000;

/// How long a workload may take to end after its stop signal when the manifest does not say, in milliseconds.
pub const DEFAULT_STOP_GRACE_MS: u64 = 10_000;

/// The wait between two liveness probes when the manifest does not say, in milliseconds.
pub const DEFAULT_LIVENESS_INTERVAL_MS: u64 = 10_000;

/// How long one liveness probe may take when the manifest does not say, in milliseconds.
pub const DEFAULT_LIVENESS_TIMEOUT_MS: u64 = 1_000;

/// How many liveness probes must fail in a row when the manifest does not say.
pub const DEFAULT_FAILURE_THRESHOLD: u32 = 3;

/// A plugin as its author describes it. Values of this type have passed every check: see [`Manifest::from_json`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "dialect::Raw")]
pub struct Manifest {
    /// The dialect's version, `1.0`.
    pub schema_version: String,
    /// The plugin's name.
    pub name: Name,
    /// The plugin's version, free text.
    pub version: String,
    /// What kind of service it is; the plugin's name if not given.
    pub runtime: String,
    /// The initramfs that the VM boots. Exactly one of this and [`rootfs`](Self::rootfs) is there: see [`Manifest::artifact`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<Artifact>,
    /// The root file system that the VM boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Rootfs>,
    /// What a VM gets unless asked otherwise.
    pub resources: Resources,
    /// Named HTTP calls into the workload.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub actions: BTreeMap<String, Action>,
    /// How readiness is found out. Without it a VM is ready when its workload runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How it is found out that the workload still does its work. Without it a workload is alive as long as it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Liveness>,
    /// The process to run.
    pub workload: Workload,
    /// What the workload offers on the network.
    #[serde(skip_serializing_if = "Network::is_empty")]
    pub network: Network,
    /// The console's behaviour.
    #[serde(skip_serializing_if = "Console::is_default")]
    pub console: Console,
    /// Whether VMs can be created from it; `true` if not given.
    pub enabled: bool,
    /// Where the workload's `OpenAPI` document is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openapi: Option<String>,
    /// Free labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// CPU and memory of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    /// Number of vCPUs, at least 1.
    pub cpu_cores: u32,
    /// Memory in MiB, at least 1.
    pub memory_mb: u32,
}

/// A named HTTP call into the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Action {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The HTTP method.
    pub method: String,
    /// The path, beginning with `/`.
    pub path: String,
    /// How long the call may take, in milliseconds; 0 for no limit of its own.
    #[serde(default)]
    pub timeout_ms: u64,
}

/// How readiness is found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HealthCheck {
    /// The path below the workload's `base_url` that answers 2xx when it is healthy. Exactly one of this, `tcp_port` and `command` is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The port that accepts connections when it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_port: Option<u16>,
    /// Program and arguments, run in the guest as the workload's user, that end with exit code 0 when it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// How long the first success may take before the VM is called unhealthy, in milliseconds.
    pub timeout_ms: u64,
    /// The longest wait between two probes until the first success, in milliseconds, for a check that costs much; a quarter of
    /// a second without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

/// How it is found out, from the moment that the workload is ready, that it still does its work. One that does not is stopped, and counts as
/// one that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Liveness {
    /// The path below the workload's `base_url` that answers 2xx. Exactly one of this, `tcp_port` and `command` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The port that accepts connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_port: Option<u16>,
    /// Program and arguments, run in the guest as the workload's user, that end with exit code 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The wait between two probes, in milliseconds.
    pub interval_ms: u64,
    /// How long one probe may take, in milliseconds.
    pub timeout_ms: u64,
    /// How many probes must fail in a row.
    pub failure_threshold: u32,
}

/// What the workload offers on the network. Information: every port of a guest is reachable at its own address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Network {
    /// The ports that it serves.
    #[serde(default)]
    pub expose: Vec<Expose>,
}

impl Network {
    fn is_empty(&self) -> bool {
        self.expose.is_empty()
    }
}

/// A port that the workload serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Expose {
    /// From 1 to 65535.
    pub port: u16,
    /// TCP if not given.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The process that kestrel runs and keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Workload {
    /// `http` or `exec`.
    #[serde(rename = "type")]
    pub kind: WorkloadKind,
    /// Where the workload answers HTTP inside the guest, such as `http://127.0.0.1:80`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Program and arguments; never empty.
    pub entrypoint: Vec<String>,
    /// Environment in addition to the agent's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory in the guest; `/` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Who runs it: `uid[:gid]` or names from the guest's /etc/passwd and /etc/group; root if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The signal that asks it to end; [`StopSignal::TERM`] if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<StopSignal>,
    /// What happens when the process ends.
    #[serde(skip_serializing_if = "RestartPolicy::is_default")]
    pub restart: RestartPolicy,
    /// How long the process may take to end after its stop signal, in milliseconds.
    #[serde(skip_serializing_if = "is_default_stop_grace")]
    pub stop_grace_ms: u64,
}

/// A user of the guest and perhaps a group, as `workload.user` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserName<'a> {
    /// A number, or a name of the guest's /etc/passwd.
    pub user: &'a str,
    /// A number, or a name of the guest's /etc/group.
    pub group: Option<&'a str>,
}

impl<'a> UserName<'a> {
    /// Takes `user[:group]` apart.
    pub fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((user, group)) => Self {
                user,
                group: Some(group),
            },
            None => Self {
                user: text,
                group: None,
            },
        }
    }
}

impl Workload {
    /// Who runs it; root if nothing.
    pub fn user_name(&self) -> Option<UserName<'_>> {
        self.user.as_deref().map(UserName::parse)
    }

    /// The signal that asks it to end.
    pub fn stop_signal(&self) -> StopSignal {
        self.stop_signal.unwrap_or_default()
    }

    /// The TCP port that the workload serves, from `base_url`.
    pub fn port(&self) -> Option<u16> {
        self.base_url
            .as_deref()
            .and_then(|url| validate::parse_base_url(url).ok())
            .map(|base| base.port)
    }

    /// Host, port and path of `base_url`; the path has no `/` at its end.
    pub fn base(&self) -> Option<BaseUrl> {
        self.base_url
            .as_deref()
            .and_then(|url| validate::parse_base_url(url).ok())
    }
}

/// A `base_url`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// The host as written, such as `127.0.0.1`.
    pub host: String,
    /// The port, 80 if not written.
    pub port: u16,
    /// The path without a `/` at its end, possibly empty.
    pub path: String,
}

/// What a workload is to the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// Serves HTTP at `base_url`.
    #[default]
    Http,
    /// Any process.
    Exec,
}

/// What happens when the workload ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It is started again, whatever its exit code: it is a service.
    #[default]
    Always,
    /// It is started again unless it ended with exit code 0; then the VM powers off.
    OnFailure,
    /// The VM powers off.
    Never,
}

impl RestartPolicy {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a workload that ended with `exit_code` is started again.
    pub fn restarts_after(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// The console's behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Console {
    /// Whether a key on the console starts a root shell, where the image has `/bin/sh`.
    #[serde(default = "enabled")]
    pub shell: bool,
}

impl Console {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Console {
    fn default() -> Self {
        Self { shell: true }
    }
}

fn enabled() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_default_stop_grace(grace_ms: &u64) -> bool {
    *grace_ms == DEFAULT_STOP_GRACE_MS
}

impl Manifest {
    /// Reads and checks a manifest in either dialect.
    ///
    /// # Errors
    /// All problems at once, each with the JSON pointer of the member; nothing is half accepted.
    pub fn from_json(json: &[u8]) -> Result<Self, ManifestError> {
        dialect::from_json(json)
    }

    /// The manifest in the one dialect that Volant writes, without line breaks.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The manifest in the one dialect that Volant writes, indented by two blanks, with a line break at its end.
    pub fn to_json_pretty(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}
