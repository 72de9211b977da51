//! The serial consoles of all VMs: each is read from its first byte, kept in a bounded log, and fanned out to whoever watches.
//!
//! One reader per VM, because a VMM's serial line has room for one. What the bytes mean is not this room's business: a guest is not trusted,
//! so nothing is parsed here.

mod log;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use common::name::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::machine::ports::{ConsoleSink, SerialStream};
use log::ConsoleLog;

pub use log::{CONSOLE_LOG, MAX_LOG_BYTES};

/// What a new watcher of the console sees first, in bytes: some screens of text.
pub const SCROLLBACK_BYTES: usize = 16 * 1024;

/// Chunks that a watcher may lag behind before it loses some. A slow terminal must not hold up the guest.
const WATCHER_CHUNKS: usize = 1024;

/// Chunks of input that wait for the guest. More is refused: nobody types faster than a serial line.
const INPUT_CHUNKS: usize = 64;

/// One read from the serial line.
const CHUNK_BYTES: usize = 4096;

/// A piece of console output, shared by all watchers.
pub type Chunk = Arc<[u8]>;

/// The consoles of all VMs.
#[derive(Debug, Default)]
pub struct Consoles {
    open: StdMutex<HashMap<Name, Arc<Console>>>,
}

/// One VM's console. It outlives the launches of its VM: a watcher stays while the VM restarts.
#[derive(Debug)]
pub struct Console {
    state: Mutex<State>,
    watchers: StdMutex<Option<broadcast::Sender<Chunk>>>,
    line: StdMutex<Option<Line>>,
}

#[derive(Debug)]
struct State {
    log: ConsoleLog,
    scrollback: VecDeque<u8>,
}

/// The connection to the guest's present serial line.
#[derive(Debug)]
struct Line {
    input: mpsc::Sender<Vec<u8>>,
    stop: CancellationToken,
}

/// Output from a moment on, with what was there before; nothing is missing or doubled between the two.
#[derive(Debug)]
pub struct Watch {
    /// What was there before.
    pub before: Vec<u8>,
    /// What comes; closed when the VM is deleted.
    pub after: broadcast::Receiver<Chunk>,
}

/// Input that could not be given to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// No guest runs.
    #[error("The VM is not running")]
    NotRunning,
    /// The guest does not read its serial line fast enough.
    #[error("The guest does not read its console")]
    Full,
}

impl Consoles {
    /// The console of a VM whose files are in `state_dir`, made on first use.
    pub fn open(&self, vm: &Name, state_dir: &Path) -> Arc<Console> {
        let mut open = lock(&self.open);
        Arc::clone(
            open.entry(vm.clone())
                .or_insert_with(|| Arc::new(Console::new(state_dir.join(CONSOLE_LOG)))),
        )
    }

    fn get(&self, vm: &Name) -> Option<Arc<Console>> {
        lock(&self.open).get(vm).cloned()
    }
}

impl ConsoleSink for Consoles {
    fn attach(&self, vm: &Name, state_dir: &Path, stream: Box<dyn SerialStream>) {
        self.open(vm, state_dir).connect(vm, stream);
    }

    fn detach(&self, vm: &Name) {
        if let Some(console) = self.get(vm) {
            console.disconnect();
        }
    }

    fn remove(&self, vm: &Name) {
        if let Some(console) = lock(&self.open).remove(vm) {
            console.disconnect();
            // Dropping the sender ends every watcher.
            drop(lock(&console.watchers).take());
        }
    }

    fn tail(&self, _vm: &Name, state_dir: &Path, lines: usize) -> String {
        // The log is read without the console's lock: a torn last line is fine for a message.
        let bytes = log::tail(&state_dir.join(CONSOLE_LOG), lines).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Console {
    fn new(log: PathBuf) -> Self {
        let (watchers, _) = broadcast::channel(WATCHER_CHUNKS);
        let state = State {
            log: ConsoleLog::new(log),
            scrollback: VecDeque::new(),
        };
        Self {
            state: Mutex::new(state),
            watchers: StdMutex::new(Some(watchers)),
            line: StdMutex::new(None),
        }
    }

    /// Begins to read `stream`; a line that was connected before is let go.
    fn connect(self: &Arc<Self>, vm: &Name, stream: Box<dyn SerialStream>) {
        self.disconnect();
        let (input, from_watchers) = mpsc::channel(INPUT_CHUNKS);
        let stop = CancellationToken::new();
        *lock(&self.line) = Some(Line {
            input,
            stop: stop.clone(),
        });
        let console = Arc::clone(self);
        let name = vm.clone();
        crate::task::spawn("console", async move {
            if let Err(error) = console.pump(stream, from_watchers, stop).await {
                tracing::debug!(vm = %name, %error, "serial line ended");
            }
        });
    }

    fn disconnect(&self) {
        if let Some(line) = lock(&self.line).take() {
            line.stop.cancel();
        }
    }

    async fn pump(
        &self,
        stream: Box<dyn SerialStream>,
        mut input: mpsc::Receiver<Vec<u8>>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut buffer = vec![0; CHUNK_BYTES];
        // What is being typed, and how much of it the guest has. A guest that does not read must not keep its output from being read.
        let (mut typed, mut sent) = (Vec::new(), 0);
        loop {
            tokio::select! {
                read = reader.read(&mut buffer) => {
                    let count = read?;
                    if count == 0 {
                        return Ok(());
                    }
                    self.publish(&buffer[..count]).await;
                }
                written = writer.write(&typed[sent..]), if sent < typed.len() => sent += written?,
                Some(bytes) = input.recv(), if sent == typed.len() => (typed, sent) = (bytes, 0),
                () = stop.cancelled() => break,
            }
        }
        // The VM is going down: what is already on the line still belongs in the log.
        while let Ok(Ok(count @ 1..)) = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            reader.read(&mut buffer),
        )
        .await
        {
            self.publish(&buffer[..count]).await;
        }
        Ok(())
    }

    async fn publish(&self, bytes: &[u8]) {
        let mut state = self.state.lock().await;
        if let Err(error) = state.log.append(bytes).await {
            tracing::warn!(%error, "console log not written");
        }
        state.scrollback.extend(bytes);
        let surplus = state.scrollback.len().saturating_sub(SCROLLBACK_BYTES);
        state.scrollback.drain(..surplus);
        if let Some(watchers) = &*lock(&self.watchers) {
            // Nobody watching is no error.
            drop(watchers.send(bytes.into()));
        }
    }

    /// The last `lines` lines of the log (all that is kept if `None`), and what comes.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn follow(&self, lines: Option<usize>) -> io::Result<Watch> {
        let state = self.state.lock().await;
        let before = log::tail(state.log.path(), lines.unwrap_or(usize::MAX))?;
        Ok(Watch {
            before,
            after: self.subscribe(),
        })
    }

