//! The serial line: opening it, its modes, and being told of keys. Reads and writes nothing itself.
#![expect(
    unsafe_code,
    reason = "registering a file descriptor with the runtime is unsafe by signature"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, tcgetattr, tcsetattr,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a terminal is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TerminalMode {
    /// Waiting for a key: no echo, no line editing, every byte at once.
    Watch,
    /// A shell talks to a person.
    Shell,
}

/// Opens a terminal for reading and writing without waiting; it becomes nobody's controlling terminal.
pub(crate) fn open_terminal(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(open(path, flags, Mode::empty())?)
}

/// Waits for what can be read from a terminal, on the runtime's own epoll.
pub(crate) fn watch_terminal(terminal: OwnedFd) -> io::Result<AsyncFd<File>> {
    let file = File::from(terminal);
    // SAFETY: a `File` owns its descriptor and answers with the same one until it is dropped, and it is moved into the result.
    let watched = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
    Ok(watched?)
}

/// Lets reads and writes wait, as programs expect of their standard input.
pub(crate) fn set_blocking(terminal: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&terminal, FcntlArg::F_GETFL)?);
    fcntl(&terminal, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Sets the mode at once; bytes that were typed already stay. What is written becomes lines with CR LF in both.
pub(crate) fn set_terminal_mode(terminal: impl AsFd, mode: TerminalMode) -> io::Result<()> {
    let mut modes = tcgetattr(&terminal)?;
    modes.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
    modes.control_flags |= ControlFlags::CREAD | ControlFlags::CLOCAL;
    // Flow control would let one Ctrl-S stop the workload at its next line of output.
    modes.input_flags &= !(InputFlags::IXON | InputFlags::IXOFF);
    modes.input_flags |= InputFlags::ICRNL;
    let interactive = LocalFlags::ICANON
        | LocalFlags::ECHO
        | LocalFlags::ECHOE
        | LocalFlags::ECHOK
        | LocalFlags::ISIG
        | LocalFlags::IEXTEN;
    match mode {
        TerminalMode::Watch => modes.local_flags &= !interactive,
        TerminalMode::Shell => modes.local_flags |= interactive,
    }
    tcsetattr(&terminal, SetArg::TCSANOW, &modes)?;
    Ok(())
}
