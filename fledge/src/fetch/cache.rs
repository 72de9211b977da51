//! Files kept by their digest under `$XDG_CACHE_HOME/fledge`. What is found there is hashed again before it is used.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::digest::Digest;
use tempfile::NamedTempFile;

use super::FetchError;
use crate::image::hashed::Hashed;

/// A directory of files that are named by their SHA-256.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// A cache in `directory`, which is made when something is kept.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The file with this digest, if it is there. One that was damaged is removed.
    pub(super) fn find(&self, digest: Digest) -> Result<Option<PathBuf>, FetchError> {
        let path = self.path(digest);
        match digest_of(&path) {
            Ok(found) if found == digest => Ok(Some(path)),
            Ok(_) => {
                fs_err::remove_file(&path).map_err(|source| self.error(source))?;
                Ok(None)
            }
            Err(FetchError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file to download into; it vanishes unless it is kept.
    pub(super) fn begin(&self) -> Result<NamedTempFile, FetchError> {
        let directory = self.directory.join("sha256");
        fs_err::create_dir_all(&directory).map_err(|source| self.error(source))?;
        tempfile::Builder::new()
            .prefix(".partial-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&directory)
            .map_err(|source| self.error(source))
    }

    /// Keeps a file under its digest.
    pub(super) fn keep(
        &self,
        partial: NamedTempFile,
        digest: Digest,
    ) -> Result<PathBuf, FetchError> {
        let path = self.path(digest);
        partial
            .persist(&path)
            .map_err(|error| self.error(error.error))?;
        Ok(path)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join("sha256").join(digest.to_hex())
    }

    fn error(&self, source: io::Error) -> FetchError {
        FetchError::Cache {
            path: self.directory.clone(),
            source,
        }
    }
}

/// The digest of the file at `path`.
pub(super) fn digest_of(path: &Path) -> Result<Digest, FetchError> {
    let read_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FetchError::NotFound {
            path: path.to_path_buf(),
        },
        _ => FetchError::Read {
            path: path.to_path_buf(),
            source,
        },
    };
    let mut file = fs_err::File::open(path).map_err(read_error)?;
    if !file.metadata().map_err(read_error)?.is_file() {
        return Err(FetchError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    let mut hashed = Hashed::new(io::sink());
    io::copy(&mut file, &mut hashed).map_err(read_error)?;
    Ok(hashed.finish().1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_kept_is_found_unless_it_was_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("deep/cache"));
        let digest = Digest::of(b"content");
        assert_eq!(cache.find(digest).unwrap(), None);
        let mut partial = cache.begin().unwrap();
        partial.write_all(b"content").unwrap();
        let path = cache.keep(partial, digest).unwrap();
        assert_eq!(cache.find(digest).unwrap(), Some(path.clone()));
        fs_err::write(&path, "other").unwrap();
        assert_eq!(cache.find(digest).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_download_that_is_not_kept_vanishes() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().to_path_buf());
        drop(cache.begin().unwrap());
        assert_eq!(
            fs_err::read_dir(directory.path().join("sha256"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn only_files_have_a_digest() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            digest_of(directory.path()),
            Err(FetchError::NotAFile { .. })
        ));
        assert!(matches!(
            digest_of(&directory.path().join("x")),
            Err(FetchError::NotFound { .. })
        ));
    }
}
