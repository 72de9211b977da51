//! A log on disk of bounded size: when the file is full it becomes `.1`, and a new one begins. Knows nothing of what is in it.
//!
//! Whoever follows it reads the files and is woken when there is more, so that nothing is kept in memory for a slow reader, and
//! nothing is missing or doubled between what was there and what comes. Its calls block, for as long as a disk does.

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::FileExt as _;
use tokio::sync::watch;

use super::wire::MAX_JSON_BYTES;

/// What is read at a time.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;

/// What a line has besides its text, in bytes: names, numbers and a time.
const FRAME_BYTES: usize = 1024;

/// The longest line whose content is looked at: a frame of the longest line that an agent may send. JSON is never written longer than it was
/// read.
pub(crate) const MAX_LINE_BYTES: usize = MAX_JSON_BYTES + FRAME_BYTES;

/// A bounded log of two files.
#[derive(Debug)]
pub(crate) struct RingFile {
    path: PathBuf,
    max_bytes: u64,
    open: Mutex<Option<fs::File>>,
    end: watch::Sender<End>,
}

/// Where the log ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Counts the files; the one before has one less.
    generation: u64,
    length: u64,
    /// Nothing more will come.
    pub(crate) removed: bool,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    generation: u64,
    offset: u64,
}

/// What a read gave.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// The next bytes, at least one.
    Bytes(Vec<u8>),
    /// There is no more yet.
    End,
    /// What comes next is overwritten.
    Lost,
}

enum Opened {
    File(fs::File),
    Absent,
    Lost,
}

