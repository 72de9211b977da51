//! The serial consoles of all VMs: each is read from its first byte, kept in a bounded log, and fanned out to whoever watches.
//!
//! One reader per VM, because a VMM's serial line has room for one. Many watch, and one of them types: see [`turn`]. What the bytes mean
//! is not this room's business: a guest is not trusted, so nothing is parsed here. A serial line has no size, so neither has a console.

mod reader;
mod socket;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::name::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::ConsoleLimits;
use crate::log::{RingFile, blocking};
use crate::machine::CONSOLE_LOG_NAME;
use crate::machine::ports::{ConsoleSink, SerialStream, VmPaths};
use turn::Turn;

pub use reader::{LogPart, LogReader, Piece};
pub use socket::{BUSY, CONSOLE_SOCKET};
pub use turn::{Access, IDLE};

/// How long a watcher may take to take a piece of output before it is dropped.
pub const SEND_LIMIT: Duration = Duration::from_secs(10);

/// Chunks that a watcher may lag behind before it is dropped: a slow terminal must not hold up the guest, nor fill the daemon's memory.
const WATCHER_CHUNKS: usize = 1024;

/// What a watcher gets at once, as far as it is there: serial lines come in pieces of few bytes.
const BATCH_BYTES: usize = 32 * 1024;

/// Chunks of input that wait for the guest. More is refused: nobody types faster than a serial line.
const INPUT_CHUNKS: usize = 64;

/// One read from the serial line.
const CHUNK_BYTES: usize = 4096;

/// A piece of console output, shared by all watchers.
pub type Chunk = Arc<[u8]>;

/// The consoles of all VMs.
#[derive(Debug, Default)]
pub struct Consoles {
    limits: ConsoleLimits,
    open: StdMutex<HashMap<Name, Arc<Console>>>,
}

/// One VM's console. It outlives the launches of its VM: a watcher stays while the VM restarts.
#[derive(Debug)]
pub struct Console {
    log: Arc<RingFile>,
    /// Held while output goes to the log and to the watchers, so that nothing is missing or doubled between the two.
    publishing: Mutex<()>,
    watchers: StdMutex<Option<broadcast::Sender<Chunk>>>,
    line: StdMutex<Option<Line>>,
    turn: StdMutex<Turn>,
    next_watcher: AtomicU64,
    limits: ConsoleLimits,
    places: Arc<Semaphore>,
}

/// The connection to the guest's present serial line.
#[derive(Debug)]
struct Line {
    input: mpsc::Sender<Vec<u8>>,
    stop: CancellationToken,
    _socket: Option<AbortOnDropHandle<()>>,
}

/// Somebody who sees a console's output from a moment on, with what was there before.
#[derive(Debug)]
pub struct Watch {
    /// What was there before.
    pub before: Vec<u8>,
    after: broadcast::Receiver<Chunk>,
    console: Arc<Console>,
    id: u64,
    access: Access,
    lagged: bool,
    _place: OwnedSemaphorePermit,
}

/// What a watcher sees.
#[derive(Debug)]
pub enum Seen {
    /// The guest wrote this.
    Output(Vec<u8>),
    /// It fell too far behind.
    TooSlow,
    /// The VM is deleted.
    Gone,
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
    /// Somebody else types, or the watcher only watches.
    #[error("Somebody else is typing")]
    Busy,
}

/// There are as many watchers as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} clients watch this console already")]
pub struct TooManyWatchers {
    /// How many there may be.
    pub limit: usize,
}

impl Consoles {
    /// No consoles yet; each is opened on first use.
    pub fn new(limits: ConsoleLimits) -> Self {
        Self {
            limits,
            open: StdMutex::default(),
        }
    }

    /// The console of a VM whose files are in `state_dir`, made on first use.
    pub fn open(&self, vm: &Name, state_dir: &Path) -> Arc<Console> {
        let mut open = lock(&self.open);
        Arc::clone(open.entry(vm.clone()).or_insert_with(|| {
            Arc::new(Console::new(state_dir.join(CONSOLE_LOG_NAME), self.limits))
        }))
    }

    fn get(&self, vm: &Name) -> Option<Arc<Console>> {
        lock(&self.open).get(vm).cloned()
    }
}

impl ConsoleSink for Consoles {
    fn attach(&self, vm: &Name, paths: &VmPaths, stream: Box<dyn SerialStream>) {
        self.open(vm, &paths.state_dir)
            .connect(vm, &paths.run_dir, stream);
    }

    fn detach(&self, vm: &Name) {
        if let Some(console) = self.get(vm) {
            console.disconnect();
        }
    }

    fn remove(&self, vm: &Name) {
        if let Some(console) = lock(&self.open).remove(vm) {
            console.disconnect();
            console.log.remove();
            // Dropping the sender ends every watcher.
            drop(lock(&console.watchers).take());
        }
    }

    fn tail(&self, vm: &Name, state_dir: &Path, lines: usize) -> String {
        reader::tail(&self.open(vm, state_dir).log, lines).unwrap_or_default()
    }
}

