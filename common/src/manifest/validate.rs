//! What a manifest must fulfil. Pure: all problems are found at once and nothing is changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::BaseUrl;

/// The longest time that a manifest may ask to wait, in milliseconds: one hour. Longer is a mistake in the unit.
pub const MAX_WAIT_MS: u64 = 3_600_000;

/// The shortest wait between two liveness probes, in milliseconds: shorter ones are a load of their own.
pub const MIN_LIVENESS_INTERVAL_MS: u64 = 100;

/// The most liveness probes that may fail in a row. More is a mistake in the member.
pub const MAX_FAILURE_THRESHOLD: u32 = 1000;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// Whether all of them are that this version of Volant cannot do it.
    pub only_unsupported: bool,
}

impl ManifestError {
    /// An error with one problem.
    pub fn one(pointer: &str, detail: impl Into<String>) -> Self {
        Self::wrong(vec![FieldProblem::new(pointer, detail)])
    }

    /// An error with these problems, of which at least one is a mistake.
    pub fn wrong(problems: Vec<FieldProblem>) -> Self {
        Self {
            problems,
            only_unsupported: false,
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

    use super::{
        FieldProblem, MAX_FAILURE_THRESHOLD, MAX_WAIT_MS, MIN_LIVENESS_INTERVAL_MS, parse_base_url,
    };
    use crate::manifest::dialect::{Raw, RawExpose};
    use crate::manifest::{
        Action, HealthCheck, Liveness, MAX_WRITABLE_MB, MIN_WRITABLE_MB, Manifest, Network, Rootfs,
        Workload, WorkloadKind,
    };

    /// The longest argument or `NAME=value` in bytes: `MAX_ARG_STRLEN` less its NUL (include/uapi/linux/binfmts.h).
    const MAX_WORD_BYTES: usize = 131_071;

    /// The most words of a command and variables of an environment: all of them pass the kernel at each start.
    const MAX_WORDS: usize = 4096;

    /// The longest name of a user and a group together: each has at most 32 characters on Linux, and `:` stands between.
    const MAX_USER_BYTES: usize = 65;

    /// The most ports that are told. More is a range that says nothing about what the workload serves.
    const MAX_EXPOSED_PORTS: usize = 256;

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
            refuse(
                "/disks",
                "Naming disks in a manifest (a VM's configuration can name some)",
            );
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
        let published = |expose: &RawExpose| expose.host_port.is_some_and(|port| port != 0);
        if let Some(network) = &raw.network
            && let Some(index) = network.expose.iter().position(published)
        {
            refuse(
                &format!("/network/expose/{index}/host_port"),
                "Publishing a port on the host (each VM is reached at its own address)",
            );
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
        problems.extend(manifest.rootfs.as_ref().and_then(rootfs));
        problems.extend(workload(&manifest.workload));
        problems.extend(network(&manifest.network));
        if let Some(check) = &manifest.health_check {
            problems.extend(health_check(check, &manifest.workload));
        }
        if let Some(check) = &manifest.liveness {
            problems.extend(liveness(check, &manifest.workload));
        }
        problems.extend(
            manifest
                .actions
                .iter()
                .filter_map(|(name, value)| action(name, value)),
        );
        problems
    }

    fn rootfs(rootfs: &Rootfs) -> Option<FieldProblem> {
        let size_mb = rootfs.writable_mb?;
        (!(MIN_WRITABLE_MB..=MAX_WRITABLE_MB).contains(&size_mb)).then(|| {
            let detail = format!(
                "The writable layer has from {MIN_WRITABLE_MB} to {MAX_WRITABLE_MB} MiB, and not {size_mb}"
            );
            FieldProblem::new("/rootfs/writable_mb", detail)
        })
    }

    fn network(network: &Network) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if network.expose.len() > MAX_EXPOSED_PORTS {
            let detail = format!("At most {MAX_EXPOSED_PORTS} ports can be named");
            problems.push(FieldProblem::new("/network/expose", detail));
        }
        if let Some(index) = network.expose.iter().position(|expose| expose.port == 0) {
            problems.push(FieldProblem::new(
                format!("/network/expose/{index}/port"),
                "A port is a number from 1 to 65535",
            ));
        }
        problems
    }

    /// What would make `execve(2)` refuse a command.
    fn command(pointer: &str, words: &[String]) -> Option<FieldProblem> {
        let detail = if words.len() > MAX_WORDS {
            format!("A command has at most {MAX_WORDS} words")
        } else if words.iter().any(|word| word.contains('\0')) {
            "A word holds a NUL character".to_owned()
        } else if words.iter().any(|word| word.len() > MAX_WORD_BYTES) {
            format!("A word has at most {MAX_WORD_BYTES} bytes")
        } else {
            return None;
        };
        Some(FieldProblem::new(pointer, detail))
    }

    fn is_empty_command(words: &[String]) -> bool {
        words
            .first()
            .is_none_or(|program| program.trim().is_empty())
    }

    fn environment(workload: &Workload) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        let mut refuse = |detail| problems.push(FieldProblem::new("/workload/env", detail));
        if workload.env.len() > MAX_WORDS {
            refuse(format!("An environment has at most {MAX_WORDS} variables"));
        }
        for (key, value) in &workload.env {
            // The value may be a secret: only the key is shown.
            let shown: String = key.chars().take(80).flat_map(char::escape_debug).collect();
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                refuse(format!("`{shown}` cannot be an environment variable"));
            } else if key.len() + value.len() >= MAX_WORD_BYTES {
                refuse(format!(
                    "`{shown}` is too long: name and value have at most {MAX_WORD_BYTES} bytes together"
                ));
            }
        }
        problems
    }

    fn user(workload: &Workload) -> Option<FieldProblem> {
        let text = workload.user.as_deref()?;
        let name = workload.user_name()?;
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_graphic() && c != ':' && c != ',')
        };
        // A number is an id: the last one means "no id" to the kernel (`(uid_t) -1`).
        let is_id = |name: &str| {
            !name.chars().all(|c| c.is_ascii_digit())
                || name.parse::<u32>().is_ok_and(|id| id < u32::MAX)
        };
        let good = |name: &str| is_name(name) && is_id(name);
        if text.len() <= MAX_USER_BYTES && good(name.user) && name.group.is_none_or(good) {
            return None;
        }
        Some(FieldProblem::new(
            "/workload/user",
            "A user is a name or number, with a group if need be, such as `www-data`, `1000` or `1000:1000`",
        ))
    }

    fn workload(workload: &Workload) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if is_empty_command(&workload.entrypoint) {
            problems.push(FieldProblem::new(
                "/workload/entrypoint",
                "The workload has no `entrypoint` to run",
            ));
        }
        problems.extend(command("/workload/entrypoint", &workload.entrypoint));
        problems.extend(environment(workload));
        problems.extend(user(workload));
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
        problems.extend(wait(
            "/workload/stop_grace_ms",
            Some(workload.stop_grace_ms),
        ));
        problems
    }

    fn wait(pointer: &str, wait_ms: Option<u64>) -> Option<FieldProblem> {
        wait_ms
            .is_some_and(|wait_ms| wait_ms > MAX_WAIT_MS)
            .then(|| FieldProblem::new(pointer, "More than an hour (3600000) is not allowed"))
    }

    fn health_check(check: &HealthCheck, workload: &Workload) -> Vec<FieldProblem> {
        let probed = Probed {
            member: "health_check",
            what: "A health check",
            endpoint: check.endpoint.as_deref(),
            tcp_port: check.tcp_port,
            command: check.command.as_deref(),
        };
        let mut problems = probed.problems(workload);
        problems.extend(wait("/health_check/timeout_ms", Some(check.timeout_ms)));
        problems.extend(wait("/health_check/interval_ms", check.interval_ms));
        problems
    }

    fn liveness(check: &Liveness, workload: &Workload) -> Vec<FieldProblem> {
        let probed = Probed {
            member: "liveness",
            what: "A liveness probe",
            endpoint: check.endpoint.as_deref(),
            tcp_port: check.tcp_port,
            command: check.command.as_deref(),
        };
        let mut problems = probed.problems(workload);
        problems.extend(wait("/liveness/timeout_ms", Some(check.timeout_ms)));
        problems.extend(wait("/liveness/interval_ms", Some(check.interval_ms)));
        if check.interval_ms < MIN_LIVENESS_INTERVAL_MS {
            let detail = format!("There are at least {MIN_LIVENESS_INTERVAL_MS} ms between probes");
            problems.push(FieldProblem::new("/liveness/interval_ms", detail));
        }
        if check.failure_threshold > MAX_FAILURE_THRESHOLD {
            let detail = format!("At most {MAX_FAILURE_THRESHOLD} probes can fail in a row");
            problems.push(FieldProblem::new("/liveness/failure_threshold", detail));
        }
        problems
    }

    /// The three ways to find something out about a workload, of which a manifest names one.
    struct Probed<'a> {
        member: &'static str,
        what: &'static str,
        endpoint: Option<&'a str>,
        tcp_port: Option<u16>,
        command: Option<&'a [String]>,
    }

    impl Probed<'_> {
        fn problems(&self, workload: &Workload) -> Vec<FieldProblem> {
            let mut problems = Vec::new();
            let mut refuse = |kind: &str, detail: String| {
                let pointer = format!("/{}{kind}", self.member);
                problems.push(FieldProblem::new(pointer, detail));
            };
            let what = self.what;
            let one = format!("{what} is an `endpoint`, a `tcp_port` or a `command`");
            match (self.endpoint, self.tcp_port, self.command) {
                (None, None, None) => refuse("", one),
                (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                    refuse("/command", format!("{one}, and only one of them"));
                }
                (Some(_), Some(_), None) => {
                    refuse("/tcp_port", format!("{one}, and only one of them"));
                }
                (Some(_), None, None) | (None, Some(_), None) | (None, None, Some(_)) => {}
            }
            if let Some(endpoint) = self.endpoint {
                if !endpoint.starts_with('/') || !endpoint.chars().all(|c| c.is_ascii_graphic()) {
                    let detail = "The endpoint must be a path that begins with `/`";
                    refuse("/endpoint", detail.to_owned());
                } else if workload.base_url.is_none() {
                    let detail = "An endpoint needs `workload.base_url` to be probed at";
                    refuse("/endpoint", detail.to_owned());
                }
            }
            if self.tcp_port == Some(0) {
                let detail = "A port is a number from 1 to 65535";
                refuse("/tcp_port", detail.to_owned());
            }
            if let Some(words) = self.command {
                if is_empty_command(words) {
                    refuse("/command", "The command has no program to run".to_owned());
                }
                problems.extend(command(&format!("/{}/command", self.member), words));
            }
            problems
        }
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
