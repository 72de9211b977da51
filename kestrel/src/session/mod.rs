//! Commands that the host runs in the guest: each a session of messages ([`common::agent::session`]) from its start to its exit code.
//!
//! Output waits for the host as a program waits at a slow terminal. Input waits for the command; behind input that the command does not
//! read, signals wait too, once a few messages are queued.

mod command;
mod frame;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::agent::session::{Channel, Exit, SendSignal, Start, TerminalSize};
use common::manifest::StopSignal;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::reaper::{Child, Reaper};
use crate::sys::{GroupSignal, Reaped, Watched, set_terminal_size, signal_group};
use crate::workload::{Plan, stop};
use command::{Refusal, Running};
use frame::FrameError;

/// Sessions at a time. Each has a process and up to [`QUEUED_INPUTS`] messages of memory.
const MAX_SESSIONS: usize = 16;

/// How long the host may take to say what is to run.
const START_BOUND: Duration = Duration::from_secs(10);

/// How long a command may take to end after SIGHUP, once its host is gone.
const HANG_UP_GRACE: Duration = Duration::from_secs(5);

/// How long the last message may take: who does not read it does not want it.
const LAST_WORD_BOUND: Duration = Duration::from_secs(5);

/// How often a quiet session says nothing, to learn whether its host is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Messages of input that wait for the command. Behind them the connection waits.
const QUEUED_INPUTS: usize = 4;

/// The most bytes of one message of output.
const TURN_BYTES: usize = 16 * 1024;

/// The most bytes that are still read of a command that has ended: a pipe of Linux holds no more (`fs.pipe-max-size`), so what comes
/// later is from a process that it left.
const SETTLE_BYTES: usize = 1024 * 1024;

/// What ends the input at a terminal: EOT, the default of VEOF (termios(3)).
const END_OF_INPUT: [u8; 1] = [4];

/// Who runs commands.
#[derive(Debug)]
pub(crate) struct Sessions {
    reaper: Reaper,
    workload: OnceLock<Plan>,
    places: Arc<Semaphore>,
}

/// A message of input.
enum Input {
    Bytes(Vec<u8>),
    End,
}

/// How a session ends.
enum End {
    /// The command did, and all of its output is on its way.
    Exited(Reaped),
    /// The host is gone, or broke the protocol.
    Cut(Option<Refusal>),
}

impl Sessions {
    /// Nothing runs yet.
    pub(crate) fn new(reaper: Reaper) -> Self {
        Self {
            reaper,
            workload: OnceLock::new(),
            places: Arc::new(Semaphore::new(MAX_SESSIONS)),
        }
    }

    /// Commands run as the workload does from now on. Before, they run as root in `/`.
    pub(crate) fn run_as(&self, workload: &Plan) {
        // A guest has one workload.
        drop(self.workload.set(workload.clone()));
    }

    /// A place for a session; nothing if there are too many.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Serves one session to its end. Its command is gone then.
    pub(crate) async fn serve<S>(&self, connection: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut from, mut to) = tokio::io::split(connection);
        let last = match self.run(&mut from, &mut to).await {
            Ok(Some(ended)) => {
                let exit = Exit {
                    code: ended.code,
                    signal: ended.signal,
                };
                (Channel::Exit, serde_json::to_vec(&exit))
            }
            Ok(None) => return,
            Err(refusal) => (Channel::Failed, serde_json::to_vec(&refusal.problem())),
        };
        let (channel, payload) = last;
        // A structure of numbers and strings always has a JSON form.
        let payload = payload.unwrap_or_default();
        let farewell = async {
            if frame::write(&mut to, channel, &payload).await.is_ok() {
                // The host has the last message; how the connection ends does not matter.
                drop(to.shutdown().await);
            }
        };
        drop(tokio::time::timeout(LAST_WORD_BOUND, farewell).await);
    }

    async fn run<R, W>(&self, from: &mut R, to: &mut W) -> Result<Option<Reaped>, Refusal>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let first = tokio::time::timeout(START_BOUND, frame::read(from)).await;
        let start: Start = match first {
            Ok(Ok((Channel::Start, payload))) => {
                serde_json::from_slice(&payload).map_err(|error| not_as_it_should_be(&error))?
            }
            Ok(Ok(_)) | Err(_) => {
                return Err(Refusal::invalid("A session begins with what is to run"));
            }
            Ok(Err(FrameError::Gone(_))) => return Ok(None),
            Ok(Err(error)) => return Err(Refusal::invalid(error.to_string())),
        };
        let bare = Plan::bare();
        let workload = self.workload.get().unwrap_or(&bare);
        let is_terminal = start.tty.is_some();
        let Running {
            mut child,
            stdin,
            stdout,
            stderr,
        } = Running::start(start, workload, &self.reaper)?;
        let controls = Controls {
            group: child.pid(),
            ended: AtomicBool::new(false),
            terminal: is_terminal.then(|| Arc::clone(&stdout)),
        };
        let (queue, queued) = mpsc::channel(QUEUED_INPUTS);
        let end = tokio::select! {
            refusal = receive(from, &controls, queue) => End::Cut(refusal),
            never = feed(stdin, is_terminal, queued) => match never {},
            end = pass_on(to, &mut child, &controls, [Some(&*stdout), stderr.as_deref()]) => end,
        };
        let refusal = match end {
            End::Exited(ended) => return Ok(Some(ended)),
            End::Cut(refusal) => refusal,
        };
        if !controls.ended.load(Ordering::Relaxed) {
            // What it still says is thrown away: a pipe that is closed would kill it before it has seen the signal.
            tokio::select! {
                _ = stop(&mut child, StopSignal::HUP, HANG_UP_GRACE) => {}
                never = discard(Some(&stdout)) => match never {},
                never = discard(stderr.as_deref()) => match never {},
            }
        }
        refusal.map_or(Ok(None), Err)
    }
}

