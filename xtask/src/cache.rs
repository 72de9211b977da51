//! Where xtask keeps what is worth keeping between runs and checkouts: `$XDG_CACHE_HOME/volant`, or `~/.cache/volant`.
//! Everything in there can be deleted at any time. It does not know what is kept: each command has a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::printer;

/// An exclusive lock on a folder of the cache, for as long as this value lives; the system frees it if the process dies.
#[derive(Debug)]
#[must_use = "the lock is released when this value is dropped"]
pub(crate) struct Lock {
    file: fs::File,
}

impl Lock {
    /// Returns an empty input that also holds the lock: a program that outlives this process, because this one was
    /// killed, keeps others out until it has ended too.
    pub(crate) fn as_input(&self) -> Result<Stdio> {
        Ok(Stdio::from(self.file.file().try_clone()?))
    }
}

/// Returns the folder of `purpose` in the cache, created if it was missing.
pub(crate) fn directory(purpose: &str) -> Result<PathBuf> {
    let root = root(
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        std::env::home_dir(),
    )?;
    let directory = root.join(purpose);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Waits until this process is the only one that holds `directory`, saying so if it has to wait.
pub(crate) fn lock(directory: &Path, subject: &str) -> Result<Lock> {
    let path = directory.join("lock");
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)?;
    if file.file().try_lock().is_err() {
        printer::progress(
            subject,
            &format!(
                "waiting for another `cargo xtask` that holds `{}`",
                path.display()
            ),
        );
        file.file()
            .lock()
            .with_context(|| format!("Could not lock `{}`", path.display()))?;
    }
    Ok(Lock { file })
}

/// Moves a finished folder to its name in one step, so that no reader ever sees half of it.
pub(crate) fn publish(finished: &Path, name: &Path) -> Result<()> {
    if name.exists() {
        fs::remove_dir_all(name)?;
    }
    fs::rename(finished, name)?;
    Ok(())
}

fn root(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf> {
    // The XDG specification has relative paths ignored.
    if let Some(xdg) = xdg.filter(|path| path.is_absolute()) {
        return Ok(xdg.join("volant"));
    }
    match home.filter(|path| path.is_absolute()) {
        Some(home) => Ok(home.join(".cache/volant")),
        None => bail!("There is no home directory to keep a cache in: set `XDG_CACHE_HOME`"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn xdg_goes_before_home_unless_relative() {
        let home = Some(PathBuf::from("/home/ada"));
        let cases = [
            (Some("/var/cache"), "/var/cache/volant"),
            (Some("cache"), "/home/ada/.cache/volant"),
            (Some(""), "/home/ada/.cache/volant"),
            (None, "/home/ada/.cache/volant"),
        ];
        for (xdg, expected) in cases {
            assert_eq!(
                root(xdg.map(PathBuf::from), home.clone()).unwrap(),
                PathBuf::from(expected)
            );
        }
        assert!(root(None, None).is_err());
    }

    #[test]
    fn a_second_holder_is_kept_out() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path(), "test").unwrap();
        let other = fs::File::options()
            .write(true)
            .open(directory.path().join("lock"))
            .unwrap();
        assert!(other.file().try_lock().is_err());
        let mut child = Command::new("sh")
            .args(["-c", "sleep 0.1"])
            .stdin(held.as_input().unwrap())
            .spawn()
            .unwrap();
        drop(held);
        assert!(other.file().try_lock().is_err(), "the child holds the lock");
        child.wait().unwrap();
        assert!(other.file().try_lock().is_ok());
    }

    #[test]
    fn publishing_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        for content in ["old", "new"] {
            let finished = directory.path().join("work");
            fs::create_dir(&finished).unwrap();
            fs::write(finished.join("file"), content).unwrap();
            publish(&finished, &directory.path().join("done")).unwrap();
        }
        assert_eq!(
            fs::read_to_string(directory.path().join("done/file")).unwrap(),
            "new"
        );
        assert!(!directory.path().join("work").exists());
    }
}
