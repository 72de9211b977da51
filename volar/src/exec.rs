//! Joins the user's terminal or pipes to a command in a guest. The terminal is given back as it was on every way out.

use common::agent::session::Exit;
use common::exit_code::ExitCode;
use tokio::sync::mpsc;

use crate::client::{ClientError, ExecInput, ExecOutput, ExecSession, FromGuest};
use crate::output::{Output, OutputError};
use crate::terminal::{self, Endings, RESET, RawMode, Resizes, TerminalError, until_leave};
use crate::ui::Ui;

/// SIGINT, which a first Ctrl-C sends to the command.
const SIGINT: i32 = 2;

/// A session that broke.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The user's terminal.
    #[error("The terminal cannot be used")]
    Terminal(#[from] TerminalError),
    /// The connection, or the guest's refusal.
    #[error(transparent)]
    Connection(ClientError),
    /// The guest is gone before the command told its end.
    #[error("The session ended before the command did")]
    Ended,
    /// stdout.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A signal, or the key that leaves.
    #[error("Interrupted")]
    Interrupted,
}

impl ExecError {
    /// The exit code of a program that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Connection(source) => source.exit_code(),
            Self::Ended => ExitCode::Unavailable,
            Self::Interrupted => ExitCode::Interrupted,
            Self::Terminal(_) | Self::Output(_) => ExitCode::Invalid,
        }
    }
}

/// What of the user's side the command gets.
#[derive(Debug, Clone, Copy)]
pub struct Joined {
    /// stdin.
    pub stdin: bool,
    /// A terminal: then stdin is one.
    pub tty: bool,
}

/// Joins a session to stdin, stdout and stderr until the command ends.
///
/// # Errors
/// [`ExecError`] if the session ends otherwise.
pub async fn join(
    session: ExecSession,
    joined: Joined,
    output: Output,
    ui: Ui,
) -> Result<Exit, ExecError> {
    let mut user = User {
        endings: Endings::watch()?,
        resizes: joined.tty.then(Resizes::watch).transpose()?,
        keys: None,
        was_interrupted: false,
    };
    let raw_mode = joined.tty.then(RawMode::enter).transpose()?;
    user.keys = joined.stdin.then(terminal::read_stdin);
    let ExecSession {
        mut input,
        output: guest,
    } = session;
    let show = show(guest, output, ui);
    tokio::pin!(show);
    let result = match both(&mut show, async || user.pass_on(&mut input).await).await {
        Ok(shown) => shown,
        // What the guest said last tells more than that it is gone.
        Err(ExecError::Connection(ClientError::WebSocket(_))) => show.await,
        Err(error) => {
            drop(input.close().await);
            Err(error)
        }
    };
    if joined.tty && output.is_terminal() {
        output.bytes(RESET)?;
    }
    drop(raw_mode);
    result
}

/// Does both at once until what is shown ends, or passing on fails: a command that writes much must not be kept waiting by one that reads
/// slowly.
///
/// Neither goes first: a command that never stops writing would use up all that a task may do at a time (tokio's cooperative budget), and
/// neither keys nor Ctrl-C would be looked at.
async fn both<T>(
    mut show: impl Future<Output = T> + Unpin,
    mut pass_on: impl AsyncFnMut() -> Result<(), ExecError>,
) -> Result<T, ExecError> {
    loop {
        tokio::select! {
            shown = &mut show => return Ok(shown),
            passed_on = pass_on() => passed_on?,
        }
    }
}

/// The user's side.
struct User {
    endings: Endings,
    /// Of a terminal only.
    resizes: Option<Resizes>,
    /// None without input, or after its end.
    keys: Option<mpsc::Receiver<Vec<u8>>>,
    was_interrupted: bool,
}

impl User {
    /// Passes the next thing on that the user does.
    async fn pass_on(&mut self, input: &mut ExecInput) -> Result<(), ExecError> {
        let tty = self.resizes.is_some();
        let resized = async {
            match &mut self.resizes {
                Some(resizes) => resizes.next().await,
                None => std::future::pending().await,
            }
        };
        let pressed = async {
            match &mut self.keys {
                Some(keys) => keys.recv().await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            signal = self.endings.next() => {
                // The first Ctrl-C is the command's; whoever presses it again wants to leave.
                if signal != SIGINT || tty || self.was_interrupted {
                    drop(input.signal(signal).await);
                    return Err(ExecError::Interrupted);
                }
                self.was_interrupted = true;
                input.signal(signal).await
            }
            size = resized => input.resize(size).await,
            keys = pressed => match keys {
                None => {
                    self.keys = None;
                    input.end().await
                }
                Some(keys) if tty => {
                    let (before, leaves) = until_leave(keys);
                    let sent = input.stdin(&before).await;
                    if leaves {
                        return Err(ExecError::Interrupted);
                    }
                    sent
                }
                Some(keys) => input.stdin(&keys).await,
            },
        };
        sent.map_err(ExecError::Connection)
    }
}

async fn show(mut guest: ExecOutput, output: Output, ui: Ui) -> Result<Exit, ExecError> {
    loop {
        match guest.next().await.map_err(ExecError::Connection)? {
            Some(FromGuest::Stdout(bytes)) => output.bytes(&bytes)?,
            Some(FromGuest::Stderr(bytes)) => ui.bytes(&bytes),
            Some(FromGuest::Exit(exit)) => return Ok(exit),
            None => return Err(ExecError::Ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// More than a task may ever do at a time.
    const MAX_PIECES: u32 = 1_000_000;

    #[tokio::test]
    async fn a_command_that_never_stops_writing_does_not_keep_keys_away() {
        let (writes, mut written) = mpsc::channel(1);
        let (presses, mut pressed) = mpsc::channel(1);
        presses.try_send(()).unwrap();
        let stopped = Cell::new(false);
        let show = async {
            for _ in 0..MAX_PIECES {
                if stopped.get() {
                    return true;
                }
                writes.try_send(()).unwrap();
                written.recv().await.unwrap();
            }
            false
        };
        let pass_on = async || {
            pressed.recv().await.unwrap();
            stopped.set(true);
            Ok(())
        };
        assert!(both(Box::pin(show), pass_on).await.unwrap());
    }
}
