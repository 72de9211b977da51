//! QEMU as a VMM: one process, driven over QMP. Knows no networks, media or phases.
//!
//! Its control and serial sockets are bound here and handed down, so nothing waits for a file to appear. `-no-reboot` ends QEMU when the
//! guest resets, with or without a daemon. While no daemon lives, QEMU drops what the guest writes to the serial line.

mod args;
mod qmp;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::sleep;

use self::qmp::{Qmp, QmpError, Seen, Shutdown};
use super::launch::{Deadlines, Order, Unfinished, quit, while_alive};
use super::process::{Ending, Process};
use super::socket;
use crate::machine::ports::{
    Adopted, BoxFuture, DiskUse, Instance, InstanceRecord, SerialStream, StepError, VmmExit,
    VmmKind,
};

const KIND: VmmKind = VmmKind::Qemu;

/// Numbers that the handed-down sockets have in the child.
const QMP_FD: i32 = 3;
const SERIAL_FD: i32 = 4;

/// How long the last events may take to arrive after the process has ended: they are in the socket already.
const EVENTS_WAIT: Duration = Duration::from_secs(1);

/// Between two looks at whether QEMU has taken the serial connection; the first look nearly always finds it so.
const SERIAL_POLL: Duration = Duration::from_millis(2);

/// The exit code of a process that SIGKILL ended, as shells give it: 128 and the signal's number.
const KILLED_CODE: i32 = 128 + 9;

/// The files of one launch in its runtime folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    qmp: PathBuf,
    serial: PathBuf,
}

impl Files {
    fn new(run_dir: &Path) -> Self {
        Self {
            qmp: run_dir.join("vmm.sock"),
            serial: run_dir.join("serial.sock"),
        }
    }

    fn all(&self) -> Vec<PathBuf> {
        vec![self.qmp.clone(), self.serial.clone()]
    }
}

#[derive(Debug, Deserialize)]
struct Chardev {
    label: String,
    filename: String,
}

#[derive(Debug, Deserialize)]
struct BlockStats {
    #[serde(default)]
    device: String,
    stats: BlockCounters,
}

#[derive(Debug, Deserialize)]
struct BlockCounters {
    rd_bytes: u64,
    wr_bytes: u64,
    rd_operations: u64,
    wr_operations: u64,
}

