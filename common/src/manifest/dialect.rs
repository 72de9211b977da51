//! Both dialects of a manifest as they arrive, brought into the one shape of [`Manifest`]. The checks are in `validate`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::validate::{FieldProblem, ManifestError, check};
use super::{
    Action, Artifact, Console, DEFAULT_CPU_CORES, DEFAULT_FAILURE_THRESHOLD,
    DEFAULT_HEALTH_TIMEOUT_MS, DEFAULT_LIVENESS_INTERVAL_MS, DEFAULT_LIVENESS_TIMEOUT_MS,
    DEFAULT_MEMORY_MIB, DEFAULT_STOP_GRACE_MS, Expose, HealthCheck, Liveness, MAX_MANIFEST_BYTES,
    Manifest, Network, Protocol, Resources, RestartPolicy, Rootfs, RootfsFormat, StopSignal,
    Workload, WorkloadKind,
};
use crate::digest::Digest;
use crate::json::{self, JsonError};
use crate::name::Name;

/// A manifest as somebody wrote it: all members optional, both dialects.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = ManifestInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Raw {
    /// The version of this format.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["1", "1.0", "v1", "v1.0"])))]
    schema_version: String,
    /// The plugin's name: 1 to 63 of a-z, 0-9 and `-`.
    name: String,
    /// The plugin's version, free text.
    version: String,
    /// What kind of service it is; the plugin's name if not given.
    runtime: String,
    /// Whether VMs can be created from it; `true` if not given.
    enabled: Option<bool>,
    /// The archive that the VM unpacks into memory; of this and `rootfs` there is exactly one.
    initramfs: Option<RawArtifact>,
    /// The root file system that the VM mounts.
    rootfs: Option<RawArtifact>,
    /// Not supported by this version.
    pub(super) disks: Vec<Value>,
    /// What a VM gets unless asked otherwise.
    resources: RawResources,
    /// Named HTTP calls into the workload.
    actions: BTreeMap<String, Action>,
    /// How readiness is found out; without it a VM is ready when its workload runs.
    health_check: Option<RawHealthCheck>,
    /// How it is found out that the workload still does its work, once it is ready; without it a workload is alive as long as it runs.
    liveness: Option<RawLiveness>,
    /// The process that the agent runs and keeps running.
    workload: Option<RawWorkload>,
    /// The environment; that of `workload` comes before it.
    env: BTreeMap<String, String>,
    /// Not supported by this version.
    pub(super) cloud_init: Option<Value>,
    /// What the workload offers on the network.
    pub(super) network: Option<RawNetwork>,
    /// Devices of the host; not supported by this version.
    pub(super) devices: Option<RawDevices>,
    /// The console's behaviour.
    console: Console,
    /// Where the workload's `OpenAPI` document is.
    openapi: Option<String>,
    /// Free labels.
    labels: BTreeMap<String, String>,
}

/// A file that the VM boots.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = ArtifactInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
struct RawArtifact {
    /// `http(s)://`, `file://`, an absolute path, or a path relative to the manifest.
    url: String,
    /// The SHA-256 of the file, as `sha256:` and 64 hexadecimal digits.
    checksum: String,
    /// `erofs`, `ext4` or `squashfs`; of an initramfs information only.
    format: Option<String>,
    /// Whether what a VM writes is kept in its memory only. For a root file system.
    ephemeral: bool,
    /// The size of the layer that a VM writes to, in MiB. For a root file system.
    writable_mb: Option<u32>,
}

/// What a VM gets unless asked otherwise.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = ResourcesInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
struct RawResources {
    /// Number of vCPUs, at least 1.
    cpu_cores: Option<u32>,
    /// Memory in MiB.
    memory_mb: Option<u32>,
}

/// How readiness is found out; without it a VM is ready when its workload runs.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = HealthCheckInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
struct RawHealthCheck {
    /// The path below `base_url` that answers 2xx when the workload is healthy; there is one of this, `tcp_port` and `command`.
    endpoint: String,
    /// The port in the guest that accepts connections when the workload is healthy.
    tcp_port: Option<u16>,
    /// Program and arguments, run in the guest, that end with exit code 0 when the workload is healthy.
    command: Vec<String>,
    /// How long the first success may take, in milliseconds; 0 for 10 seconds.
    timeout_ms: u64,
    /// The longest wait between two probes until the first success, in milliseconds.
    interval_ms: Option<u64>,
}

