//! One daemon for each state directory: a lock that the kernel releases however the daemon ends.

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// A state directory that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error("Another volantd runs on `{}`", state_dir.display())]
    Held {
        /// The state directory.
        state_dir: PathBuf,
    },
    /// It cannot be made or locked.
    #[error("Cannot lock the state directory `{}`", state_dir.display())]
    Io {
        /// The state directory.
        state_dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The lock; held as long as this lives.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct StateLock {
    _file: fs::File,
}

impl StateLock {
    /// Makes the state directory, mode 0711 (its secrets have modes of their own; VMMs pass through), and locks it.
    ///
    /// # Errors
    /// [`LockError::Held`] if another daemon has it.
    pub fn acquire(state_dir: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io {
            state_dir: state_dir.to_path_buf(),
            source,
        };
        make_dir(state_dir, 0o711).map_err(io)?;
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(state_dir.join("volantd.lock"))
            .map_err(io)?;
        match file.file().try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held {
                state_dir: state_dir.to_path_buf(),
            }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

/// Makes a directory with its parents; the directory itself gets `mode`.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(path)?;
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_kept_out_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = StateLock::acquire(&state).unwrap();
        let message = StateLock::acquire(&state).unwrap_err().to_string();
        assert!(message.starts_with("Another volantd runs on"), "{message}");
        drop(first);
        drop(StateLock::acquire(&state).unwrap());
    }
}
