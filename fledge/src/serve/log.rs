//! What a job said, for those who read along: a bounded ring that is read from any place in it. Knows nothing of HTTP.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::jobs::Phase;
use crate::ui::{Relay, Said};

/// Entries that are kept of a job; older ones are forgotten. Builds say some dozens of lines; a Dockerfile's output may be longer.
const MAX_ENTRIES: usize = 512;

/// The longest text that is kept, in bytes: with the limit above, a job's log stays within 1 MiB.
const MAX_TEXT_BYTES: usize = 2048;

/// Progress replaces what was last said of the same work, if that is among so many entries: downloads go on beside each other.
const RECENT: usize = 16;

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// Something that the build said.
    Said(Said),
    /// The job went on to this phase.
    Phase(Phase),
}

/// What follows a certain entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// Entries that were forgotten before they were read.
    pub(super) skipped: u64,
    /// Entries with their numbers, which rise from 1.
    pub(super) entries: Vec<(u64, Entry)>,
    /// Whether nothing will follow.
    pub(super) ended: bool,
}

/// The log of a job.
#[derive(Debug)]
pub(super) struct Log {
    ring: Mutex<Ring>,
    /// The number of the latest entry, for those who wait.
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<(u64, Entry)>,
    /// Entries up to this number are forgotten.
    forgotten: u64,
    latest: u64,
    ended: bool,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            ring: Mutex::default(),
            latest: watch::Sender::new(0),
        }
    }

    /// Adds an entry. A final phase ends the log.
    pub(super) fn add(&self, entry: Entry) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.ended {
            return;
        }
        let latest = ring.add(entry);
        drop(ring);
        self.latest.send_replace(latest);
    }

    /// What follows entry number `last`; 0 is the beginning.
    pub(super) fn after(&self, last: u64) -> Rest {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        Rest {
            skipped: ring.forgotten.saturating_sub(last),
            entries: ring
                .entries
                .iter()
                .filter(|(number, _)| *number > last)
                .cloned()
                .collect(),
            ended: ring.ended,
        }
    }

    /// Tells of new entries.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

impl Relay for Log {
    fn relay(&self, said: Said) {
        self.add(Entry::Said(said));
    }
}

impl Ring {
    fn add(&mut self, entry: Entry) -> u64 {
        self.latest += 1;
        self.ended = matches!(entry, Entry::Phase(phase) if phase.is_final());
        let entry = match entry {
            Entry::Said(said) => Entry::Said(shortened(said)),
            Entry::Phase(phase) => Entry::Phase(phase),
        };
        if let Some(work) = work(&entry) {
            let recent = self.entries.len().saturating_sub(RECENT)..self.entries.len();
            let same = |index: &usize| {
                let earlier = self.entries.get(*index);
                earlier.and_then(|(_, entry)| self::work(entry)) == Some(work)
            };
            if let Some(index) = recent.rev().find(same) {
                self.entries.remove(index);
            }
        }
        if self.entries.len() >= MAX_ENTRIES
            && let Some((number, _)) = self.entries.pop_front()
        {
            self.forgotten = number;
        }
        self.entries.push_back((self.latest, entry));
        self.latest
    }
}

/// What an entry tells the progress of.
fn work(entry: &Entry) -> Option<&str> {
    match entry {
        Entry::Said(Said::Progress { text, .. }) => Some(text),
        _ => None,
    }
}

fn shortened(mut said: Said) -> Said {
    let text = match &mut said {
        Said::Result { text }
        | Said::Note { text }
        | Said::Warning { text }
        | Said::Detail { text }
        | Said::Error { text }
        | Said::Progress { text, .. } => text,
    };
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('…');
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Said {
        Said::Note {
            text: text.to_owned(),
        }
    }

    fn progress(text: &str, done_bytes: u64) -> Said {
        Said::Progress {
            text: text.to_owned(),
            done_bytes,
            total_bytes: None,
        }
    }

    #[test]
    fn entries_are_read_from_any_place() {
        let log = Log::new();
        assert_eq!(log.after(0), Rest::default());
        log.relay(note("a"));
        log.relay(note("b"));
        let numbered = |number, text| (number, Entry::Said(note(text)));
        assert_eq!(log.after(0).entries, [numbered(1, "a"), numbered(2, "b")]);
        assert_eq!(log.after(1).entries, [numbered(2, "b")]);
        assert_eq!(log.after(7), Rest::default());
        assert_eq!(*log.watch().borrow(), 2);
    }

    #[test]
    fn old_entries_are_forgotten_and_counted() {
        let log = Log::new();
        for number in 0..MAX_ENTRIES + 10 {
            log.relay(note(&number.to_string()));
        }
        let all = log.after(0);
        assert_eq!((all.skipped, all.entries.len()), (10, MAX_ENTRIES));
        assert_eq!(log.after(4).skipped, 6);
        assert_eq!(log.after(10).skipped, 0);
    }

    #[test]
    fn progress_replaces_earlier_progress() {
        let log = Log::new();
        for done in 0..5 {
            log.relay(progress("one", done));
            log.relay(progress("two", done * 2));
        }
        let entries = log.after(0).entries;
        assert_eq!(
            entries,
            [
                (9, Entry::Said(progress("one", 4))),
                (10, Entry::Said(progress("two", 8)))
            ]
        );
    }

    #[test]
    fn nothing_follows_the_end_and_long_texts_are_cut() {
        let log = Log::new();
        log.relay(note(&"é".repeat(MAX_TEXT_BYTES)));
        log.add(Entry::Phase(Phase::Failed));
        log.relay(note("late"));
        let rest = log.after(0);
        assert!(rest.ended);
        let expected = format!("{}…", "é".repeat(MAX_TEXT_BYTES / 2));
        assert_eq!(rest.entries[0].1, Entry::Said(note(&expected)));
        assert_eq!(rest.entries.len(), 2);
    }
}
