//! Files opened so that nothing else happens. A file of its own, so that what unpacks archives can be fuzzed without the rest.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Opens a file or directory for reading, and never waits for the other end of a pipe. A link is not found.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match open(path, flags, Mode::empty()) {
        Err(Errno::ELOOP) => Err(io::ErrorKind::NotFound.into()),
        opened => Ok(opened?.into()),
    }
}
