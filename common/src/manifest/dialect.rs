//! Both dialects of a manifest as they arrive, brought into the one shape of [`Manifest`]. The checks are in `validate`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::validate::{FieldProblem, ManifestError, check};
use super::{
    Action, Artifact, Console, DEFAULT_CPU_CORES, DEFAULT_HEALTH_TIMEOUT_MS, DEFAULT_MEMORY_MIB,
    DEFAULT_STOP_GRACE_MS, HealthCheck, MAX_MANIFEST_BYTES, Manifest, Resources, RestartPolicy,
    Workload, WorkloadKind,
};
use crate::digest::Digest;
use crate::name::Name;

/// A manifest as somebody wrote it: all members optional, both dialects.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    schema_version: String,
    name: String,
    version: String,
    runtime: String,
    enabled: Option<bool>,
    initramfs: Option<RawArtifact>,
    pub(super) rootfs: Option<RawArtifact>,
    pub(super) disks: Vec<Value>,
    resources: RawResources,
    actions: BTreeMap<String, Action>,
    health_check: Option<RawHealthCheck>,
    workload: Option<RawWorkload>,
    env: BTreeMap<String, String>,
    pub(super) cloud_init: Option<Value>,
    pub(super) network: Option<RawNetwork>,
    pub(super) devices: Option<RawDevices>,
    console: Console,
    openapi: Option<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawArtifact {
    pub(super) url: String,
    checksum: String,
    format: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawResources {
    cpu_cores: Option<u32>,
    memory_mb: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawHealthCheck {
    endpoint: String,
    timeout_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawNetwork {
    pub(super) mode: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawDevices {
    pub(super) pci_passthrough: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawWorkload {
    #[serde(rename = "type")]
    kind: Option<String>,
    base_url: String,
    entrypoint: Words,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    workdir: String,
    restart: RestartPolicy,
    stop_grace_ms: Option<u64>,
}

/// A list of words, or one word: the Go system's fledge wrote `entrypoint` as a string.
#[derive(Debug, Deserialize)]
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

pub(super) fn from_json(json: &[u8]) -> Result<Manifest, ManifestError> {
    if json.len() > MAX_MANIFEST_BYTES {
        let detail = format!(
            "The manifest has {} bytes; the limit is {MAX_MANIFEST_BYTES}",
            json.len()
        );
        return Err(ManifestError::one("", detail));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let raw: Raw = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = json_pointer(error.path());
        ManifestError::one(&pointer, error.into_inner().to_string())
    })?;
    deserializer
        .end()
        .map_err(|error| ManifestError::one("", error.to_string()))?;
    Manifest::try_from(raw)
}

fn json_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

impl TryFrom<Raw> for Manifest {
    type Error = ManifestError;

    fn try_from(raw: Raw) -> Result<Self, ManifestError> {
        let mut problems = check::unsupported(&raw);
        let name = raw.name.trim().parse::<Name>().map_err(|error| {
            problems.push(FieldProblem::new("/name", error.to_string()));
        });
        let initramfs = artifact(raw.initramfs, raw.rootfs.as_ref(), &mut problems);
        let workload = workload(raw.workload, raw.env, &mut problems);
        let (Ok(name), Some(initramfs), Some(workload)) = (name, initramfs, workload) else {
            return Err(ManifestError { problems });
        };
        let runtime = non_empty(&raw.runtime).unwrap_or_else(|| name.to_string());
        let manifest = Self {
            schema_version: non_empty(&raw.schema_version).unwrap_or_else(|| "1.0".to_owned()),
            version: raw.version.trim().to_owned(),
            runtime,
            initramfs,
            resources: Resources {
                cpu_cores: raw.resources.cpu_cores.unwrap_or(DEFAULT_CPU_CORES),
                memory_mb: raw.resources.memory_mb.unwrap_or(DEFAULT_MEMORY_MIB),
            },
            actions: raw.actions,
            health_check: raw.health_check.as_ref().and_then(health_check),
            workload,
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
            Err(ManifestError { problems })
        }
    }
}

fn non_empty(text: &str) -> Option<String> {
    let trimmed = text.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

fn artifact(
    raw: Option<RawArtifact>,
    rootfs: Option<&RawArtifact>,
    problems: &mut Vec<FieldProblem>,
) -> Option<Artifact> {
    let Some(raw) = raw.filter(|raw| !raw.url.trim().is_empty()) else {
        let detail = if rootfs.is_some_and(|rootfs| !rootfs.url.is_empty()) {
            "This version of Volant boots plugins with an `initramfs`; this one has only a `rootfs`"
        } else {
            "The manifest names no `initramfs.url` to boot"
        };
        problems.push(FieldProblem::new("/initramfs/url", detail));
        return None;
    };
    let checksum = match non_empty(&raw.checksum)
        .map(|text| text.parse::<Digest>())
        .transpose()
    {
        Ok(checksum) => checksum,
        Err(error) => {
            problems.push(FieldProblem::new("/initramfs/checksum", error.to_string()));
            None
        }
    };
    Some(Artifact {
        url: raw.url.trim().to_owned(),
        checksum,
        format: raw.format.as_deref().and_then(non_empty),
    })
}

fn health_check(raw: &RawHealthCheck) -> Option<HealthCheck> {
    let endpoint = non_empty(&raw.endpoint)?;
    let timeout_ms = if raw.timeout_ms == 0 {
        DEFAULT_HEALTH_TIMEOUT_MS
    } else {
        raw.timeout_ms
    };
    Some(HealthCheck {
        endpoint,
        timeout_ms,
    })
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
        restart: raw.restart,
        stop_grace_ms: raw.stop_grace_ms.unwrap_or(DEFAULT_STOP_GRACE_MS),
    })
}
