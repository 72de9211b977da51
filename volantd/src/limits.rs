//! How much there may be of everything that clients, guests and sources can make grow, and how slow they may be. Each limit is a key of the
//! configuration, described in docs/limits.md; what bounds one message or is a fact of a format stays where that is read.
//!
//! Each room is given its own part of [`Limits`] and knows no key.

use std::convert::Infallible;
use std::time::Duration;

/// A key of the configuration that limits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The key, with its unit.
    pub key: &'static str,
    /// Its value unless configured.
    pub default: u64,
    /// The least that it can be.
    pub least: u64,
    /// The most that it can be.
    pub most: u64,
}

macro_rules! bounds {
    ($($(#[doc = $doc:literal])* $name:ident: $key:literal, $default:literal in $least:literal..=$most:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: Bound = Bound { key: $key, default: $default, least: $least, most: $most };)*

        /// All limits, in the order of docs/limits.md.
        pub const ALL: &[Bound] = &[$($name),*];
    };
}

bounds! {
    /// Connections on each listener: more than the requests and streams that are answered at once, so that those are told so politely.
    CONNECTIONS: "max_connections", 4096 in 8..=65_536;
    /// How long the head of a request may take, and how long a connection may be silent before it.
    HEADER_TIMEOUT: "header_timeout_s", 30 in 1..=3600;
    /// How long a client may take nothing of what it asked for.
    WRITE_TIMEOUT: "write_timeout_s", 60 in 1..=3600;
    /// Requests that are answered at once: more is a client that does not wait for answers.
    REQUESTS: "max_requests", 1024 in 1..=65_536;
    /// Consoles, logs, events and other streams that are open at once.
    STREAMS: "max_streams", 512 in 1..=65_536;
    /// The body of a request: a manifest, with room.
    BODY: "max_body_kib", 1024 in 1..=65_536;
    /// How long a body of that size may take on a slow line.
    BODY_TIMEOUT: "body_timeout_s", 30 in 1..=3600;
    /// How long a guest may take to look at a path, to take a piece of an archive, or to finish with it: its disk may be slow.
    COPY_TIMEOUT: "copy_timeout_s", 120 in 1..=3600;
    /// How long a workload may take to begin its answer, or to take the next piece of a request.
    PROXY_TIMEOUT: "proxy_timeout_s", 120 in 1..=3600;
    /// VMs; addresses of the subnet are usually gone before.
    VMS: "max_vms", 4096 in 1..=65_536;
    /// Installed plugins.
    PLUGINS: "max_plugins", 1024 in 1..=65_536;
    /// Artifacts that are kept for one plugin: more is a client that never removes any.
    PLUGIN_ARTIFACTS: "max_artifacts_per_plugin", 200 in 1..=10_000;
    /// One artifact: the most that one file of an initramfs can have.
    ARTIFACT: "max_artifact_mib", 4096 in 1..=1_048_576;
    /// Artifacts that are fetched at once: more only share one line, and each needs room on the disk.
    FETCHES: "max_fetches", 4 in 1..=64;
    /// How long one artifact may take to come: a large one on a slow line.
    FETCH_TIMEOUT: "fetch_timeout_s", 3600 in 1..=86_400;
    /// A description of an API that a manifest or a workload gives.
    DOCUMENT: "max_openapi_kib", 1024 in 1..=16_384;
    /// Versions of a VM's configuration.
    CONFIG_VERSIONS: "kept_config_versions", 50 in 2..=1000;
    /// Answers to requests with an idempotency key: a client that retries does so soon.
    IDEMPOTENCY_KEYS: "kept_idempotency_keys", 1000 in 1..=100_000;
    /// Events in the database.
    EVENTS: "kept_events", 10_000 in 1..=1_000_000;
    /// Events in memory: what a reader may fall behind, and what is replayed without the database.
    RING_EVENTS: "ring_events", 4096 in 512..=262_144;
    /// Readers of events. Each is an open connection and little else.
    EVENT_READERS: "max_event_readers", 1024 in 1..=65_536;
    /// One file of a VM's log; two are kept.
    LOG: "max_log_mib", 8 in 1..=1024;
    /// Readers of logs, each with an open file.
    LOG_READERS: "max_log_readers", 256 in 1..=65_536;
    /// One file of a VM's console; two are kept.
    CONSOLE_LOG: "max_console_log_mib", 4 in 1..=1024;
    /// What a new watcher of a console sees first: some screens of text.
    SCROLLBACK: "console_scrollback_kib", 16 in 1..=1024;
    /// Those who watch one console, or read its log.
    WATCHERS: "max_console_watchers", 64 in 1..=1024;
    /// Commands that run in one VM at once: as many as its agent has room for.
    SESSIONS: "max_sessions_per_vm", 16 in 1..=16;
    /// Copies of files of one VM at once. The agent does four, and has the others wait.
    COPIES: "max_copies_per_vm", 8 in 1..=16;
    /// Requests that are passed on to one VM at once. The agent has 128 connections in all.
    PROXIED: "max_proxied_per_vm", 64 in 1..=96;
}

/// The limits, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of each listener.
    pub connections: ConnectionLimits,
    /// Of requests.
    pub requests: RequestLimits,
    /// Of what is installed and created.
    pub counts: CountLimits,
    /// Of artifacts that are fetched.
    pub fetches: FetchLimits,
    /// Of the database.
    pub store: StoreLimits,
    /// Of events.
    pub events: EventLimits,
    /// Of workloads' logs.
    pub logs: LogLimits,
    /// Of consoles.
    pub consoles: ConsoleLimits,
    /// Of the ways into one guest.
    pub ways: WayLimits,
}

/// The limits of the connections of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// See [`CONNECTIONS`].
    pub max_connections: usize,
    /// See [`HEADER_TIMEOUT`].
    pub header_timeout: Duration,
    /// See [`WRITE_TIMEOUT`].
    pub write_timeout: Duration,
}

