//! Cloud Hypervisor as a VMM: one process, driven over its API socket. Knows no networks, media or phases.
//!
//! A guest that resets (its kernel panicked) makes Cloud Hypervisor boot it again inside the same process, for ever. No option is
//! against that, so the kernel is given as a link in the runtime folder that is removed once the guest is booted: the second boot does
//! not find it, and the VMM ends, whether or not a daemon lives. A living daemon sees the reset among the events and does not wait.
//!
//! The serial line is a pty. Cloud Hypervisor keeps up to 1 MiB of output while nobody has it open, so a guest is heard from its
//! first byte, and what it says while no daemon lives is read by the next one. Its serial socket is no choice: a daemon that is killed
//! with unread bytes makes a read there fail, and that ends the thread that serves the line for good.

mod client;
mod config;
mod events;
mod pty;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fs_err as fs;
use tokio::sync::watch;
use tokio::time::timeout;

use self::client::{Client, ClientError, Counters, GuestState};
use self::events::Seen;
use self::pty::Pty;
use super::launch::{Deadlines, Order, Unfinished, quit, while_alive};
use super::process::{Ending, Process};
use super::{socket, stderr};
use crate::machine::ports::{
    Adopted, BoxFuture, DiskUse, Instance, InstanceRecord, SerialStream, StepError, VmmExit,
    VmmKind,
};

const KIND: VmmKind = VmmKind::CloudHypervisor;

/// Numbers that the handed-down files have in the child.
const API_FD: i32 = 3;
const EVENTS_FD: i32 = 4;

/// How long the last events may take to arrive after the process has ended: they are in the pipe already.
const EVENTS_WAIT: Duration = Duration::from_secs(1);

/// The files of one launch in its runtime folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    api: PathBuf,
    vsock: PathBuf,
    events: PathBuf,
    kernel: PathBuf,
}

impl Files {
    fn new(run_dir: &Path) -> Self {
        Self {
            api: run_dir.join("vmm.sock"),
            vsock: run_dir.join("vsock.sock"),
            events: run_dir.join("events"),
            kernel: run_dir.join("kernel"),
        }
    }

    fn all(&self) -> Vec<PathBuf> {
        let Self {
            api,
            vsock,
            events,
            kernel,
        } = self;
        [api, vsock, events, kernel].map(Clone::clone).to_vec()
    }
}

/// Starts Cloud Hypervisor and gives it the VM's configuration.
pub(super) async fn spawn(order: Order<'_>) -> Result<Box<dyn Instance>, StepError> {
    let files = Files::new(&order.launch.paths.run_dir);
    let mut unfinished = Unfinished::begin(files.all())?;
    match configure(order, files, &mut unfinished).await {
        Ok(instance) => {
            unfinished.finish();
            Ok(Box::new(instance))
        }
        Err(error) => {
            unfinished.abandon().await;
            Err(error)
        }
    }
}

async fn configure(
    order: Order<'_>,
    files: Files,
    unfinished: &mut Unfinished,
) -> Result<CloudHypervisor, StepError> {
    let failed = |error| StepError::caused("Cannot prepare the VM's runtime folder", error);
    let media = order.media()?;
    let config = config::vm_config(order.launch, &media, &files)?;
    let api = socket::listen(&files.api)
        .map_err(|error| StepError::caused("Cannot make the VMM's API socket", error))?;
    let (receiver, writer) = events::create(&files.events).map_err(failed)?;
    symlink(&media.kernel, &files.kernel).map_err(failed)?;
    let (api_fd, events_fd) = (format!("fd={API_FD}"), format!("fd={EVENTS_FD}"));
    let args = [
        "--api-socket",
        &api_fd,
        "--event-monitor",
        &events_fd,
        "--seccomp",
        "true",
    ];
    let handed_down = vec![(api, API_FD), (writer, EVENTS_FD)];
    let process = order.start(args.map(Into::into).to_vec(), handed_down, KIND)?;
    unfinished.holds(&process);
    let events = events::follow(receiver, process.clone());
    let client = Client::new(&files.api);
    let deadlines = order.daemon.deadlines;
    let call = client.create(config, deadlines.call);
    while_alive(
        KIND,
        &process,
        "it was given the VM's configuration",
        deadlines.call,
        call,
    )
    .await?;
    let mut record = order.record(&process, KIND, files.api.clone());
    record.vsock = Some(files.vsock.clone());
    Ok(CloudHypervisor {
        process,
        client,
        events: Some(events),
        files,
        deadlines,
        record: Mutex::new(record),
    })
}

