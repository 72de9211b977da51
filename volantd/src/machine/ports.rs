//! The seams of a machine: what its driver needs from the world, as small traits and plain data.
//!
//! Nothing here knows HTTP or the database, so that another front end can launch VMs with the same parts. Implementations are in
//! `vmm`, `net`, `media` and `agent`; only `app.rs` puts them together. Futures are boxed because the driver holds trait objects.

use std::error::Error;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use common::agent::AgentStatus;
use common::api::{BootTimeline, Vm};
use common::digest::Digest;
use common::guest_config::Secret;
use common::manifest::Manifest;
use common::name::Name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// What each method of a seam returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A step that could not be done: one sentence for the user, what to try, and the causes for the log.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// A plain sentence with everything a user needs; the causes are not repeated in it.
    pub message: String,
    /// What to try.
    pub hints: Vec<String>,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl StepError {
    /// An error without a cause.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hints: Vec::new(),
            source: None,
        }
    }

    /// An error with its cause.
    pub fn caused(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            message: message.into(),
            hints: Vec::new(),
            source: Some(Box::new(source)),
        }
    }

    /// Adds something to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// The address, interface and number that a VM holds from its creation to its removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The guest's address.
    pub ip: Ipv4Addr,
    /// The guest's MAC address, `02:…`.
    pub mac: String,
    /// The tap interface on the host.
    pub tap: String,
    /// The vsock context id, 3 or more.
    pub cid: u32,
}

/// The folders of one VM. Both are its own, and nobody else's files are in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPaths {
    /// Lives as long as the VM: the console log, boot media.
    pub state_dir: PathBuf,
    /// Lives as long as one launch: sockets. Short, because a socket's path has at most 107 bytes.
    pub run_dir: PathBuf,
}

/// Everything that one launch of a VM needs, resolved: no defaults are left.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The VM's name.
    pub vm: Name,
    /// Names this launch among all others: a UUID. The VMM process carries it in its environment as `VOLANT_INSTANCE`.
    pub instance: String,
    /// vCPUs.
    pub cpu_cores: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Address, MAC, tap, CID.
    pub lease: Lease,
    /// What runs in the guest.
    pub manifest: Manifest,
    /// The stored artifact that it boots.
    pub artifact: Digest,
    /// Another kernel than the daemon's.
    pub kernel: Option<PathBuf>,
    /// Files of the host as further disks, after those of [`Media`].
    pub disks: Vec<ExtraDisk>,
    /// Arguments that the user added to the kernel command line.
    pub extra_cmdline: String,
    /// An API that the guest may ask for its manifest.
    pub api: Option<(String, u16)>,
    /// What a caller must know to change anything in this guest.
    pub secret: Secret,
    /// The VM's folders.
    pub paths: VmPaths,
}

/// What a VMM is given to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootMedia {
    /// The PVH kernel.
    pub kernel: PathBuf,
    /// The initramfs with this VM's guest config appended, where the plugin has one; inside [`VmPaths::state_dir`].
    pub initramfs: Option<PathBuf>,
    /// The disks, in the order in which the guest numbers them.
    pub disks: Vec<Disk>,
    /// The whole kernel command line.
    pub cmdline: String,
}

/// A plain image file that a guest sees as a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// What the guest may do with it.
    pub access: DiskAccess,
    /// Its serial number in the guest, at most 20 bytes.
    pub serial: Option<String>,
}

/// A file of the host that its user gave to a VM as a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraDisk {
    /// Its serial number in the guest.
    pub name: Name,
    /// The file, as the user named it.
    pub path: PathBuf,
    /// What the guest may do with it.
    pub access: DiskAccess,
}

/// What a guest may do with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAccess {
    /// It reads, and others may read the same file.
    ReadOnly,
    /// It writes, and the file is its own.
    ReadWrite,
}

/// Makes what a VMM boots.
pub trait Media: Send + Sync {
    /// Writes the files that the VM boots and builds its command line.
    fn prepare<'a>(&'a self, launch: &'a Launch) -> BoxFuture<'a, Result<BootMedia, StepError>>;
    /// Removes what [`Media::prepare`] wrote for one launch, whole or in part; nothing there is fine. What the guest wrote itself stays
    /// in [`VmPaths::state_dir`].
    fn discard<'a>(&'a self, paths: &'a VmPaths) -> BoxFuture<'a, Result<(), StepError>>;
}