/// How it is found out that the workload still does its work. One that does not is stopped, and counts as one that failed.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = LivenessInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
struct RawLiveness {
    /// The path below `base_url` that answers 2xx; there is one of this, `tcp_port` and `command`.
    endpoint: String,
    /// The port in the guest that accepts connections.
    tcp_port: Option<u16>,
    /// Program and arguments, run in the guest, that end with exit code 0.
    command: Vec<String>,
    /// The wait between two probes, in milliseconds; 0 for 10 seconds.
    interval_ms: u64,
    /// How long one probe may take, in milliseconds; 0 for one second.
    timeout_ms: u64,
    /// How many probes must fail in a row; 0 for 3.
    failure_threshold: u32,
}

/// What the workload offers on the network.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = NetworkInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub(super) struct RawNetwork {
    /// How the VM is connected.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["bridged", "bridge"])))]
    pub(super) mode: String,
    /// The ports that the workload serves. Information: each port of a guest is reachable at its own address.
    pub(super) expose: Vec<RawExpose>,
}

/// A port that the workload serves.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = ExposeInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub(super) struct RawExpose {
    /// From 1 to 65535.
    port: u16,
    /// TCP if not given.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["tcp", "udp"])))]
    protocol: String,
    /// Not supported by this version, but for 0.
    pub(super) host_port: Option<u16>,
}

/// Devices of the host.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = DevicesInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub(super) struct RawDevices {
    /// Not supported by this version.
    pub(super) pci_passthrough: Vec<String>,
}

/// The process that the agent runs and keeps running.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = WorkloadInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
struct RawWorkload {
    /// `http` serves HTTP at `base_url`, `exec` is any process; the former if there is a `base_url`.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["http", "exec"])))]
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Where the workload answers HTTP inside the guest, such as `http://127.0.0.1:80`.
    base_url: String,
    /// Program and arguments.
    entrypoint: Words,
    /// More arguments.
    args: Vec<String>,
    /// The environment.
    env: BTreeMap<String, String>,
    /// The working directory in the guest; `/` if not given.
    workdir: String,
    /// Who runs it: `uid[:gid]` or names of the guest; root if not given.
    user: String,
    /// The signal that asks it to end; `SIGTERM` if not given.
    stop_signal: Option<StopSignal>,
    /// What happens when the process ends.
    restart: RestartPolicy,
    /// How long the process may take to end after its stop signal, in milliseconds; 10 seconds if not given.
    stop_grace_ms: Option<u64>,
}

/// A list of words, or one word: the Go system's fledge wrote `entrypoint` as a string.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(serde::Serialize, utoipa::ToSchema), schema(as = WordsInput))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a list of words or one word")]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl Default for Words {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Words {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::Many(words) => words,
            Self::One(word) if word.is_empty() => Vec::new(),
            Self::One(word) => vec![word],
        }
    }
}

pub(super) fn from_json(text: &[u8]) -> Result<Manifest, ManifestError> {
    if text.len() > MAX_MANIFEST_BYTES {
        let detail = format!(
            "The manifest has {} bytes; the limit is {MAX_MANIFEST_BYTES}",
            text.len()
        );
        return Err(ManifestError::one("", detail));
    }
    let raw: Raw = json::read(text).map_err(|error| match error {
        JsonError::Syntax(detail) => ManifestError::one("", detail),
        JsonError::Shape(problem) => ManifestError::wrong(vec![problem]),
    })?;
    Manifest::try_from(raw)
}

impl TryFrom<Raw> for Manifest {
    type Error = ManifestError;