/// Takes over a process that is known to be the recorded one.
pub(super) fn adopt(process: Process, record: &InstanceRecord, deadlines: Deadlines) -> Adopted {
    let run_dir = record.control_socket.parent().unwrap_or(Path::new("/"));
    let files = Files::new(run_dir);
    let events = match events::open(&files.events) {
        Ok(receiver) => Some(events::follow(receiver, process.clone())),
        Err(error) => {
            tracing::warn!(instance = record.instance, %error, "no events of an adopted vmm");
            None
        }
    };
    let serial = match &record.serial {
        Some(path) => reopen(path, &process, &record.instance),
        None => None,
    };
    let instance = CloudHypervisor {
        process,
        client: Client::new(&record.control_socket),
        events,
        files,
        deadlines,
        record: Mutex::new(record.clone()),
    };
    Adopted {
        instance: Box::new(instance),
        serial,
    }
}

/// Opens the serial line of an adopted VMM; without it the guest goes on unheard.
fn reopen(path: &Path, process: &Process, instance: &str) -> Option<Box<dyn SerialStream>> {
    match Pty::open_of(process, path) {
        // The number of a pty is used again once its process has ended.
        Ok(_) if process.has_ended() => None,
        Ok(pty) => Some(Box::new(pty)),
        Err(error) => {
            tracing::warn!(instance, %error, "no serial line of an adopted vmm");
            None
        }
    }
}

/// One Cloud Hypervisor process.
#[derive(Debug)]
struct CloudHypervisor {
    process: Process,
    client: Client,
    events: Option<watch::Receiver<Option<Seen>>>,
    files: Files,
    deadlines: Deadlines,
    record: Mutex<InstanceRecord>,
}

impl CloudHypervisor {
    async fn boot_guest(&self) -> Result<Box<dyn SerialStream>, StepError> {
        let wait = self.deadlines.boot;
        let (pty, path) = while_alive(
            KIND,
            &self.process,
            "it booted the guest",
            wait,
            self.boot_heard(),
        )
        .await?;
        if let Err(error) = fs::remove_file(&self.files.kernel)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(StepError::caused(
                "Cannot remove the link to the kernel, so a panicking guest would boot for ever",
                error,
            ));
        }
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .serial = Some(path);
        Ok(Box::new(pty))
    }

    /// Opens the pty, which is there since `vm.create`, and then boots; unless an earlier daemon did so already.
    async fn boot_heard(&self) -> Result<(Pty, PathBuf), StepError> {
        let info = self.client.info(self.deadlines.call).await?;
        let path = info.serial.ok_or_else(|| {
            StepError::new("Cloud Hypervisor does not say where the serial console is")
        })?;
        let failed = |error| {
            StepError::caused(
                format!("Cannot open the serial console `{}`", path.display()),
                error,
            )
        };
        let mut pty = Pty::open_of(&self.process, &path).map_err(failed)?;
        if info.state == GuestState::Created {
            pty.wake().await.map_err(failed)?;
            self.client.boot(self.deadlines.boot).await?;
        }
        Ok((pty, path))
    }

    /// Pauses or resumes the guest, unless it is so already: Cloud Hypervisor refuses what is done.
    async fn turn(&self, wanted: GuestState) -> Result<(), ClientError> {
        let wait = self.deadlines.call;
        if self.client.info(wait).await?.state == wanted {
            return Ok(());
        }
        if wanted == GuestState::Paused {
            self.client.pause(wait).await
        } else {
            self.client.resume(wait).await
        }
    }

    async fn seen(&self) -> Seen {
        let Some(mut events) = self.events.clone() else {
            return Seen::default();
        };
        match timeout(EVENTS_WAIT, events.wait_for(Option::is_some)).await {
            Ok(Ok(seen)) => (*seen).unwrap_or_default(),
            _ => Seen::default(),
        }
    }
}

impl Instance for CloudHypervisor {
    fn record(&self) -> InstanceRecord {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn boot(&self) -> BoxFuture<'_, Result<Box<dyn SerialStream>, StepError>> {
        Box::pin(self.boot_guest())
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async move { Ok(self.turn(GuestState::Paused).await?) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async move { Ok(self.turn(GuestState::Running).await?) })
    }