impl Console {
    fn new(log: PathBuf, limits: ConsoleLimits) -> Self {
        let (watchers, _) = broadcast::channel(WATCHER_CHUNKS);
        Self {
            log: Arc::new(RingFile::new(log, limits.max_file_bytes)),
            publishing: Mutex::new(()),
            watchers: StdMutex::new(Some(watchers)),
            line: StdMutex::new(None),
            turn: StdMutex::default(),
            next_watcher: AtomicU64::new(0),
            limits,
            places: Arc::new(Semaphore::new(limits.max_watchers)),
        }
    }

    /// Begins to read `stream`; a line that was connected before is let go.
    fn connect(self: &Arc<Self>, vm: &Name, run_dir: &Path, stream: Box<dyn SerialStream>) {
        self.disconnect();
        let (input, from_watchers) = mpsc::channel(INPUT_CHUNKS);
        let stop = CancellationToken::new();
        let socket = match socket::listen(run_dir) {
            Ok(listener) => Some(AbortOnDropHandle::new(crate::task::spawn(
                "console-listener",
                socket::serve(listener, Arc::clone(self)),
            ))),
            // The WebSocket is there all the same.
            Err(error) => {
                tracing::warn!(%vm, %error, "console has no socket");
                None
            }
        };
        *lock(&self.line) = Some(Line {
            input,
            stop: stop.clone(),
            _socket: socket,
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
        while let Ok(Ok(count @ 1..)) =
            tokio::time::timeout(Duration::from_millis(20), reader.read(&mut buffer)).await
        {
            self.publish(&buffer[..count]).await;
        }
        Ok(())
    }

    async fn publish(&self, bytes: &[u8]) {
        let chunk: Chunk = bytes.into();
        let _publishing = self.publishing.lock().await;
        let (log, written) = (Arc::clone(&self.log), Arc::clone(&chunk));
        if let Err(error) = blocking(move || log.append(&written)).await {
            tracing::warn!(%error, "console log not written");
        }
        if let Some(watchers) = &*lock(&self.watchers) {
            // Nobody watching is no error.
            drop(watchers.send(chunk));
        }
    }

    /// A reader of this part of the log.
    ///
    /// # Errors
    /// [`TooManyWatchers`].
    pub fn read(&self, part: LogPart) -> Result<LogReader, TooManyWatchers> {
        let log = Arc::clone(&self.log);
        Ok(LogReader::new(log, part, self.place()?))
    }

    /// The last of what there was, and what comes.
    ///
    /// # Errors
    /// [`TooManyWatchers`].
    pub async fn watch(self: &Arc<Self>, access: Access) -> Result<Watch, TooManyWatchers> {
        let place = self.place()?;
        let id = self.next_watcher.fetch_add(1, Ordering::Relaxed);
        if access == Access::Force {
            lock(&self.turn).force(id, Instant::now());
        }
        let _publishing = self.publishing.lock().await;
        let log = Arc::clone(&self.log);
        let scrollback = self.limits.scrollback_bytes;
        let before = blocking(move || log.last_bytes(scrollback)).await;
        Ok(Watch {
            before: before.unwrap_or_default(),
            after: self.subscribe(),
            console: Arc::clone(self),
            id,
            access,
            lagged: false,
            _place: place,
        })
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, TooManyWatchers> {
        Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| TooManyWatchers {
                limit: self.limits.max_watchers,
            })
    }

    fn subscribe(&self) -> broadcast::Receiver<Chunk> {
        // A removed console has no sender any more: its watchers end at once.
        lock(&self.watchers)
            .as_ref()
            .map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }

    fn input(&self, bytes: Vec<u8>) -> Result<(), InputError> {
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

impl Watch {
    /// What comes next. Nothing is lost if it is dropped before.
    pub async fn next(&mut self) -> Seen {
        if self.lagged {
            return Seen::TooSlow;
        }
        let mut output = match self.after.recv().await {
            Ok(chunk) => chunk.to_vec(),
            Err(broadcast::error::RecvError::Lagged(_)) => return Seen::TooSlow,
            Err(broadcast::error::RecvError::Closed) => return Seen::Gone,
        };
        while output.len() < BATCH_BYTES {
            match self.after.try_recv() {
                Ok(chunk) => output.extend_from_slice(&chunk),
                // A closed one is closed the next time as well.
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                Err(TryRecvError::Lagged(_)) => {
                    self.lagged = true;
                    break;
                }
            }
        }
        Seen::Output(output)
    }

    /// Gives keys to the guest.
    ///
    /// # Errors
    /// [`InputError`] if it is not this watcher's turn, no guest runs, or it does not read.
    pub fn input(&self, keys: Vec<u8>) -> Result<(), InputError> {
        let may_type = match self.access {
            Access::Watch => false,
            Access::Type | Access::Force => lock(&self.console.turn).take(self.id, Instant::now()),
        };
        if may_type {
            self.console.input(keys)
        } else {
            Err(InputError::Busy)
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.console.turn).leave(self.id);
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
