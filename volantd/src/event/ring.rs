//! The last events in memory, by number. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use common::api::VmEvent;

/// The last events, numbered ever higher.
#[derive(Debug)]
pub(super) struct Ring {
    capacity: usize,
    events: VecDeque<Arc<VmEvent>>,
    /// Events up to this number may have been, and are not here any more.
    past: u64,
}

impl Ring {
    /// Begins with what an archive has, oldest first.
    pub(super) fn of(events: Vec<VmEvent>, capacity: usize) -> Self {
        let past = match events.first() {
            // The archive may have more.
            Some(first) if events.len() >= capacity => first.id.saturating_sub(1),
            _ => 0,
        };
        let events = events.into_iter().map(Arc::new).collect();
        Self {
            capacity,
            events,
            past,
        }
    }

    pub(super) fn push(&mut self, event: VmEvent) {
        if self.events.len() >= self.capacity
            && let Some(lost) = self.events.pop_front()
        {
            self.past = lost.id;
        }
        self.events.push_back(Arc::new(event));
    }

    /// The number of the last event; 0 if there is none.
    pub(super) fn newest(&self) -> u64 {
        self.events.back().map_or(0, |event| event.id)
    }

    /// Whether events after `id` may be missing here.
    pub(super) fn has_lost(&self, id: u64) -> bool {
        id < self.past
    }

    /// See [`Ring::has_lost`].
    pub(super) fn past(&self) -> u64 {
        self.past
    }

    /// The first `count` events after `id`.
    pub(super) fn after(&self, id: u64, count: usize) -> Vec<Arc<VmEvent>> {
        let begin = self.events.partition_point(|event| event.id <= id);
        self.events
            .iter()
            .skip(begin)
            .take(count)
            .cloned()
            .collect()
    }

    /// Whether a reader that has everything up to `id` misses nothing: event `id` or the one after it is here.
    pub(super) fn knows(&self, id: u64) -> bool {
        let next = id.saturating_add(1);
        let at = self.events.partition_point(|event| event.id < id);
        self.events
            .get(at)
            .is_some_and(|event| event.id == id || event.id == next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::event;
    use super::*;

    const CAPACITY: usize = 16;

    #[test]
    fn the_last_events_are_found_by_number() {
        let mut ring = Ring::of(Vec::new(), CAPACITY);
        assert_eq!((ring.newest(), ring.has_lost(0)), (0, false));
        assert!(!ring.knows(0));
        for id in [1, 2, 3, 10, 11] {
            ring.push(event("web", id));
        }
        let ids = |after, count| -> Vec<u64> {
            ring.after(after, count)
                .iter()
                .map(|event| event.id)
                .collect()
        };
        assert_eq!(ids(0, 2), [1, 2]);
        assert_eq!(ids(3, 9), [10, 11]);
        assert_eq!(ids(11, 9), Vec::<u64>::new());
        assert_eq!(ids(u64::MAX, 9), Vec::<u64>::new());
        let known: Vec<u64> = (0..14).filter(|id| ring.knows(*id)).collect();
        assert_eq!(
            known,
            [0, 1, 2, 3, 9, 10, 11],
            "not within the hole, and not what is to come"
        );
    }

    #[test]
    fn it_is_bounded() {
        let mut ring = Ring::of(Vec::new(), CAPACITY);
        let count = u64::try_from(CAPACITY).unwrap();
        for id in 1..=count + 5 {
            ring.push(event("web", id));
        }
        assert_eq!(ring.after(0, usize::MAX).len(), CAPACITY);
        assert!(ring.has_lost(4) && !ring.has_lost(5));
    }
}
