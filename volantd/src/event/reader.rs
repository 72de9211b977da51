//! One reader of events: from the archive, then from the ring, then as they come. It is dropped when it falls out of the ring.

use std::collections::VecDeque;
use std::sync::Arc;

use common::api::{EventType, VmEvent};
use common::error_chain::Chain;
use common::name::Name;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};

use super::{Inner, NUMBER_LEAP};

/// The events that a reader takes at a time.
const PAGE_EVENTS: usize = 256;

/// Which events a reader wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these VMs or plugins; of all if none is named.
    pub names: Vec<Name>,
    /// Of these types; all that are kept if none is named.
    pub kinds: Vec<EventType>,
}

impl Filter {
    fn admits(&self, event: &VmEvent) -> bool {
        let named = self.names.is_empty() || self.names.contains(&event.name);
        let of_kind = if self.kinds.is_empty() {
            !event.kind.is_passing()
        } else {
            self.kinds.contains(&event.kind)
        };
        named && of_kind
    }
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Something happened.
    Event(Arc<VmEvent>),
    /// Events after this number are not kept any more, or the number is not known.
    Gap {
        /// What the reader asked for.
        after: u64,
    },
    /// The reader was too slow: nothing comes after this.
    Lagged {
        /// The last number that it has.
        after: u64,
    },
}

/// There are as many readers as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("There are {limit} readers of events already")]
pub struct TooManyReaders {
    /// How many there may be.
    pub limit: usize,
}

/// One reader.
pub struct Reader {
    inner: Arc<Inner>,
    filter: Filter,
    newest: watch::Receiver<u64>,
    /// Lines of logs, if it wants them.
    lines: Option<broadcast::Receiver<Arc<VmEvent>>>,
    /// How far downloads are, if it wants that.
    downloads: Option<broadcast::Receiver<Arc<VmEvent>>>,
    /// All up to this number is in `pending`, or was given.
    after: u64,
    pending: VecDeque<Item>,
    /// Whether it was told that events after `after` may be missing.
    told_gap: bool,
    /// Whether it has had everything once: only then can it be too slow.
    caught_up: bool,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("filter", &self.filter)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) async fn begin(
        inner: Arc<Inner>,
        after: Option<u64>,
        filter: Filter,
    ) -> Result<Self, TooManyReaders> {
        let place = Arc::clone(&inner.places)
            .try_acquire_owned()
            .map_err(|_| TooManyReaders {
                limit: inner.max_readers,
            })?;
        let newest = inner.newest.subscribe();
        let known = *newest.borrow();
        let wants_lines = filter.kinds.contains(&EventType::VmLog);
        let lines = wants_lines.then(|| inner.lines.subscribe());
        let wants_downloads = filter.kinds.contains(&EventType::Download);
        let downloads = wants_downloads.then(|| inner.downloads.subscribe());
        let mut reader = Self {
            inner,
            filter,
            newest,
            lines,
            downloads,
            after: after.unwrap_or(known),
            pending: VecDeque::new(),
            told_gap: false,
            caught_up: after.is_none(),
            ended: false,
            _place: place,
        };
        if let Some(after) = after.filter(|after| *after > 0)
            && !reader.knows(after).await
        {
            reader.tell_gap();
            if after > known {
                reader.after = 0;
            }
        }
        Ok(reader)
    }

    async fn knows(&self, id: u64) -> bool {
        {
            let state = self.inner.state();
            if state.ring.knows(id) {
                return true;
            }
            if !state.ring.has_lost(id) {
                return false;
            }
        }
        let next = id.saturating_add(1);
        let found = self.inner.archive.after(id.saturating_sub(1), 1).await;
        found.is_ok_and(|events| {
            events
                .first()
                .is_some_and(|event| event.id == id || event.id == next)
        })
    }

    /// The next item, as soon as there is one; none after [`Item::Lagged`]. Nothing is lost if it is dropped before.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.pending.pop_front() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            // Before the ring is looked at: what comes meanwhile is told again.
            self.newest.mark_unchanged();
            if self.inner.state().ring.has_lost(self.after) {
                if self.caught_up {
                    self.ended = true;
                    return Some(Item::Lagged { after: self.after });
                }
                self.page_of_archive().await;
                continue;
            }
            let page = self.inner.state().ring.after(self.after, PAGE_EVENTS);
            if page.is_empty() {
                self.caught_up = true;
                if let Some(last) = self.wait().await {
                    self.ended = true;
                    return Some(last);
                }
            }
            self.take(page);
        }
    }

    /// Waits for something new; gives what is said to a reader that fell behind.
    async fn wait(&mut self) -> Option<Item> {
        let told = tokio::select! {
            // The sender is with `inner`, which is here.
            _ = self.newest.changed() => return None,
            line = received(self.lines.as_mut()) => match line {
                Ok(line) => line,
                Err(_lagged) => return Some(Item::Lagged { after: self.after }),
            },
            download = received(self.downloads.as_mut()) => match download {
                Ok(download) => download,
                // What comes next says all that was missed.
                Err(_lagged) => return None,
            },
        };
        if self.filter.admits(&told) {
            self.pending.push_back(Item::Event(told));
        }
        None
    }

    /// What the archive has before the ring begins.
    async fn page_of_archive(&mut self) {
        let past = self.inner.state().ring.past();
        let page = self.inner.archive.after(self.after, PAGE_EVENTS).await;
        let page = page.unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "events not read");
            Vec::new()
        });
        if page.is_empty() {
            // The ring went past what the archive never got.
            self.tell_gap();
            self.after = past;
        }
        for event in page {
            let missing = event.id.saturating_sub(self.after.saturating_add(1));
            // Numbers leap from one daemon to the next, and who wants all that is kept misses nothing before the first.
            if self.after > 0 && missing > 0 && missing.saturating_add(1) < NUMBER_LEAP {
                self.tell_gap();
            }
            self.take(vec![Arc::new(event)]);
        }
    }

    /// Says once that events after the last one may be missing.
    fn tell_gap(&mut self) {
        if !std::mem::replace(&mut self.told_gap, true) {
            self.pending.push_back(Item::Gap { after: self.after });
        }
    }

    fn take(&mut self, page: Vec<Arc<VmEvent>>) {
        if let Some(last) = page.last() {
            self.after = last.id;
            self.told_gap = false;
        }
        let wanted = page
            .into_iter()
            .filter(|event| self.filter.admits(event))
            .map(Item::Event);
        self.pending.extend(wanted);
    }
}

/// What comes next; never anything for a reader that does not want it.
async fn received(
    channel: Option<&mut broadcast::Receiver<Arc<VmEvent>>>,
) -> Result<Arc<VmEvent>, broadcast::error::RecvError> {
    match channel {
        Some(channel) => channel.recv().await,
        None => std::future::pending().await,
    }
}
