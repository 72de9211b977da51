//! Where the API listens. Binds only; serving is `app.rs`.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use fs_err as fs;
use tokio::net::{TcpListener, UnixListener};

use crate::token::share_with_group;

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

/// Listens on TCP.
pub async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Tcp { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

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
