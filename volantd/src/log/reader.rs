//! Reads a VM's log: filtered, from the end, a time or a number on, and onwards. It reads the files in pieces and only what is needed.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::agent::log::LogStream;
use common::api::LogEntry;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::follower::blocking;
use super::journal::parse;
use super::ring_file::{Chunk, End, MAX_LINE_BYTES, RingFile, RingReader};

/// Lines that are looked at for a message about a VM's end: its workload may have said little among much of the agent's.
const TAIL_LOOK_LINES: usize = 1000;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// With all that is kept.
    Begin,
    /// With the first line of this time or later.
    Time(Timestamp),
    /// With the first line after this number.
    Id(u64),
}

/// Whether a reader stays for what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It ends with what there is.
    No,
    /// It ends with the VM.
    Onwards,
}

/// Which lines a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of these streams; of all if none is named.
    pub streams: Vec<LogStream>,
    /// From here on.
    pub since: Since,
    /// Of those that there are, only the last so many.
    pub tail: Option<usize>,
    /// What comes.
    pub follow: Follow,
}

impl Filter {
    fn admits(&self, entry: &LogEntry) -> bool {
        let is_in = match self.since {
            Since::Begin => true,
            Since::Time(time) => entry.time >= time,
            Since::Id(id) => entry.id > id,
        };
        is_in && (self.streams.is_empty() || self.streams.contains(&entry.stream))
    }
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A line.
    Line(LogEntry),
    /// What comes next is overwritten, because the reader was too slow: nothing comes after this.
    Lagged,
}

/// There are as many readers as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("There are {limit} readers of logs already")]
pub struct TooManyReaders {
    /// How many there may be.
    pub limit: usize,
}

/// One reader.
#[derive(Debug)]
pub struct Reader {
    file: Arc<RingFile>,
    end: watch::Receiver<End>,
    filter: Filter,
    /// None before the first read, and while one is under way.
    open: Option<Open>,
    pending: VecDeque<LogEntry>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// The files, and the line that is not complete yet.
#[derive(Debug)]
struct Open {
    ring: RingReader,
    begun: Vec<u8>,
    skipping: bool,
}

impl Reader {
    pub(super) fn new(file: Arc<RingFile>, filter: Filter, place: OwnedSemaphorePermit) -> Self {
        Self {
            end: file.watch(),
            file,
            filter,
            open: None,
            pending: VecDeque::new(),
            ended: false,
            _place: place,
        }
    }

    /// The next item, as soon as there is one; none at the end.
    ///
    /// # Errors
    /// If the log cannot be read; none comes after that.
    pub async fn next(&mut self) -> io::Result<Option<Item>> {
        loop {
            if let Some(entry) = self.pending.pop_front() {
                return Ok(Some(Item::Line(entry)));
            }
            if self.ended {
                return Ok(None);
            }
            // Before the file is looked at: what comes meanwhile is told again.
            let removed = self.end.borrow_and_update().removed;
            match self.read().await {
                Ok(Chunk::Bytes(_)) => {}
                Ok(Chunk::End) => {
                    self.ended = removed
                        || self.filter.follow == Follow::No
                        || self.end.changed().await.is_err();
                }
                Ok(Chunk::Lost) => {
                    self.ended = true;
                    return Ok(Some(Item::Lagged));
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
    }

    /// Reads the first lines, and gives the number after which it begins: whoever is cut off before the first line comes back there.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn begin(&mut self) -> io::Result<u64> {
        // Before it is read: what comes meanwhile is after it.
        let file = Arc::clone(&self.file);
        let newest = blocking(move || newest(&file)).await?;
        loop {
            let is_more = matches!(self.read().await?, Chunk::Bytes(_));
            match self.pending.front() {
                Some(entry) => return Ok(entry.id.saturating_sub(1)),
                None if is_more => {}
                None => return Ok(newest),
            }
        }
    }

    /// A line that is read already.
    pub fn at_hand(&mut self) -> Option<Item> {
        self.pending.pop_front().map(Item::Line)
    }

    /// Reads a piece of the files, and takes the lines that it completes.
    async fn read(&mut self) -> io::Result<Chunk> {
        let open = self.open.take();
        let (file, filter) = (Arc::clone(&self.file), self.filter.clone());
        let (open, chunk, entries) = blocking(move || {
            let mut open = match open {
                Some(open) => open,
                None => Open::at_begin(&file, &filter)?,
            };
            let chunk = open.ring.read()?;
            let mut entries = VecDeque::new();
            if let Chunk::Bytes(bytes) = &chunk {
                open.take(bytes, |entry| {
                    if filter.admits(&entry) {
                        entries.push_back(entry);
                    }
                });
            }
            Ok::<_, io::Error>((open, chunk, entries))
        })
        .await?;
        self.open = Some(open);
        self.pending = entries;
        Ok(chunk)
    }
}

impl Open {
    fn at_begin(file: &Arc<RingFile>, filter: &Filter) -> io::Result<Self> {
        let mut at = match filter.since {
            Since::Begin => file.begin(),
            Since::Time(time) => {
                file.partition(|line| parse(line).map(|entry| entry.time < time))?
            }
            Since::Id(id) => file.partition(|line| parse(line).map(|entry| entry.id <= id))?,
        };
        if let Some(count) = filter.tail {
            let wanted = |line: Option<&[u8]>| {
                line.and_then(parse)
                    .is_some_and(|entry| filter.admits(&entry))
            };
            at = at.max(file.last_lines(count, wanted)?);
        }
        Ok(Self {
            ring: RingReader::new(Arc::clone(file), at),
            begun: Vec::new(),
            skipping: false,
        })
    }

    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(LogEntry)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.begun.len() + piece.len() > MAX_LINE_BYTES {
                self.skipping = true;
                self.begun = Vec::new();
            }
            if !self.skipping {
                self.begun.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                if let Some(entry) = parse(&self.begun).filter(|_| !self.skipping) {
                    each(entry);
                }
                self.begun.clear();
                self.skipping = false;
            }
        }
    }
}

/// The number of the newest line; 0 if there is none. Blocks.
fn newest(file: &RingFile) -> io::Result<u64> {
    let mut newest = 0;
    file.scan_back(|_, line| match line.and_then(parse) {
        Some(entry) => {
            newest = entry.id;
            ControlFlow::Break(())
        }
        None => ControlFlow::Continue(()),
    })?;
    Ok(newest)
}

/// The last lines that the workload itself wrote in a launch, as text. Blocks.
pub(super) fn tail(file: &Arc<RingFile>, launch: &str, lines: usize) -> io::Result<String> {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    file.scan_back(|_, line| {
        looked_at += 1;
        let entry = line.and_then(parse);
        if entry.as_ref().is_some_and(|entry| entry.launch != launch) {
            return ControlFlow::Break(());
        }
        let entry = entry.filter(|entry| entry.stream != LogStream::Agent);
        found.extend(entry.map(|entry| entry.line));
        if found.len() >= lines || looked_at >= TAIL_LOOK_LINES {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    found.truncate(lines);
    found.reverse();
    Ok(found.join("\n"))
}
