//! Packs the image and writes files whole or not at all: beside their place first, then renamed.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use common::build_spec::{Filesystem, FilesystemKind, Output};
use common::digest::Digest;
use tempfile::NamedTempFile;
use tokio::sync::watch;

use super::{BuildError, Settings};
use crate::image::hashed::Hashed;
use crate::image::{WriteError, compression, erofs, ext4, initramfs, squashfs};
use crate::plan::Plan;
use crate::tree::Tree;
use crate::ui::{Progress, Ui};

/// How much is hashed at once, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

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

/// Checks before the work that a file can lie where it should.
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
    // A device or a link would be replaced by a file, which nobody means.
    match fs_err::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(BuildError::OutputIsNoFile {
            path: path.to_path_buf(),
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Refuses to write over what is read: `inputs` are files of the host.
pub(super) fn spare<'a>(
    outputs: &[&Path],
    inputs: impl Iterator<Item = &'a Path>,
) -> Result<(), BuildError> {
    let identity = |path: &Path| {
        let metadata = fs_err::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    for input in inputs {
        let Some(found) = identity(input) else {
            continue;
        };
        for output in outputs {
            if identity(output) == Some(found) {
                return Err(BuildError::OutputIsInput {
                    path: output.to_path_buf(),
                });
            }
        }
    }
    Ok(())
}

/// Packs `tree` into a file beside `path`.
pub(super) fn pack(
    tree: &Tree,
    plan: &Plan,
    settings: &Settings,
    path: &Path,
    watch: (&Ui, &watch::Receiver<bool>),
) -> Result<Artifact, BuildError> {
    let (ui, interrupted) = watch;
    let mut file = begin(path)?;
    let progress = ui.packing(tree.content_bytes());
    let watch = Watch {
        progress: &progress,
        interrupted,
    };
    let packed = match plan.output {
        Output::Initramfs { compression } => {
            let hashed = Hashed::new(file.as_file_mut());
            let packed = compression::compress(hashed, compression, settings.threads, |input| {
                initramfs::write(tree, watch.over(input)).map(drop)
            });
            packed.map(Hashed::finish).map(|(_, digest)| digest)
        }
        Output::Rootfs(Filesystem { kind, .. }) => {
            pack_filesystem(tree, kind, settings, file.as_file_mut(), watch)
        }
    };
    progress.finish();
    let digest = packed.map_err(|source| match source {
        _ if *interrupted.borrow() => BuildError::Interrupted,
        WriteError::Output(source) => BuildError::Output {
            path: path.to_path_buf(),
            source,
        },
        source => BuildError::Pack(source),
    })?;
    let staged = Staged {
        file,
        path: path.to_path_buf(),
    };
    let metadata = staged.file.as_file().metadata();
    let size_bytes = metadata.map_err(|source| staged.failed(source))?.len();
    preallocate(plan, &staged, size_bytes)?;
    Ok(Artifact {
        file: staged,
        digest,
        size_bytes,
    })
}

/// Writes a file system into `file`, and returns the file's digest.
fn pack_filesystem(
    tree: &Tree,
    kind: FilesystemKind,
    settings: &Settings,
    file: &mut File,
    watch: Watch<'_>,
) -> Result<Digest, WriteError> {
    let time_s = u64::from(settings.source_date_epoch_s.unwrap_or(0));
    match kind {
        FilesystemKind::Erofs => {
            let hashed = watch.over(Hashed::new(file));
            let hashed = erofs::write(tree, time_s, hashed)?;
            return Ok(hashed.inner.finish().1);
        }
        FilesystemKind::Ext4 { size_buffer_mb, .. } => {
            let options = ext4::Options {
                time_s,
                size: match size_buffer_mb {
                    0 => ext4::Size::Automatic,
                    free_mb => ext4::Size::Free(u64::from(free_mb) << 20),
                },
                journal: true,
            };
            ext4::write(tree, &options, watch.over(&mut *file))?;
        }
        FilesystemKind::Squashfs { compression_level } => {
            let options = squashfs::Options {
                time_s,
                level: compression_level,
                threads: settings.threads,
            };
            squashfs::write(tree, &options, watch.over(&mut *file))?;
        }
    }
    // These are not written from front to back.
    Ok(digest_of(file, watch.interrupted)?)
}

/// Gives every block of an ext4 image its place on the disk, if the spec asks for that.
fn preallocate(plan: &Plan, staged: &Staged, size_bytes: u64) -> Result<(), BuildError> {
    let Output::Rootfs(Filesystem {
        kind: FilesystemKind::Ext4 {
            preallocate: true, ..
        },
        ..
    }) = plan.output
    else {
        return Ok(());
    };
    let length = i64::try_from(size_bytes).unwrap_or(i64::MAX);
    nix::fcntl::fallocate(
        staged.file.as_file(),
        nix::fcntl::FallocateFlags::empty(),
        0,
        length,
    )
    .map_err(|error| staged.failed(error.into()))
}

fn digest_of(file: &mut File, interrupted: &watch::Receiver<bool>) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let mut hashed = Hashed::new(io::sink());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hashed.finish().1),
            count => hashed.write_all(&chunk[..count])?,
        }
        stop_if(interrupted)?;
    }
}

/// Writes `bytes` into a file beside `path`.
pub(super) fn stage(bytes: &[u8], path: &Path) -> Result<Staged, BuildError> {
    let mut staged = Staged {
        file: begin(path)?,
        path: path.to_path_buf(),
    };
    match staged.file.write_all(bytes) {
        Ok(()) => Ok(staged),
        Err(source) => Err(staged.failed(source)),
    }
}

impl Staged {
    fn failed(&self, source: io::Error) -> BuildError {
        BuildError::Output {
            path: self.path.clone(),
            source,
        }
    }
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

/// Whom a writer tells of its progress, and who can stop it.
#[derive(Clone, Copy)]
struct Watch<'a> {
    progress: &'a Progress,
    interrupted: &'a watch::Receiver<bool>,
}

impl<'a> Watch<'a> {
    fn over<W>(self, inner: W) -> Watched<'a, W> {
        Watched { inner, watch: self }
    }
}

/// Shows progress, and fails when the user interrupts.
struct Watched<'a, W> {
    inner: W,
    watch: Watch<'a>,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        stop_if(self.watch.interrupted)?;
        let written = self.inner.write(bytes)?;
        self.watch
            .progress
            .advance(u64::try_from(written).unwrap_or(0));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Seek> Seek for Watched<'_, W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

fn stop_if(interrupted: &watch::Receiver<bool>) -> io::Result<()> {
    if *interrupted.borrow() {
        return Err(io::Error::other("Interrupted by the user"));
    }
    Ok(())
}
