//! What happens to VMs and plugins, told to whoever listens: numbered, kept for a while, and replayed to a reader that comes back.
//!
//! ```text
//!  changed, plugin ─▶ ring (the last events) ─▶ archive (more of them, over restarts)
//!                        └── readers: each pulls at its own pace, from the archive, then the ring, then as they come
//! ```
//!
//! A reader owns nothing but its place in the ring, so that a slow one costs nobody anything: it is dropped when the ring has gone past it.
//! Which events are due is in [`change`]; who may listen is not this room's business.

mod change;
mod reader;
mod ring;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::api::{Download, EventType, LogEntry, Vm, VmEvent};
use common::error_chain::Chain;
use common::name::Name;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::limits::EventLimits;
use crate::machine::Clock;
use crate::machine::ports::{BoxFuture, EventSink};
use ring::Ring;

pub use change::between;
pub use reader::{Filter, Item, Reader, TooManyReaders};

/// What goes to the archive in one transaction.
const BATCH_EVENTS: usize = 256;

/// How long the archive is left alone after it failed.
const ARCHIVE_PAUSE: Duration = Duration::from_secs(1);

/// Lines of logs that a reader may fall behind. Few, because a line can be long.
const LINES: usize = 256;

/// What is told of downloads that a reader may fall behind; what it misses is in what comes after.
const DOWNLOADS: usize = 16;

/// By how much a new daemon raises numbers: more than the one before can have told and not kept when it was killed.
const NUMBER_LEAP: u64 = 100_000;

/// Events that a guest can bring about by itself, in [`BUDGET_WINDOW`]: one that flaps must not push out what happens to others.
const BUDGET_EVENTS: u32 = 100;

