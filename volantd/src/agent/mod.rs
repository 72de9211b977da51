//! Talks to the agent in a guest: one attempt for each call, everything bounded. Retries and their pace are the caller's.
//!
//! A guest is not trusted: it may hang, lie, close early or send without end. Nothing of what it says is passed on unbounded.

mod connect;
mod exchange;
mod logs;
mod session;
mod stream;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::agent::stats::GuestStats;
use common::agent::{
    AgentStatus, CLOCK_PATH, MAX_STATUS_WAIT_MS, SECRET_HEADER, SHUTDOWN_PATH, STATS_PATH,
    STATUS_PATH,
};
use common::error_chain::Chain;
use hyper::Method;
use jiff::Timestamp;

use crate::machine::ports::{BoxFuture, Guest, GuestEndpoint, StepError};
use exchange::Call;

pub use session::{SessionError, read_message, write_message};
pub use stream::{GuestBody, Trust, upgraded};

/// How long a guest may take to accept a connection. A guest that runs does it in about a millisecond; one that is not there yet says
/// nothing, and the caller wants to try again soon.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);

/// How long an answer may take beyond what was asked for: a guest with one slow CPU is busy at times.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// The most phases that are taken over: what the agent itself keeps.
const MAX_PHASES: usize = 64;

/// The longest sentence of a guest that is taken over, in characters.
const MAX_SENTENCE_CHARS: usize = 500;

/// The longest version of an agent that is taken over, in characters.
const MAX_VERSION_CHARS: usize = 64;

/// A guest that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It does not accept connections.
    #[error("The guest's agent cannot be reached at {endpoint}")]
    Connect {
        /// Where it was tried.
        endpoint: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The VMM's end of the vsock does not let us through: nothing listens in the guest yet.
    #[error("The guest's agent does not listen on its vsock")]
    Vsock {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("The guest's agent did not answer within {} ms", limit.as_millis())]
    TimedOut {
        /// The time that it had.
        limit: Duration,
    },
    /// It broke off, or does not speak HTTP.
    #[error("The guest's agent did not answer properly")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answers with more than it may.
    #[error("The guest's agent answers with more than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// It refuses.
    #[error("The guest's agent refused the request with HTTP status {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// It says something that is not a status.
    #[error("The guest's agent answers with something that is not a status")]
    NotAStatus(#[source] serde_json::Error),
}

impl From<AgentError> for StepError {
    fn from(error: AgentError) -> Self {
        // Whole, because "why not" is all that a user wants to know of a guest that does not answer.
        Self::new(Chain(&error).to_string())
    }
}

/// The client. It keeps no connections: a guest answers in well under a millisecond, and a pool would outlive VMs.
#[derive(Debug, Clone, Default)]
pub struct AgentClient {
    port: Option<u16>,
}

impl AgentClient {
    /// A client for agents that listen on this TCP port, whatever [`GuestEndpoint::agent_port`] says.
    pub fn with_port(port: u16) -> Self {
        Self { port: Some(port) }
    }

    async fn get_status(
        &self,
        guest: &GuestEndpoint,
        after: Option<u64>,
        wait: Duration,
    ) -> Result<AgentStatus, AgentError> {
        let wait_ms = u64::try_from(wait.as_millis())
            .unwrap_or(u64::MAX)
            .min(MAX_STATUS_WAIT_MS);
        let path = match after {
            Some(generation) => format!("{STATUS_PATH}?after={generation}&timeout_ms={wait_ms}"),
            None => STATUS_PATH.to_owned(),
        };
        let wait = after.map_or(Duration::ZERO, |_| Duration::from_millis(wait_ms));
        let call = Call {
            method: Method::GET,
            path: &path,
            header: None,
        };
        let body = self.call(guest, &call, wait + ANSWER_LIMIT).await?;
        let status = serde_json::from_slice(&body).map_err(AgentError::NotAStatus)?;
        Ok(bounded(status))
    }

    /// What the guest says that it uses, within `limit`. Not bounded in value: a guest may claim anything.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn stats(
        &self,
        guest: &GuestEndpoint,
        limit: Duration,
    ) -> Result<GuestStats, AgentError> {
        let call = Call {
            method: Method::GET,
            path: STATS_PATH,
            header: Some((SECRET_HEADER, guest.secret.expose())),
        };
        let body = self.call(guest, &call, limit).await?;
        serde_json::from_slice(&body).map_err(AgentError::NotAStatus)
    }

    async fn post_shutdown(
        &self,
        guest: &GuestEndpoint,
        grace: Option<Duration>,
    ) -> Result<(), AgentError> {
        let path = match grace {
            Some(grace) => format!("{SHUTDOWN_PATH}?grace_ms={}", grace.as_millis()),
            None => SHUTDOWN_PATH.to_owned(),
        };
        let header = Some((SECRET_HEADER, guest.secret.expose()));
        let call = Call {
            method: Method::POST,
            path: &path,
            header,
        };
        self.call(guest, &call, ANSWER_LIMIT).await.map(drop)
    }

    async fn post_clock(&self, guest: &GuestEndpoint, now: Timestamp) -> Result<(), AgentError> {
        let path = format!("{CLOCK_PATH}?unix_ms={}", now.as_millisecond());
        let call = Call {
            method: Method::POST,
            path: &path,
            header: Some((SECRET_HEADER, guest.secret.expose())),
        };
        self.call(guest, &call, ANSWER_LIMIT).await.map(drop)
    }

    async fn call(
        &self,
        guest: &GuestEndpoint,
        call: &Call<'_>,
        limit: Duration,
    ) -> Result<Vec<u8>, AgentError> {
        let port = self.port.unwrap_or(guest.agent_port);
        let stream = connect::agent(guest, port, CONNECT_LIMIT).await?;
        let exchanged = tokio::time::timeout(limit, exchange::exchange(stream, call)).await;
        exchanged.unwrap_or(Err(AgentError::TimedOut { limit }))
    }
}

