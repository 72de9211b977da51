//! A launch that may still fail: whatever it made goes away with it, also when its future is dropped half way.
//!
//! Shared by both VMMs. Does not know what they are told.

use std::ffi::OsString;
use std::future::Future;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use tokio::time::timeout;

use super::process::{Ending, LOG_FILE, Process, Spawn};
use super::sys::End;
use super::{Daemon, socket, stderr};
use crate::machine::ports::{
    Accelerator, BootMedia, Disk, DiskAccess, InstanceRecord, Launch, StepError, VmmKind,
};

/// How long a failed call waits for the end of its process, which explains more than a broken connection does; and an ended process for an
/// answer that is on its way.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(500);

/// How long calls to a VMM may take. None of them waits for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the spawn to the first answer, and any simple call. Measured: 3 to 15 ms; a nested or busy host needs a hundred times that.
    pub call: Duration,
    /// The call that boots the guest: it loads the kernel and maps the memory. Measured: 30 to 200 ms.
    pub boot: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(15),
            boot: Duration::from_mins(1),
        }
    }
}

/// A launch with everything that it needs from the daemon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order<'a> {
    /// The VMM.
    pub(super) program: &'a Path,
    /// What runs the guest's instructions.
    pub(super) accelerator: Accelerator,
    /// What every launch gets.
    pub(super) daemon: &'a Daemon,
    /// The VM.
    pub(super) launch: &'a Launch,
    /// What it boots.
    pub(super) media: &'a BootMedia,
}

impl Order<'_> {
    /// Starts the program with arguments and descriptors.
    pub(super) fn start(
        &self,
        args: Vec<OsString>,
        files: Vec<(OwnedFd, RawFd)>,
        kind: VmmKind,
    ) -> Result<Process, StepError> {
        let disk_bytes = self.disk_bytes()?;
        Process::spawn(Spawn {
            program: self.program,
            args,
            files,
            search_path: &self.daemon.search_path,
            instance: &self.launch.instance,
            state_root: &self.daemon.state_root,
            log: self.launch.paths.state_dir.join(LOG_FILE),
            disk_bytes,
        })
        .map_err(|error| StepError::caused(format!("Cannot start {}", title(kind)), error))
    }

    /// The size of the largest disk that the guest writes on, in bytes.
    fn disk_bytes(&self) -> Result<u64, StepError> {
        let writable = self
            .media
            .disks
            .iter()
            .filter(|disk| disk.access == DiskAccess::ReadWrite);
        let mut sizes = writable.map(|disk| {
            fs::metadata(&disk.path)
                .map(|found| found.len())
                .map_err(|error| StepError::caused("The VM's disk is missing", error))
        });
        sizes.try_fold(0, |largest, size| Ok(size?.max(largest)))
    }

    /// The record of the process that was started.
    pub(super) fn record(
        &self,
        process: &Process,
        vmm: VmmKind,
        control_socket: PathBuf,
    ) -> InstanceRecord {
        let identity = process.identity();
        InstanceRecord {
            instance: self.launch.instance.clone(),
            pid: identity.pid,
            start_ticks: identity.start_ticks,
            boot_id: identity.boot_id.clone(),
            vmm,
            accelerator: self.accelerator,
            control_socket,
            serial: None,
            vsock: None,
        }
    }

    /// The boot media with absolute paths: the VMM runs in another folder.
    pub(super) fn media(&self) -> Result<BootMedia, StepError> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| {
                StepError::caused(format!("Cannot find `{}`", path.display()), error)
            })
        };
        let disks = self.media.disks.iter().map(|disk| {
            let path = absolute(&disk.path)?;
            Ok(Disk {
                path,
                ..disk.clone()
            })
        });
        Ok(BootMedia {
            kernel: absolute(&self.media.kernel)?,
            initramfs: self.media.initramfs.as_deref().map(absolute).transpose()?,
            disks: disks.collect::<Result<_, StepError>>()?,
            cmdline: self.media.cmdline.clone(),
        })
    }
}