    /// The last [`SCROLLBACK_BYTES`], and what comes.
    pub async fn watch(&self) -> Watch {
        let state = self.state.lock().await;
        Watch {
            before: state.scrollback.iter().copied().collect(),
            after: self.subscribe(),
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<Chunk> {
        // A removed console has no sender any more: its watchers end at once.
        lock(&self.watchers)
            .as_ref()
            .map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }

    /// Gives bytes to the guest.
    ///
    /// # Errors
    /// [`InputError`] if no guest runs, or it does not read.
    pub fn input(&self, bytes: Vec<u8>) -> Result<(), InputError> {
        let line = lock(&self.line);
        let Some(line) = line.as_ref() else {
            return Err(InputError::NotRunning);
        };
        line.input.try_send(bytes).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => InputError::Full,
            mpsc::error::TrySendError::Closed(_) => InputError::NotRunning,
        })
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        "web".parse().unwrap()
    }

    async fn next(watch: &mut Watch) -> String {
        String::from_utf8(watch.after.recv().await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn output_reaches_the_log_and_every_watcher() {
        let dir = tempfile::tempdir().unwrap();
        let consoles = Consoles::default();
        let (guest, host) = tokio::io::duplex(64);
        consoles.attach(&name(), dir.path(), Box::new(host));
        let console = consoles.open(&name(), dir.path());
        let (mut one, mut two) = (console.watch().await, console.watch().await);
        let (mut guest_in, mut guest_out) = tokio::io::split(guest);
        guest_out.write_all(b"hello\n").await.unwrap();
        assert_eq!(next(&mut one).await, "hello\n");
        assert_eq!(next(&mut two).await, "hello\n");
        assert_eq!(console.follow(None).await.unwrap().before, b"hello\n");
        assert_eq!(consoles.tail(&name(), dir.path(), 5), "hello\n");
        console.input(b"ls\n".to_vec()).unwrap();
        let mut typed = [0; 3];
        guest_in.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"ls\n");
    }

    #[tokio::test]
    async fn a_watcher_stays_over_a_restart_and_ends_with_the_vm() {
        let dir = tempfile::tempdir().unwrap();
        let consoles = Consoles::default();
        let mut watch = consoles.open(&name(), dir.path()).watch().await;
        for text in ["first", "second"] {
            let (mut guest, host) = tokio::io::duplex(64);
            consoles.attach(&name(), dir.path(), Box::new(host));
            guest.write_all(text.as_bytes()).await.unwrap();
            assert_eq!(next(&mut watch).await, text);
            consoles.detach(&name());
        }
        let console = consoles.open(&name(), dir.path());
        assert_eq!(console.input(vec![1]), Err(InputError::NotRunning));
        consoles.remove(&name());
        assert!(matches!(
            watch.after.recv().await,
            Err(broadcast::error::RecvError::Closed)
        ));
    }

    #[tokio::test]
    async fn a_guest_that_does_not_read_is_still_heard() {
        let dir = tempfile::tempdir().unwrap();
        let consoles = Consoles::default();
        let (guest, host) = tokio::io::duplex(8);
        consoles.attach(&name(), dir.path(), Box::new(host));
        let console = consoles.open(&name(), dir.path());
        let mut watch = console.watch().await;
        console.input(vec![b'x'; 64]).unwrap();
        let (_unread, mut guest_out) = tokio::io::split(guest);
        for _ in 0..10 {
            guest_out.write_all(b"alive!").await.unwrap();
        }
        let mut heard = String::new();
        while heard.len() < 60 {
            heard.push_str(&next(&mut watch).await);
        }
        assert_eq!(heard, "alive!".repeat(10));
        consoles.detach(&name());
    }

    #[tokio::test]
    async fn a_guest_that_does_not_read_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let consoles = Consoles::default();
        let (_guest, host) = tokio::io::duplex(1);
        consoles.attach(&name(), dir.path(), Box::new(host));
        let console = consoles.open(&name(), dir.path());
        let refused = (0..10_000).find_map(|_| console.input(vec![0; 16]).err());
        assert_eq!(refused, Some(InputError::Full));
    }
}
