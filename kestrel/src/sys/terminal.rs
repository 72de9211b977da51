//! Terminals: the serial line and pseudo-terminals, their modes and sizes. Reads and writes nothing itself.
#![expect(
    unsafe_code,
    reason = "nix wraps the ioctl only as an unsafe function; its argument outlives the call"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use common::agent::session::TerminalSize;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::stat::Mode;
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, tcgetattr, tcsetattr,
};

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);

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

/// A new pseudo-terminal: its near end, for us, and its far end, for a command.
pub(crate) fn open_pseudo_terminal(size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = openpty(&winsize(size), None)?;
    // No child of another session may hold an end open. Children are started on this thread, so none comes between.
    for end in [&pair.master, &pair.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok((pair.master, pair.slave))
}

/// Tells the programs at a terminal its size.
pub(crate) fn set_terminal_size(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = winsize(size);
    // SAFETY: the descriptor is open, and the kernel reads one `winsize`, which lives until the call returns.
    unsafe { tiocswinsz(terminal.as_fd().as_raw_fd(), &raw const size) }?;
    Ok(())
}

fn winsize(size: TerminalSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
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
