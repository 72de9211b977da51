//! The unix sockets of a VMM: bound here and handed down, so that the first connection never comes too early. Speaks no protocol.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// The longest path of a unix socket: `sun_path` has 108 bytes with its NUL (unix(7)).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Only the daemon's user talks to a VMM.
const SOCKET_MODE: u32 = 0o600;

/// A socket that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// The kernel has no room for the path.
    #[error(
        "The socket path `{}` has {bytes} bytes, and a socket's path has at most {MAX_SOCKET_PATH_BYTES}",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Something is in the way and cannot be removed.
    #[error("Cannot remove what is at the socket path `{}`", path.display())]
    Clear {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be bound.
    #[error("Cannot listen on the socket `{}`", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Refuses a path that is too long for a socket.
pub(super) fn check_path(path: &Path) -> Result<(), SocketError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes > MAX_SOCKET_PATH_BYTES {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
            bytes,
        });
    }
    Ok(())
}

/// Removes the files of an earlier launch, if there are any.
pub(super) fn clear<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), SocketError> {
    for path in paths {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(SocketError::Clear {
                    path: path.clone(),
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Binds and listens. The descriptor is for a child: whoever connects is served once the child looks.
pub(super) fn listen(path: &Path) -> Result<OwnedFd, SocketError> {
    check_path(path)?;
    let failed = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_107_bytes_is_bound_and_one_more_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let room = MAX_SOCKET_PATH_BYTES - folder.path().as_os_str().len() - 1;
        let fits = folder.path().join("x".repeat(room));
        let _listener = listen(&fits).unwrap();
        assert_eq!(
            fs::metadata(&fits).unwrap().permissions().mode() & 0o777,
            SOCKET_MODE
        );
        let long = folder.path().join("x".repeat(room + 1));
        let refused = listen(&long).unwrap_err().to_string();
        assert!(refused.contains("has 108 bytes"), "{refused}");
    }

    #[test]
    fn an_old_socket_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(listen(&path).unwrap());
        assert!(matches!(listen(&path), Err(SocketError::Listen { .. })));
        clear([&path]).unwrap();
        clear([&path]).unwrap();
        listen(&path).unwrap();
    }
}
