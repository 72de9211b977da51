//! Joins the user's terminal to a VM's console. The terminal is given back as it was on every way out, a panic and a signal included.

use std::io::{self, Read as _};

use common::exit_code::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::client::{ClientError, Console, ConsoleInput, ConsoleOutput};
use crate::output::{Output, OutputError};

/// The key that leaves: Ctrl-], as in telnet. Terminals and shells in a guest have no use for it.
pub const LEAVE_KEY: u8 = 0x1d;

/// Bytes that are read from stdin at once.
const INPUT_BYTES: usize = 4096;

/// Pieces of input that wait for the connection; more waits in the pipe.
const INPUT_PIECES: usize = 16;

/// Colours off and cursor on (ECMA-48 SGR 0, DEC private mode 25): a guest may have left them otherwise.
const RESET: &[u8] = b"\x1b[0m\x1b[?25h";

/// How a console was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By its key, or because the terminal is gone.
    ByUser,
    /// volantd ended it: the VM is down or deleted.
    ByDaemon,
}

/// A console that broke.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Single keys could not be asked for.
    #[error("Cannot switch the terminal to single keys")]
    RawMode(#[source] io::Error),
    /// Signals could not be asked for.
    #[error("Cannot watch for signals")]
    Signals(#[source] io::Error),
    /// The connection.
    #[error("The connection ended")]
    Connection(#[source] ClientError),
    /// stdout.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A signal.
    #[error("Interrupted")]
    Interrupted,
}

impl ConsoleError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Connection(source) => source.exit_code(),
            Self::Interrupted => ExitCode::Interrupted,
            Self::RawMode(_) | Self::Signals(_) | Self::Output(_) => ExitCode::Invalid,
        }
    }
}

/// Gives the terminal back when it is dropped.
struct RawMode;

impl RawMode {
    fn enter() -> Result<Self, ConsoleError> {
        crossterm::terminal::enable_raw_mode().map_err(ConsoleError::RawMode)?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone, and then nobody misses its mode.
        drop(crossterm::terminal::disable_raw_mode());
    }
}

/// Joins stdin and stdout to `console` until somebody leaves. `is_terminal` says whether stdin is one.
///
/// # Errors
/// [`ConsoleError`] if the connection breaks or a signal ends it.
pub async fn attach(
    console: Console,
    is_terminal: bool,
    output: Output,
) -> Result<Left, ConsoleError> {
    let watch = |kind| signal(kind).map_err(ConsoleError::Signals);
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    let mut hangup = watch(SignalKind::hangup())?;
    let raw_mode = is_terminal.then(RawMode::enter).transpose()?;
    let keys = read_stdin();
    let result = tokio::select! {
        biased;
        _ = interrupt.recv() => Err(ConsoleError::Interrupted),
        _ = terminate.recv() => Err(ConsoleError::Interrupted),
        _ = hangup.recv() => Err(ConsoleError::Interrupted),
        result = join(console, keys, is_terminal, output) => result,
    };
    if output.is_terminal() {
        output.bytes(RESET)?;
    }
    drop(raw_mode);
    result
}

async fn join(
    console: Console,
    keys: mpsc::Receiver<Vec<u8>>,
    is_terminal: bool,
    output: Output,
) -> Result<Left, ConsoleError> {
    let Console {
        mut input,
        output: guest,
    } = console;
    let show = show(guest, output);
    tokio::pin!(show);
    // Both at once: a guest that writes much must not be kept waiting by one that reads slowly.
    let left = tokio::select! {
        biased;
        left = &mut show => return left,
        left = send(&mut input, keys, is_terminal) => left?,
    };
    if left == Sent::All {
        return show.await;
    }
    input.close().await.map_err(ConsoleError::Connection)?;
    Ok(Left::ByUser)
}

/// How the input ended.
#[derive(PartialEq, Eq)]
enum Sent {
    /// With the key to leave, or the terminal is gone.
    Leave,
    /// A pipe or file came to its end.
    All,
}

async fn send(
    input: &mut ConsoleInput,
    mut keys: mpsc::Receiver<Vec<u8>>,
    is_terminal: bool,
) -> Result<Sent, ConsoleError> {
    while let Some(piece) = keys.recv().await {
        let (before, leaves) = until_leave(piece);
        if !before.is_empty() {
            input.send(before).await.map_err(ConsoleError::Connection)?;
        }
        if leaves {
            return Ok(Sent::Leave);
        }
    }
    Ok(if is_terminal { Sent::Leave } else { Sent::All })
}

async fn show(mut guest: ConsoleOutput, output: Output) -> Result<Left, ConsoleError> {
    while let Some(bytes) = guest.next().await.map_err(ConsoleError::Connection)? {
        output.bytes(&bytes)?;
    }
    Ok(Left::ByDaemon)
}

/// The keys before the one that leaves, and whether it is among them.
fn until_leave(mut keys: Vec<u8>) -> (Vec<u8>, bool) {
    match keys.iter().position(|key| *key == LEAVE_KEY) {
        Some(at) => {
            keys.truncate(at);
            (keys, true)
        }
        None => (keys, false),
    }
}

/// Reads stdin on a thread of its own, which may go on waiting for a key when the program ends.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
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