/// Connects a VM to the host's bridge.
pub trait Network: Send + Sync {
    /// Makes the lease's tap, puts it on the bridge and pins its neighbour entry. An old tap of this name is replaced.
    fn attach<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>>;
    /// Removes what [`Network::attach`] made, whole or in part; nothing there is fine.
    fn detach<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>>;
}

/// Which program runs a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmKind {
    /// `cloud-hypervisor`.
    CloudHypervisor,
    /// `qemu-system-x86_64`.
    Qemu,
}

impl VmmKind {
    /// The word used in configuration and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Qemu => "qemu",
        }
    }
}

/// What makes a guest's instructions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// Hardware virtualization.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl Accelerator {
    /// The word used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A VMM process as it is recorded, so that a later daemon finds it again and never mistakes another process for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// [`Launch::instance`].
    pub instance: String,
    /// Its process id.
    pub pid: u32,
    /// Field 22 of /proc/pid/stat: clock ticks from the host's boot to the start of the process.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id` when it started.
    pub boot_id: String,
    /// Which program it is.
    pub vmm: VmmKind,
    /// What accelerates it.
    pub accelerator: Accelerator,
    /// The VMM's control socket.
    pub control_socket: PathBuf,
    /// The serial console: a socket of QEMU, a pty of Cloud Hypervisor; known once the guest is booted.
    pub serial: Option<PathBuf>,
    /// The host's end of the guest's vsock, where the VMM has one.
    pub vsock: Option<PathBuf>,
}

/// The guest's serial line: what the guest writes, and what it reads.
pub trait SerialStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> SerialStream for T {}

/// How a VMM process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmmExit {
    /// The guest powered off or the VMM was asked to end.
    Clean,
    /// The guest asked for a reset, which no Volant guest does: its kernel panicked.
    GuestReset,
    /// It ended with an exit code other than 0; with the last lines of its error output.
    Failed {
        /// The exit code.
        code: i32,
        /// The last lines of its standard error.
        stderr: String,
    },
    /// A signal ended it.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It is gone, and nobody saw how: it was adopted, so it is not our child.
    Unknown,
}

/// What a guest did with one of its disks since its VMM started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// The VMM's name for it.
    pub name: String,
    /// Bytes that it read.
    pub read_bytes: u64,
    /// Bytes that it wrote.
    pub write_bytes: u64,
    /// Requests that it read with.
    pub read_ops: u64,
    /// Requests that it wrote with.
    pub write_ops: u64,
}

/// One living VMM process.
pub trait Instance: Send + Sync {
    /// What to record.
    fn record(&self) -> InstanceRecord;
    /// Boots the guest and opens its serial line, from the first byte. Updates [`Instance::record`].
    fn boot(&self) -> BoxFuture<'_, Result<Box<dyn SerialStream>, StepError>>;
    /// Makes the guest's CPUs stand still; fine if they do.
    fn pause(&self) -> BoxFuture<'_, Result<(), StepError>>;
    /// Makes the guest's CPUs go on; fine if they do.
    fn resume(&self) -> BoxFuture<'_, Result<(), StepError>>;
    /// Ends when the process has ended; may be called again and by several.
    fn exited(&self) -> BoxFuture<'_, VmmExit>;
    /// Asks the VMM itself to end at once, as by its API. The guest is not asked.
    fn quit(&self) -> BoxFuture<'_, Result<(), StepError>>;
    /// Sends SIGTERM (`force` false) or SIGKILL. A process that is gone is fine.
    fn signal(&self, force: bool) -> Result<(), StepError>;
    /// What the guest did with its disks, as far as its VMM counts it.
    fn disks(&self) -> BoxFuture<'_, Result<Vec<DiskUse>, StepError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Runs VMM processes of one kind.
pub trait Vmm: Send + Sync {
    /// Whether a launch can succeed at all: the program is there and new enough. Cheap enough for every create.
    fn check(&self) -> Result<(), StepError>;
    /// Spawns a VMM in its own session, with everything configured and the guest not booted. On error nothing is left.
    fn spawn<'a>(
        &'a self,
        launch: &'a Launch,
        media: &'a BootMedia,
    ) -> BoxFuture<'a, Result<Box<dyn Instance>, StepError>>;
    /// Takes over a process that an earlier daemon spawned, of any kind. `None` if it is gone or is another process by now.
    fn adopt<'a>(
        &'a self,
        record: &'a InstanceRecord,
    ) -> BoxFuture<'a, Result<Option<Adopted>, StepError>>;
    /// Ends every process that carries this instance id, recorded or not, and waits until it is gone. None is fine.
    fn kill_instance<'a>(&'a self, instance: &'a str) -> BoxFuture<'a, Result<(), StepError>>;
}

