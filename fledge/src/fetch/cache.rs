//! Files kept by their digest under `$XDG_CACHE_HOME/fledge/sha256`, and what has arrived of others under `partial` beside it. What is
//! found there is hashed again before it is used.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use common::digest::Digest;

use super::FetchError;
use super::partial::Partial;
use crate::cache::{self, InUse, TEMPORARY_PREFIX};
use crate::image::hashed::Hashed;

/// A directory of files that are named by their SHA-256.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    /// From the first use on, so that nobody cleans up what a build has found.
    in_use: Arc<OnceLock<InUse>>,
}

impl Cache {
    /// A cache in `directory`, which is made when something is kept.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            in_use: Arc::default(),
        }
    }

    /// Keeps what is found from being cleaned up for as long as the cache is used.
    fn hold(&self) -> Result<(), FetchError> {
        if self.in_use.get().is_none() && self.directory.is_dir() {
            let in_use = cache::hold(&self.directory).map_err(|source| self.error(source))?;
            // Another thread was first: one lock is enough.
            drop(self.in_use.set(in_use));
        }
        Ok(())
    }

    /// The file with this digest, if it is there. One that was damaged is removed.
    pub(crate) fn find(&self, digest: Digest) -> Result<Option<PathBuf>, FetchError> {
        self.hold()?;
        let path = self.path(digest);
        match digest_of(&path) {
            Ok(found) if found == digest => {
                cache::touch(&path);
                Ok(Some(path))
            }
            Ok(_) => {
                fs_err::remove_file(&path).map_err(|source| self.error(source))?;
                Ok(None)
            }
            Err(FetchError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file with this digest, if it is there and has `size_bytes`. It is not hashed: whoever reads it does that.
    pub(crate) fn find_unhashed(
        &self,
        digest: Digest,
        size_bytes: u64,
    ) -> Result<Option<PathBuf>, FetchError> {
        self.hold()?;
        let path = self.path(digest);
        let is_there = fs_err::metadata(&path).is_ok_and(|metadata| metadata.len() == size_bytes);
        if !is_there {
            return Ok(None);
        }
        cache::touch(&path);
        Ok(Some(path))
    }

    /// A file to download into; it vanishes unless it is kept.
    pub(super) fn begin(&self) -> Result<Partial, FetchError> {
        let (file, path) = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(self.make("partial")?)
            .map_err(|source| self.error(source))?
            .into_parts();
        Ok(Partial::temporary(file, path))
    }

    /// What was downloaded so far of the file with this digest. It stays until the file is whole.
    pub(crate) fn resume(&self, digest: Digest) -> Result<Partial, FetchError> {
        let path = self.make("partial")?.join(digest.to_hex());
        match Partial::open(&path).map_err(|source| self.error(source))? {
            Some(partial) => Ok(partial),
            // Another process downloads the same.
            None => self.begin(),
        }
    }

    /// Keeps a file under its digest.
    pub(crate) fn keep(&self, partial: Partial, digest: Digest) -> Result<PathBuf, FetchError> {
        self.make("sha256")?;
        let path = self.path(digest);
        partial.keep(&path).map_err(|source| self.error(source))?;
        Ok(path)
    }

    fn make(&self, name: &str) -> Result<PathBuf, FetchError> {
        let directory = self.directory.join(name);
        fs_err::create_dir_all(&directory).map_err(|source| self.error(source))?;
        self.hold()?;
        Ok(directory)
    }

    /// Where the file with this digest is, if it is there.
    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
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
pub(crate) fn digest_of(path: &Path) -> Result<Digest, FetchError> {
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
    use super::*;

    #[test]
    fn what_is_kept_is_found_unless_it_was_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("deep/cache"));
        let digest = Digest::of(b"content");
        assert_eq!(cache.find(digest).unwrap(), None);
        let mut partial = cache.begin().unwrap();
        partial.push(b"content").unwrap();
        let path = cache.keep(partial, digest).unwrap();
        assert_eq!(cache.find(digest).unwrap(), Some(path.clone()));
        fs_err::write(&path, "other").unwrap();
        assert_eq!(cache.find(digest).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_download_that_is_not_kept_vanishes_unless_it_can_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().to_path_buf());
        let names = || {
            let mut names: Vec<String> = fs_err::read_dir(directory.path().join("partial"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let digest = Digest::of(b"content");
        let mut temporary = cache.begin().unwrap();
        temporary.push(b"con").unwrap();
        drop((temporary, cache.resume(digest).unwrap()));
        assert_eq!(names(), [""; 0]);
        let mut partial = cache.resume(digest).unwrap();
        partial.push(b"con").unwrap();
        partial.set_validator("http://x/", "\"v1\"").unwrap();
        // Whoever comes meanwhile begins a file of its own.
        assert_eq!(cache.resume(digest).unwrap().bytes(), 0);
        drop(partial);
        assert_eq!(names().len(), 2);
        let mut partial = cache.resume(digest).unwrap();
        assert_eq!((partial.bytes(), partial.is_continued()), (3, true));
        assert_eq!(partial.validator("http://x/").unwrap(), "\"v1\"");
        assert_eq!(partial.validator("http://y/"), None);
        partial.push(b"tent").unwrap();
        assert_eq!(partial.digest(), digest);
        cache.keep(partial, digest).unwrap();
        assert_eq!(names(), [""; 0]);
        assert!(cache.find(digest).unwrap().is_some());
        let mut wrong = cache.resume(digest).unwrap();
        wrong.push(b"wrong").unwrap();
        wrong.restart().unwrap();
        drop(wrong);
        assert_eq!(names(), [""; 0]);
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
