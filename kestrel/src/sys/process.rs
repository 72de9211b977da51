//! Processes: waiting for any child, signals to a group, and a child that owns a terminal. Keeps no list of children.
#![expect(
    unsafe_code,
    reason = "a hook between fork and exec is unsafe by signature; it makes a few system calls and allocates nothing"
)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use common::manifest::StopSignal;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::user::User;

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reaped {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its exit code; 128 + signal where a signal ended it.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
}

/// Takes the status of one child that has ended, if there is any. Never waits.
pub(crate) fn reap_next() -> Option<Reaped> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return None,
            Ok(status) => {
                if let Some(reaped) = ended(status) {
                    return Some(reaped);
                }
            }
            Err(Errno::EINTR) => {}
            // ECHILD: there are no children at all.
            Err(_) => return None,
        }
    }
}

/// What a wait status says about the end of a process; nothing if it goes on (stopped, continued).
fn ended(status: WaitStatus) -> Option<Reaped> {
    let (pid, code, signal) = match status {
        WaitStatus::Exited(pid, code) => (pid, code, None),
        WaitStatus::Signaled(pid, signal, _core) => {
            let number = signal_number(signal);
            (pid, 128 + number, Some(number))
        }
        _ => return None,
    };
    let pid = u32::try_from(pid.as_raw()).ok()?;
    Some(Reaped { pid, code, signal })
}

#[expect(
    clippy::as_conversions,
    reason = "the enum is `repr(i32)` with the kernel's numbers, and offers no other way out"
)]
fn signal_number(signal: Signal) -> i32 {
    signal as i32
}

/// What a process group is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupSignal {
    /// A signal: one that asks for its end, or any that the host sends.
    Send(StopSignal),
    /// SIGKILL.
    Kill,
    /// Nothing; only whether there is one.
    Ask,
}

/// Signals all processes of a group. Answers whether there is any.
pub(crate) fn signal_group(group: u32, signal: GroupSignal) -> bool {
    // 0 and 1 would be the agent's own group and every process.
    let Some(group) = i32::try_from(group).ok().filter(|group| *group > 1) else {
        return false;
    };
    let number = match signal {
        GroupSignal::Send(signal) => signal.number(),
        GroupSignal::Kill => libc::SIGKILL,
        GroupSignal::Ask => 0,
    };
    // Not by nix: it has no names for real-time signals, which some services end by.
    // SAFETY: kill(2) takes two integers.
    let result = unsafe { libc::kill(-group, number) };
    Errno::result(result).is_ok()
}

/// Makes the child run as `user`, with no group beyond those of it.
pub(crate) fn run_as(command: &mut Command, user: &User) {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let hook = move || -> io::Result<()> {
        // In this order: whoever is not root any more cannot change groups.
        setgroups(&groups)?;
        setgid(gid)?;
        setuid(uid)?;
        Ok(())
    };
    // SAFETY: the three calls are system calls, the child of a fork has one thread, and nothing is allocated.
    unsafe { command.pre_exec(hook) };
}

/// Makes the child the leader of a new session whose controlling terminal is its standard input.
pub(crate) fn controlling_terminal(command: &mut Command) -> &mut Command {
    let hook = || -> io::Result<()> {
        nix::unistd::setsid()?;
        take_terminal()
    };
    // SAFETY: setsid(2) and ioctl(2) are async-signal-safe, and nothing is allocated on the way that succeeds.
    unsafe { command.pre_exec(hook) }
}

fn take_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer; 0 steals the terminal from nobody.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) };
    Errno::result(result)?;
    Ok(())
}

/// Makes this process the parent of its descendants' orphans, as PID 1 is by nature.
#[cfg(test)]
pub(crate) fn adopt_orphans() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes an integer.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    assert_eq!(result, 0);
}

/// Sends this process a signal by its number.
#[cfg(test)]
pub(crate) fn signal_self(number: i32) {
    nix::sys::signal::raise(Signal::try_from(number).unwrap()).unwrap();
}

/// The near end of a new pseudo-terminal, which never waits, and the path of its far end.
#[cfg(test)]
pub(crate) fn open_pty() -> (std::fs::File, std::path::PathBuf) {
    let mut name = [0; 64];
    let (mut near, mut far) = (0, 0);
    // SAFETY: all pointers are to locals that outlive the call; the name fits `/dev/pts/<number>`.
    let result = unsafe {
        libc::openpty(
            &raw mut near,
            &raw mut far,
            name.as_mut_ptr(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(result, 0);
    // SAFETY: openpty has just made it, and nobody else owns it.
    let near: std::fs::File = unsafe { std::os::fd::FromRawFd::from_raw_fd(near) };
    let without_waiting = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&near, without_waiting).unwrap();
    // `far` stays open for good: a pseudo-terminal whose far end is closed answers with EIO.
    let bytes: Vec<u8> = name
        .iter()
        .map(|byte| byte.to_ne_bytes()[0])
        .take_while(|byte| *byte != 0)
        .collect();
    (near, String::from_utf8(bytes).unwrap().into())
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn exit_codes_are_as_shells_say() {
        let pid = Pid::from_raw(42);
        let table = [
            (WaitStatus::Exited(pid, 0), Some((0, None))),
            (WaitStatus::Exited(pid, 3), Some((3, None))),
            (
                WaitStatus::Signaled(pid, Signal::SIGKILL, false),
                Some((137, Some(9))),
            ),
            (
                WaitStatus::Signaled(pid, Signal::SIGSEGV, true),
                Some((139, Some(11))),
            ),
            (WaitStatus::Stopped(pid, Signal::SIGSTOP), None),
            (WaitStatus::Continued(pid), None),
        ];
        for (status, expected) in table {
            let found = ended(status).map(|reaped| (reaped.code, reaped.signal));
            assert_eq!(found, expected, "{status:?}");
        }
    }

    #[test]
    fn no_group_number_reaches_everybody() {
        for group in [0, 1, u32::MAX] {
            assert!(!signal_group(group, GroupSignal::Ask));
        }
    }
}
