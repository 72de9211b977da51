//! Where the API listens. Binds only; serving is `app.rs`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, UnixListener};

use crate::token::share_with_group;

/// After how long a silent connection is probed, in seconds, how far apart the probes are, and how many may stay unanswered.
const PROBE_AFTER_S: u32 = 60;
const PROBE_INTERVAL_S: u32 = 15;
const PROBES: u32 = 4;

/// How long what is sent may stay without acknowledgement, in milliseconds: as long as the probes take.
const UNANSWERED_MS: u32 = 120_000;

/// An address that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A daemon answers there.
    #[error("A daemon already answers at `{}`", socket.display())]
    Running {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be made.
    #[error("Cannot listen on `{}`", socket.display())]
    Unix {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The port is taken, or the address is not this host's.
    #[error(
        "Cannot listen on {address}; is another volantd running? `--api-listen` or VOLANT_API_LISTEN names another address"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Listens on a unix socket that root and the group `volant` may use. One that a dead daemon left is replaced.
pub fn unix(socket: &Path) -> Result<UnixListener, ListenError> {
    if UnixStream::connect(socket).is_ok() {
        return Err(ListenError::Running {
            socket: socket.to_path_buf(),
        });
    }
    let bind = || {
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        share_with_group(socket, 0o660)?;
        Ok(listener)
    };
    bind().map_err(|source| ListenError::Unix {
        socket: socket.to_path_buf(),
        source,
    })
}

/// Listens on TCP. Connections whose clients vanish without a word end, however little is said on them.
pub async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let failed = |source| ListenError::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    notice_silence(&listener).map_err(|errno| failed(errno.into()))?;
    Ok(listener)
}

/// Linux gives each accepted connection what its listener has (tcp(7), socket(7)).
fn notice_silence(socket: &impl AsFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &PROBE_AFTER_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &PROBE_INTERVAL_S)?;
    setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &UNANSWERED_MS)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[tokio::test]
    async fn connections_are_probed() {
        let listener = tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let found = (
            getsockopt(&served, sockopt::KeepAlive).unwrap(),
            getsockopt(&served, sockopt::TcpKeepIdle).unwrap(),
            getsockopt(&served, sockopt::TcpUserTimeout).unwrap(),
        );
        assert_eq!(found, (true, PROBE_AFTER_S, UNANSWERED_MS));
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("volantd.sock");
        let first = unix(&socket).unwrap();
        assert!(matches!(unix(&socket), Err(ListenError::Running { .. })));
        drop(first);
        assert!(socket.exists());
        drop(unix(&socket).unwrap());
    }
}
