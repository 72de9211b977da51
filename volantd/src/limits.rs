//! How much clients of the API may ask of the daemon. Each limit is a key of the configuration; what bounds guests, images and downloads
//! is where those are read.

use std::time::Duration;

/// The largest body of a request in KiB: a manifest, with room.
pub const MAX_BODY_KIB: u64 = 1024;

/// How long a client may take to send a body, in seconds: one of that size on a slow line.
pub const BODY_TIMEOUT_S: u64 = 30;

/// How many requests are answered at once on each listener; more is a client that does not wait for answers.
pub const MAX_REQUESTS: u64 = 1024;

/// How many consoles, logs, events and other streams are open at once on each listener.
pub const MAX_STREAMS: u64 = 512;

/// The limits, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest body of a request in bytes: [`MAX_BODY_KIB`] unless configured.
    pub max_body_bytes: usize,
    /// How long a client may take to send it: [`BODY_TIMEOUT_S`] unless configured.
    pub body_timeout: Duration,
    /// Requests at once, on the unix socket and on TCP each: [`MAX_REQUESTS`] unless configured.
    pub max_requests: usize,
    /// Streams at once, on the unix socket and on TCP each: [`MAX_STREAMS`] unless configured.
    pub max_streams: usize,
}

impl Limits {
    /// Limits in the units of the configuration.
    pub fn new(
        max_body_kib: u64,
        body_timeout_s: u64,
        max_requests: u64,
        max_streams: u64,
    ) -> Self {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            max_body_bytes: size(max_body_kib.saturating_mul(1024)),
            body_timeout: Duration::from_secs(body_timeout_s),
            max_requests: size(max_requests),
            max_streams: size(max_streams),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(MAX_BODY_KIB, BODY_TIMEOUT_S, MAX_REQUESTS, MAX_STREAMS)
    }
}
