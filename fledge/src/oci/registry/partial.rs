//! A download that is not whole yet: a file in the cache that another run can go on with, hashed as it grows. Nobody uses it before it
//! has its digest.

use std::fs::{Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::digest::Digest;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// How often a file is opened again that somebody else finished meanwhile.
const MAX_OPENINGS: usize = 3;

const BUFFER_BYTES: usize = 256 * 1024;

/// A file that grows.
pub(super) struct Partial {
    file: File,
    hash: Sha256,
    bytes: u64,
}

enum File {
    /// This run alone writes to it as long as it holds the lock.
    Shared { file: fs_err::File, path: PathBuf },
    /// Another run has the shared one.
    Own(NamedTempFile),
}

impl Partial {
    /// What there is of the blob with this digest, at most `size_bytes`.
    pub(super) fn open(directory: &Path, digest: Digest, size_bytes: u64) -> io::Result<Self> {
        fs_err::create_dir_all(directory)?;
        let path = directory.join(format!(".partial-{}", digest.to_hex()));
        for _ in 0..MAX_OPENINGS {
            let file = fs_err::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            match file.file().try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Between opening and locking it may have become the blob itself.
            let is_still_there = fs_err::metadata(&path)
                .is_ok_and(|there| file.metadata().is_ok_and(|open| open.ino() == there.ino()));
            if is_still_there {
                return Self::resume(file, path, size_bytes);
            }
        }
        let own = tempfile::Builder::new()
            .prefix(".partial-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(directory)?;
        Ok(Self {
            file: File::Own(own),
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    fn resume(mut file: fs_err::File, path: PathBuf, size_bytes: u64) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += u64::try_from(count).unwrap_or(u64::MAX);
        }
        let mut partial = Self {
            file: File::Shared { file, path },
            hash,
            bytes,
        };
        if partial.bytes > size_bytes {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// How much there is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Throws away what there is.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        let mut file = self.file.as_std();
        file.set_len(0)?;
        file.rewind()?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    /// Adds what arrived.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_std().write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// The digest of what there is.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    /// Makes it the file at `path`.
    pub(super) fn keep(self, path: &Path) -> io::Result<()> {
        match self.file {
            File::Shared {
                file,
                path: partial,
            } => {
                file.set_permissions(Permissions::from_mode(0o644))?;
                fs_err::rename(partial, path)
            }
            File::Own(own) => own.persist(path).map(drop).map_err(|error| error.error),
        }
    }

    /// Removes it.
    pub(super) fn discard(self) -> io::Result<()> {
        match self.file {
            File::Shared { path, .. } => fs_err::remove_file(path),
            File::Own(own) => own.close(),
        }
    }
}

impl File {
    fn as_std(&self) -> &std::fs::File {
        match self {
            Self::Shared { file, .. } => file.file(),
            Self::Own(own) => own.as_file(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_run_goes_on_and_a_third_has_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"abcdef");
        let open = || Partial::open(directory.path(), digest, 6).unwrap();
        let mut first = open();
        first.append(b"abc").unwrap();
        let mut beside = open();
        assert_eq!(beside.bytes(), 0);
        beside.append(b"abcdef").unwrap();
        assert_eq!(beside.digest(), digest);
        drop(beside);
        drop(first);
        let mut again = open();
        assert_eq!(again.bytes(), 3);
        again.append(b"def").unwrap();
        assert_eq!(again.digest(), digest);
        let path = directory.path().join("whole");
        again.keep(&path).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"abcdef");
        assert_eq!(open().bytes(), 0);
    }

    #[test]
    fn what_is_too_long_is_thrown_away() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"");
        let mut partial = Partial::open(directory.path(), digest, 6).unwrap();
        partial.append(b"1234567").unwrap();
        drop(partial);
        let partial = Partial::open(directory.path(), digest, 6).unwrap();
        assert_eq!((partial.bytes(), partial.digest()), (0, digest));
        partial.discard().unwrap();
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }
}