/// What the host can do to a command that runs.
#[derive(Debug)]
struct Controls {
    group: u32,
    ended: AtomicBool,
    terminal: Option<Arc<Watched>>,
}

impl Controls {
    fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal {
            // A terminal that is closed has no size to set.
            drop(set_terminal_size(&**terminal, size));
        }
    }

    fn signal(&self, signal: StopSignal) {
        // The number of a process that has ended may be another's.
        if !self.ended.load(Ordering::Relaxed) {
            signal_group(self.group, GroupSignal::Send(signal));
        }
    }
}

/// Takes the host's messages until it is gone, or sends what it may not.
async fn receive<R>(
    from: &mut R,
    controls: &Controls,
    queue: mpsc::Sender<Input>,
) -> Option<Refusal>
where
    R: AsyncRead + Unpin,
{
    loop {
        let (channel, payload) = match frame::read(from).await {
            Ok(message) => message,
            Err(FrameError::Gone(_)) => return None,
            Err(error) => return Some(Refusal::invalid(error.to_string())),
        };
        let taken = match channel {
            Channel::Stdin => {
                // The other end is there as long as this session.
                drop(queue.send(Input::Bytes(payload)).await);
                Ok(())
            }
            Channel::StdinEnd => {
                drop(queue.send(Input::End).await);
                Ok(())
            }
            Channel::Resize => serde_json::from_slice(&payload)
                .map(|size| controls.resize(size))
                .map_err(|error| not_as_it_should_be(&error)),
            Channel::Signal => signal(&payload).map(|signal| controls.signal(signal)),
            Channel::Start => Err(Refusal::invalid("A session runs one command")),
            Channel::Stdout | Channel::Stderr | Channel::Exit | Channel::Failed => {
                let detail = "The host sent a message that only a guest sends";
                Err(Refusal::invalid(detail))
            }
        };
        if let Err(refusal) = taken {
            return Some(refusal);
        }
    }
}

fn signal(payload: &[u8]) -> Result<StopSignal, Refusal> {
    let SendSignal { signal } =
        serde_json::from_slice(payload).map_err(|error| not_as_it_should_be(&error))?;
    StopSignal::of_number(signal)
        .ok_or_else(|| Refusal::invalid(format!("`{signal}` is not a signal from 1 to 64")))
}

fn not_as_it_should_be(error: &serde_json::Error) -> Refusal {
    Refusal::invalid(format!("A message is not as it should be: {error}"))
}

/// Writes what the host sends to the command's input. Goes on, without writing, when there is none any more.
async fn feed(
    mut stdin: Option<Arc<Watched>>,
    is_terminal: bool,
    mut queued: mpsc::Receiver<Input>,
) -> Infallible {
    while let Some(input) = queued.recv().await {
        let Some(open) = &stdin else {
            continue;
        };
        let goes_on = match input {
            Input::Bytes(bytes) => open.write_all(&bytes).await.is_ok(),
            Input::End => {
                if is_terminal {
                    // A terminal that is closed needs no end.
                    drop(open.write_all(&END_OF_INPUT).await);
                }
                false
            }
        };
        if !goes_on {
            stdin = None;
        }
    }
    std::future::pending().await
}

/// Passes a command's output on until it has ended, and then what is left of it.
async fn pass_on<W>(
    to: &mut W,
    child: &mut Child,
    controls: &Controls,
    [mut stdout, mut stderr]: [Option<&Watched>; 2],
) -> End
where
    W: AsyncWrite + Unpin,
{
    let mut out = vec![0; TURN_BYTES];
    let mut err = vec![0; TURN_BYTES];
    let ended = loop {
        let sent = tokio::select! {
            count = read(stdout, &mut out) => match out.get(..count) {
                Some(bytes) if count > 0 => frame::write(to, Channel::Stdout, bytes).await,
                _ => { stdout = None; Ok(()) }
            },
            count = read(stderr, &mut err) => match err.get(..count) {
                Some(bytes) if count > 0 => frame::write(to, Channel::Stderr, bytes).await,
                _ => { stderr = None; Ok(()) }
            },
            ended = child.ended() => break ended,
            () = tokio::time::sleep(SIGN_OF_LIFE) => frame::write(to, Channel::Stdout, &[]).await,
        };
        if sent.is_err() {
            return End::Cut(None);
        }
    };
    controls.ended.store(true, Ordering::Relaxed);
    for (stream, channel) in [(stdout, Channel::Stdout), (stderr, Channel::Stderr)] {
        let Some(stream) = stream else {
            continue;
        };
        for _ in 0..SETTLE_BYTES / TURN_BYTES {
            let Ok(count @ 1..) = stream.read_now(&mut out) else {
                break;
            };
            let bytes = out.get(..count).unwrap_or_default();
            if frame::write(to, channel, bytes).await.is_err() {
                return End::Cut(None);
            }
        }
    }
    End::Exited(ended)
}

/// Reads a stream to its end, and waits for good then.
async fn discard(stream: Option<&Watched>) -> Infallible {
    let mut buffer = vec![0; TURN_BYTES];
    while read(stream, &mut buffer).await > 0 {}
    std::future::pending().await
}

/// Reads what there is; 0 at the end. Without a stream it waits for good.
async fn read(stream: Option<&Watched>, buffer: &mut [u8]) -> usize {
    match stream {
        // A stream that fails has no more to give.
        Some(stream) => stream.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
