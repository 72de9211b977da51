//! The agent's own HTTP interface, as kestrel serves it and volantd calls it: paths, header and JSON types.
//!
//! It is served on TCP [`AGENT_PORT`] and vsock port [`AGENT_PORT`]. `GET /healthz` and `/v1/*` (passed through to the workload
//! with `/v1` removed) are as in the Go system. What can change the guest needs the header [`SECRET_HEADER`].

pub mod hop;
pub mod log;
pub mod session;
pub mod stats;

use serde::{Deserialize, Serialize};

/// TCP and vsock port of the agent in the guest.
pub const AGENT_PORT: u16 = 8080;

/// The agent's TCP port beside a workload that serves `workload_port`: [`AGENT_PORT`], or the next one where the workload has that.
///
/// Both are common choices, and a workload that cannot bind its port cannot run. On vsock the agent always has [`AGENT_PORT`].
pub const fn tcp_port_beside(workload_port: Option<u16>) -> u16 {
    match workload_port {
        Some(AGENT_PORT) => AGENT_PORT + 1,
        _ => AGENT_PORT,
    }
}

/// Header that carries the VM's own secret.
pub const SECRET_HEADER: &str = "x-volant-secret";

/// `GET`: `{"status":"ok","uptime":"12s","version":"0.1.0"}`.
pub const HEALTHZ_PATH: &str = "/healthz";

/// `GET`: [`AgentStatus`]. With `?after=<generation>&timeout_ms=<n>` it answers when the generation is newer, or at the
/// timeout (at most [`MAX_STATUS_WAIT_MS`]). Readable without the secret.
pub const STATUS_PATH: &str = "/agent/status";

/// `POST` with the secret: ends the workload, syncs and powers off. Answers 202 at once. With `?grace_ms=<n>` the workload has so long
/// after its stop signal, instead of what the manifest says.
pub const SHUTDOWN_PATH: &str = "/agent/shutdown";

/// `GET` with the secret: [`log::LogLine`]s, one JSON object a line, those after `?after=<seq>` and then each as it comes, until the guest
/// ends. An `after` that no line has yet is from before a reboot: it is answered as 0. Without `after` it begins with what is kept.
pub const LOGS_PATH: &str = "/agent/logs";

/// `GET` with the secret: [`stats::GuestStats`].
pub const STATS_PATH: &str = "/agent/stats";

/// `POST` with the secret and `?unix_ms=<n>`: sets the guest's clock to this time, in milliseconds of Unix time, between [`MIN_CLOCK_MS`] and
/// [`MAX_CLOCK_MS`]. A clock that is right to [`CLOCK_TOLERANCE_MS`] is left as it is. Answers 204.
pub const CLOCK_PATH: &str = "/agent/clock";

/// The earliest time that a guest's clock is set to, in milliseconds of Unix time: 2020-01-01. A host that says less has no clock itself.
pub const MIN_CLOCK_MS: u64 = 1_577_836_800_000;

/// The latest one: 2200-01-01, far within what the kernel takes (a clock that counts nanoseconds in 64 bits ends in 2262).
pub const MAX_CLOCK_MS: u64 = 7_258_118_400_000;

/// How wrong a guest's clock may be before it is set, in milliseconds: a request may be as long on its way, and a clock that is set makes
/// programs see time jump.
pub const CLOCK_TOLERANCE_MS: u64 = 100;

/// `POST` with the secret, upgraded to [`session::PROTOCOL`]: runs a command. What is wrong with the command is said in the session; only a
/// missing upgrade (426) and too many sessions (503) are answers without one.
pub const EXEC_PATH: &str = "/agent/exec";

/// With the secret and `?path=<absolute path>`: `HEAD` says what is there, `GET` gives it as a tar archive whose members begin with its last
/// part, and `PUT` unpacks a tar archive into the directory that is there (204). The path is escaped as in a form: a blank is `+` or `%20`, a
/// plus `%2B`. Each answer about something that is there has [`stats::FILE_STAT_HEADER`]. A `GET` that fails in its middle breaks the
/// connection. The root's members begin with nothing; devices, pipes, sockets and what is mounted below are left out.
pub const FILES_PATH: &str = "/agent/files";

/// The longest time that one status request waits, in milliseconds.
pub const MAX_STATUS_WAIT_MS: u64 = 30_000;

/// What kestrel writes before each of its own lines on the console.
pub const CONSOLE_PREFIX: &str = "kestrel: ";

/// Where the guest's boot and workload stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
    pub version: String,
    /// Grows with each change of anything below except `now_us`, `health.probes` and `health.last_probe_us`.
    pub generation: u64,
    /// The guest's boot-time clock (`CLOCK_BOOTTIME`) when this was written, in microseconds. The host's clock less this is when the kernel began.
    pub now_us: u64,
    /// Where the guest is.
    pub phase: GuestPhase,
    /// When each phase began, in order, in microseconds of the boot-time clock. Repeated phases (a restart) are added at the end, at most 64 entries.
    pub phases: Vec<PhaseMark>,
    /// Whether the health endpoint answers.
    pub health: GuestHealth,
    /// The workload process.
    pub workload: WorkloadStatus,
    /// Why the guest is going down, in one sentence; set with [`GuestPhase::Failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A phase and when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseMark {
    /// The phase.
    pub phase: GuestPhase,
    /// Microseconds of the guest's boot-time clock.
    pub at_us: u64,
}

/// Where a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestPhase {
    /// PID 1 runs: mounts, network, manifest.
    Boot,
    /// The workload was started; its health is not known yet.
    Workload,
    /// The workload is healthy, or runs and has no health check.
    Ready,
    /// The workload ended and waits to be started again.
    BackOff,
    /// The guest ends as it was asked to, or because the workload ended and its policy says so.
    Stopping,
    /// The guest cannot go on and powers off.
    Failed,
}

/// What the probes inside the guest found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestHealth {
    /// The verdict.
    pub state: HealthState,
    /// The last probe's failure in one sentence, if it failed. While healthy it is that of a liveness probe whose like would end the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of probes so far.
    pub probes: u64,
    /// When the last probe ended, in microseconds of the boot-time clock. A probe that says what the one before said is no new generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_us: Option<u64>,
    /// Whether the workload accepts connections on the guest's own address (not only on 127.0.0.1). Unknown before it is healthy, or without a `base_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable_from_outside: Option<bool>,
}

/// A verdict about health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Not decided yet.
    #[default]
    Unknown,
    /// It answers, or needs no probe and runs.
    Healthy,
    /// It does not answer within its time.
    Unhealthy,
}

/// The workload process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Its process id in the guest, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it ends again and again soon after its start: it is started ever more seldom.
    #[serde(default)]
    pub crash_loop: bool,
    /// Processes that the guest's kernel ended for lack of memory since it began.
    #[serde(default)]
    pub oom_kills: u64,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<WorkloadExit>,
}

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkloadExit {
    /// Exit code; 128 + signal where a signal ended it, as shells say.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// When, in microseconds of the guest's boot-time clock.
    pub at_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_makes_room_for_the_workload() {
        let table = [
            (None, 8080),
            (Some(80), 8080),
            (Some(8080), 8081),
            (Some(8081), 8080),
        ];
        for (workload, agent) in table {
            assert_eq!(tcp_port_beside(workload), agent, "{workload:?}");
        }
    }
}
