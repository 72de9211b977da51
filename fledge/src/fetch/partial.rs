//! A download under way. What has arrived stays when the connection or the program breaks, so that the next attempt goes on from there;
//! whether it is right is decided by its digest when it is whole.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::digest::Digest;
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;

/// How much is read at once to hash what is there, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// More than this in the file about the validator is not ours, in bytes: a header line is shorter.
const MAX_VALIDATOR_BYTES: u64 = 16 * 1024;

/// A file that is being downloaded.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    place: Place,
    hash: Sha256,
    bytes: u64,
    /// Whether its beginning came with an earlier request.
    continued: bool,
}

/// Where it is until it is whole.
#[derive(Debug)]
enum Place {
    /// Where the next attempt finds it.
    Named(PathBuf),
    /// It vanishes when it is not kept.
    Temporary(TempPath),
}

impl Partial {
    /// Goes on with the file at `path`, or begins it. Nothing where another process is at it.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The other process may have kept the file just now: then this is no longer its name.
        let is_same = fs_err::symlink_metadata(path)
            .is_ok_and(|named| file.metadata().is_ok_and(|open| open.ino() == named.ino()));
        if !is_same {
            return Ok(None);
        }
        let mut partial = Self::new(file, Place::Named(path.to_path_buf()));
        partial.hash_what_is_there()?;
        Ok(Some(partial))
    }

    /// A file that is gone when it is not kept.
    pub(super) fn temporary(file: File, path: TempPath) -> Self {
        Self::new(file, Place::Temporary(path))
    }

    fn new(file: File, place: Place) -> Self {
        Self {
            file,
            place,
            hash: Sha256::new(),
            bytes: 0,
            continued: false,
        }
    }

    fn hash_what_is_there(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                self.continued = self.bytes > 0;
                return Ok(());
            }
            self.count(&buffer[..count]);
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }

    /// How much there is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether its beginning came with an earlier request.
    pub(super) fn is_continued(&self) -> bool {
        self.continued
    }

    /// Says that another request goes on with it.
    pub(super) fn go_on(&mut self) {
        self.continued = self.bytes > 0;
    }

    /// The digest of what there is.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.count(bytes);
        Ok(())
    }

    /// Throws away what there is.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = Sha256::new();
        self.bytes = 0;
        self.continued = false;
        self.forget_validator();
        Ok(())
    }

    /// All of it.
    pub(super) fn content(&self) -> io::Result<Vec<u8>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(content)
    }

    /// What `url` called the version (RFC 9110 §8.8.3) that this is the beginning of.
    pub(super) fn validator(&self, url: &str) -> Option<String> {
        let mut text = String::new();
        let file = fs_err::File::open(self.validator_path()?).ok()?;
        file.take(MAX_VALIDATOR_BYTES)
            .read_to_string(&mut text)
            .ok()?;
        let (validator, of) = text.split_once('\n')?;
        (of == url).then(|| validator.to_owned())
    }

    /// Remembers what `url` calls the version of which the beginning is about to arrive.
    pub(super) fn set_validator(&self, url: &str, validator: &str) -> io::Result<()> {
        match self.validator_path() {
            Some(path) => fs_err::write(path, format!("{validator}\n{url}")),
            None => Ok(()),
        }
    }

    fn forget_validator(&self) {
        if let Some(path) = self.validator_path() {
            // Without it the digest decides alone.
            drop(fs_err::remove_file(path));
        }
    }

    fn validator_path(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Named(path) => Some(path.with_extension("validator")),
            Place::Temporary(_) => None,
        }
    }

    /// Gives it the name `path`.
    pub(super) fn keep(mut self, path: &Path) -> io::Result<()> {
        self.forget_validator();
        match &mut self.place {
            Place::Named(from) => fs_err::rename(&*from, path),
            Place::Temporary(from) => fs_err::rename(&*from, path),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Place::Named(path) = &self.place
            && self.bytes == 0
        {
            drop(fs_err::remove_file(path));
            self.forget_validator();
        }
    }
}
