//! What a manifest must fulfil. Pure: all problems are found at once and nothing is changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::BaseUrl;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldProblem {
    /// JSON pointer (RFC 6901) of the member; empty for the whole document.
    pub pointer: String,
    /// A plain sentence.
    pub detail: String,
}

impl FieldProblem {
    /// A problem of the member at `pointer`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            f.write_str(&self.detail)
        } else {
            write!(f, "{}: {}", self.pointer, self.detail)
        }
    }
}

/// A manifest that is refused, with every reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The manifest is not valid: {}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ManifestError {
    /// At least one problem.
    pub problems: Vec<FieldProblem>,
}

impl ManifestError {
    /// An error with one problem.
    pub fn one(pointer: &str, detail: impl Into<String>) -> Self {
        Self {
            problems: vec![FieldProblem::new(pointer, detail)],
        }
    }
}

/// Takes `http://host[:port][/path]` apart.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn parse_base_url(url: &str) -> Result<BaseUrl, String> {
    let shown: String = url.chars().take(200).flat_map(char::escape_debug).collect();
    let rest = url.strip_prefix("http://").ok_or_else(|| {
        format!(
            "`{shown}` does not begin with http://; the agent probes plain HTTP inside the guest"
        )
    })?;
    let (authority, path) = rest
        .find('/')
        .map_or((rest, ""), |slash| rest.split_at(slash));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (
            host,
            port.parse()
                .map_err(|_| format!("`{shown}` has no valid port"))?,
        ),
        _ => (authority, 80),
    };
    let bad = |c: char| c.is_whitespace() || c.is_control() || "?#@\\".contains(c);
    if host.is_empty() || port == 0 || rest.contains(bad) {
        return Err(format!(
            "`{shown}` is not a URL of the form http://127.0.0.1:80"
        ));
    }
    Ok(BaseUrl {
        host: host.to_owned(),
        port,
        path: path.trim_end_matches('/').to_owned(),
    })
}

pub(super) mod check {
    //! The checks themselves, one function for each part of a manifest.

    use super::{FieldProblem, parse_base_url};
    use crate::manifest::dialect::Raw;
    use crate::manifest::{Action, HealthCheck, Manifest, Workload, WorkloadKind};

    /// The longest time that a manifest may ask to wait, in milliseconds: one hour. Longer is a mistake in the unit.
    const MAX_WAIT_MS: u64 = 3_600_000;

