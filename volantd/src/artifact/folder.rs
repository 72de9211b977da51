//! The folder of the store: one file for each digest, and unfinished files apart from them. Blocks; fetches nothing.
//!
//! A name appears in the folder only when the whole file is on the disk, so every name there can be trusted after a crash.

use std::io::{self, Write as _};

use std::path::{Path, PathBuf};

use common::digest::Digest;
use fledge::signature::{self, SUFFIX};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::ArtifactError;

/// Files are readable by everybody: they hold what plugins publish, and VMMs may run as other users.
const ARTIFACT_MODE: u32 = 0o644;

/// Where unfinished files are.
const PARTIAL: &str = ".partial";

/// A stored artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    max_bytes: u64,
}

impl Folder {
    /// Makes the folder if needed, and empties the part with unfinished files: there is one daemon for each state folder, and it
    /// has only just begun.
    pub(super) fn open(path: &Path, max_bytes: u64) -> Result<Self, ArtifactError> {
        let folder = Self {
            path: path.to_path_buf(),
            max_bytes,
        };
        let partial = path.join(PARTIAL);
        let made = match fs_err::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => fs_err::create_dir_all(&partial),
        };
        made.map_err(|source| folder.failed("write", source))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn path_of(&self, digest: &Digest) -> PathBuf {
        self.path.join(digest.to_hex())
    }

