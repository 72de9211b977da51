//! Reads a console's log as the bytes that it is: its last lines, and onwards. In pieces, and only what is asked for.

use std::io;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::log::{Chunk, End, Follow, RingFile, RingReader, blocking};

/// What a reader reads last when it was too slow.
const LAGGED: &[u8] = b"\r\n[the log went on faster than it was read]\r\n";

/// One reader.
#[derive(Debug)]
pub struct LogReader {
    file: Arc<RingFile>,
    end: watch::Receiver<End>,
    tail: Option<usize>,
    follow: Follow,
    /// None before the first read.
    open: Option<RingReader>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl LogReader {
    pub(super) fn new(
        file: Arc<RingFile>,
        tail: Option<usize>,
        follow: Follow,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            end: file.watch(),
            file,
            tail,
            follow,
            open: None,
            ended: false,
            _place: place,
        }
    }

    /// What it reads, as a stream.
    pub fn bytes(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold(self, async |mut reader| {
            let piece = reader.next().await.transpose()?;
            Some((piece, reader))
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.ended {
            // Before the file is looked at: what comes meanwhile is told again.
            let removed = self.end.borrow_and_update().removed;
            match self.read().await {
                Ok(Chunk::Bytes(bytes)) => return Ok(Some(bytes.into())),
                Ok(Chunk::End) => {
                    self.ended =
                        removed || self.follow == Follow::No || self.end.changed().await.is_err();
                }
                Ok(Chunk::Lost) => {
                    self.ended = true;
                    return Ok(Some(Bytes::from_static(LAGGED)));
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> io::Result<Chunk> {
        let (open, file, tail) = (self.open.take(), Arc::clone(&self.file), self.tail);
        let (open, chunk) = blocking(move || {
            let mut open = match open {
                Some(open) => open,
                None => begin(file, tail)?,
            };
            let chunk = open.read()?;
            Ok::<_, io::Error>((open, chunk))
        })
        .await?;
        self.open = Some(open);
        Ok(chunk)
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