impl Guest for AgentClient {
    fn status<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        after: Option<u64>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<AgentStatus, StepError>> {
        Box::pin(async move { Ok(self.get_status(guest, after, wait).await?) })
    }

    fn shutdown<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        grace: Option<Duration>,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move { Ok(self.post_shutdown(guest, grace).await?) })
    }

    fn set_clock<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move { Ok(self.post_clock(guest, now).await?) })
    }

    fn reach(
        &self,
        ip: Ipv4Addr,
        port: u16,
        wait: Duration,
    ) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async move {
            let reached = connect::tcp(SocketAddr::from((ip, port)), wait).await;
            reached
                .map(drop)
                .map_err(|error| unreached(ip, port, &error))
        })
    }
}

/// Why the host cannot reach a service, told apart by what a user would do about it.
fn unreached(ip: Ipv4Addr, port: u16, error: &io::Error) -> StepError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            StepError::new(format!("Nothing listens on port {port} of {ip}: the guest refuses the connection"))
                .hint(format!("Let the service listen on 0.0.0.0:{port}, not on 127.0.0.1, and check that its port is {port}"))
        }
        io::ErrorKind::TimedOut => StepError::new(format!("The guest does not answer on port {port} of {ip}"))
            .hint("A firewall in the guest may drop the packets, or its network is not up"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            StepError::new(format!("The host has no way to {ip}: {error}"))
                .hint("The bridge may be down or without its address: restarting volantd puts it in place")
        }
        _ => StepError::new(format!("The host cannot connect to port {port} of {ip}: {error}")),
    }
}

/// A status with everything cut to its limits, and without characters that would act on a terminal.
fn bounded(mut status: AgentStatus) -> AgentStatus {
    status.phases.truncate(MAX_PHASES);
    status.version = sentence(&status.version, MAX_VERSION_CHARS);
    for text in [&mut status.failure, &mut status.health.reason]
        .into_iter()
        .flatten()
    {
        *text = sentence(text, MAX_SENTENCE_CHARS);
    }
    status
}

fn sentence(text: &str, max_chars: usize) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(max_chars).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use common::agent::{GuestHealth, GuestPhase, HealthState, PhaseMark, WorkloadStatus};

    use super::*;

    #[test]
    fn what_a_guest_says_is_cut_and_cleaned() {
        let status = bounded(AgentStatus {
            version: "1".repeat(1000),
            generation: 1,
            now_us: 1,
            phase: GuestPhase::Failed,
            phases: vec![
                PhaseMark {
                    phase: GuestPhase::BackOff,
                    at_us: 1
                };
                1000
            ],
            health: GuestHealth {
                state: HealthState::Unhealthy,
                reason: Some("ä".repeat(1000)),
                probes: 0,
                last_probe_us: None,
                reachable_from_outside: None,
            },
            workload: WorkloadStatus::default(),
            failure: Some("\u{1b}[2Jgone\n".to_owned()),
        });
        assert_eq!(status.version.len(), MAX_VERSION_CHARS);
        assert_eq!(status.phases.len(), MAX_PHASES);
        assert_eq!(
            status.health.reason.unwrap().chars().count(),
            MAX_SENTENCE_CHARS
        );
        assert_eq!(status.failure.as_deref(), Some(" [2Jgone "));
    }

    #[test]
    fn outcomes_are_told_apart() {
        let ip = Ipv4Addr::new(192, 168, 127, 10);
        let refused = unreached(ip, 80, &io::ErrorKind::ConnectionRefused.into());
        assert!(
            refused.message.starts_with("Nothing listens on port 80"),
            "{}",
            refused.message
        );
        assert!(refused.hints[0].contains("0.0.0.0:80"));
        let silent = unreached(ip, 80, &io::ErrorKind::TimedOut.into());
        assert!(silent.message.contains("does not answer"));
        let lost = unreached(ip, 80, &io::ErrorKind::HostUnreachable.into());
        assert!(lost.message.contains("no way to 192.168.127.10"));
    }
}
