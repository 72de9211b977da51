//! Pipes and terminals on the runtime's own epoll: reads and writes that wait without a thread. Keeps no data.
#![expect(
    unsafe_code,
    reason = "registering a file descriptor with the runtime is unsafe by signature"
)]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An end of a pipe, or the near end of a pseudo-terminal.
#[derive(Debug)]
pub(crate) struct Watched(AsyncFd<File>);

impl Watched {
    /// For reading only.
    pub(crate) fn for_reading(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE)
    }

    /// For writing only.
    pub(crate) fn for_writing(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::WRITABLE)
    }

    /// For both.
    pub(crate) fn for_both(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE | Interest::WRITABLE)
    }

    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: a `File` owns its descriptor and answers with the same one until it is dropped, and it is moved into the result.
        let watched = unsafe { AsyncFd::register_with_interest(File::from(fd), interest) };
        Ok(Self(watched?))
    }

    /// Reads what there is, once there is some. 0 is the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self
            .0
            .async_io(Interest::READABLE, |mut file| file.read(buffer))
            .await;
        end_of_terminal(read)
    }

    /// Reads what there is at this moment, whether epoll has told of it or not. `WouldBlock` if there is nothing.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        end_of_terminal(self.0.get_ref().read(buffer))
    }

    /// Writes all of it. May have written a part when it is dropped.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |mut file| file.write(bytes))
                .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// A terminal whose far end is closed says EIO (`drivers/tty/n_tty.c`), where a pipe would say its end.
fn end_of_terminal(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        read => read,
    }
}