/// See [`BUDGET_EVENTS`].
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// Keeps events over the end of the daemon: the last so many of them.
pub trait Archive: Send + Sync {
    /// Adds events, numbered ever higher, and forgets the oldest.
    fn append(&self, events: Vec<VmEvent>) -> BoxFuture<'_, Result<(), ArchiveError>>;
    /// The last `count`, oldest first.
    fn last(&self, count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>>;
    /// The first `count` after number `id`, oldest first.
    fn after(&self, id: u64, count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>>;
}

/// The archive failed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot use the archive of events")]
pub struct ArchiveError(#[source] pub Box<dyn Error + Send + Sync>);

/// All events of the daemon. Dropping it ends what writes the archive; see [`Events::flush`].
pub struct Events {
    inner: Arc<Inner>,
    _writer: AbortOnDropHandle<()>,
    _teller: AbortOnDropHandle<()>,
}

struct Inner {
    archive: Arc<dyn Archive>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// The number of the last event.
    newest: watch::Sender<u64>,
    /// The number of the last event in the archive.
    archived: watch::Sender<u64>,
    /// Lines of logs, which are not kept.
    lines: broadcast::Sender<Arc<VmEvent>>,
    /// How far downloads are, which is not kept either.
    downloads: broadcast::Sender<Arc<VmEvent>>,
    max_readers: usize,
    places: Arc<Semaphore>,
    /// Events were put off.
    put_off: Notify,
}

struct State {
    ring: Ring,
    next: u64,
    budgets: HashMap<Name, Budget>,
}

/// What a guest has brought about since a moment.
struct Budget {
    since: Instant,
    count: u32,
    /// The last events of each type that it had no room for, to be told when there is.
    put_off: Vec<VmEvent>,
}

impl Budget {
    fn new(since: Instant) -> Self {
        Self {
            since,
            count: 0,
            put_off: Vec::new(),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= BUDGET_WINDOW
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("newest", &*self.inner.newest.borrow())
            .finish_non_exhaustive()
    }
}

impl Events {
    /// Goes on where the archive ends.
    ///
    /// # Errors
    /// If the archive cannot be read.
    pub async fn open(
        archive: Arc<dyn Archive>,
        clock: Arc<dyn Clock>,
        limits: EventLimits,
    ) -> Result<Self, ArchiveError> {
        let kept = archive.last(limits.ring_events).await?;
        let ring = Ring::of(kept, limits.ring_events);
        let newest = ring.newest();
        let next = if newest == 0 {
            1
        } else {
            newest.saturating_add(NUMBER_LEAP)
        };
        let inner = Arc::new(Inner {
            archive,
            clock,
            state: Mutex::new(State {
                ring,
                next,
                budgets: HashMap::new(),
            }),
            newest: watch::Sender::new(newest),
            archived: watch::Sender::new(newest),
            lines: broadcast::Sender::new(LINES),
            downloads: broadcast::Sender::new(DOWNLOADS),
            max_readers: limits.max_readers,
            places: Arc::new(Semaphore::new(limits.max_readers)),
            put_off: Notify::new(),
        });
        let writer = crate::task::spawn("event-archive", Arc::clone(&inner).keep(newest));
        let teller = crate::task::spawn("event-budgets", Arc::clone(&inner).tell_later());
        Ok(Self {
            inner,
            _writer: AbortOnDropHandle::new(writer),
            _teller: AbortOnDropHandle::new(teller),
        })
    }

    /// Tells that something happened to a plugin.
    pub fn plugin(&self, kind: EventType, name: &Name, message: impl Into<String>) {
        let now = self.inner.clock.now();
        self.inner.tell(vec![VmEvent {
            message: Some(message.into()),
            ..VmEvent::new(kind, name.clone(), now)
        }]);
    }

    /// Tells that a workload wrote a line, to readers that want lines.
    pub fn line(&self, vm: &Name, entry: &LogEntry) {
        if self.inner.lines.receiver_count() == 0 {
            return;
        }
        let event = VmEvent {
            stream: Some(entry.stream),
            line: Some(entry.line.clone()),
            ..VmEvent::new(EventType::VmLog, vm.clone(), entry.time)
        };
        // The last reader may just have gone.
        drop(self.inner.lines.send(Arc::new(event)));
    }

    /// Tells how far a download for a plugin is, to readers that want to know.
    pub fn download(&self, plugin: &Name, download: Download) {
        let event = VmEvent {
            download: Some(download),
            ..VmEvent::new(EventType::Download, plugin.clone(), self.inner.clock.now())
        };
        // Mostly nobody listens.
        drop(self.inner.downloads.send(Arc::new(event)));
    }

    /// Waits until all that was told is in the archive, for `limit` at most. For the daemon's end.
    pub async fn flush(&self, limit: Duration) {
        let newest = *self.inner.newest.borrow();
        let mut archived = self.inner.archived.subscribe();
        if timeout(limit, archived.wait_for(|id| *id >= newest))
            .await
            .is_err()
        {
            tracing::warn!("the last events are not kept");
        }
    }

    /// A reader of what comes from now on, or after event `after`; 0 is all that is kept.
    ///
    /// # Errors
    /// If there are as many already as there may be.
    pub async fn read(&self, after: Option<u64>, filter: Filter) -> Result<Reader, TooManyReaders> {
        Reader::begin(Arc::clone(&self.inner), after, filter).await
    }
}

impl EventSink for Events {
    fn changed(&self, before: Option<&Vm>, after: Option<&Vm>) {
        let events = between(before, after, self.inner.clock.now());
        if !events.is_empty() {
            self.inner.tell(events);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The ring is whole after every statement that changes it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, events: Vec<VmEvent>) {
        let mut state = self.state();
        let now = Instant::now();
        state.catch_up(now);
        for event in events {
            if let Some(event) = state.afforded(event, now) {
                state.number(event);
            } else {
                self.put_off.notify_one();
            }
        }
        // Under the lock, so that nobody sees numbers go back.
        let newest = state.ring.newest();
        self.newest.send_if_modified(|known| {
            let is_new = *known != newest;
            *known = newest;
            is_new
        });
    }

    /// Tells what was put off, once there is room for it: the last of what a guest did must not stay unknown because it is quiet now.
    async fn tell_later(self: Arc<Self>) {
        loop {
            self.put_off.notified().await;
            let mut due = self.state().due();
            while let Some(moment) = due {
                sleep_until(moment).await;
                self.tell(Vec::new());
                due = self.state().due();
            }
        }
    }

    /// Writes what is told to the archive, as it comes. What the ring has lost before it was written is lost.
    async fn keep(self: Arc<Self>, mut written: u64) {
        let mut newest = self.newest.subscribe();
        loop {
            let batch: Vec<VmEvent> = self
                .state()
                .ring
                .after(written, BATCH_EVENTS)
                .iter()
                .map(|event| VmEvent::clone(event))
                .collect();
            let Some(last) = batch.last().map(|event| event.id) else {
                // The sender is here as well, so this waits for ever rather than fail.
                drop(newest.changed().await);
                continue;
            };
            match self.archive.append(batch).await {
                Ok(()) => {
                    written = last;
                    self.archived.send_replace(last);
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "events not kept");
                    sleep(ARCHIVE_PAUSE).await;
                }
            }
        }
    }
}

impl State {
    fn number(&mut self, event: VmEvent) {
        let id = self.next;
        self.next = id.saturating_add(1);
        self.ring.push(VmEvent { id, ..event });
    }

    /// An event, if it is told now. All are, but those of a guest that brings about too many: of these the last ones are put off.
    fn afforded(&mut self, event: VmEvent, now: Instant) -> Option<VmEvent> {
        match event.kind {
            EventType::VmDeleted => {
                self.budgets.remove(&event.name);
                return Some(event);
            }
            EventType::VmHealth | EventType::VmRestart | EventType::VmPhase => {}
            _ => return Some(event),
        }
        let budget = self.budgets.entry(event.name.clone());
        let budget = budget.or_insert_with(|| Budget::new(now));
        if budget.is_over(now) {
            *budget = Budget::new(now);
        }
        budget.count = budget.count.saturating_add(1);
        if budget.count == BUDGET_EVENTS + 1 {
            tracing::warn!(vm = %event.name, "too many events of one vm: some are left out");
        }
        if budget.count <= BUDGET_EVENTS {
            return Some(event);
        }
        budget.put_off.retain(|other| other.kind != event.kind);
        budget.put_off.push(event);
        None
    }

    /// When something that was put off is told.
    fn due(&self) -> Option<Instant> {
        let waiting = self.budgets.values();
        let waiting = waiting.filter(|budget| !budget.put_off.is_empty());
        waiting.map(|budget| budget.since + BUDGET_WINDOW).min()
    }

    /// Tells what was put off and is due.
    fn catch_up(&mut self, now: Instant) {
        let over = self.budgets.values_mut();
        let over = over.filter(|budget| budget.is_over(now) && !budget.put_off.is_empty());
        let due: Vec<VmEvent> = over
            .flat_map(|budget| std::mem::replace(budget, Budget::new(now)).put_off)
            .collect();
        for event in due {
            self.number(event);
        }
    }
}