/// The limits of requests, on the unix socket and on TCP each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// See [`REQUESTS`].
    pub max_requests: usize,
    /// See [`STREAMS`].
    pub max_streams: usize,
    /// See [`BODY`].
    pub max_body_bytes: usize,
    /// See [`BODY_TIMEOUT`].
    pub body_timeout: Duration,
    /// See [`COPY_TIMEOUT`].
    pub copy_timeout: Duration,
    /// See [`PROXY_TIMEOUT`].
    pub proxy_timeout: Duration,
}

/// The limits of what is installed and created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountLimits {
    /// See [`VMS`].
    pub max_vms: usize,
    /// See [`PLUGINS`].
    pub max_plugins: usize,
    /// See [`PLUGIN_ARTIFACTS`].
    pub max_artifacts_per_plugin: usize,
    /// See [`DOCUMENT`].
    pub max_openapi_bytes: usize,
}

/// The limits of artifacts that are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// See [`ARTIFACT`].
    pub max_artifact_bytes: u64,
    /// See [`FETCHES`].
    pub max_fetches: usize,
    /// See [`FETCH_TIMEOUT`].
    pub timeout: Duration,
}

/// The limits of what the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// See [`CONFIG_VERSIONS`].
    pub config_versions: u32,
    /// See [`IDEMPOTENCY_KEYS`].
    pub idempotency_keys: u32,
    /// See [`EVENTS`].
    pub events: u32,
}

/// The limits of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    /// See [`RING_EVENTS`].
    pub ring_events: usize,
    /// See [`EVENT_READERS`].
    pub max_readers: usize,
}

/// The limits of workloads' logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// See [`LOG`].
    pub max_file_bytes: u64,
    /// See [`LOG_READERS`].
    pub max_readers: usize,
}

/// The limits of consoles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleLimits {
    /// See [`CONSOLE_LOG`].
    pub max_file_bytes: u64,
    /// See [`SCROLLBACK`].
    pub scrollback_bytes: usize,
    /// See [`WATCHERS`].
    pub max_watchers: usize,
}

/// The limits of the ways into one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WayLimits {
    /// See [`SESSIONS`].
    pub sessions: usize,
    /// See [`COPIES`].
    pub copies: usize,
    /// See [`PROXIED`].
    pub proxied: usize,
}

