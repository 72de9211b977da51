//! Reads the small files that commands are given: keys, signatures, passwords. Knows no formats.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use common::exit_code::ExitCode;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("There is no {what} at `{}`", path.display())]
    NotFound {
        /// What it should be.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// It is a directory, or a device where a file is read more than once.
    #[error("`{}` is not a file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// It is larger than any such file.
    #[error("`{}` has more than {limit_bytes} bytes: it is no {what}", path.display())]
    TooLarge {
        /// What it should be.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The most that is read.
        limit_bytes: u64,
    },
    /// It cannot be read, or is no text.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FileError {
    /// The exit code of the program.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotFound { .. } => ExitCode::NotFound,
            Self::NotAFile { .. } | Self::TooLarge { .. } | Self::Read { .. } => ExitCode::Invalid,
        }
    }
}

/// Opens the file at `path`, which is `what`.
pub(super) fn open(path: &Path, what: &'static str) -> Result<fs_err::File, FileError> {
    let owned = || path.to_path_buf();
    let file = begin(path, what)?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(FileError::NotAFile { path: owned() }),
        Err(source) => Err(FileError::Read {
            path: owned(),
            source,
        }),
    }
}

fn begin(path: &Path, what: &'static str) -> Result<fs_err::File, FileError> {
    let path = path.to_path_buf();
    fs_err::File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FileError::NotFound { what, path },
        _ => FileError::Read { path, source },
    })
}

/// Reads the text at `path`, which is `what` and no longer than `limit_bytes`.
pub(super) fn read(path: &Path, what: &'static str, limit_bytes: u64) -> Result<String, FileError> {
    let mut text = String::new();
    // A named pipe is good enough: shells give the output of a program as one.
    let file = begin(path, what)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(FileError::NotAFile {
            path: path.to_path_buf(),
        });
    }
    file.take(limit_bytes.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|source| FileError::Read {
            path: path.to_path_buf(),
            source,
        })?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > limit_bytes {
        return Err(FileError::TooLarge {
            what,
            path: path.to_path_buf(),
            limit_bytes,
        });
    }
    Ok(text)
}
