//! The directory in which everything that was downloaded is kept: what is in it, and how it is cleaned up. Getting things into it is
//! the work of those who download.
//!
//! Every file in it is named by its content, can be had again, and is of use alone; so any may be removed, as long as no build runs.
//! Builds hold a shared lock on [`LOCK`], and whoever cleans up an exclusive one. A file's time of change is when it was used last.

#[cfg(test)]
mod tests;

use std::fs::{File, FileTimes, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The file that is locked.
const LOCK: &str = ".lock";

/// What the names of files begin with that vanish with the build that makes them. One that is there without a build was left by a
/// build that was killed. Downloads that can go on have names of their own, and stay as long as anything else.
pub const TEMPORARY_PREFIX: &str = ".temporary-";

/// How deep files lie: `sha256/<digest>`, and one more for whoever needs it.
const MAX_DEPTH: u32 = 3;

/// A cache that cannot be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A build is running.
    #[error("A build is using the cache `{}`", path.display())]
    InUse {
        /// The cache's directory.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("Cannot read the cache `{}`", path.display())]
    Read {
        /// The cache's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be removed.
    #[error("Cannot remove a file from the cache `{}`", path.display())]
    Remove {
        /// The cache's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Says that a build uses the cache, for as long as it lives.
#[derive(Debug)]
pub struct InUse {
    _lock: Option<File>,
}

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the cache's directory.
    pub name: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
}

impl Entry {
    /// Whether a build that was killed left it.
    fn is_leftover(&self) -> bool {
        let name = self.name.file_name().unwrap_or_default();
        name.as_encoded_bytes()
            .starts_with(TEMPORARY_PREFIX.as_bytes())
    }
}

/// What may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Nothing that was used last longer ago.
    pub max_age: Option<Duration>,
    /// No more than this, of what was used last.
    pub max_size_bytes: Option<u64>,
}

/// Where the cache is, from what the environment says: `$XDG_CACHE_HOME/fledge`, else `$HOME/.cache/fledge`.
pub fn default_directory() -> PathBuf {
    // The XDG specification wants relative paths to be ignored.
    let directory = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    directory("XDG_CACHE_HOME")
        .or_else(|| directory("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("fledge")
}

/// Keeps what is in the cache from being cleaned up until the result is dropped. Waits for somebody who cleans up just now, which is
/// short. Where the user may not write there, nothing is locked: it is not theirs to clean up either.
///
/// # Errors
/// Where there is no such directory.
pub fn hold(directory: &Path) -> io::Result<InUse> {
    let lock = match lock_file(directory) {
        Ok(file) => {
            file.lock_shared()?;
            Some(file)
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    Ok(InUse { _lock: lock })
}

fn lock_file(directory: &Path) -> io::Result<File> {
    let file = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join(LOCK))?;
    Ok(file.into_parts().0)
}

/// Writes down that the file at `path` was used. It stays usable where that fails.
pub fn touch(path: &Path) {
    let used = FileTimes::new().set_modified(SystemTime::now());
    drop(fs_err::File::open(path).and_then(|file| file.file().set_times(used)));
}

/// What is in the cache, the least recently used first; nothing where there is none.
///
/// # Errors
/// Where it cannot be read.
pub fn list(directory: &Path) -> Result<Vec<Entry>, CacheError> {
    let mut entries = Vec::new();
    collect(directory, Path::new(""), 0, &mut entries).map_err(|source| CacheError::Read {
        path: directory.to_path_buf(),
        source,
    })?;
    entries.sort_unstable_by(|a, b| a.used.cmp(&b.used).then_with(|| a.name.cmp(&b.name)));
    Ok(entries)
}

fn collect(directory: &Path, below: &Path, depth: u32, entries: &mut Vec<Entry>) -> io::Result<()> {
    let names = match fs_err::read_dir(directory.join(below)) {
        Ok(names) => names,
        // A cache that was never used, or a directory that somebody removes meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for found in names {
        let found = found?;
        let name = below.join(found.file_name());
        // Of the link itself: nothing outside is looked at.
        let metadata = match found.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() && depth < MAX_DEPTH {
            collect(directory, &name, depth + 1, entries)?;
        } else if metadata.is_file() && name != Path::new(LOCK) {
            entries.push(Entry {
                name,
                size_bytes: metadata.len(),
                used: metadata.modified()?,
            });
        }
    }
    Ok(())
}

/// What of `entries`, the least recently used first, may not stay at the time `now`: what nobody can use, what is too old, and the oldest
/// of what is too much.
pub fn superfluous(entries: &[Entry], policy: &Policy, now: SystemTime) -> Vec<Entry> {
    let mut left_bytes: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
    let mut found = Vec::new();
    let is_old = |entry: &Entry| {
        let age = now.duration_since(entry.used).unwrap_or_default();
        policy.max_age.is_some_and(|max_age| age > max_age)
    };
    let mut kept = Vec::new();
    for entry in entries {
        if entry.is_leftover() || is_old(entry) {
            left_bytes -= entry.size_bytes;
            found.push(entry.clone());
        } else {
            kept.push(entry);
        }
    }
    for entry in kept {
        if policy.max_size_bytes.is_none_or(|max| left_bytes <= max) {
            break;
        }
        left_bytes -= entry.size_bytes;
        found.push(entry.clone());
    }
    found
}

/// Removes what may not stay, and returns it and how much stays, in bytes.
///
/// # Errors
/// [`CacheError::InUse`] while a build runs; where a file cannot be removed, after others were.
pub fn clean(
    directory: &Path,
    policy: &Policy,
    now: SystemTime,
) -> Result<(Vec<Entry>, u64), CacheError> {
    let path = || directory.to_path_buf();
    let read_error = |source| CacheError::Read {
        path: path(),
        source,
    };
    let lock = match lock_file(directory) {
        Ok(lock) => lock,
        // It was never used.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(read_error(error)),
    };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(CacheError::InUse { path: path() }),
        Err(TryLockError::Error(source)) => return Err(read_error(source)),
    }
    let entries = list(directory)?;
    let removed = superfluous(&entries, policy, now);
    for entry in &removed {
        match fs_err::remove_file(directory.join(&entry.name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CacheError::Remove {
                    path: path(),
                    source: error,
                });
            }
            _ => {}
        }
    }
    let bytes = |entries: &[Entry]| -> u64 { entries.iter().map(|entry| entry.size_bytes).sum() };
    let left_bytes = bytes(&entries) - bytes(&removed);
    Ok((removed, left_bytes))
}
