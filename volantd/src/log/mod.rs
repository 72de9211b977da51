//! What the workloads of VMs write: fetched from their agents, kept in bounded files, and read and followed from there.
//!
//! ```text
//!  agent ── lines ──▶ follower ─▶ journal ─▶ workload.log, workload.log.1 ─▶ readers: filtered, from any place, onwards
//!                        └── VM_LOG events
//! ```
//!
//! Logs stay while their VM stops, crashes and starts again and the daemon restarts, and go with the VM. How an agent is reached is
//! not known here; the console's log uses the same files.

mod follower;
mod journal;
mod reader;
mod ring_file;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use common::api::LogEntry;
use common::name::Name;
use futures_util::Stream;
use hyper::body::Bytes;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::event::Events;
use crate::limits::LogLimits;
use crate::machine::Clock;
use crate::machine::ports::{BoxFuture, GuestEndpoint, LogSink, StepError};
use follower::Follower;
use journal::Journal;

pub(crate) use follower::blocking;
pub use ring_file::Place;
pub(crate) use ring_file::{Chunk, End, RingFile, RingReader};

pub use reader::{Filter, Follow, Item, Reader, Since, TooManyReaders};

/// The log's name in a VM's state directory; the one before it ends in `.1`.
pub const WORKLOAD_LOG: &str = "workload.log";

/// What an agent sends, in pieces of any size.
pub type LogBytes = Pin<Box<dyn Stream<Item = Result<Bytes, StepError>> + Send>>;

/// Where lines come from: the agents in guests.
pub trait LogSource: Send + Sync {
    /// One connection that gives the lines after number `after`, and then each as it comes, as [`common::agent::LOGS_PATH`] says. One
    /// attempt: no retries in it.
    fn open<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        after: u64,
    ) -> BoxFuture<'a, Result<LogBytes, StepError>>;
}

/// The logs of all VMs.
pub struct Logs {
    shared: Arc<Shared>,
    open: StdMutex<HashMap<Name, Arc<Log>>>,
    places: Arc<Semaphore>,
    limits: LogLimits,
}

/// What every follower needs.
struct Shared {
    source: Arc<dyn LogSource>,
    events: Arc<Events>,
    clock: Arc<dyn Clock>,
}

impl Shared {
    /// Tells whoever listens for events what was written.
    fn tell(&self, vm: &Name, entries: &[LogEntry]) {
        for entry in entries {
            self.events.line(vm, entry);
        }
    }
}

/// One VM's log. It outlives the launches of its VM.
struct Log {
    file: Arc<RingFile>,
    /// Held by whoever follows a guest; none before the first.
    journal: Arc<Mutex<Option<Journal>>>,
    following: StdMutex<Option<Following>>,
    removed: CancellationToken,
}

/// The guest that is followed.
struct Following {
    launch: String,
    stop: CancellationToken,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").finish_non_exhaustive()
    }
}

impl Logs {
    /// No logs yet; each is opened on first use.
    pub fn new(
        source: Arc<dyn LogSource>,
        events: Arc<Events>,
        clock: Arc<dyn Clock>,
        limits: LogLimits,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                events,
                clock,
            }),
            open: StdMutex::default(),
            places: Arc::new(Semaphore::new(limits.max_readers)),
            limits,
        }
    }

    fn log(&self, vm: &Name, state_dir: &Path) -> Arc<Log> {
        let mut open = lock(&self.open);
        let log = open.entry(vm.clone()).or_insert_with(|| {
            let file = RingFile::new(state_dir.join(WORKLOAD_LOG), self.limits.max_file_bytes);
            Arc::new(Log {
                file: Arc::new(file),
                journal: Arc::default(),
                following: StdMutex::default(),
                removed: CancellationToken::new(),
            })
        });
        Arc::clone(log)
    }

    /// A reader of the log of the VM whose files are in `state_dir`.
    ///
    /// # Errors
    /// [`TooManyReaders`].
    pub fn read(
        &self,
        vm: &Name,
        state_dir: &Path,
        filter: Filter,
    ) -> Result<Reader, TooManyReaders> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| TooManyReaders {
                limit: self.limits.max_readers,
            })?;
        let file = Arc::clone(&self.log(vm, state_dir).file);
        Ok(Reader::new(file, filter, place))
    }
}

impl LogSink for Logs {
    fn begin(&self, vm: &Name, state_dir: &Path, launch: &str, endpoint: GuestEndpoint) {
        let log = self.log(vm, state_dir);
        let stop = CancellationToken::new();
        {
            let mut following = lock(&log.following);
            if following
                .as_ref()
                .is_some_and(|following| following.launch == launch)
            {
                return;
            }
            let new = Following {
                launch: launch.to_owned(),
                stop: stop.clone(),
            };
            if let Some(before) = following.replace(new) {
                before.stop.cancel();
            }
        }
        let follower = Follower {
            shared: Arc::clone(&self.shared),
            log,
            vm: vm.clone(),
            launch: launch.to_owned(),
            endpoint,
            stop,
        };
        crate::task::spawn("workload-log", follower.run());
    }

    fn end(&self, vm: &Name) {
        let log = lock(&self.open).get(vm).cloned();
        if let Some(following) = log.and_then(|log| lock(&log.following).take()) {
            following.stop.cancel();
        }
    }

    fn remove(&self, vm: &Name) {
        self.end(vm);
        if let Some(log) = lock(&self.open).remove(vm) {
            log.removed.cancel();
            log.file.remove();
        }
    }

    fn tail(&self, vm: &Name, state_dir: &Path, lines: usize) -> String {
        let log = self.log(vm, state_dir);
        let launch = lock(&log.following)
            .as_ref()
            .map(|following| following.launch.clone());
        launch
            .and_then(|launch| reader::tail(&log.file, &launch, lines).ok())
            .unwrap_or_default()
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
