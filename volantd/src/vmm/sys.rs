//! The system calls of `vmm` that neither std nor nix offers safely: a child's own
//! session and limits, and pidfds.
//!
//! The only unsafe code of `vmm`. It decides nothing: what to start and whom to signal is `process`'s work.
#![expect(
    unsafe_code,
    reason = "pre_exec and the pidfd system calls have no safe form in std or nix"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::setsid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A signal that ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// SIGTERM: the process may tidy up, or refuse.
    Term,
    /// SIGKILL.
    Kill,
}

/// Makes the command start in a session of its own, unable to write a regular file beyond `file_bytes`.
///
/// Own session: signals to the daemon's process group or terminal never reach it. The limit bounds the VMM's log by the kernel,
/// also while no daemon lives; its writes then fail instead of ending it.
pub(super) fn detach(command: &mut Command, file_bytes: u64) {
    let in_child = move || -> io::Result<()> {
        setsid()?;
        // SAFETY: ignoring a signal installs no handler, so nothing of ours runs at its arrival.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        setrlimit(Resource::RLIMIT_FSIZE, file_bytes, file_bytes)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes three async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(in_child) };
}

/// Opens a handle on a process that is never mistaken for a later process of the same id. Kernel 5.3 or newer.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(Errno::ESRCH))?;
    // SAFETY: the call takes two integers and touches no memory of ours.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = RawFd::try_from(Errno::result(opened)?).map_err(|_| io::Error::from(Errno::EBADF))?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Has the runtime watch a pidfd, which becomes readable when its process has ended.
pub(super) fn watch_pidfd(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, is always the same descriptor, and is closed only when the `AsyncFd` drops it.
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    Ok(watched?)
}

/// Takes a copy of a descriptor of another process: the same open file. Kernel 5.6 or newer, and the right to trace the process.
pub(super) fn pidfd_getfd(pidfd: impl AsFd, number: RawFd) -> io::Result<OwnedFd> {
    let raw_pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the call takes three integers and touches no memory of ours.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, raw_pidfd, number, 0) };
    let raw = RawFd::try_from(Errno::result(taken)?).map_err(|_| io::Error::from(Errno::EBADF))?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sends a signal through a pidfd.
pub(super) fn pidfd_send_signal(pidfd: impl AsFd, end: End) -> io::Result<()> {
    let number = match end {
        End::Term => libc::SIGTERM,
        End::Kill => libc::SIGKILL,
    };
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed for the call; a null siginfo is allowed and means that of kill(2).
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            number,
            no_info,
            0,
        )
    };
    Errno::result(sent)?;
    Ok(())
}
