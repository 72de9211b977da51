//! Packs the image into a file that is not in its place yet. Replaces nothing before all is done.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use common::build_spec::{Filesystem, FilesystemKind, Output};
use common::digest::Digest;
use tokio::sync::watch;

use super::{BuildError, Settings};
use crate::commands::staged::{PUBLIC_MODE, Staged};
use crate::image::hashed::Hashed;
use crate::image::{WriteError, compression, erofs, ext4, initramfs, squashfs};
use crate::plan::Plan;
use crate::tree::Tree;
use crate::ui::{Progress, Ui};

/// How much is hashed at once, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// A packed image.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) file: Staged,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
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
    let mut staged = Staged::begin(path, PUBLIC_MODE).map_err(|source| failed(path, source))?;
    let progress = ui.packing(tree.content_bytes());
    let watch = Watch {
        progress: &progress,
        interrupted,
    };
    let packed = match plan.output {
        Output::Initramfs { compression } => {
            let hashed = Hashed::new(staged.file());
            let packed = compression::compress(hashed, compression, settings.threads, |input| {
                initramfs::write(tree, watch.over(input)).map(drop)
            });
            packed.map(Hashed::finish).map(|(_, digest)| digest)
        }
        Output::Rootfs(Filesystem { kind, .. }) => {
            pack_filesystem(tree, kind, settings, staged.file(), watch)
        }
    };
    progress.finish();
    let digest = packed.map_err(|source| match source {
        _ if *interrupted.borrow() => BuildError::Interrupted,
        WriteError::Output(source) => failed(path, source),
        source => BuildError::Pack(source),
    })?;
    let metadata = staged.file().metadata();
    let size_bytes = metadata.map_err(|source| failed(path, source))?.len();
    preallocate(plan, &mut staged, size_bytes)?;
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
fn preallocate(plan: &Plan, staged: &mut Staged, size_bytes: u64) -> Result<(), BuildError> {
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
        &*staged.file(),
        nix::fcntl::FallocateFlags::empty(),
        0,
        length,
    )
    .map_err(|error| failed(staged.path(), error.into()))
}

/// The digest of all that is in `file`.
pub(super) fn digest_of(
    file: &mut (impl Read + Seek),
    interrupted: &watch::Receiver<bool>,
) -> io::Result<Digest> {
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
    Staged::holding(path, PUBLIC_MODE, bytes).map_err(|source| failed(path, source))
}

/// Moves the file to its place, over what was there.
pub(super) fn publish(staged: Staged) -> Result<PathBuf, BuildError> {
    let path = staged.path().to_path_buf();
    staged.replace().map_err(|source| failed(&path, source))
}

fn failed(path: &Path, source: io::Error) -> BuildError {
    BuildError::Output {
        path: path.to_path_buf(),
        source,
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
