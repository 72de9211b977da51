//! Everything that asks the kernel for something beyond files and sockets: the only room with nix, libc and `unsafe`.
//!
//! [`Sys`] is what booting needs, so that its order can be tested without being PID 1. It decides nothing.

pub(crate) mod beneath;
mod freeze;
mod interface;
mod linux;
mod plain;
mod process;
mod terminal;
mod watched;

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use crate::mounts::Deny;

pub(crate) use linux::{Linux, boot_time, root_usage, set_unix_time, unix_time};
pub(crate) use plain::open_plain;
pub(crate) use process::{
    GroupSignal, Reaped, controlling_terminal, reap_next, run_as, signal_group,
};
#[cfg(test)]
pub(crate) use process::{adopt_orphans, open_pty, signal_self};
pub(crate) use terminal::{
    TerminalMode, open_pseudo_terminal, open_terminal, set_blocking, set_terminal_mode,
    set_terminal_size,
};
pub(crate) use watched::Watched;

/// A file system to be mounted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mount<'a> {
    /// A device, or the kind again where there is none.
    pub(crate) source: &'a str,
    /// The kind of file system.
    pub(crate) kind: &'a str,
    /// Where it goes.
    pub(crate) target: &'a str,
    /// What it denies.
    pub(crate) denies: &'a [Deny],
    /// The file system's own options.
    pub(crate) data: &'a str,
}

/// What booting asks of the machine. Each method is one act; none retries.
pub(crate) trait Sys: Sync {
    /// Mounts a file system. `EBUSY` is passed on.
    fn mount(&self, mount: &Mount<'_>) -> io::Result<()>;
    /// Unmounts what is at `target`.
    fn unmount(&self, target: &Path) -> io::Result<()>;
    /// Makes the mount at `path` the root, and lets go of the old root with everything that is mounted in it.
    fn change_root(&self, path: &Path) -> io::Result<()>;
    /// Remembers the file system at `path`, which no path leads to later, for [`Sys::settle_layer`].
    fn keep_layer(&self, path: &Path) -> io::Result<()>;
    /// Writes the remembered file system out and stops all writing to it, so that its disk is whole when the machine ends. None
    /// remembered is fine.
    fn settle_layer(&self) -> io::Result<()>;
    /// Makes a directory and its parents; the last gets `mode`. One that exists keeps its mode.
    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Makes a symbolic link.
    fn link(&self, target: &Path, path: &Path) -> io::Result<()>;
    /// Opens the console as file descriptors 0 to 2, unless they are a terminal already.
    fn open_console(&self) -> io::Result<()>;
    /// Lets processes have as many open files as servers want. Their soft limit stays.
    fn raise_limits(&self) -> io::Result<()>;
    /// Reads a whole file, and fails with `FileTooLarge` if it is longer than `limit_bytes`.
    fn read(&self, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>>;
    /// Writes a whole file, mode 0644.
    fn write(&self, path: &Path, contents: &[u8]) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Sets the host name.
    fn set_host_name(&self, name: &str) -> io::Result<()>;
    /// Brings an interface up.
    fn set_link_up(&self, device: &str) -> io::Result<()>;
    /// The interface's IPv4 address, if it has one.
    fn address(&self, device: &str) -> io::Result<Option<Ipv4Addr>>;
    /// Gives an interface its IPv4 address.
    fn set_address(&self, device: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()>;
    /// Adds the default route. One that exists is fine.
    fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()>;
    /// Time since the kernel began (`CLOCK_BOOTTIME`).
    fn boot_time(&self) -> Duration;
    /// Writes what is cached to its devices.
    fn sync(&self);
    /// Powers off. Comes back only if the kernel refuses.
    fn power_off(&self) -> io::Error;
}