    fn try_from(raw: Raw) -> Result<Self, ManifestError> {
        let mut problems = check::unsupported(&raw);
        let unsupported = problems.len();
        let name = raw.name.trim().parse::<Name>().map_err(|error| {
            let detail = non_empty(&raw.name).map_or_else(
                || "The manifest has no `name`".to_owned(),
                |_| error.to_string(),
            );
            problems.push(FieldProblem::new("/name", detail));
        });
        let (initramfs, rootfs) = artifacts(raw.initramfs, raw.rootfs, &mut problems);
        let network = network(raw.network.as_ref(), &mut problems);
        let workload = workload(raw.workload, raw.env, &mut problems);
        let (Ok(name), Some(workload)) = (name, workload) else {
            return Err(ManifestError::wrong(problems));
        };
        let runtime = non_empty(&raw.runtime).unwrap_or_else(|| name.to_string());
        let manifest = Self {
            schema_version: non_empty(&raw.schema_version).unwrap_or_else(|| "1.0".to_owned()),
            version: raw.version.trim().to_owned(),
            runtime,
            initramfs,
            rootfs,
            resources: Resources {
                cpu_cores: raw.resources.cpu_cores.unwrap_or(DEFAULT_CPU_CORES),
                memory_mb: raw.resources.memory_mb.unwrap_or(DEFAULT_MEMORY_MIB),
            },
            actions: raw.actions,
            health_check: raw.health_check.as_ref().and_then(health_check),
            liveness: raw.liveness.as_ref().map(liveness),
            workload,
            network,
            console: raw.console,
            enabled: raw.enabled.unwrap_or(true),
            openapi: raw.openapi.as_deref().and_then(non_empty),
            labels: raw.labels,
            name,
        };
        problems.extend(check::manifest(&manifest));
        if problems.is_empty() {
            Ok(manifest)
        } else {
            let only_unsupported = problems.len() == unsupported;
            Err(ManifestError {
                problems,
                only_unsupported,
            })
        }
    }
}

fn non_empty(text: &str) -> Option<String> {
    let trimmed = text.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// The one artifact that the manifest names. The Go system wrote the other one too, with an empty `url`.
fn artifacts(
    initramfs: Option<RawArtifact>,
    rootfs: Option<RawArtifact>,
    problems: &mut Vec<FieldProblem>,
) -> (Option<Artifact>, Option<Rootfs>) {
    let named = |raw: &RawArtifact| !raw.url.trim().is_empty();
    match (initramfs.filter(named), rootfs.filter(named)) {
        (None, None) => {
            let detail =
                "The manifest names nothing to boot: give it an `initramfs.url` or a `rootfs.url`";
            problems.push(FieldProblem::new("/initramfs/url", detail));
            (None, None)
        }
        (Some(_), Some(_)) => {
            let detail = "The manifest names an `initramfs` and a `rootfs`; a plugin boots exactly one of them";
            problems.push(FieldProblem::new("/rootfs/url", detail));
            (None, None)
        }
        (Some(raw), None) => {
            let initramfs = Artifact {
                url: raw.url.trim().to_owned(),
                checksum: checksum(&raw.checksum, "/initramfs/checksum", problems),
                format: raw.format.as_deref().and_then(non_empty),
            };
            (Some(initramfs), None)
        }
        (None, Some(raw)) => {
            let rootfs = Rootfs {
                url: raw.url.trim().to_owned(),
                checksum: checksum(&raw.checksum, "/rootfs/checksum", problems),
                format: rootfs_format(raw.format.as_deref().unwrap_or_default(), problems),
                ephemeral: raw.ephemeral,
                writable_mb: raw.writable_mb,
            };
            (None, Some(rootfs))
        }
    }
}

fn checksum(text: &str, pointer: &str, problems: &mut Vec<FieldProblem>) -> Option<Digest> {
    match non_empty(text)?.parse() {
        Ok(digest) => Some(digest),
        Err(error) => {
            problems.push(FieldProblem::new(pointer, format!("{error}")));
            None
        }
    }
}

/// `raw` says how the disk is stored, as the Go system understood the member, and nothing about the file system on it.
fn rootfs_format(text: &str, problems: &mut Vec<FieldProblem>) -> Option<RootfsFormat> {
    let text = text.trim().to_ascii_lowercase();
    if matches!(text.as_str(), "" | "raw") {
        return None;
    }
    let known = RootfsFormat::ALL
        .into_iter()
        .find(|format| format.as_str() == text);
    if known.is_none() {
        let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
        let detail = format!(
            "`{shown}` is not a root file system that Volant boots: use `erofs`, `ext4` or `squashfs`"
        );
        problems.push(FieldProblem::new("/rootfs/format", detail));
    }
    known
}

fn network(raw: Option<&RawNetwork>, problems: &mut Vec<FieldProblem>) -> Network {
    let mut network = Network::default();
    for (index, raw) in raw.into_iter().flat_map(|raw| &raw.expose).enumerate() {
        let protocol = match raw.protocol.trim().to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                let shown: String = other
                    .chars()
                    .take(40)
                    .flat_map(char::escape_debug)
                    .collect();
                let detail = format!("`{shown}` is not a protocol: use `tcp` or `udp`");
                let pointer = format!("/network/expose/{index}/protocol");
                problems.push(FieldProblem::new(pointer, detail));
                continue;
            }
        };
        let port = raw.port;
        network.expose.push(Expose { port, protocol });
    }
    network
}

