//! One VM's log: frames in a [`RingFile`], one JSON object a line, numbered and in the order of their time.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::agent::log::{LogLine, LogStream};
use common::api::LogEntry;
use jiff::Timestamp;

use super::ring_file::{BLOCK_BYTES, RingFile};

/// How much earlier than its launch a guest's line may be by its own clock, in milliseconds: a clock is set once, at the boot. Only of
/// agents that do not tell the age of a line.
const EARLY_MS: i64 = 2_000;

/// How much later than now it may be.
const LATE_MS: i64 = 2_000;

/// Writes one VM's log.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<RingFile>,
    last: Option<Last>,
}

/// The last line that was written.
#[derive(Debug, Clone)]
struct Last {
    id: u64,
    time: Timestamp,
    launch: String,
    seq: u64,
}

impl Journal {
    /// Goes on where the file ends. Blocks.
    pub(super) fn open(file: Arc<RingFile>) -> io::Result<Self> {
        let mut last = None;
        file.scan_back(|_, line| {
            let entry = line.and_then(parse);
            last = entry.map(|entry| Last {
                id: entry.id,
                time: entry.time,
                launch: entry.launch,
                seq: entry.seq,
            });
            if last.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        // A daemon was killed while it wrote.
        if file.is_torn()? {
            file.append(b"\n")?;
        }
        Ok(Self { file, last })
    }

    /// The last line of a launch that is written; 0 if there is none.
    pub(super) fn seq(&self, launch: &str) -> u64 {
        self.last
            .as_ref()
            .filter(|last| last.launch == launch)
            .map_or(0, |last| last.seq)
    }

    /// Writes lines of a launch, but for those that are written already, and gives back what it wrote. A gap in their numbers becomes a
    /// line of its own. Blocks.
    pub(super) fn write(
        &mut self,
        launch: &str,
        lines: Vec<LogLine>,
        now: Timestamp,
    ) -> io::Result<Vec<LogEntry>> {
        let mut written = Vec::new();
        let mut entries = Vec::new();
        let mut bytes = Vec::new();
        let mut before = self.last.clone();
        for line in lines {
            let seq = self.seq(launch);
            if line.seq <= seq {
                continue;
            }
            let begin = entries.len();
            let lost = line.seq - seq - 1;
            if lost > 0 {
                let text =
                    format!("{lost} lines are lost: they came faster than they were fetched");
                let note = LogLine {
                    seq: line.seq - 1,
                    at_ms: line.at_ms,
                    age_ms: line.age_ms,
                    stream: LogStream::Agent,
                    line: text,
                    partial: false,
                };
                entries.push(self.number(launch, note, now));
            }
            entries.push(self.number(launch, line, now));
            for entry in entries.iter().skip(begin) {
                serde_json::to_writer(&mut bytes, entry)?;
                bytes.push(b'\n');
            }
            // In pieces, so that no file gets much larger than it may be.
            if bytes.len() >= BLOCK_BYTES {
                self.append(&mut bytes, before.as_ref())?;
                before.clone_from(&self.last);
                written.append(&mut entries);
            }
        }
        self.append(&mut bytes, before.as_ref())?;
        written.append(&mut entries);
        Ok(written)
    }

    fn append(&mut self, bytes: &mut Vec<u8>, before: Option<&Last>) -> io::Result<()> {
        let appended = self.file.append(bytes);
        if appended.is_err() {
            // They are asked for again.
            self.last = before.cloned();
        }
        bytes.clear();
        appended
    }

    fn number(&mut self, launch: &str, line: LogLine, now: Timestamp) -> LogEntry {
        let last = self.last.as_ref();
        let time = moment(&line, launch, now).max(last.map_or(Timestamp::MIN, |last| last.time));
        let id = last.map_or(1, |last| last.id.saturating_add(1));
        self.last = Some(Last {
            id,
            time,
            launch: launch.to_owned(),
            seq: line.seq,
        });
        LogEntry {
            id,
            time,
            stream: line.stream,
            line: line.line,
            partial: line.partial,
            seq: line.seq,
            launch: launch.to_owned(),
        }
    }
}

/// A line of the file; none if it is not one of ours.
pub(super) fn parse(line: &[u8]) -> Option<LogEntry> {
    serde_json::from_slice(line).ok()
}

/// When a line was complete by the host's clock, of a line that arrived now: between its launch and now, whatever the guest says.
fn moment(line: &LogLine, launch: &str, now: Timestamp) -> Timestamp {
    let now_ms = now.as_millisecond();
    let launched_ms = launched_ms(launch).unwrap_or(0);
    let at_ms = if let Some(age_ms) = line.age_ms {
        // It may be on its way while the launch is younger than its age: then it is as old as that.
        i64::try_from(age_ms)
            .map_or(launched_ms, |age_ms| now_ms.saturating_sub(age_ms))
            .max(launched_ms)
    } else {
        let believed = launched_ms.saturating_sub(EARLY_MS)..=now_ms.saturating_add(LATE_MS);
        i64::try_from(line.at_ms)
            .ok()
            .filter(|at| believed.contains(at))
            .unwrap_or(now_ms)
    };
    if at_ms >= now_ms {
        return now;
    }
    Timestamp::from_millisecond(at_ms).unwrap_or(now)
}

/// When a launch began: its id is a UUID of version 7, which says so (RFC 9562, 5.7).
fn launched_ms(launch: &str) -> Option<i64> {
    let timestamp = uuid::Uuid::try_parse(launch).ok()?.get_timestamp()?;
    let (seconds, nanoseconds) = timestamp.to_unix();
    let seconds_ms = i64::try_from(seconds).ok()?.checked_mul(1000)?;
    Some(seconds_ms + i64::from(nanoseconds / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::super::wire::{MAX_JSON_BYTES, Wire};
    use super::*;

    fn line(seq: u64, text: &str) -> LogLine {
        LogLine {
            seq,
            at_ms: 0,
            age_ms: None,
            stream: LogStream::Stdout,
            line: text.to_owned(),
            partial: false,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn texts(entries: &[LogEntry]) -> Vec<(u64, u64, &str)> {
        entries
            .iter()
            .map(|entry| (entry.id, entry.seq, entry.line.as_str()))
            .collect()
    }

    fn journal(dir: &tempfile::TempDir) -> Journal {
        let file = RingFile::new(dir.path().join("workload.log"), 1 << 20);
        Journal::open(Arc::new(file)).unwrap()
    }

    #[test]
    fn lines_are_numbered_over_launches_and_none_is_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = journal(&dir);
        let written = log
            .write("one", vec![line(1, "a"), line(2, "b")], at(9))
            .unwrap();
        assert_eq!(texts(&written), [(1, 1, "a"), (2, 2, "b")]);
        let again = log
            .write("one", vec![line(1, "a"), line(2, "b"), line(3, "c")], at(9))
            .unwrap();
        assert_eq!(texts(&again), [(3, 3, "c")]);
        let mut log = journal(&dir);
        assert_eq!((log.seq("one"), log.seq("two")), (3, 0));
        let new = log.write("two", vec![line(1, "d")], at(9)).unwrap();
        assert_eq!(texts(&new), [(4, 1, "d")]);
    }

    #[test]
    fn a_gap_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = journal(&dir);
        let written = log
            .write("x", vec![line(1, "a"), line(8, "b")], at(9))
            .unwrap();
        let lost = "6 lines are lost: they came faster than they were fetched";
        assert_eq!(texts(&written), [(1, 1, "a"), (2, 7, lost), (3, 8, "b")]);
        assert_eq!(written[1].stream, LogStream::Agent);
        let hostile = log.write("x", vec![line(u64::MAX, "z"), line(9, "y")], at(9));
        assert_eq!(hostile.unwrap().len(), 2, "it harms nobody but itself");
    }

    #[test]
    fn a_torn_line_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        journal(&dir).write("x", vec![line(1, "a")], at(9)).unwrap();
        let path = dir.path().join("workload.log");
        let mut text = fs_err::read(&path).unwrap();
        text.extend(b"{\"id\":2,\"ti");
        fs_err::write(&path, text).unwrap();
        let mut log = journal(&dir);
        assert_eq!(log.seq("x"), 1);
        log.write("x", vec![line(2, "b")], at(9)).unwrap();
        assert_eq!(journal(&dir).seq("x"), 2);
        // Whole, but for its line break.
        let text = fs_err::read(&path).unwrap();
        fs_err::write(&path, &text[..text.len() - 1]).unwrap();
        let mut log = journal(&dir);
        log.write("x", vec![line(3, "c")], at(9)).unwrap();
        assert_eq!(journal(&dir).seq("x"), 3);
        let text = fs_err::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines()
                .filter_map(|line| parse(line.as_bytes()))
                .count(),
            3
        );
    }

    #[test]
    fn the_longest_line_of_any_kind_is_found_again() {
        let at_most = MAX_JSON_BYTES - 100;
        for (text, bytes) in [
            ("\0", 6),
            ("\u{1f}", 6),
            ("\n", 2),
            ("\"", 2),
            ("\u{7f}", 1),
            ("\u{2028}", 3),
            ("x", 1),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let sent = LogLine {
                seq: u64::MAX - 1,
                at_ms: u64::MAX,
                ..line(0, &text.repeat(at_most / bytes))
            };
            let mut lines = Vec::new();
            let mut json = serde_json::to_vec(&sent).unwrap();
            json.push(b'\n');
            Wire::default().take(&json, &mut lines);
            assert_eq!(lines.len(), 1, "{text:?}");
            let launch = uuid::Uuid::max().to_string();
            let mut log = journal(&dir);
            log.write(&launch, lines, at(9)).unwrap();
            assert_eq!(journal(&dir).seq(&launch), u64::MAX - 1, "{text:?}");
        }
    }

    #[test]
    fn a_line_is_as_old_as_its_guest_says_and_that_can_be() {
        let launched = at(1_000_000);
        let uuid = uuid::Timestamp::from_unix(uuid::NoContext, 1_000_000, 0);
        let launch = uuid::Uuid::new_v7(uuid).to_string();
        let now = at(1_000_100);
        let ms = |time: Timestamp| u64::try_from(time.as_millisecond()).unwrap();
        let table = [
            (ms(at(1_000_050)), at(1_000_050)),
            (ms(launched), launched),
            (ms(at(1_000_101)), now),
            (0, now),
            (ms(at(999_000)), now),
            (ms(at(2_000_000)), now),
            (u64::MAX, now),
        ];
        let by_clock = |at_ms| LogLine {
            at_ms,
            ..line(1, "x")
        };
        for (at_ms, expected) in table {
            assert_eq!(moment(&by_clock(at_ms), &launch, now), expected, "{at_ms}");
        }
        assert_eq!(moment(&by_clock(5_000), "not a uuid", now), at(5));
        // Its age says more than its clock.
        let table = [
            (0, now),
            (5_000, at(1_000_095)),
            (100_000, launched),
            (100_001, launched),
            (u64::MAX, launched),
        ];
        for (age_ms, expected) in table {
            let mut line = by_clock(ms(at(1_000_050)));
            line.age_ms = Some(age_ms);
            assert_eq!(moment(&line, &launch, now), expected, "{age_ms}");
        }
        let mut old = line(1, "x");
        old.age_ms = Some(u64::MAX);
        assert_eq!(moment(&old, "not a uuid", now), Timestamp::UNIX_EPOCH);
        // A host whose clock was set back since.
        assert_eq!(moment(&old, &launch, at(999_000)), at(999_000));
    }

    #[test]
    fn time_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = journal(&dir);
        let mut lines = vec![line(1, "a"), line(2, "b")];
        lines[0].at_ms = 5_000;
        lines[1].at_ms = 4_000;
        let written = log.write("x", lines, at(9)).unwrap();
        assert_eq!([written[0].time, written[1].time], [at(5), at(5)]);
        let mut old = line(3, "c");
        old.age_ms = Some(8_000);
        let written = log.write("x", vec![old], at(9)).unwrap();
        assert_eq!(written[0].time, at(5));
    }
}
