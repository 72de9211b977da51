//! The user's terminal while a guest has it: single keys in, its size, and its mode given back on every way out, a panic included.

use std::io::{self, Read as _};

use common::agent::session::TerminalSize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// The key that leaves: Ctrl-], as in telnet. Terminals and shells in a guest have no use for it.
pub const LEAVE_KEY: u8 = 0x1d;

/// Bytes that are read from stdin at once.
const INPUT_BYTES: usize = 16 * 1024;

/// Pieces of input that wait for the connection; more waits in the pipe.
const INPUT_PIECES: usize = 16;

/// Colours off and cursor on (ECMA-48 SGR 0, DEC private mode 25): a guest may have left them otherwise.
pub const RESET: &[u8] = b"\x1b[0m\x1b[?25h";

/// Something that the terminal or the system refuses.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// Single keys could not be asked for.
    #[error("Cannot switch the terminal to single keys")]
    RawMode(#[source] io::Error),
    /// Signals could not be asked for.
    #[error("Cannot watch for signals")]
    Signals(#[source] io::Error),
}

/// Gives the terminal back when it is dropped.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Asks for single keys.
    ///
    /// # Errors
    /// [`TerminalError::RawMode`].
    pub fn enter() -> Result<Self, TerminalError> {
        crossterm::terminal::enable_raw_mode().map_err(TerminalError::RawMode)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone, and then nobody misses its mode.
        drop(crossterm::terminal::disable_raw_mode());
    }
}

/// The signals that end a program at a terminal.
#[derive(Debug)]
pub struct Endings {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Endings {
    /// Watches from now on.
    ///
    /// # Errors
    /// [`TerminalError::Signals`].
    pub fn watch() -> Result<Self, TerminalError> {
        let watch = |kind| signal(kind).map_err(TerminalError::Signals);
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// The number of the next one.
    pub async fn next(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        };
        kind.as_raw_value()
    }
}

/// Tells of each new size of the terminal.
#[derive(Debug)]
pub struct Resizes(Signal);

impl Resizes {
    /// Watches from now on.
    ///
    /// # Errors
    /// [`TerminalError::Signals`].
    pub fn watch() -> Result<Self, TerminalError> {
        let changes = signal(SignalKind::window_change()).map_err(TerminalError::Signals)?;
        Ok(Self(changes))
    }

    /// The next size.
    pub async fn next(&mut self) -> TerminalSize {
        loop {
            if self.0.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            if let Some(size) = size() {
                return size;
            }
        }
    }
}

/// The size of the terminal, if there is one.
pub fn size() -> Option<TerminalSize> {
    let (cols, rows) = crossterm::terminal::size().ok()?;
    (cols > 0 && rows > 0).then_some(TerminalSize { cols, rows })
}

/// The keys before the one that leaves, and whether it is among them.
pub fn until_leave(mut keys: Vec<u8>) -> (Vec<u8>, bool) {
    match keys.iter().position(|key| *key == LEAVE_KEY) {
        Some(at) => {
            keys.truncate(at);
            (keys, true)
        }
        None => (keys, false),
    }
}

/// Reads stdin on a thread of its own, which may go on waiting for a key when the program ends.
pub fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(INPUT_PIECES);
    std::thread::spawn(move || {
        let mut buffer = [0; INPUT_BYTES];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let piece = buffer.get(..length).unwrap_or_default().to_vec();
                    if sender.blocking_send(piece).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_before_the_leaving_one_are_sent() {
        assert_eq!(until_leave(b"ls\n".to_vec()), (b"ls\n".to_vec(), false));
        assert_eq!(until_leave(b"ls\x1dx\x1d".to_vec()), (b"ls".to_vec(), true));
        assert_eq!(until_leave(b"\x1d".to_vec()), (Vec::new(), true));
    }
}
