//! Fetches what one guest's workload writes, for as long as the guest lives: one connection to its agent at a time, opened anew when it ends.
//!
//! A guest is not trusted: it may send without end, garbage, or nothing. It gets a bounded rate, bounded lines and bounded waits.

use std::sync::Arc;
use std::time::Duration;

use common::agent::log::LogLine;
use common::error_chain::Chain;
use common::name::Name;
use futures_util::StreamExt as _;
use hyper::body::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::wire::Wire;
use super::{Log, LogBytes, Shared};
use crate::machine::Backoff;
use crate::machine::ports::{GuestEndpoint, StepError};

/// The waits before an agent is tried that was never heard: a guest boots in a second, and what it says first must not be lost.
const FIRST_KNOCK: Duration = Duration::from_millis(20);
const SLOWEST_KNOCK: Duration = Duration::from_millis(250);

/// The waits before one is tried again that was.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const SLOWEST_RETRY: Duration = Duration::from_secs(5);

/// How long a connection may be silent before it is opened anew: one that broke without a word would be silent for ever.
const SILENCE: Duration = Duration::from_mins(1);

/// How long the last lines of a guest that ends may be on their way, all in all, and each.
const DRAIN: Duration = Duration::from_millis(500);
const DRAIN_PAUSE: Duration = Duration::from_millis(100);

/// What a guest may write in the long run. More would only push out its own log: what the agent cannot keep meanwhile is lost and counted.
const RATE_BYTES_PER_S: u64 = 4 * 1024 * 1024;

/// How far a guest may be ahead of its rate: what an agent keeps goes through at once.
const BURST: Duration = Duration::from_millis(500);

/// How long a log that cannot be opened is left alone.
const OPEN_PAUSE: Duration = Duration::from_secs(5);

/// Follows one guest.
pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Arc<Log>,
    pub(super) vm: Name,
    pub(super) launch: String,
    pub(super) endpoint: GuestEndpoint,
    /// The guest ends.
    pub(super) stop: CancellationToken,
}