/// How people call a VMM.
pub(super) const fn title(kind: VmmKind) -> &'static str {
    match kind {
        VmmKind::CloudHypervisor => "Cloud Hypervisor",
        VmmKind::Qemu => "QEMU",
    }
}

/// What a launch has made so far. Dropped before [`Unfinished::finish`], it kills the process and removes the files.
#[derive(Debug)]
pub(super) struct Unfinished {
    files: Vec<PathBuf>,
    process: Option<Process>,
    finished: bool,
}

impl Unfinished {
    /// Clears what an earlier launch left at `files`, and answers for them from now on.
    pub(super) fn begin(files: Vec<PathBuf>) -> Result<Self, StepError> {
        for file in &files {
            socket::check_path(file).map_err(|error| {
                StepError::new(error.to_string())
                    .hint("Use a shorter runtime folder (VOLANT_RUNTIME_DIR)")
            })?;
        }
        socket::clear(&files)
            .map_err(|error| StepError::caused("Cannot clear the VM's runtime folder", error))?;
        Ok(Self {
            files,
            process: None,
            finished: false,
        })
    }

    /// Answers for the process too.
    pub(super) fn holds(&mut self, process: &Process) {
        self.process = Some(process.clone());
    }

    /// Takes everything back and waits until it is gone.
    pub(super) async fn abandon(self) {
        if let Some(process) = &self.process
            && let Err(error) = process.kill().await
        {
            tracing::error!(pid = process.identity().pid, error = %common::error_chain::Chain(&error), "cannot kill a vmm");
        }
    }

    /// The launch has succeeded: nothing is taken back any more.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(process) = &self.process {
            let _ignored = process.signal(End::Kill);
        }
        for file in &self.files {
            let _ignored = fs::remove_file(file);
        }
    }
}

/// Runs a call to a VMM, and gives up at the deadline or when the process ends. `doing` completes "… while …".
pub(super) async fn while_alive<T, E>(
    kind: VmmKind,
    process: &Process,
    doing: &str,
    deadline: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, StepError>
where
    E: Into<StepError>,
{
    tokio::pin!(call);
    let answer = tokio::select! {
        answer = timeout(deadline, &mut call) => answer,
        ending = process.ended() => {
            // A guest can be so quick to power off that the answer is still in the socket.
            return match timeout(LAST_WORDS_WAIT, &mut call).await {
                Ok(Ok(value)) => Ok(value),
                _ => Err(died(kind, process, ending, doing)),
            };
        }
    };
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => match timeout(LAST_WORDS_WAIT, process.ended()).await {
            Ok(ending) => Err(died(kind, process, ending, doing)),
            Err(_) => Err(error.into()),
        },
        Err(_) => Err(StepError::new(format!(
            "{} did not answer within {} ms while {doing}",
            title(kind),
            deadline.as_millis()
        ))
        .hint("The host may be overloaded; look at the VM's vmm.log")),
    }
}

/// Asks a VMM to end. One that ends before its answer is out, or had ended already, has done what it was asked.
pub(super) async fn quit<E>(
    process: &Process,
    call: impl Future<Output = Result<(), E>>,
) -> Result<(), StepError>
where
    E: Into<StepError>,
{
    if process.has_ended() {
        return Ok(());
    }
    match call.await {
        Ok(()) => Ok(()),
        Err(error) => match timeout(LAST_WORDS_WAIT, process.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(error.into()),
        },
    }
}

fn died(kind: VmmKind, process: &Process, ending: Ending, doing: &str) -> StepError {
    let how = match ending {
        Ending::Code(code) => format!("ended with exit code {code}"),
        Ending::Signal(signal) => format!("was ended by signal {signal}"),
        Ending::Unseen => "ended".to_owned(),
    };
    let why =
        stderr::cause(&process.log_tail()).map_or_else(String::new, |cause| format!(": {cause}"));
    StepError::new(format!("{} {how} while {doing}{why}", title(kind)))
}
