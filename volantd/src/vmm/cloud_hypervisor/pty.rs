//! The pty that Cloud Hypervisor offers as the guest's serial line, opened as a byte stream. Does not look into the bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::libc;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe;

use crate::vmm::process::Process;

/// A byte that Linux throws away: it is there when the guest's driver starts, which empties the line first. An agent must not take it
/// for a key.
const WAKE_BYTE: u8 = 0;

/// An open pty. It ends, instead of failing, when its other end is closed.
pub(super) struct Pty {
    file: File,
    reader: pipe::Receiver,
    writer: pipe::Sender,
    last_words: Option<LastWords>,
}

/// What keeps the bytes of a VMM that has ended: Linux throws away what was not read when the last holder of a pty's main end is gone.
struct LastWords {
    /// The VMM's own end of the pty.
    _main: OwnedFd,
    /// Nobody closes this pty but us, so its end is that of the process.
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    has_ended: bool,
}

impl std::fmt::Debug for Pty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pty")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Pty {
    /// Opens the pty: raw, and never as the daemon's own terminal.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)?
            .into_file();
        let mut termios = tcgetattr(&file)?;
        cfmakeraw(&mut termios);
        tcsetattr(&file, SetArg::TCSANOW, &termios)?;
        Ok(Self {
            reader: pipe::Receiver::from_file_unchecked(file.try_clone()?)?,
            writer: pipe::Sender::from_file_unchecked(file.try_clone()?)?,
            file,
            last_words: None,
        })
    }

    /// Opens the pty of a VMM, and keeps what the guest said last until it is read. Where the kernel does not let us do that, what was not
    /// read when the VMM ends is lost.
    pub(super) fn open_of(process: &Process, path: &Path) -> io::Result<Self> {
        let mut pty = Self::open(path)?;
        let index = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let shared = index.map_or_else(
            || Err(io::ErrorKind::InvalidInput.into()),
            |index| process.share_pty(index),
        );
        match shared {
            Ok(main) => {
                let process = process.clone();
                pty.last_words = Some(LastWords {
                    _main: main,
                    ended: Box::pin(async move {
                        process.ended().await;
                    }),
                    has_ended: false,
                });
            }
            Err(error) => tracing::warn!(%error, "a guest's last words may be lost"),
        }
        Ok(pty)
    }

    /// Has Cloud Hypervisor see at once that somebody listens: without input it looks every half second, and keeps the output until
    /// then. A guest that ended sooner would have said nothing.
    pub(super) async fn wake(&mut self) -> io::Result<()> {
        self.writer.write_all(&[WAKE_BYTE]).await
    }

    /// Reads what is left of a VMM that has ended. An empty read is the end.
    fn read_rest(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        match self.file.read(buf.initialize_unfilled()) {
            Ok(count) => buf.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_hangup(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl AsyncRead for Pty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.reader).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if is_hangup(&error) => return Poll::Ready(Ok(())),
            Poll::Ready(result) => return Poll::Ready(result),
            Poll::Pending => {}
        }
        let Some(last) = &mut self.last_words else {
            return Poll::Pending;
        };
        if !last.has_ended {
            ready!(last.ended.as_mut().poll(cx));
            last.has_ended = true;
        }
        Poll::Ready(self.read_rest(buf))
    }
}

impl AsyncWrite for Pty {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.writer).poll_write(cx, bytes)) {
            Err(error) if is_hangup(&error) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            result => Poll::Ready(result),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

/// Whether the error is how a pty says that its other end is closed.
fn is_hangup(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn bytes_pass_unchanged_and_the_end_is_an_end() {
        let mut main = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        grantpt(&main).unwrap();
        unlockpt(&main).unwrap();
        let path = ptsname_r(&main).unwrap();
        // An earlier daemon had it open. What is written before the next one listens is kept.
        drop(Pty::open(Path::new(&path)).unwrap());
        main.write_all(b"early\n").unwrap();
        let mut pty = Pty::open(Path::new(&path)).unwrap();
        main.write_all(b"\x03\x04late\r\n").unwrap();
        let mut bytes = [0; 14];
        pty.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"early\n\x03\x04late\r\n");
        pty.wake().await.unwrap();
        pty.write_all(b"in\n").await.unwrap();
        let mut bytes = [0; 4];
        main.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"\0in\n");
        drop(main);
        assert_eq!(pty.read(&mut bytes).await.unwrap(), 0);
        assert!(pty.write_all(b"x").await.is_err());
    }
}