impl Follower {
    /// Runs until the guest has ended, or its VM is removed. The journal is held for as long, so that one guest's lines come after the
    /// other's.
    pub(super) async fn run(self) {
        let log = Arc::clone(&self.log);
        tokio::select! {
            () = log.removed.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(self) {
        let mut slot = Arc::clone(&self.log.journal).lock_owned().await;
        let Some(mut journal) = self.open(slot.take()).await else {
            return;
        };
        let mut knocks = Backoff::new(FIRST_KNOCK, SLOWEST_KNOCK);
        let mut retries = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        let mut was_heard = false;
        // One for all connections: a guest that opens another one gains nothing by it.
        let mut pace = Pace::new(Instant::now());
        while !self.stop.is_cancelled() {
            let after = journal.seq(&self.launch);
            let opened = tokio::select! {
                biased;
                opened = self.shared.source.open(&self.endpoint, after) => opened,
                () = self.stop.cancelled() => break,
            };
            match opened {
                Ok(bytes) => {
                    was_heard = true;
                    let came;
                    (journal, came) = self.session(bytes, journal, &mut pace).await;
                    if came {
                        retries.reset();
                    }
                }
                Err(error) => self.note(&error),
            }
            let wait = if was_heard {
                retries.next()
            } else {
                knocks.next()
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(wait) => {}
            }
        }
        *slot = Some(journal);
    }

    /// The journal that was open, or the file's. None if it cannot be opened until the guest ends.
    async fn open(&self, open: Option<Journal>) -> Option<Journal> {
        if open.is_some() {
            return open;
        }
        loop {
            let file = Arc::clone(&self.log.file);
            match blocking(move || Journal::open(file)).await {
                Ok(journal) => return Some(journal),
                Err(error) => tracing::warn!(vm = %self.vm, %error, "log not opened"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep(OPEN_PAUSE) => {}
            }
        }
    }

    fn note(&self, error: &StepError) {
        tracing::debug!(vm = %self.vm, error = %Chain(error), "log not fetched");
    }

    /// Reads one connection to its end; gives the journal back, and whether anything came.
    async fn session(
        &self,
        mut bytes: LogBytes,
        mut journal: Journal,
        pace: &mut Pace,
    ) -> (Journal, bool) {
        let mut wire = Wire::default();
        let mut came = false;
        let mut drained = None;
        while let Some(piece) = self.piece(&mut bytes, &mut drained).await {
            let mut lines = Vec::new();
            wire.take(&piece, &mut lines);
            if !lines.is_empty() {
                came = true;
                let is_written;
                (journal, is_written) = self.write(lines, journal).await;
                if !is_written {
                    // A new connection asks for them again.
                    came = false;
                    break;
                }
            }
            let next = pace.take(Instant::now(), piece.len());
            if drained.is_none() {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = sleep_until(next) => {}
                }
            }
        }
        if wire.garbage > 0 {
            tracing::debug!(vm = %self.vm, lines = wire.garbage, "lines of a guest left out");
        }
        (journal, came)
    }

    /// The next bytes. Once the guest ends only those that are on the way.
    async fn piece(&self, bytes: &mut LogBytes, drained: &mut Option<Instant>) -> Option<Bytes> {
        let next = if let Some(deadline) = *drained {
            let left = deadline.saturating_duration_since(Instant::now());
            // A guest that writes without end always has something ready, whatever the limit.
            if left.is_zero() {
                return None;
            }
            timeout(DRAIN_PAUSE.min(left), bytes.next()).await
        } else {
            tokio::select! {
                biased;
                next = timeout(SILENCE, bytes.next()) => next,
                () = self.stop.cancelled() => {
                    *drained = Some(Instant::now() + DRAIN);
                    timeout(DRAIN_PAUSE, bytes.next()).await
                }
            }
        };
        if self.stop.is_cancelled() {
            drained.get_or_insert_with(|| Instant::now() + DRAIN);
        }
        match next {
            Ok(Some(Ok(bytes))) => Some(bytes),
            Ok(Some(Err(error))) => {
                self.note(&error);
                None
            }
            Ok(None) | Err(_) => None,
        }
    }

    async fn write(&self, lines: Vec<LogLine>, mut journal: Journal) -> (Journal, bool) {
        let (launch, now) = (self.launch.clone(), self.shared.clock.now());
        let (journal, written) = blocking(move || {
            let written = journal.write(&launch, lines, now);
            (journal, written)
        })
        .await;
        match written {
            Ok(entries) => {
                self.shared.tell(&self.vm, &entries);
                (journal, true)
            }
            Err(error) => {
                tracing::warn!(vm = %self.vm, %error, "log not written");
                (journal, false)
            }
        }
    }
}

/// Runs what may wait for a disk. A panic goes on in the caller, so that nothing that it holds stays held. Never returns if the runtime ends
/// meanwhile.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_ended) => std::future::pending().await,
        },
    }
}

/// When a guest may be read again.
struct Pace {
    paid_until: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { paid_until: now }
    }

    /// Accounts for bytes. Gives the time from which on more may be read.
    fn take(&mut self, now: Instant, bytes: usize) -> Instant {
        let cost_us = u64::try_from(bytes)
            .unwrap_or(u64::MAX)
            .saturating_mul(1_000_000)
            / RATE_BYTES_PER_S;
        self.paid_until = self.paid_until.max(now) + Duration::from_micros(cost_us);
        self.paid_until.checked_sub(BURST).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_holds_nothing() {
        let held = Arc::new(tokio::sync::Mutex::new(()));
        let holder = Arc::clone(&held);
        let panicked = tokio::spawn(async move {
            let _held = holder.lock().await;
            blocking(|| panic!("on purpose")).await
        });
        assert!(panicked.await.unwrap_err().is_panic());
        assert!(held.try_lock().is_ok());
    }

    #[test]
    fn a_guest_gets_its_rate_and_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let burst = usize::try_from(RATE_BYTES_PER_S).unwrap() / 2;
        assert!(pace.take(start, burst) <= start);
        let next = pace.take(start, burst * 2);
        assert_eq!(next, start + Duration::from_secs(1));
        let later = start + Duration::from_hours(1);
        assert!(pace.take(later, burst) <= later, "an hour is no credit");
        assert!(pace.take(later, burst) > later);
    }
}