fn health_check(raw: &RawHealthCheck) -> Option<HealthCheck> {
    let endpoint = non_empty(&raw.endpoint);
    let command = (!raw.command.is_empty()).then(|| raw.command.clone());
    if endpoint.is_none() && command.is_none() && raw.tcp_port.is_none() {
        return None;
    }
    Some(HealthCheck {
        endpoint,
        tcp_port: raw.tcp_port,
        command,
        timeout_ms: Some(raw.timeout_ms)
            .filter(|timeout_ms| *timeout_ms > 0)
            .unwrap_or(DEFAULT_HEALTH_TIMEOUT_MS),
        interval_ms: raw.interval_ms.filter(|interval_ms| *interval_ms > 0),
    })
}

fn liveness(raw: &RawLiveness) -> Liveness {
    let given_ms = |ms| Some(ms).filter(|ms| *ms > 0);
    Liveness {
        endpoint: non_empty(&raw.endpoint),
        tcp_port: raw.tcp_port,
        command: (!raw.command.is_empty()).then(|| raw.command.clone()),
        interval_ms: given_ms(raw.interval_ms).unwrap_or(DEFAULT_LIVENESS_INTERVAL_MS),
        timeout_ms: given_ms(raw.timeout_ms).unwrap_or(DEFAULT_LIVENESS_TIMEOUT_MS),
        failure_threshold: Some(raw.failure_threshold)
            .filter(|threshold| *threshold > 0)
            .unwrap_or(DEFAULT_FAILURE_THRESHOLD),
    }
}

fn workload(
    raw: Option<RawWorkload>,
    outer_env: BTreeMap<String, String>,
    problems: &mut Vec<FieldProblem>,
) -> Option<Workload> {
    let Some(raw) = raw else {
        problems.push(FieldProblem::new(
            "/workload",
            "The manifest has no `workload` to run",
        ));
        return None;
    };
    let base_url = non_empty(&raw.base_url);
    let kind = match raw
        .kind
        .as_deref()
        .map(|kind| kind.trim().to_ascii_lowercase())
        .as_deref()
    {
        Some("http") => WorkloadKind::Http,
        Some("exec") => WorkloadKind::Exec,
        // The Go system's fledge wrote no type.
        None | Some("") => base_url
            .as_ref()
            .map_or(WorkloadKind::Exec, |_| WorkloadKind::Http),
        Some(other) => {
            let shown: String = other
                .chars()
                .take(40)
                .flat_map(char::escape_debug)
                .collect();
            let detail = format!("`{shown}` is not a workload type: use `http` or `exec`");
            problems.push(FieldProblem::new("/workload/type", detail));
            return None;
        }
    };
    let mut entrypoint = raw.entrypoint.into_list();
    entrypoint.extend(raw.args);
    let mut env = outer_env;
    env.extend(raw.env);
    Some(Workload {
        kind,
        base_url,
        entrypoint,
        env,
        workdir: non_empty(&raw.workdir),
        user: non_empty(&raw.user),
        stop_signal: raw.stop_signal,
        restart: raw.restart,
        stop_grace_ms: raw.stop_grace_ms.unwrap_or(DEFAULT_STOP_GRACE_MS),
    })
}
