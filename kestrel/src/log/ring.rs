//! The last lines of a guest within a bound of memory. Pure: the oldest go when new ones come.

use std::collections::VecDeque;
use std::time::Duration;

use common::agent::log::{KEPT_BYTES, LogLine};

/// What a line costs beside its text: the structure itself and the allocation. Empty lines are bounded by it.
const LINE_COST_BYTES: usize = 96;

/// A line, and when it was complete by the boot-time clock.
#[derive(Debug)]
struct Kept {
    line: LogLine,
    at: Duration,
}

/// Lines without a gap between them.
#[derive(Debug, Default)]
pub(super) struct Ring {
    lines: VecDeque<Kept>,
    bytes: usize,
    newest: u64,
}

impl Ring {
    /// Adds a line that is complete at this time, which gets the next number whatever it says.
    pub(super) fn push(&mut self, mut line: LogLine, at: Duration) {
        self.newest += 1;
        line.seq = self.newest;
        self.bytes += cost(&line);
        self.lines.push_back(Kept { line, at });
        while self.bytes > KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes = self.bytes.saturating_sub(cost(&oldest.line));
        }
    }

    /// The number of the newest line; 0 before the first.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// The lines after `seq` that are still there, the oldest first, each with its age at this time.
    pub(super) fn after(&self, seq: u64, now: Duration) -> impl Iterator<Item = LogLine> {
        let first = self.lines.front().map_or(0, |kept| kept.line.seq);
        let gone = seq.saturating_add(1).saturating_sub(first);
        self.lines
            .iter()
            .skip(usize::try_from(gone).unwrap_or(usize::MAX))
            .map(move |kept| LogLine {
                age_ms: u64::try_from(now.saturating_sub(kept.at).as_millis()).ok(),
                ..kept.line.clone()
            })
    }
}

fn cost(line: &LogLine) -> usize {
    line.line.len() + LINE_COST_BYTES
}

#[cfg(test)]
mod tests {
    use common::agent::log::LogStream;

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            seq: 0,
            at_ms: 0,
            age_ms: None,
            stream: LogStream::Stdout,
            line: text.to_owned(),
            partial: false,
        }
    }

    fn seqs(ring: &Ring, after: u64) -> Vec<u64> {
        ring.after(after, Duration::ZERO)
            .map(|line| line.seq)
            .collect()
    }

    #[test]
    fn lines_are_numbered_from_one() {
        let mut ring = Ring::default();
        assert_eq!(seqs(&ring, 0), [0; 0]);
        for text in ["a", "b", "c"] {
            ring.push(line(text), Duration::ZERO);
        }
        assert_eq!(seqs(&ring, 0), [1, 2, 3]);
        assert_eq!(seqs(&ring, 2), [3]);
        assert_eq!(seqs(&ring, 3), [0; 0]);
        assert_eq!(seqs(&ring, u64::MAX), [0; 0]);
        assert_eq!(ring.newest(), 3);
    }

    #[test]
    fn ages_are_counted_when_lines_are_sent() {
        let mut ring = Ring::default();
        for at_ms in [1_000, 4_500, 9_000] {
            ring.push(line("x"), Duration::from_millis(at_ms));
        }
        let ages: Vec<_> = ring
            .after(0, Duration::from_secs(5))
            .map(|line| line.age_ms)
            .collect();
        assert_eq!(ages, [Some(4_000), Some(500), Some(0)], "none is negative");
    }

    #[test]
    fn the_oldest_go_and_leave_a_gap() {
        let mut ring = Ring::default();
        let text = "x".repeat(1000);
        for _ in 0..1000 {
            ring.push(line(&text), Duration::ZERO);
        }
        let kept = seqs(&ring, 0);
        assert_eq!(kept.len(), KEPT_BYTES / (1000 + LINE_COST_BYTES));
        assert_eq!(kept.last(), Some(&1000));
        assert_eq!(seqs(&ring, 5), kept);
        assert!(ring.bytes <= KEPT_BYTES);
    }

    #[test]
    fn empty_lines_are_bounded_too() {
        let mut ring = Ring::default();
        for _ in 0..100_000 {
            ring.push(line(""), Duration::ZERO);
        }
        assert_eq!(ring.lines.len(), KEPT_BYTES / LINE_COST_BYTES);
    }
}
