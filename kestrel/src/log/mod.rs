//! What the workload writes and what the agent says about it, kept in memory for a host that fetches it. Nothing is written to a disk,
//! and nothing of the workload's goes to the console.

mod lines;
mod output;
mod ring;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::agent::log::{LogLine, LogStream};
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::sys::{boot_time, unix_time};
use ring::Ring;

pub(crate) use output::Output;

/// Who may read at a time. volantd is one; the rest is for people who look for a fault.
const MAX_READERS: usize = 8;

/// The most bytes of lines that are put together for one reader, but for the last line.
const CHUNK_BYTES: usize = 16 * 1024;

/// The lines, and those who wait for the next.
#[derive(Debug)]
pub(crate) struct Log {
    ring: Mutex<Ring>,
    changes: watch::Sender<Change>,
    readers: Arc<Semaphore>,
}

/// Whether there may be something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    More,
    Finished,
}

impl Log {
    /// Nothing is said yet.
    pub(crate) fn new() -> Self {
        Self {
            ring: Mutex::default(),
            changes: watch::Sender::new(Change::More),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        }
    }

    /// Keeps what the agent says about the workload.
    pub(crate) fn say(&self, text: &str) {
        self.keep(LogStream::Agent, text.to_owned(), false);
    }

    /// Nothing more will come: readers get what there is, and then an end.
    pub(crate) fn finish(&self) {
        self.changes.send_replace(Change::Finished);
    }

    /// A place for a reader; nothing if too many read already.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.readers).try_acquire_owned().ok()
    }

    /// Sends the lines after `after`, and then each as it comes, until the log is finished or nobody wants them any more.
    ///
    /// A number that no line has yet is from before a reboot: then all that is kept is sent.
    pub(crate) async fn follow(&self, after: u64, to: mpsc::Sender<io::Result<Bytes>>) {
        let mut changes = self.changes.subscribe();
        let mut after = if after > self.ring().newest() {
            0
        } else {
            after
        };
        loop {
            // Before the lines are looked at: what comes meanwhile is told again.
            let change = *changes.borrow_and_update();
            while let Some((chunk, last)) = self.chunk(after) {
                if to.send(Ok(chunk)).await.is_err() {
                    return;
                }
                after = last;
            }
            if change == Change::Finished {
                return;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = to.closed() => return,
            }
        }
    }

    /// Some of the lines after `after` as JSON, and the number of the last of them.
    fn chunk(&self, after: u64) -> Option<(Bytes, u64)> {
        let ring = self.ring();
        let now = boot_time();
        let mut text = Vec::new();
        let mut last = None;
        for line in ring.after(after, now) {
            // A structure of strings and numbers always has a JSON form, and a vector takes all of it.
            drop(serde_json::to_writer(&mut text, &line));
            text.push(b'\n');
            last = Some(line.seq);
            if text.len() >= CHUNK_BYTES {
                break;
            }
        }
        last.map(|last| (text.into(), last))
    }

    fn keep(&self, stream: LogStream, line: String, partial: bool) {
        let at_ms = u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX);
        let line = LogLine {
            seq: 0,
            at_ms,
            age_ms: None,
            stream,
            line,
            partial,
        };
        self.ring().push(line, boot_time());
        // Says that there is something; a finished log stays finished.
        self.changes.send_modify(|_| ());
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// All lines that a log has now.
    pub(crate) fn kept(log: &Log) -> Vec<LogLine> {
        log.ring().after(0, boot_time()).collect()
    }

    fn parse(chunk: &Bytes) -> Vec<LogLine> {
        chunk
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    async fn next(chunks: &mut mpsc::Receiver<io::Result<Bytes>>) -> Vec<LogLine> {
        parse(&chunks.recv().await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn a_reader_gets_what_is_there_then_what_comes_then_the_end() {
        let log = Arc::new(Log::new());
        log.say("one");
        log.say("two");
        let (sender, mut chunks) = mpsc::channel(1);
        let following = tokio::spawn({
            let log = Arc::clone(&log);
            async move { log.follow(1, sender).await }
        });
        let first = next(&mut chunks).await;
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].seq, first[0].line.as_str()), (2, "two"));
        assert!(first[0].at_ms > 1_600_000_000_000);
        assert!(first[0].age_ms.is_some());
        log.say("three");
        assert_eq!(next(&mut chunks).await[0].seq, 3);
        log.say("last");
        log.finish();
        assert_eq!(next(&mut chunks).await[0].line, "last");
        assert!(chunks.recv().await.is_none());
        following.await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_reader_loses_lines_and_holds_nobody_up() {
        let log = Arc::new(Log::new());
        let (sender, mut chunks) = mpsc::channel(1);
        tokio::spawn({
            let log = Arc::clone(&log);
            async move { log.follow(0, sender).await }
        });
        let text = "x".repeat(1000);
        for count in 0..2000 {
            log.say(&text);
            if count % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        log.finish();
        let mut seqs = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            seqs.extend(parse(&chunk.unwrap()).iter().map(|line| line.seq));
        }
        assert!(seqs.is_sorted(), "{seqs:?}");
        assert_eq!(seqs.last(), Some(&2000));
        assert!(seqs.len() < 1000, "{}", seqs.len());
    }

    #[tokio::test]
    async fn a_number_from_before_a_reboot_begins_anew() {
        let log = Log::new();
        log.say("first");
        log.finish();
        let (sender, mut chunks) = mpsc::channel(1);
        log.follow(500, sender).await;
        assert_eq!(next(&mut chunks).await[0].line, "first");
    }

    #[tokio::test]
    async fn a_reader_that_leaves_ends_its_task() {
        let log = Log::new();
        let (sender, chunks) = mpsc::channel(1);
        drop(chunks);
        log.follow(0, sender).await;
    }

    #[test]
    fn readers_are_bounded() {
        let log = Log::new();
        let places: Vec<_> = (0..MAX_READERS).map_while(|_| log.place()).collect();
        assert_eq!(places.len(), MAX_READERS);
        assert!(log.place().is_none());
        drop(places);
        assert!(log.place().is_some());
    }
}