impl RingFile {
    /// A log at `path`, of two files with `max_bytes` each. Nothing is made before the first bytes.
    pub(crate) fn new(path: PathBuf, max_bytes: u64) -> Self {
        let end = End {
            generation: 1,
            length: fs::metadata(&path).map_or(0, |metadata| metadata.len()),
            removed: false,
        };
        Self {
            path,
            max_bytes,
            open: Mutex::new(None),
            end: watch::Sender::new(end),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<fs::File>> {
        // Files and `end` are put right by the next append.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes at the end, all or none; a file has more than its limit only if one piece has. After an error the next call opens the file
    /// anew, and takes away what was written of the piece.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut open = self.lock();
        let mut end = *self.end.borrow();
        if end.removed || bytes.is_empty() {
            return Ok(());
        }
        let mut file = if let Some(file) = open.take() {
            file
        } else {
            let file = open_to_append(&self.path)?;
            let length = file.metadata()?.len();
            if length > end.length {
                // Half of what could not be written.
                file.set_len(end.length)?;
            }
            end.length = end.length.min(length);
            file
        };
        let added = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if end.length > 0 && end.length.saturating_add(added) > self.max_bytes {
            fs::rename(&self.path, previous(&self.path))?;
            file = open_to_append(&self.path)?;
            end.generation += 1;
            end.length = 0;
            self.end.send_replace(end);
        }
        file.write_all(bytes)?;
        end.length += added;
        *open = Some(file);
        self.end.send_replace(end);
        Ok(())
    }

    /// Ends it: nothing is written any more, and whoever follows it is done at its end.
    pub(crate) fn remove(&self) {
        let mut open = self.lock();
        *open = None;
        self.end.send_modify(|end| end.removed = true);
    }

    /// Whether its last line has no end.
    pub(crate) fn is_torn(&self) -> io::Result<bool> {
        let end = self.end();
        if let (Opened::File(file), Some(last)) =
            (self.open(end.generation)?, end.offset.checked_sub(1))
        {
            return Ok(read_at(&file, last, end.offset, 1)? != b"\n");
        }
        Ok(false)
    }

    /// Now, and whenever there is more.
    pub(crate) fn watch(&self) -> watch::Receiver<End> {
        self.end.subscribe()
    }

    /// Where what comes will be.
    pub(crate) fn end(&self) -> Position {
        let end = *self.end.borrow();
        Position {
            generation: end.generation,
            offset: end.length,
        }
    }

    /// Where what is kept begins.
    pub(crate) fn begin(&self) -> Position {
        let generation = self.end.borrow().generation.saturating_sub(1);
        Position {
            generation,
            offset: 0,
        }
    }

    /// The file of a generation, as long as it is one of the two.
    fn open(&self, generation: u64) -> io::Result<Opened> {
        // Under the lock, so that no file changes its name meanwhile.
        let _open = self.lock();
        let present = self.end.borrow().generation;
        let path = if generation == present {
            self.path.clone()
        } else if generation.checked_add(1) == Some(present) {
            previous(&self.path)
        } else {
            return Ok(Opened::Lost);
        };
        match fs::File::open(path) {
            Ok(file) => Ok(Opened::File(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Opened::Absent),
            Err(error) => Err(error),
        }
    }

    /// Both files with the length that is known of each, the older one first.
    fn files(&self) -> io::Result<Vec<(u64, fs::File, u64)>> {
        let end = *self.end.borrow();
        let mut files = Vec::new();
        for generation in [end.generation.saturating_sub(1), end.generation] {
            if let Opened::File(file) = self.open(generation)? {
                let length = file.metadata()?.len();
                let length = if generation == end.generation {
                    length.min(end.length)
                } else {
                    length
                };
                files.push((generation, file, length));
            }
        }
        Ok(files)
    }

    /// The last bytes, `most` of them at most.
    pub(crate) fn last_bytes(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (_, file, length) in self.files()?.into_iter().rev() {
            let begin = length.saturating_sub(to_u64(most - bytes.len()));
            let mut earlier = read_at(&file, begin, length, most)?;
            earlier.append(&mut bytes);
            bytes = earlier;
            if bytes.len() >= most {
                break;
            }
        }
        Ok(bytes)
    }

    /// Where the last `count` lines begin that are `wanted`; the beginning if there are fewer. A line that is too long to look at is
    /// given as none.
    pub(crate) fn last_lines(
        &self,
        count: usize,
        mut wanted: impl FnMut(Option<&[u8]>) -> bool,
    ) -> io::Result<Position> {
        let mut at = self.end();
        let mut left = count;
        if left == 0 {
            return Ok(at);
        }
        self.scan_back(|position, line| {
            if wanted(line) {
                at = position;
                left -= 1;
            }
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(if left == 0 { at } else { self.begin() })
    }

    /// Gives every line to `visit`, the last one first, with where it begins. A line may lie in both files.
    pub(crate) fn scan_back(
        &self,
        mut visit: impl FnMut(Position, Option<&[u8]>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut line = Tail::default();
        let mut is_last = true;
        let mut first = None;
        for (generation, file, length) in self.files()?.into_iter().rev() {
            let mut end = length;
            while end > 0 {
                let begin = end.saturating_sub(to_u64(BLOCK_BYTES));
                let mut block = vec![0; usize::try_from(end - begin).unwrap_or(BLOCK_BYTES)];
                file.file().read_exact_at(&mut block, begin)?;
                while let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
                    line.prepend(block.get(at + 1..).unwrap_or_default());
                    let position = Position {
                        generation,
                        offset: begin + to_u64(at) + 1,
                    };
                    // What follows the last line break is a line only if it has anything.
                    if !(std::mem::take(&mut is_last) && line.is_empty())
                        && visit(position, line.content()).is_break()
                    {
                        return Ok(());
                    }
                    line = Tail::default();
                    block.truncate(at);
                }
                line.prepend(&block);
                end = begin;
            }
            first = Some(Position {
                generation,
                offset: 0,
            });
        }
        if let Some(position) = first
            && !(is_last && line.is_empty())
        {
            // Nobody is asked for more after the first line.
            let _last: ControlFlow<()> = visit(position, line.content());
        }
        Ok(())
    }

    /// Where the first line begins of which `is_before` does not hold, in a log whose lines it holds of first, and then not any more. Lines
    /// that `is_before` knows nothing of are passed over.
    pub(crate) fn partition(
        &self,
        is_before: impl Fn(&[u8]) -> Option<bool>,
    ) -> io::Result<Position> {
        for (generation, file, length) in self.files()? {
            let near = bisect(&file, length, &is_before)?;
            if let Some(offset) = scan(&file, near, length, &is_before)? {
                return Ok(Position { generation, offset });
            }
        }
        Ok(self.end())
    }
}

/// A line from its end on.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Tail {
    fn prepend(&mut self, bytes: &[u8]) {
        if self.too_long || self.bytes.len() + bytes.len() > MAX_LINE_BYTES {
            self.too_long = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.splice(..0, bytes.iter().copied());
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }

    fn content(&self) -> Option<&[u8]> {
        (!self.too_long).then_some(self.bytes.as_slice())
    }
}

/// A beginning of a line from which on few lines come before the one that is looked for.
fn bisect(
    file: &fs::File,
    length: u64,
    is_before: &impl Fn(&[u8]) -> Option<bool>,
) -> io::Result<u64> {
    let (mut low, mut high) = (0, length);
    while high - low > to_u64(BLOCK_BYTES) {
        let middle = low + (high - low) / 2;
        let window = read_at(file, middle, high, BLOCK_BYTES + MAX_LINE_BYTES)?;
        let mut found = None;
        let mut begin = after_break(&window, 0);
        while let Some(at) = begin {
            let Some(next) = after_break(&window, at) else {
                break;
            };
            if let Some(verdict) = window.get(at..next - 1).and_then(is_before) {
                found = Some((middle + to_u64(at), verdict));
                break;
            }
            begin = Some(next);
        }
        match found {
            Some((offset, true)) => low = offset,
            Some((_, false)) => high = middle,
            // Nothing to go by: what is left is read from the beginning.
            None => break,
        }
    }
    Ok(low)
}

/// The first line at or after `offset` of which `is_before` does not hold.
fn scan(
    file: &fs::File,
    mut offset: u64,
    length: u64,
    is_before: &impl Fn(&[u8]) -> Option<bool>,
) -> io::Result<Option<u64>> {
    while offset < length {
        let window = read_at(file, offset, length, BLOCK_BYTES + MAX_LINE_BYTES)?;
        let mut at = 0;
        while let Some(next) = after_break(&window, at) {
            if window.get(at..next - 1).and_then(is_before) == Some(false) {
                return Ok(Some(offset + to_u64(at)));
            }
            at = next;
        }
        // A window without any line break is part of a line that is too long.
        offset += to_u64(if at == 0 { window.len().max(1) } else { at });
    }
    Ok(None)
}

/// Behind the first line break at or after `from`.
fn after_break(bytes: &[u8], from: usize) -> Option<usize> {
    let at = bytes.get(from..)?.iter().position(|byte| *byte == b'\n')?;
    Some(from + at + 1)
}

fn read_at(file: &fs::File, offset: u64, end: u64, most: usize) -> io::Result<Vec<u8>> {
    let count = usize::try_from(end.saturating_sub(offset)).map_or(most, |rest| rest.min(most));
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        let read = file
            .file()
            .read_at(&mut bytes[filled..], offset + to_u64(filled))?;
        if read == 0 {
            break;
        }
        filled += read;
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn open_to_append(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Reads on from a place. It keeps the file that it is in, so that a rotation takes nothing from it.
#[derive(Debug)]
pub(crate) struct RingReader {
    ring: Arc<RingFile>,
    at: Position,
    file: Option<fs::File>,
}

impl RingReader {
    pub(crate) fn new(ring: Arc<RingFile>, at: Position) -> Self {
        Self {
            ring,
            at,
            file: None,
        }
    }

    /// The next bytes.
    pub(crate) fn read(&mut self) -> io::Result<Chunk> {
        loop {
            let end = *self.ring.end.borrow();
            if self.file.is_none() {
                match self.ring.open(self.at.generation)? {
                    Opened::File(file) => self.file = Some(file),
                    Opened::Absent => {}
                    Opened::Lost => return Ok(Chunk::Lost),
                }
            }
            // Of the file that is written, only what is known to be whole.
            let limit = if self.at.generation == end.generation {
                end.length
            } else {
                u64::MAX
            };
            let bytes = match &self.file {
                Some(file) => read_at(file, self.at.offset, limit, BLOCK_BYTES)?,
                None => Vec::new(),
            };
            if !bytes.is_empty() {
                self.at.offset += to_u64(bytes.len());
                return Ok(Chunk::Bytes(bytes));
            }
            if self.at.generation >= end.generation {
                return Ok(Chunk::End);
            }
            self.file = None;
            self.at = Position {
                generation: self.at.generation + 1,
                offset: 0,
            };
        }
    }
}

mod place;
#[cfg(test)]
mod tests;

pub use place::Place;