    fn exited(&self) -> BoxFuture<'_, VmmExit> {
        Box::pin(async move {
            let ending = self.process.ended().await;
            let seen = self.seen().await;
            classify(ending, seen, self.process.log_tail())
        })
    }

    fn quit(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(quit(
            &self.process,
            self.client.shutdown_vmm(self.deadlines.call),
        ))
    }

    fn signal(&self, force: bool) -> Result<(), StepError> {
        super::signal(&self.process, KIND, force)
    }

    fn disks(&self) -> BoxFuture<'_, Result<Vec<DiskUse>, StepError>> {
        Box::pin(async move {
            let counters = self.client.counters(self.deadlines.call).await?;
            Ok(disks(&counters))
        })
    }
}

/// The counters of the disks, in the guest's order: `_disk0` and so on are the names of those that got none.
fn disks(counters: &Counters) -> Vec<DiskUse> {
    let numbered = |name: &str| -> Option<u32> { name.strip_prefix("_disk")?.parse().ok() };
    let mut found: Vec<_> = counters
        .iter()
        .filter_map(|(name, of_disk)| Some((numbered(name)?, name, of_disk)))
        .collect();
    found.sort_unstable_by_key(|(number, _, _)| *number);
    let disks = found.into_iter().map(|(_, name, of_disk)| {
        let counter = |key: &str| {
            let value = of_disk.get(key).copied().unwrap_or(0);
            u64::try_from(value).unwrap_or(0)
        };
        DiskUse {
            name: name.trim_start_matches('_').to_owned(),
            read_bytes: counter("read_bytes"),
            write_bytes: counter("write_bytes"),
            read_ops: counter("read_ops"),
            write_ops: counter("write_ops"),
        }
    });
    disks.collect()
}

fn classify(ending: Ending, seen: Seen, stderr: String) -> VmmExit {
    if seen.reset {
        return VmmExit::GuestReset;
    }
    match ending {
        Ending::Code(0) if stderr::has_vcpu_failure(&stderr) => VmmExit::Failed { code: 0, stderr },
        Ending::Code(0) => VmmExit::Clean,
        Ending::Code(code) => VmmExit::Failed { code, stderr },
        Ending::Signal(signal) => VmmExit::Signalled { signal },
        Ending::Unseen if seen.shutdown => VmmExit::Clean,
        Ending::Unseen => VmmExit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn disks_are_counted_in_order() {
        let of = |read: i64| {
            HashMap::from([
                ("read_bytes".to_owned(), read),
                ("write_ops".to_owned(), -1),
                ("read_latency_min".to_owned(), 7),
            ])
        };
        let counters = HashMap::from([
            ("_net2".to_owned(), of(1)),
            ("_disk10".to_owned(), of(10)),
            ("_disk9".to_owned(), of(9)),
            ("_diskette".to_owned(), of(2)),
        ]);
        let disks = disks(&counters);
        let seen: Vec<_> = disks
            .iter()
            .map(|disk| (disk.name.as_str(), disk.read_bytes, disk.write_ops))
            .collect();
        assert_eq!(seen, [("disk9", 9, 0), ("disk10", 10, 0)]);
    }

    #[test]
    fn every_end_has_its_name() {
        let (nothing, reset, shutdown) = (
            Seen::default(),
            Seen {
                reset: true,
                shutdown: false,
            },
            Seen {
                reset: false,
                shutdown: true,
            },
        );
        let vcpu =
            "cloud-hypervisor: 1.0s: <vcpu0> ERROR:vmm/src/cpu.rs:1460 -- VCPU generated error";
        let failed = |code, stderr: &str| VmmExit::Failed {
            code,
            stderr: stderr.to_owned(),
        };
        for (ending, seen, stderr, expected) in [
            (Ending::Code(0), shutdown, "", VmmExit::Clean),
            (Ending::Code(0), nothing, "", VmmExit::Clean),
            (Ending::Code(0), shutdown, vcpu, failed(0, vcpu)),
            (Ending::Code(1), nothing, "x", failed(1, "x")),
            (Ending::Code(1), reset, "x", VmmExit::GuestReset),
            (Ending::Signal(9), reset, "", VmmExit::GuestReset),
            (
                Ending::Signal(9),
                nothing,
                "",
                VmmExit::Signalled { signal: 9 },
            ),
            (Ending::Unseen, nothing, "", VmmExit::Unknown),
            (Ending::Unseen, shutdown, "", VmmExit::Clean),
            (Ending::Unseen, reset, "", VmmExit::GuestReset),
        ] {
            assert_eq!(
                classify(ending, seen, stderr.to_owned()),
                expected,
                "{ending:?} {seen:?}"
            );
        }
    }
}