impl Limits {
    /// The limits of which `value` gives each in the unit of its key.
    ///
    /// # Errors
    /// The first of `value`.
    pub fn read<E>(value: impl Fn(&Bound) -> Result<u64, E>) -> Result<Self, E> {
        let count = |bound| value(bound).map(size);
        let small = |bound| value(bound).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        let seconds = |bound| value(bound).map(Duration::from_secs);
        let kib = |bound| value(bound).map(|number| size(number.saturating_mul(KIB)));
        let mib = |bound| value(bound).map(|number| number.saturating_mul(KIB * KIB));
        Ok(Self {
            connections: ConnectionLimits {
                max_connections: count(&CONNECTIONS)?,
                header_timeout: seconds(&HEADER_TIMEOUT)?,
                write_timeout: seconds(&WRITE_TIMEOUT)?,
            },
            requests: RequestLimits {
                max_requests: count(&REQUESTS)?,
                max_streams: count(&STREAMS)?,
                max_body_bytes: kib(&BODY)?,
                body_timeout: seconds(&BODY_TIMEOUT)?,
                copy_timeout: seconds(&COPY_TIMEOUT)?,
                proxy_timeout: seconds(&PROXY_TIMEOUT)?,
            },
            counts: CountLimits {
                max_vms: count(&VMS)?,
                max_plugins: count(&PLUGINS)?,
                max_artifacts_per_plugin: count(&PLUGIN_ARTIFACTS)?,
                max_openapi_bytes: kib(&DOCUMENT)?,
            },
            fetches: FetchLimits {
                max_artifact_bytes: mib(&ARTIFACT)?,
                max_fetches: count(&FETCHES)?,
                timeout: seconds(&FETCH_TIMEOUT)?,
            },
            store: StoreLimits {
                config_versions: small(&CONFIG_VERSIONS)?,
                idempotency_keys: small(&IDEMPOTENCY_KEYS)?,
                events: small(&EVENTS)?,
            },
            events: EventLimits {
                ring_events: count(&RING_EVENTS)?,
                max_readers: count(&EVENT_READERS)?,
            },
            logs: LogLimits {
                max_file_bytes: mib(&LOG)?,
                max_readers: count(&LOG_READERS)?,
            },
            consoles: ConsoleLimits {
                max_file_bytes: mib(&CONSOLE_LOG)?,
                scrollback_bytes: kib(&SCROLLBACK)?,
                max_watchers: count(&WATCHERS)?,
            },
            ways: WayLimits {
                sessions: count(&SESSIONS)?,
                copies: count(&COPIES)?,
                proxied: count(&PROXIED)?,
            },
        })
    }
}

const KIB: u64 = 1024;

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Default for EventLimits {
    fn default() -> Self {
        Limits::default().events
    }
}

impl Default for LogLimits {
    fn default() -> Self {
        Limits::default().logs
    }
}

impl Default for ConsoleLimits {
    fn default() -> Self {
        Limits::default().consoles
    }
}

impl Default for RequestLimits {
    fn default() -> Self {
        Limits::default().requests
    }
}

impl Default for Limits {
    fn default() -> Self {
        match Self::read(|bound| Ok::<_, Infallible>(bound.default)) {
            Ok(limits) => limits,
            Err(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use common::api::{KEPT_EVENTS, MAX_CONFIG_VERSIONS};

    use super::*;

    /// The table in docs/limits.md: key, default, least and most.
    fn documented() -> Vec<(String, [u64; 3])> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/limits.md");
        let text = fs_err::read_to_string(path).unwrap();
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let number = |cell: usize| cells[cell].replace(' ', "").parse().unwrap();
            let key = cells[1].trim_matches('`').to_owned();
            assert!(!cells[5].is_empty(), "{key} is not explained");
            (key, [number(2), number(3), number(4)])
        })
        .collect()
    }

    #[test]
    fn the_documentation_has_every_limit_as_it_is() {
        let known: Vec<_> = ALL
            .iter()
            .map(|bound| {
                let numbers = [bound.default, bound.least, bound.most];
                (bound.key.to_owned(), numbers)
            })
            .collect();
        assert_eq!(documented(), known);
    }

    #[test]
    fn defaults_lie_within_their_bounds_and_are_what_clients_are_told() {
        for bound in ALL {
            let possible = bound.least..=bound.most;
            assert!(possible.contains(&bound.default), "{}", bound.key);
        }
        let store = Limits::default().store;
        assert_eq!(usize::try_from(store.events).unwrap(), KEPT_EVENTS);
        assert_eq!(store.config_versions, MAX_CONFIG_VERSIONS);
    }
}
