//! Packs the image and writes files whole or not at all: beside their place first, then renamed.

use std::fs::Permissions;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::digest::Digest;
use common::manifest::Manifest;
use tempfile::NamedTempFile;
use tokio::sync::watch;

use super::{BuildError, Settings};
use crate::image::WriteError;
use crate::image::hashed::Hashed;
use crate::image::{gzip, initramfs};
use crate::tree::Tree;
use crate::ui::{Progress, Ui};

/// A file that is complete, but not in its place yet. It vanishes unless it is published.
#[derive(Debug)]
pub(super) struct Staged {
    file: NamedTempFile,
    path: PathBuf,
}

/// A packed image.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) file: Staged,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

impl Staged {
    /// Moves it to its place, over what was there.
    pub(super) fn publish(self) -> Result<PathBuf, BuildError> {
        match self.file.persist(&self.path) {
            Ok(_) => Ok(self.path),
            Err(error) => Err(BuildError::Output {
                path: self.path,
                source: error.error,
            }),
        }
    }
}

/// Checks before the work that the artifact can lie where it should.
pub(super) fn check(path: &Path) -> Result<(), BuildError> {
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Err(BuildError::NoOutputDirectory {
            path: directory.to_path_buf(),
        });
    }
    if path.is_dir() || path.file_name().is_none() {
        return Err(BuildError::OutputIsDirectory {
            path: path.to_path_buf(),
        });
    }
    Ok(())
}

/// Packs `tree` into a file beside the output.
pub(super) fn pack(
    tree: &Tree,
    settings: &Settings,
    ui: &Ui,
    interrupted: &watch::Receiver<bool>,
) -> Result<Artifact, BuildError> {
    let mut file = begin(&settings.output)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let progress = ui.packing(tree.content_bytes());
    let hashed = Hashed::new(file.as_file_mut());
    let packed = gzip::compress(hashed, threads, |input| {
        let watched = Watched {
            inner: input,
            progress: &progress,
            interrupted,
        };
        initramfs::write(tree, watched).map(|_| ())
    });
    progress.finish();
    let hashed = packed.map_err(|source| match source {
        _ if *interrupted.borrow() => BuildError::Interrupted,
        WriteError::Output(source) => BuildError::Output {
            path: settings.output.clone(),
            source,
        },
        source => BuildError::Pack(source),
    })?;
    let size_bytes = hashed.bytes();
    let (_, digest) = hashed.finish();
    let file = Staged {
        file,
        path: settings.output.clone(),
    };
    Ok(Artifact {
        file,
        digest,
        size_bytes,
    })
}

/// Writes `manifest` into a file beside `path`.
pub(super) fn stage_manifest(manifest: &Manifest, path: &Path) -> Result<Staged, BuildError> {
    let mut file = begin(path)?;
    file.write_all(manifest.to_json_pretty().as_bytes())
        .map_err(|source| BuildError::Output {
            path: path.to_path_buf(),
            source,
        })?;
    Ok(Staged {
        file,
        path: path.to_path_buf(),
    })
}

fn begin(path: &Path) -> Result<NamedTempFile, BuildError> {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    tempfile::Builder::new()
        .prefix(&prefix)
        // The umask takes its part, as with any other file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory_of(path))
        .map_err(|source| BuildError::Output {
            path: path.to_path_buf(),
            source,
        })
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Shows progress, and fails when the user interrupts.
struct Watched<'a, W> {
    inner: W,
    progress: &'a Progress,
    interrupted: &'a watch::Receiver<bool>,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if *self.interrupted.borrow() {
            return Err(io::Error::other("Interrupted by the user"));
        }
        let written = self.inner.write(bytes)?;
        self.progress.advance(u64::try_from(written).unwrap_or(0));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
