//! Joins the user's terminal to a VM's console. The terminal is given back as it was on every way out.

use common::exit_code::ExitCode;
use tokio::sync::mpsc;

use crate::client::{ClientError, Console, ConsoleInput, ConsoleOutput};
use crate::output::{Output, OutputError};
use crate::terminal::{self, Endings, RESET, RawMode, Resizes, TerminalError, until_leave};

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
    /// The user's terminal.
    #[error("The terminal cannot be used")]
    Terminal(#[from] TerminalError),
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
            Self::Terminal(_) | Self::Output(_) => ExitCode::Invalid,
        }
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
    let mut endings = Endings::watch()?;
    let resizes = is_terminal.then(Resizes::watch).transpose()?;
    let raw_mode = is_terminal.then(RawMode::enter).transpose()?;
    let keys = Keys {
        pieces: terminal::read_stdin(),
        resizes,
    };
    let result = tokio::select! {
        biased;
        _ = endings.next() => Err(ConsoleError::Interrupted),
        result = join(console, keys, output) => result,
    };
    if output.is_terminal() {
        output.bytes(RESET)?;
    }
    drop(raw_mode);
    result
}

/// What comes from the user.
struct Keys {
    pieces: mpsc::Receiver<Vec<u8>>,
    /// Of a terminal only.
    resizes: Option<Resizes>,
}

async fn join(console: Console, keys: Keys, output: Output) -> Result<Left, ConsoleError> {
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
        left = send(&mut input, keys) => left?,
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

async fn send(input: &mut ConsoleInput, mut keys: Keys) -> Result<Sent, ConsoleError> {
    let is_terminal = keys.resizes.is_some();
    if let (true, Some(size)) = (is_terminal, terminal::size()) {
        input.resize(size).await.map_err(ConsoleError::Connection)?;
    }
    loop {
        let resized = async {
            match &mut keys.resizes {
                Some(resizes) => resizes.next().await,
                None => std::future::pending().await,
            }
        };
        let piece = tokio::select! {
            piece = keys.pieces.recv() => piece,
            size = resized => {
                input.resize(size).await.map_err(ConsoleError::Connection)?;
                continue;
            }
        };
        let Some(piece) = piece else {
            return Ok(if is_terminal { Sent::Leave } else { Sent::All });
        };
        let (before, leaves) = until_leave(piece);
        if !before.is_empty() {
            input.send(before).await.map_err(ConsoleError::Connection)?;
        }
        if leaves {
            return Ok(Sent::Leave);
        }
    }
}

async fn show(mut guest: ConsoleOutput, output: Output) -> Result<Left, ConsoleError> {
    while let Some(bytes) = guest.next().await.map_err(ConsoleError::Connection)? {
        output.bytes(&bytes)?;
    }
    Ok(Left::ByDaemon)
}