    /// Members that this version would have to ignore. Silence would promise what does not happen.
    pub(in crate::manifest) fn unsupported(raw: &Raw) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        let mut refuse = |pointer: &str, what: &str| {
            problems.push(FieldProblem::new(
                pointer,
                format!("{what} is not supported by this version of Volant"),
            ));
        };
        if !raw.disks.is_empty() {
            refuse("/disks", "Attaching disks");
        }
        if raw
            .cloud_init
            .as_ref()
            .is_some_and(|value| !value.is_null())
        {
            refuse("/cloud_init", "cloud-init");
        }
        if raw
            .devices
            .as_ref()
            .is_some_and(|devices| !devices.pci_passthrough.is_empty())
        {
            refuse("/devices/pci_passthrough", "PCI passthrough");
        }
        let mode = raw
            .network
            .as_ref()
            .map(|network| network.mode.trim().to_ascii_lowercase())
            .unwrap_or_default();
        if !matches!(mode.as_str(), "" | "bridged" | "bridge") {
            refuse("/network/mode", "A network mode other than `bridged`");
        }
        problems
    }

    pub(in crate::manifest) fn manifest(manifest: &Manifest) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if !matches!(manifest.schema_version.trim_start_matches('v'), "1" | "1.0") {
            problems.push(FieldProblem::new(
                "/schema_version",
                "Only version `1.0` (or `v1`) of the schema is known",
            ));
        }
        if manifest.version.is_empty() {
            problems.push(FieldProblem::new(
                "/version",
                "The manifest has no `version`",
            ));
        }
        for (pointer, text) in [
            ("/version", &manifest.version),
            ("/runtime", &manifest.runtime),
        ] {
            if text.len() > 128 || text.chars().any(char::is_control) {
                problems.push(FieldProblem::new(
                    pointer,
                    "This must be at most 128 printable characters",
                ));
            }
        }
        if manifest.resources.cpu_cores == 0 {
            problems.push(FieldProblem::new(
                "/resources/cpu_cores",
                "A VM needs at least 1 CPU",
            ));
        }
        if manifest.resources.memory_mb == 0 {
            problems.push(FieldProblem::new(
                "/resources/memory_mb",
                "A VM needs memory",
            ));
        }
        problems.extend(workload(&manifest.workload));
        problems.extend(
            manifest
                .health_check
                .as_ref()
                .and_then(|check| health_check(check, &manifest.workload)),
        );
        problems.extend(
            manifest
                .actions
                .iter()
                .filter_map(|(name, value)| action(name, value)),
        );
        problems
    }

    fn workload(workload: &Workload) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if workload
            .entrypoint
            .first()
            .is_none_or(|program| program.trim().is_empty())
        {
            problems.push(FieldProblem::new(
                "/workload/entrypoint",
                "The workload has no `entrypoint` to run",
            ));
        }
        if workload.entrypoint.iter().any(|word| word.contains('\0')) {
            problems.push(FieldProblem::new(
                "/workload/entrypoint",
                "A word holds a NUL character",
            ));
        }
        for (key, value) in &workload.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                // The value may be a secret: only the key is shown.
                let shown: String = key.chars().take(80).flat_map(char::escape_debug).collect();
                let detail = format!("`{shown}` cannot be an environment variable");
                problems.push(FieldProblem::new("/workload/env", detail));
            }
        }
        match workload.base_url.as_deref().map(parse_base_url) {
            Some(Err(detail)) => problems.push(FieldProblem::new("/workload/base_url", detail)),
            None if workload.kind == WorkloadKind::Http => {
                let detail = "An `http` workload needs a `base_url` such as http://127.0.0.1:80";
                problems.push(FieldProblem::new("/workload/base_url", detail));
            }
            Some(Ok(_)) | None => {}
        }
        if workload
            .workdir
            .as_deref()
            .is_some_and(|path| !path.starts_with('/') || path.contains('\0'))
        {
            problems.push(FieldProblem::new(
                "/workload/workdir",
                "The working directory must be an absolute path",
            ));
        }
        if workload.stop_grace_ms > MAX_WAIT_MS {
            problems.push(FieldProblem::new(
                "/workload/stop_grace_ms",
                "More than an hour (3600000) is not allowed",
            ));
        }
        problems
    }

    fn health_check(check: &HealthCheck, workload: &Workload) -> Option<FieldProblem> {
        let printable = |c: char| c.is_ascii_graphic();
        if !check.endpoint.starts_with('/') || !check.endpoint.chars().all(printable) {
            return Some(FieldProblem::new(
                "/health_check/endpoint",
                "The endpoint must be a path that begins with `/`",
            ));
        }
        if check.timeout_ms > MAX_WAIT_MS {
            return Some(FieldProblem::new(
                "/health_check/timeout_ms",
                "More than an hour (3600000) is not allowed",
            ));
        }
        if workload.base_url.is_none() {
            let detail = "A health endpoint needs `workload.base_url` to be probed at";
            return Some(FieldProblem::new("/health_check/endpoint", detail));
        }
        None
    }

    fn action(name: &str, action: &Action) -> Option<FieldProblem> {
        let pointer = format!("/actions/{}", name.replace('~', "~0").replace('/', "~1"));
        if !action.path.starts_with('/') || !action.path.chars().all(|c| c.is_ascii_graphic()) {
            return Some(FieldProblem::new(
                format!("{pointer}/path"),
                "The path must begin with `/`",
            ));
        }
        if action.method.is_empty() || !action.method.chars().all(|c| c.is_ascii_alphabetic()) {
            return Some(FieldProblem::new(
                format!("{pointer}/method"),
                "The method must be an HTTP method",
            ));
        }
        None
    }
}
