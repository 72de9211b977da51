//! Writes files whole or not at all: beside their place first, then renamed. Knows nothing of what is in them.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Anyone may read the file; the umask takes its part.
pub(super) const PUBLIC_MODE: u32 = 0o666;

/// A file that is not in its place yet. It vanishes unless it is published.
#[derive(Debug)]
pub(super) struct Staged {
    file: NamedTempFile,
    path: PathBuf,
}

impl Staged {
    /// Begins an empty file that will lie at `path`, with `mode` less the umask. Errors do not name the file that lies beside it.
    pub(super) fn begin(path: &Path, mode: u32) -> io::Result<Self> {
        let mut prefix = OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let mut number = None;
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(Permissions::from_mode(mode))
            .make_in(directory_of(path), |beside| {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(beside);
                file.inspect_err(|error| number = error.raw_os_error())
            });
        let file = file.map_err(|error| match number {
            Some(number) => io::Error::from_raw_os_error(number),
            None => error.kind().into(),
        })?;
        let (file, beside) = file.into_parts();
        Ok(Self {
            file: NamedTempFile::from_parts(file, beside),
            path: path.to_path_buf(),
        })
    }

    /// A file at `path` that holds `bytes`.
    pub(super) fn holding(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<Self> {
        let mut staged = Self::begin(path, mode)?;
        staged.file().write_all(bytes)?;
        Ok(staged)
    }

    /// The file itself.
    pub(super) fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Where it will lie.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to its place, over what was there.
    pub(super) fn replace(self) -> io::Result<PathBuf> {
        match self.file.persist(&self.path) {
            Ok(_) => Ok(self.path),
            Err(error) => Err(error.error),
        }
    }

    /// Moves it to its place, which must be free.
    pub(super) fn place(self) -> io::Result<PathBuf> {
        match self.file.persist_noclobber(&self.path) {
            Ok(_) => Ok(self.path),
            Err(error) => Err(error.error),
        }
    }
}

/// The directory that the file at `path` lies in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether there is no room for what was to be written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there_before_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let names = || fs_err::read_dir(directory.path()).unwrap().count();
        drop(Staged::holding(&path, PUBLIC_MODE, b"1").unwrap());
        assert_eq!(names(), 0);
        let staged = Staged::holding(&path, 0o600, b"2").unwrap();
        assert!(!path.exists());
        staged.place().unwrap();
        let mode = fs_err::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = || Staged::holding(&path, PUBLIC_MODE, b"3").unwrap();
        let error = second().place().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        second().replace().unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"3");
        assert_eq!(names(), 1);
    }

    #[test]
    fn errors_do_not_name_the_file_beside() {
        let error = Staged::begin(Path::new("/nowhere/x"), PUBLIC_MODE).unwrap_err();
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }
}
