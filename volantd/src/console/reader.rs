//! Reads a console's log as the bytes that it is: its last lines, and onwards. In pieces, and only what is asked for.

use std::io;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::log::{Chunk, End, Follow, Place, RingFile, RingReader, blocking};

/// What a reader reads last when it was too slow.
const LAGGED: &[u8] = b"\r\n[the log went on faster than it was read]\r\n";

/// What a reader of a console's log wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPart {
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// What comes.
    pub follow: Follow,
    /// What comes after this place, where it was read before; then `tail` means nothing.
    pub after: Option<Place>,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, and the place behind them. The first may be none, to say where the reader begins.
    Bytes(Bytes, Option<Place>),
    /// What comes next is overwritten, because the reader was too slow: nothing comes after this.
    Lagged,
}

/// One reader.
#[derive(Debug)]
pub struct LogReader {
    file: Arc<RingFile>,
    end: watch::Receiver<End>,
    part: LogPart,
    /// None before the first read.
    open: Option<RingReader>,
    begun: bool,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl LogReader {
    pub(super) fn new(file: Arc<RingFile>, part: LogPart, place: OwnedSemaphorePermit) -> Self {
        Self {
            end: file.watch(),
            file,
            part,
            open: None,
            begun: false,
            ended: false,
            _place: place,
        }
    }

    /// What it reads, as a stream of bytes alone.
    pub fn bytes(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold(self, async |mut reader| {
            loop {
                let piece = match reader.next().await.transpose()? {
                    Ok(Piece::Bytes(bytes, _)) if bytes.is_empty() => continue,
                    Ok(Piece::Bytes(bytes, _)) => Ok(bytes),
                    Ok(Piece::Lagged) => Ok(Bytes::from_static(LAGGED)),
                    Err(error) => Err(error),
                };
                return Some((piece, reader));
            }
        })
    }

    /// The next piece, as soon as there is one; none at the end.
    ///
    /// # Errors
    /// If the log cannot be read; none comes after that.
    pub async fn next(&mut self) -> io::Result<Option<Piece>> {
        if !std::mem::replace(&mut self.begun, true) {
            return self.begin().await.map(Some);
        }
        while !self.ended {
            // Before the file is looked at: what comes meanwhile is told again.
            let removed = self.end.borrow_and_update().removed;
            match self.read().await {
                Ok((Chunk::Bytes(bytes), place)) => {
                    return Ok(Some(Piece::Bytes(bytes.into(), place)));
                }
                Ok((Chunk::End, _)) => {
                    self.ended = removed
                        || self.part.follow == Follow::No
                        || self.end.changed().await.is_err();
                }
                Ok((Chunk::Lost, _)) => {
                    self.ended = true;
                    return Ok(Some(Piece::Lagged));
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Finds its place, and says where that is. Whoever comes back too late is told so in the log.
    async fn begin(&mut self) -> io::Result<Piece> {
        let (file, part) = (Arc::clone(&self.file), self.part);
        let begun = blocking(move || {
            let found = part.after.map(|place| file.find(place)).transpose()?;
            let is_late = found == Some(None);
            let mut open = match found.flatten() {
                Some(at) => RingReader::new(file, at),
                None if is_late => begin(file, None)?,
                None => begin(file, part.tail)?,
            };
            let place = open.place()?;
            Ok::<_, io::Error>((open, is_late, place))
        });
        let (open, is_late, place) = begun.await.inspect_err(|_| self.ended = true)?;
        self.open = Some(open);
        let bytes = Bytes::from_static(if is_late { LAGGED } else { b"" });
        Ok(Piece::Bytes(bytes, place))
    }

    async fn read(&mut self) -> io::Result<(Chunk, Option<Place>)> {
        let Some(mut open) = self.open.take() else {
            return Ok((Chunk::End, None));
        };
        let (open, chunk, place) = blocking(move || {
            let chunk = open.read()?;
            let place = open.place()?;
            Ok::<_, io::Error>((open, chunk, place))
        })
        .await?;
        self.open = Some(open);
        Ok((chunk, place))
    }
}

fn begin(file: Arc<RingFile>, tail: Option<usize>) -> io::Result<RingReader> {
    let at = match tail {
        Some(lines) => file.last_lines(lines, |_| true)?,
        None => file.begin(),
    };
    Ok(RingReader::new(file, at))
}

/// The last lines as text. Blocks.
pub(super) fn tail(file: &Arc<RingFile>, lines: usize) -> io::Result<String> {
    let mut reader = begin(Arc::clone(file), Some(lines))?;
    let mut text = Vec::new();
    while text.len() < MAX_TAIL_BYTES
        && let Chunk::Bytes(bytes) = reader.read()?
    {
        text.extend(bytes);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What is read for a message at most: a guest may write lines without end.
const MAX_TAIL_BYTES: usize = 64 * 1024;
