//! One VMM process: spawned in its own session or found again, waited for by pidfd, signalled without ever hitting another.
//!
//! Knows no VMM: what the process is told, and what its end means, is the business of `cloud_hypervisor` and `qemu`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use fs_err as fs;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;

use super::identity::{self, INSTANCE_MARK, STATE_MARK};
use super::sys::End;
use super::{stderr, sys};
use crate::task;

/// The most that a VMM may write to its log, in bytes. A guest can provoke warnings without end; its host's disk is not its to fill. One
/// with a writable disk has the room of that anyway, and the kernel knows one limit for all files: see [`Spawn::disk_bytes`].
const LOG_BYTES: u64 = 1024 * 1024;

/// How long a process may take to vanish after SIGKILL: only a stuck kernel call takes longer than a moment.
pub(super) const KILL_WAIT: Duration = Duration::from_secs(10);

/// The file in a VM's state folder that takes its VMM's output.
pub const LOG_FILE: &str = "vmm.log";

/// A VMM process that cannot be started, found or signalled.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    /// The log cannot be made.
    #[error("Cannot write the VMM's log")]
    Log(#[source] io::Error),
    /// Two files were to have one number in the child.
    #[error("Cannot hand the sockets to the VMM")]
    Files(#[source] command_fds::FdMappingCollision),
    /// The program does not start.
    #[error("Cannot start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not tell about the process.
    #[error("Cannot watch process {pid}")]
    Watch {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// /proc cannot be read.
    #[error("Cannot read /proc")]
    Proc(#[source] io::Error),
    /// The signal was refused.
    #[error("Cannot signal process {pid}")]
    Signal {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SIGKILL did not end it.
    #[error("Process {pid} has not ended {} s after SIGKILL", KILL_WAIT.as_secs())]
    Stuck {
        /// The process.
        pid: u32,
    },
}

/// What to start.
#[derive(Debug)]
pub(super) struct Spawn<'a> {
    /// The program.
    pub(super) program: &'a Path,
    /// Its arguments.
    pub(super) args: Vec<OsString>,
    /// Descriptors and the numbers that they have in the child.
    pub(super) files: Vec<(OwnedFd, RawFd)>,
    /// `PATH` of the child; it sees no other variable of the daemon.
    pub(super) search_path: &'a OsStr,
    /// [`INSTANCE_MARK`].
    pub(super) instance: &'a str,
    /// [`STATE_MARK`].
    pub(super) state_root: &'a Path,
    /// Where its output goes.
    pub(super) log: PathBuf,
    /// The size of the largest file that it must be able to write as a whole, in bytes.
    pub(super) disk_bytes: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was not our child, so nobody told.
    Unseen,
}

/// Who a process is, beyond its reusable id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The process id.
    pub(super) pid: u32,
    /// Clock ticks from boot to its start.
    pub(super) start_ticks: u64,
    /// The boot.
    pub(super) boot_id: String,
}

/// A living (or just ended) VMM process. Clones are the same process; dropping them all leaves it running.
#[derive(Debug, Clone)]
pub(super) struct Process {
    identity: Arc<Identity>,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    ending: watch::Receiver<Option<Ending>>,
    log: Option<PathBuf>,
}

impl Process {
    /// Starts a program: own session, empty stdin, output to the log, environment of three variables.
    pub(super) fn spawn(spawn: Spawn<'_>) -> Result<Self, ProcessError> {
        let log = open_log(&spawn.log).map_err(ProcessError::Log)?;
        let errors = log.try_clone().map_err(ProcessError::Log)?;
        let mappings = spawn
            .files
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        let mut command = Command::new(spawn.program);
        command
            .args(spawn.args)
            .env_clear()
            .env("PATH", spawn.search_path)
            .env(INSTANCE_MARK, spawn.instance)
            .env(STATE_MARK, spawn.state_root)
            .stdin(Stdio::null())
            .stdout(log.into_file())
            .stderr(errors.into_file())
            .fd_mappings(mappings)
            .map_err(ProcessError::Files)?;
        sys::detach(&mut command, LOG_BYTES.max(spawn.disk_bytes));
        let mut child = command.spawn().map_err(|source| ProcessError::Start {
            program: spawn.program.to_owned(),
            source,
        })?;
        match watched(&child) {
            Ok((identity, pidfd)) => Ok(Self::watch(identity, pidfd, Some(child), Some(spawn.log))),
            Err(error) => {
                // Without a pidfd nobody would ever wait for it.
                let _ignored = child.kill();
                let _ignored = child.wait();
                Err(error)
            }
        }
    }

    /// Finds a process of an earlier daemon. `None` if it has ended or its id belongs to another process by now.
    pub(super) fn adopt(identity: &Identity, instance: &str) -> Result<Option<Self>, ProcessError> {
        let pid = identity.pid;
        let failed = |source| ProcessError::Watch { pid, source };
        if identity::boot_id().map_err(ProcessError::Proc)? != identity.boot_id {
            return Ok(None);
        }
        // First the handle, then the questions: whatever they say then holds for the handle.
        let pidfd = match sys::pidfd_open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let same = identity::stat(pid)
            .map_err(failed)?
            .is_some_and(|stat| stat.lives() && stat.start_ticks == identity.start_ticks);
        if !same || !identity::is_marked(pid, INSTANCE_MARK, OsStr::new(instance)) {
            return Ok(None);
        }
        let pidfd = sys::watch_pidfd(pidfd).map_err(failed)?;
        Ok(Some(Self::watch(identity.clone(), pidfd, None, None)))
    }

    fn watch(
        identity: Identity,
        pidfd: AsyncFd<OwnedFd>,
        child: Option<Child>,
        log: Option<PathBuf>,
    ) -> Self {
        let pidfd = Arc::new(pidfd);
        let (sender, ending) = watch::channel(None);
        let waiting = Arc::clone(&pidfd);
        let _detached = task::spawn("vmm-exit", async move {
            // An error here means that the runtime ends; the process goes on without us.
            if waiting.readable().await.is_ok() {
                sender.send_replace(Some(reap(child)));
            }
        });
        Self {
            identity: Arc::new(identity),
            pidfd,
            ending,
            log,
        }
    }

    /// Who it is.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Ends when the process has ended.
    pub(super) async fn ended(&self) -> Ending {
        let mut ending = self.ending.clone();
        ending
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|ending| *ending)
            .unwrap_or(Ending::Unseen)
    }

    /// Whether the process has ended, as far as the kernel can tell right now.
    pub(super) fn has_ended(&self) -> bool {
        self.ending.borrow().is_some()
            || !identity::stat(self.identity.pid).is_ok_and(|stat| {
                stat.is_some_and(|stat| {
                    stat.lives() && stat.start_ticks == self.identity.start_ticks
                })
            })
    }

    /// Takes a share in the main end of the pty `/dev/pts/<index>` that the process holds.
    pub(super) fn share_pty(&self, index: u32) -> io::Result<OwnedFd> {
        let number = identity::pty_main(self.identity.pid, index)?;
        sys::pidfd_getfd(self.pidfd.get_ref(), number)
    }

    /// Sends a signal. A process that has ended is fine.
    pub(super) fn signal(&self, end: End) -> Result<(), ProcessError> {
        match sys::pidfd_send_signal(self.pidfd.get_ref(), end) {
            Err(source) if !is_gone(&source) => Err(ProcessError::Signal {
                pid: self.identity.pid,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub(super) async fn kill(&self) -> Result<(), ProcessError> {
        self.signal(End::Kill)?;
        timeout(KILL_WAIT, self.ended())
            .await
            .map_err(|_| ProcessError::Stuck {
                pid: self.identity.pid,
            })?;
        Ok(())
    }

    /// The last lines of its output; empty for an adopted process.
    pub(super) fn log_tail(&self) -> String {
        self.log.as_deref().map(stderr::tail).unwrap_or_default()
    }
}

/// Ends every process that carries the instance id and waits until all are gone.
pub(super) async fn kill_marked(instance: &str) -> Result<(), ProcessError> {
    // A process that is killed may have forked just before, so look until a look finds nothing.
    loop {
        let found = marked(INSTANCE_MARK).await?;
        let mut pids = found
            .into_iter()
            .filter(|(_, value)| value == instance.as_bytes())
            .map(|(pid, _)| pid)
            .peekable();
        if pids.peek().is_none() {
            return Ok(());
        }
        for pid in pids {
            kill_one(pid, instance).await?;
        }
    }
}

async fn kill_one(pid: u32, instance: &str) -> Result<(), ProcessError> {
    let failed = |source| ProcessError::Signal { pid, source };
    let pidfd = match sys::pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    if !identity::is_marked(pid, INSTANCE_MARK, OsStr::new(instance)) {
        return Ok(());
    }
    match sys::pidfd_send_signal(&pidfd, End::Kill) {
        Err(source) if !is_gone(&source) => return Err(failed(source)),
        _ => {}
    }
    let pidfd = sys::watch_pidfd(pidfd).map_err(|source| ProcessError::Watch { pid, source })?;
    match timeout(KILL_WAIT, pidfd.readable()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(ProcessError::Stuck { pid }),
    }
}

/// Processes with a variable in their environment, off the runtime's threads: a large host has thousands of processes.
pub(super) async fn marked(key: &'static str) -> Result<Vec<(u32, Vec<u8>)>, ProcessError> {
    tokio::task::spawn_blocking(move || identity::marked(key))
        .await
        .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
        .map_err(ProcessError::Proc)
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    // Truncated for each launch, and appended to, so that both streams share one end.
    fs::File::create(path)?;
    fs::OpenOptions::new().append(true).open(path)
}

fn watched(child: &Child) -> Result<(Identity, AsyncFd<OwnedFd>), ProcessError> {
    let pid = child.id();
    let failed = |source| ProcessError::Watch { pid, source };
    // The child is ours and not waited for, so its id cannot have been used again.
    let pidfd = sys::pidfd_open(pid)
        .and_then(sys::watch_pidfd)
        .map_err(failed)?;
    let stat = identity::stat(pid)
        .map_err(failed)?
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let identity = Identity {
        pid,
        start_ticks: stat.start_ticks,
        boot_id: identity::boot_id().map_err(ProcessError::Proc)?,
    };
    Ok((identity, pidfd))
}

/// Waits for a child whose pidfd says that it has ended, so this does not block.
fn reap(child: Option<Child>) -> Ending {
    let Some(status) = child.and_then(|mut child| child.wait().ok()) else {
        return Ending::Unseen;
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        (None, None) => Ending::Unseen,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ESRCH)
}

#[cfg(test)]
mod tests;
