//! Brings one file from its source into an unfinished file of the store. Compares no digests and knows no formats.

use std::io::{self, Read as _};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::digest::Digest;
use common::manifest::Source;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use super::error::shown_source;
use super::folder::{Folder, Partial};
use super::{ArtifactError, OnProgress, Progress, blocking, http};

/// How much of a local file is read at once, in bytes: large enough that the system calls do not count.
const COPY_BYTES: usize = 256 * 1024;

/// A file that is whole and on the disk, but has no name in the store yet.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) partial: Partial,
    pub(super) digest: Digest,
}

/// Fetches `source`, with all attempts within `limit`.
pub(super) async fn fetch(
    folder: &Arc<Folder>,
    source: &Source,
    limit: Duration,
    on_progress: OnProgress,
) -> Result<Arrived, ArtifactError> {
    let from = shown_source(source);
    let timed_out = ArtifactError::TimedOut {
        from: from.clone(),
        limit,
    };
    let work = async {
        match source {
            Source::File(path) => copy(folder, path, from, on_progress).await,
            Source::Http(url) => {
                http::download(folder, &http::Request { url, from }, &on_progress).await
            }
        }
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(timed_out))
}

/// Tells a thread that nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn copy(
    folder: &Arc<Folder>,
    path: &Path,
    from: String,
    on_progress: OnProgress,
) -> Result<Arrived, ArtifactError> {
    let stopped = Arc::new(AtomicBool::new(false));
    let _stop = StopOnDrop(Arc::clone(&stopped));
    let (folder, path) = (Arc::clone(folder), path.to_path_buf());
    blocking(move || {
        copy_blocking(&folder, &path, from, |progress| {
            on_progress(progress);
            !stopped.load(Ordering::Relaxed)
        })
    })
    .await
}

fn copy_blocking(
    folder: &Folder,
    path: &Path,
    from: String,
    mut goes_on: impl FnMut(Progress) -> bool,
) -> Result<Arrived, ArtifactError> {
    let failed = |source| ArtifactError::Read {
        path: path.to_path_buf(),
        source,
    };
    let mut file = open_regular(path)?;
    let total_bytes = file.metadata().map_err(failed)?.len();
    if total_bytes > folder.max_bytes() {
        return Err(ArtifactError::TooLarge {
            from,
            limit_bytes: folder.max_bytes(),
        });
    }
    let mut writer = folder.begin(from)?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        writer.write(&buffer[..count])?;
        if !goes_on(Progress {
            received_bytes: writer.bytes(),
            total_bytes: Some(total_bytes),
        }) {
            return Err(failed(io::ErrorKind::Interrupted.into()));
        }
    }
    let (partial, digest) = writer.finish()?;
    Ok(Arrived { partial, digest })
}

/// Opens a regular file, or a link to one. Looks before it opens, because opening some devices does something, and without
/// waiting, because a pipe may have taken the file's place since.
fn open_regular(path: &Path) -> Result<fs_err::File, ArtifactError> {
    let failed = |source| ArtifactError::Read {
        path: path.to_path_buf(),
        source,
    };
    let not_a_file = || ArtifactError::NotAFile {
        path: path.to_path_buf(),
    };
    if !fs_err::metadata(path).map_err(failed)?.is_file() {
        return Err(not_a_file());
    }
    let file = fs_err::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(not_a_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_on(_: Progress) -> bool {
        true
    }

    #[test]
    fn only_regular_files_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("store"), 1000).unwrap();
        let (file, link, pipe) = (
            temp.path().join("file"),
            temp.path().join("link"),
            temp.path().join("pipe"),
        );
        fs_err::write(&file, "hello").unwrap();
        fs_err::os::unix::fs::symlink(&file, &link).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&file, &link] {
            let arrived = copy_blocking(&folder, path, String::new(), go_on).unwrap();
            assert_eq!(arrived.digest, Digest::of(b"hello"));
        }
        for path in [&pipe, temp.path(), Path::new("/dev/zero")] {
            let refused = copy_blocking(&folder, path, String::new(), go_on).unwrap_err();
            assert!(
                matches!(refused, ArtifactError::NotAFile { .. }),
                "{refused:?}"
            );
        }
        let missing =
            copy_blocking(&folder, &temp.path().join("none"), String::new(), go_on).unwrap_err();
        assert!(matches!(missing, ArtifactError::Read { .. }), "{missing:?}");
        assert!(!missing.hints().is_empty());
    }

    #[test]
    fn a_copy_that_nobody_waits_for_ends() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("store"), u64::MAX).unwrap();
        let file = temp.path().join("file");
        fs_err::write(&file, vec![7; COPY_BYTES * 3]).unwrap();
        let mut calls = 0;
        let ended = copy_blocking(&folder, &file, String::new(), |_| {
            calls += 1;
            false
        });
        assert!(ended.is_err());
        assert_eq!(calls, 1);
    }

    #[test]
    fn a_file_over_the_limit_is_not_even_begun() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("store"), 4).unwrap();
        let file = temp.path().join("file");
        fs_err::write(&file, "hello").unwrap();
        let refused = copy_blocking(&folder, &file, "x".to_owned(), go_on).unwrap_err();
        assert!(
            matches!(refused, ArtifactError::TooLarge { limit_bytes: 4, .. }),
            "{refused:?}"
        );
    }
}