/// A VMM that was taken over.
pub struct Adopted {
    /// The process.
    pub instance: Box<dyn Instance>,
    /// Its serial line, where it could be opened again.
    pub serial: Option<Box<dyn SerialStream>>,
}

impl std::fmt::Debug for Adopted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adopted")
            .field("record", &self.instance.record())
            .finish_non_exhaustive()
    }
}

/// How the agent of one guest is reached.
#[derive(Debug, Clone)]
pub struct GuestEndpoint {
    /// The guest's address.
    pub ip: Ipv4Addr,
    /// The agent's TCP port at that address; see [`common::agent::tcp_port_beside`]. On vsock it is always [`common::agent::AGENT_PORT`].
    pub agent_port: u16,
    /// The host's end of its vsock, preferred where there is one.
    pub vsock: Option<PathBuf>,
    /// The VM's own secret.
    pub secret: Secret,
}

/// Talks to the agent and the service in a guest.
pub trait Guest: Send + Sync {
    /// The agent's status once it is newer than `after`, or whatever it is after `wait`. One attempt: no retries in it.
    fn status<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        after: Option<u64>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<AgentStatus, StepError>>;
    /// Asks the agent to end the workload and power off; returns when it has accepted. The workload has `grace` to end, or as long as its
    /// manifest says.
    fn shutdown<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        grace: Option<Duration>,
    ) -> BoxFuture<'a, Result<(), StepError>>;
    /// Sets the guest's clock to the host's time.
    fn set_clock<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), StepError>>;
    /// Whether the host can open a TCP connection to the service.
    fn reach(
        &self,
        ip: Ipv4Addr,
        port: u16,
        wait: Duration,
    ) -> BoxFuture<'_, Result<(), StepError>>;
}

/// Hears of every change of a VM that clients see.
pub trait EventSink: Send + Sync {
    /// A VM changed, came (without `before`) or went (without `after`). Returns at once.
    fn changed(&self, before: Option<&Vm>, after: Option<&Vm>);
}

/// Keeps what the workloads in guests write.
pub trait LogSink: Send + Sync {
    /// Fetches what the guest of a launch writes into the log in `state_dir`, from where the log ends, until [`LogSink::end`]. Whether it
    /// answers yet does not matter. Again for the same launch is fine; a guest that was followed before is let go.
    fn begin(&self, vm: &Name, state_dir: &Path, launch: &str, endpoint: GuestEndpoint);
    /// Lets go of the VM's guest, after what is on the way already. None followed is fine.
    fn end(&self, vm: &Name);
    /// Forgets the VM: it is deleted, so whoever reads its log is done. Nothing is written into its folder any more.
    fn remove(&self, vm: &Name);
    /// The last `lines` lines that its workload wrote in the launch that is followed. May read a file.
    fn tail(&self, vm: &Name, state_dir: &Path, lines: usize) -> String;
}

/// Hears how long starts took.
pub trait BootSink: Send + Sync {
    /// A start is over: its VM is ready, and `boot` is complete. Not called for a guest that an earlier daemon started.
    fn booted(&self, boot: &BootTimeline);
}

/// Keeps and shows what guests write on their serial lines.
pub trait ConsoleSink: Send + Sync {
    /// Reads `stream` until it ends or [`ConsoleSink::detach`]; a stream that was attached before is let go.
    /// Whoever is on the host finds it as a socket in the run directory.
    fn attach(&self, vm: &Name, paths: &VmPaths, stream: Box<dyn SerialStream>);
    /// Lets go of the VM's serial line, after what is on it already. None attached is fine.
    fn detach(&self, vm: &Name);
    /// Forgets the VM: it is deleted, so whoever watches its console is done.
    fn remove(&self, vm: &Name);
    /// The last `lines` lines that the guest wrote. May read a file.
    fn tail(&self, vm: &Name, state_dir: &Path, lines: usize) -> String;
}
