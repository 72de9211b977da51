//! Whether this host can run VMs. The checks are pure functions over [`Host`]; looking at the host is the work of `gather`.

mod checks;
mod gather;

use std::path::PathBuf;

use common::api::SystemInfo;
use serde::Serialize;

pub use checks::check;
pub use gather::gather;

/// The oldest cloud-hypervisor that volantd runs.
pub const MIN_CLOUD_HYPERVISOR: u32 = 51;

/// What was found on a host.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct Host {
    /// Whether this process may do everything.
    pub is_root: bool,
    /// The user and group `volant`.
    pub group: Membership,
    /// `vmx` or `svm`, if /proc/cpuinfo has one.
    pub virtualization_flag: Option<&'static str>,
    /// Whether this host is a virtual machine itself (flag `hypervisor`).
    pub is_virtual: bool,
    /// /dev/kvm.
    pub kvm: Device,
    /// /dev/net/tun.
    pub tun: Device,
    /// The cloud-hypervisor binary.
    pub cloud_hypervisor: Program,
    /// The qemu-system-x86_64 binary.
    pub qemu: Program,
    /// The nft binary.
    pub nft: Program,
    /// Where the guest kernel should be.
    pub kernel_path: PathBuf,
    /// What is there.
    pub kernel: Kernel,
    /// The bridge's name.
    pub bridge: String,
    /// Whether the bridge is there.
    pub has_bridge: bool,
    /// Whether the host forwards packets; nothing if that cannot be read.
    pub forwards: Option<bool>,
    /// Whether cgroup v2 is mounted.
    pub has_cgroup_v2: bool,
    /// The daemon.
    pub daemon: Daemon,
}

/// Whether the user belongs to group `volant`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// There is no such group.
    NoGroup,
    /// Yes.
    Member,
    /// No.
    Outside,
}

/// A device file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// It is not there.
    Absent,
    /// It can be opened for reading and writing.
    Opens,
    /// This user may not.
    Denied,
    /// It is there and cannot be opened.
    Fails(String),
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Neither where it was said to be nor in PATH.
    Missing,
    /// It is there and does not run.
    Fails {
        /// Where.
        path: PathBuf,
        /// What happened.
        error: String,
    },
    /// It is there and runs.
    Runs {
        /// Where.
        path: PathBuf,
        /// Its version as it says it, in one line.
        version: String,
    },
}

/// The guest kernel's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kernel {
    /// It is not there.
    Missing,
    /// This user may not look.
    Hidden,
    /// Something else than an ELF file.
    NotElf,
    /// An ELF file of this many bytes.
    Elf(u64),
}

/// The daemon.
#[derive(Debug, Clone)]
pub enum Daemon {
    /// It answers.
    Answers {
        /// Where.
        endpoint: String,
        /// What it says.
        info: SystemInfo,
    },
    /// It does not.
    Silent {
        /// What happened.
        error: String,
        /// Whether it is the user who may not ask.
        is_denied: bool,
    },
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// VMs run, though not as well as they could.
    Warn,
    /// VMs do not run.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable name.
    pub check: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found, in one sentence.
    pub says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
