//! Tar archives to and from guests: what is put into one, and what of a guest's is let out on this host. Connects to nothing.

mod member;
mod pack;
mod unpack;

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

pub use pack::{PackError, Packed, pack};
pub use unpack::{Target, UnpackError, Unpacked, unpack};

/// Pieces that wait between the thread that works on an archive and the connection; more waits where it comes from.
const PIECES: usize = 16;

/// A way for bytes from a thread to a stream, or from a stream to a thread.
pub fn pipe() -> (PipeWriter, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (PipeWriter(sender), receiver)
}

/// The end that a thread writes to.
#[derive(Debug)]
pub struct PipeWriter(mpsc::Sender<Vec<u8>>);

impl PipeWriter {
    /// The same for what is no thread.
    pub fn into_sender(self) -> mpsc::Sender<Vec<u8>> {
        self.0
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(bytes.to_vec()).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end that a thread reads from.
#[derive(Debug)]
pub struct PipeReader {
    receiver: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl PipeReader {
    /// Reads what comes.
    pub fn new(receiver: mpsc::Receiver<Vec<u8>>) -> Self {
        Self {
            receiver,
            piece: io::Cursor::default(),
        }
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.piece.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = io::Cursor::new(piece),
                None => return Ok(0),
            }
        }
    }
}