/// Starts QEMU with the VM's configuration on its command line, the guest not running.
pub(super) async fn spawn(order: Order<'_>) -> Result<Box<dyn Instance>, StepError> {
    let files = Files::new(&order.launch.paths.run_dir);
    let mut unfinished = Unfinished::begin(files.all())?;
    match start(order, files, &mut unfinished).await {
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

async fn start(
    order: Order<'_>,
    files: Files,
    unfinished: &mut Unfinished,
) -> Result<Qemu, StepError> {
    let failed = |error| StepError::caused("Cannot make the VMM's sockets", error);
    let media = order.media()?;
    let qmp = socket::listen(&files.qmp).map_err(failed)?;
    let serial = socket::listen(&files.serial).map_err(failed)?;
    let args = args::args(&order, &media);
    let process = order.start(args, vec![(qmp, QMP_FD), (serial, SERIAL_FD)], KIND)?;
    unfinished.holds(&process);
    let deadlines = order.daemon.deadlines;
    let call = Qmp::connect(&files.qmp, process.clone());
    let qmp = while_alive(KIND, &process, "it was started", deadlines.call, call).await?;
    let record = order.record(&process, KIND, files.qmp.clone());
    Ok(Qemu {
        process,
        qmp: Some(qmp),
        files,
        deadlines,
        record: Mutex::new(record),
    })
}

/// Takes over a process that is known to be the recorded one.
pub(super) async fn adopt(
    process: Process,
    record: &InstanceRecord,
    deadlines: Deadlines,
) -> Adopted {
    let run_dir = record.control_socket.parent().unwrap_or(Path::new("/"));
    let files = Files::new(run_dir);
    let connecting = Qmp::connect(&record.control_socket, process.clone());
    let qmp = match while_alive(
        KIND,
        &process,
        "it was taken over",
        deadlines.call,
        connecting,
    )
    .await
    {
        Ok(qmp) => Some(qmp),
        Err(error) => {
            // Signals still work, and so does the guest.
            tracing::warn!(instance = record.instance, error = %common::error_chain::Chain(&error), "no control of an adopted vmm");
            None
        }
    };
    let serial = match &record.serial {
        Some(path) => reopen(path, &record.instance).await,
        None => None,
    };
    let instance = Qemu {
        process,
        qmp,
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
async fn reopen(path: &Path, instance: &str) -> Option<Box<dyn SerialStream>> {
    match connect_serial(path).await {
        Ok(stream) => Some(Box::new(stream)),
        Err(error) => {
            tracing::warn!(instance, error = %common::error_chain::Chain(&error), "no serial line of an adopted vmm");
            None
        }
    }
}

/// Connects to the serial socket. The connection waits in the backlog until QEMU looks.
async fn connect_serial(path: &Path) -> Result<UnixStream, StepError> {
    UnixStream::connect(path).await.map_err(|error| {
        StepError::caused(
            format!("Cannot open the serial console `{}`", path.display()),
            error,
        )
    })
}

/// One QEMU process.
#[derive(Debug)]
struct Qemu {
    process: Process,
    qmp: Option<Qmp>,
    files: Files,
    deadlines: Deadlines,
    record: Mutex<InstanceRecord>,
}

impl Qemu {
    fn qmp(&self) -> Result<&Qmp, QmpError> {
        self.qmp.as_ref().ok_or(QmpError::Closed)
    }

    async fn boot_guest(&self) -> Result<Box<dyn SerialStream>, StepError> {
        let serial = connect_serial(&self.files.serial).await?;
        let wait = self.deadlines.boot;
        while_alive(
            KIND,
            &self.process,
            "it booted the guest",
            wait,
            self.run(wait),
        )
        .await?;
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .serial = Some(self.files.serial.clone());
        Ok(Box::new(serial))
    }

    /// Lets the guest run once QEMU has taken the serial connection, so that not a byte is missed. A guest that runs is fine.
    async fn run(&self, wait: Duration) -> Result<(), QmpError> {
        let qmp = self.qmp()?;
        loop {
            let answer = qmp.execute("query-chardev", wait).await?;
            let chardevs: Vec<Chardev> =
                serde_json::from_value(answer).map_err(|error| QmpError::Garbled {
                    line: error.to_string(),
                })?;
            let waits = chardevs.iter().any(|chardev| {
                chardev.label == "serial0" && chardev.filename.starts_with("disconnected:")
            });
            if !waits {
                break;
            }
            sleep(SERIAL_POLL).await;
        }
        qmp.resume(wait).await
    }

    async fn ask_to_quit(&self) -> Result<(), QmpError> {
        self.qmp()?.execute("quit", self.deadlines.call).await?;
        Ok(())
    }
}

impl Instance for Qemu {
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
        Box::pin(async move { Ok(self.qmp()?.pause(self.deadlines.call).await?) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async move { Ok(self.qmp()?.resume(self.deadlines.call).await?) })
    }

    fn exited(&self) -> BoxFuture<'_, VmmExit> {
        Box::pin(async move {
            let ending = self.process.ended().await;
            let seen = match &self.qmp {
                Some(qmp) => qmp.seen(EVENTS_WAIT).await,
                None => Seen::default(),
            };
            classify(ending, seen, self.process.log_tail())
        })
    }

    fn quit(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(quit(&self.process, self.ask_to_quit()))
    }

    fn signal(&self, force: bool) -> Result<(), StepError> {
        super::signal(&self.process, KIND, force)
    }

    fn disks(&self) -> BoxFuture<'_, Result<Vec<DiskUse>, StepError>> {
        Box::pin(async move {
            let wait = self.deadlines.call;
            let answer = self.qmp()?.execute("query-blockstats", wait).await?;
            Ok(disks(answer)?)
        })
    }
}

/// The counters of the disks (`query-blockstats` in QEMU's qapi/block-core.json).
fn disks(answer: Value) -> Result<Vec<DiskUse>, QmpError> {
    let counted: Vec<BlockStats> =
        serde_json::from_value(answer).map_err(|error| QmpError::Garbled {
            line: error.to_string(),
        })?;
    let disks = counted.into_iter().map(|block| DiskUse {
        name: block.device,
        read_bytes: block.stats.rd_bytes,
        write_bytes: block.stats.wr_bytes,
        read_ops: block.stats.rd_operations,
        write_ops: block.stats.wr_operations,
    });
    Ok(disks.collect())
}

fn classify(ending: Ending, seen: Seen, stderr: String) -> VmmExit {
    match (seen.shutdown, ending) {
        (Some(Shutdown::Reset), _) => VmmExit::GuestReset,
        (_, Ending::Code(0)) | (Some(Shutdown::Ordered), Ending::Unseen) => VmmExit::Clean,
        (_, Ending::Code(code)) => VmmExit::Failed { code, stderr },
        (None, _) if seen.stopped => VmmExit::Failed {
            code: KILLED_CODE,
            stderr: format!("{stderr}\nQEMU stopped the guest after an internal error")
                .trim()
                .to_owned(),
        },
        (_, Ending::Signal(signal)) => VmmExit::Signalled { signal },
        (None, Ending::Unseen) => VmmExit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn disks_are_counted() {
        let stats = json!({"rd_bytes": 1, "wr_bytes": 2, "rd_operations": 3, "wr_operations": 4, "flush_operations": 9});
        let expected = DiskUse {
            name: "disk0".to_owned(),
            read_bytes: 1,
            write_bytes: 2,
            read_ops: 3,
            write_ops: 4,
        };
        let answer = json!([{"device": "disk0", "qdev": "/machine/x", "stats": stats}]);
        assert_eq!(disks(answer).unwrap(), [expected]);
        assert!(disks(json!([{"stats": {"rd_bytes": -1}}])).is_err());
    }

    #[test]
    fn every_end_has_its_name() {
        let seen = |shutdown| Seen {
            shutdown,
            stopped: false,
        };
        let stopped = Seen {
            shutdown: None,
            stopped: true,
        };
        let failed = |code, stderr: &str| VmmExit::Failed {
            code,
            stderr: stderr.to_owned(),
        };
        for (ending, seen, expected) in [
            (
                Ending::Code(0),
                seen(Some(Shutdown::Ordered)),
                VmmExit::Clean,
            ),
            (Ending::Code(0), seen(None), VmmExit::Clean),
            (
                Ending::Code(0),
                seen(Some(Shutdown::Reset)),
                VmmExit::GuestReset,
            ),
            (Ending::Code(1), seen(None), failed(1, "x")),
            (
                Ending::Signal(11),
                seen(None),
                VmmExit::Signalled { signal: 11 },
            ),
            (
                Ending::Signal(9),
                stopped,
                failed(137, "x\nQEMU stopped the guest after an internal error"),
            ),
            (
                Ending::Unseen,
                stopped,
                failed(137, "x\nQEMU stopped the guest after an internal error"),
            ),
            (
                Ending::Unseen,
                seen(Some(Shutdown::Reset)),
                VmmExit::GuestReset,
            ),
            (
                Ending::Unseen,
                seen(Some(Shutdown::Ordered)),
                VmmExit::Clean,
            ),
            (Ending::Unseen, seen(None), VmmExit::Unknown),
        ] {
            assert_eq!(
                classify(ending, seen, "x".to_owned()),
                expected,
                "{ending:?} {seen:?}"
            );
        }
    }
}
