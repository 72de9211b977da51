//! Who may end the guest, and how everybody learns of it. What an end consists of is `supervise` and `power`.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// SIGPWR of Linux on x86 (signal(7)): what a host sends a container's PID 1 on power failure, and lxc on shutdown.
const SIGPWR: i32 = 30;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Why the guest ends as it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// A signal with this name.
    Signal(&'static str),
    /// A request with the guest's secret.
    Request,
    /// The workload ended and its policy says so.
    WorkloadEnded,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "asked by {name}"),
            Self::Request => f.write_str("asked by the host"),
            Self::WorkloadEnded => f.write_str("the workload has ended"),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopOrder {
    /// Why.
    pub(crate) reason: StopReason,
    /// How long the workload has after its stop signal; as its manifest says if nothing.
    pub(crate) grace: Option<Duration>,
}

/// The request to stop: made once, seen by all.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Sender<Option<StopOrder>>);

impl Stop {
    /// Nothing is asked yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Asks to stop, with the grace that the manifest says. The first order stays.
    pub(crate) fn ask(&self, reason: StopReason) {
        self.ask_within(reason, None);
    }

    /// Asks to stop. The first order stays.
    pub(crate) fn ask_within(&self, reason: StopReason, grace: Option<Duration>) {
        self.0.send_if_modified(|asked| {
            let first = asked.is_none();
            if first {
                *asked = Some(StopOrder { reason, grace });
            }
            first
        });
    }

    /// Waits until somebody asks. Answers at once afterwards.
    pub(crate) async fn asked(&self) -> StopOrder {
        let mut changes = self.0.subscribe();
        let order = changes
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|order| *order);
        match order {
            Some(order) => order,
            // The sender is `self`: it cannot be gone.
            None => std::future::pending().await,
        }
    }
}

/// Turns SIGTERM, SIGINT and SIGPWR into a request to stop.
pub(crate) fn listen(stop: &Stop) -> io::Result<()> {
    for (number, name) in [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGPWR, "SIGPWR")] {
        let mut signals = signal(SignalKind::from_raw(number))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                stop.ask(StopReason::Signal(name));
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signal_self;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let stop = Stop::new();
        stop.ask(StopReason::Request);
        stop.ask(StopReason::WorkloadEnded);
        assert_eq!(stop.asked().await.reason, StopReason::Request);
        assert_eq!(stop.clone().asked().await.reason, StopReason::Request);
    }

    #[tokio::test]
    async fn signals_ask_to_stop() {
        let stop = Stop::new();
        listen(&stop).unwrap();
        signal_self(SIGPWR);
        assert_eq!(stop.asked().await.reason, StopReason::Signal("SIGPWR"));
    }
}