    pub(super) fn get(&self, digest: &Digest) -> Result<Option<Stored>, ArtifactError> {
        let path = self.path_of(digest);
        match fs_err::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some(Stored {
                digest: *digest,
                size_bytes: found.len(),
                path,
            })),
            Ok(_) => Err(ArtifactError::NotAFile { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.failed("look", source)),
        }
    }

    pub(super) fn has_signature(&self, digest: &Digest) -> bool {
        signature::path_beside(&self.path_of(digest)).is_file()
    }

    pub(super) fn list(&self) -> Result<Vec<Digest>, ArtifactError> {
        let mut digests = Vec::new();
        for entry in fs_err::read_dir(&self.path).map_err(|source| self.failed("look", source))? {
            let entry = entry.map_err(|source| self.failed("look", source))?;
            let name = entry.file_name();
            // A signature without its artifact counts too, so that it is removed some day.
            let hex = name
                .to_str()
                .map(|name| name.strip_suffix(SUFFIX).unwrap_or(name));
            // Names that are not digests are not ours to judge.
            digests.extend(hex.and_then(|hex| hex.parse::<Digest>().ok()));
        }
        digests.sort();
        digests.dedup();
        Ok(digests)
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<(), ArtifactError> {
        let path = self.path_of(digest);
        for path in [signature::path_beside(&path), path] {
            match fs_err::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("remove", error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The same folder for files of at most `max_bytes`.
    pub(super) fn limited_to(&self, max_bytes: u64) -> Self {
        Self {
            path: self.path.clone(),
            max_bytes,
        }
    }

    /// Puts the signature of an artifact beside where the artifact is, or will be.
    pub(super) fn keep_signature(
        &self,
        partial: &Partial,
        digest: &Digest,
    ) -> Result<(), ArtifactError> {
        let path = signature::path_beside(&self.path_of(digest));
        fs_err::rename(&partial.path, path)
            .map_err(|source| ArtifactError::from_write(&self.path, source))
    }

    /// Begins a file. It is gone again unless it is kept.
    pub(super) fn begin(&self, from: String) -> Result<Writer, ArtifactError> {
        let path = self
            .path
            .join(PARTIAL)
            .join(Uuid::now_v7().simple().to_string());
        let file = fs_err::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(ARTIFACT_MODE)
            .open(&path);
        let file = file.map_err(|source| ArtifactError::from_write(&self.path, source))?;
        Ok(Writer {
            file,
            hash: Sha256::new(),
            bytes: 0,
            max_bytes: self.max_bytes,
            folder: self.path.clone(),
            from,
            partial: Partial { path },
        })
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Gives a finished file its name.
    pub(super) fn keep(&self, partial: &Partial, digest: &Digest) -> Result<Stored, ArtifactError> {
        let path = self.path_of(digest);
        let failed = |source| ArtifactError::from_write(&self.path, source);
        let size_bytes = fs_err::metadata(&partial.path).map_err(failed)?.len();
        fs_err::rename(&partial.path, &path).map_err(failed)?;
        // The name is on the disk only when its folder is.
        fs_err::File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(Stored {
            digest: *digest,
            size_bytes,
            path,
        })
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ArtifactError {
        ArtifactError::Store {
            action,
            folder: self.path.clone(),
            source,
        }
    }
}

/// An unfinished file; removed when this is dropped.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
}

impl Partial {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already if it was kept; whatever else is left, the next start removes.
        drop(fs_err::remove_file(&self.path));
    }
}

/// Writes one file, hashes what it writes and counts it.
#[derive(Debug)]
pub(super) struct Writer {
    file: fs_err::File,
    hash: Sha256,
    bytes: u64,
    max_bytes: u64,
    folder: PathBuf,
    from: String,
    partial: Partial,
}

impl Writer {
    /// How many bytes were written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write(&mut self, chunk: &[u8]) -> Result<(), ArtifactError> {
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.bytes > self.max_bytes {
            return Err(ArtifactError::TooLarge {
                from: self.from.clone(),
                limit_bytes: self.max_bytes,
            });
        }
        self.hash.update(chunk);
        self.file
            .write_all(chunk)
            .map_err(|source| ArtifactError::from_write(&self.folder, source))
    }

    /// Puts the whole file on the disk. Full disks often show only here.
    pub(super) fn finish(self) -> Result<(Partial, Digest), ArtifactError> {
        self.file
            .sync_all()
            .map_err(|source| ArtifactError::from_write(&self.folder, source))?;
        Ok((
            self.partial,
            Digest::from_bytes(self.hash.finalize().into()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs_err::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_kept_under_its_digest() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path(), 100).unwrap();
        let mut writer = folder.begin("x".to_owned()).unwrap();
        writer.write(b"he").unwrap();
        writer.write(b"llo").unwrap();
        let (partial, digest) = writer.finish().unwrap();
        assert_eq!(digest, Digest::of(b"hello"));
        assert_eq!(folder.get(&digest).unwrap(), None);
        let stored = folder.keep(&partial, &digest).unwrap();
        assert_eq!(stored.size_bytes, 5);
        assert_eq!(fs_err::read(&stored.path).unwrap(), b"hello");
        assert_eq!(
            fs_err::metadata(&stored.path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        assert_eq!(folder.get(&digest).unwrap(), Some(stored));
        assert_eq!(folder.list().unwrap(), [digest]);
        assert!(names(&temp.path().join(PARTIAL)).is_empty());
        folder.remove(&digest).unwrap();
        folder.remove(&digest).unwrap();
        assert_eq!(folder.list().unwrap(), []);
    }

    #[test]
    fn signatures_go_with_their_artifacts() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path(), 100).unwrap();
        let digest = Digest::of(b"hello");
        let path = temp.path().join(digest.to_hex());
        for signed in [true, false] {
            let writer = folder.limited_to(4).begin("x".to_owned()).unwrap();
            let (partial, _) = writer.finish().unwrap();
            folder.keep_signature(&partial, &digest).unwrap();
            if signed {
                fs_err::write(&path, "hello").unwrap();
            }
            assert_eq!(folder.list().unwrap(), [digest]);
            folder.remove(&digest).unwrap();
            assert_eq!(names(temp.path()), [PARTIAL]);
        }
    }

    #[test]
    fn what_is_not_kept_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path(), 4).unwrap();
        let mut writer = folder.begin("x".to_owned()).unwrap();
        let refused = writer.write(b"hello").unwrap_err();
        assert!(
            matches!(refused, ArtifactError::TooLarge { limit_bytes: 4, .. }),
            "{refused:?}"
        );
        drop(writer);
        assert!(names(&temp.path().join(PARTIAL)).is_empty());
        assert_eq!(names(temp.path()), [PARTIAL]);
    }

    #[test]
    fn opening_removes_what_a_crash_left() {
        let temp = tempfile::tempdir().unwrap();
        let partial = temp.path().join(PARTIAL);
        fs_err::create_dir_all(&partial).unwrap();
        fs_err::write(partial.join("old"), "half a file").unwrap();
        Folder::open(temp.path(), 4).unwrap();
        assert!(names(&partial).is_empty());
    }
}
