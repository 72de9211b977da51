//! The files behind a VM's own disks: the config, written anew for every launch, and the layer that keeps what the guest writes.

use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use fledge::image::{WriteError, ext4};
use fledge::tree::Tree;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use super::{MediaError, rootfs};

/// The name of the config disk in a VM's state folder.
const CONFIG_FILE: &str = "config.img";

/// The name of the writable disk in a VM's state folder. It is there from the first launch to the VM's removal.
const WRITABLE_FILE: &str = "writable.ext4";

/// The same while it is being made.
const UNFINISHED_FILE: &str = "writable.ext4.partial";

/// The size of a writable disk in MiB where the manifest does not say. The file is sparse: it takes what the guest has written.
pub const DEFAULT_WRITABLE_MB: u32 = 1024;

/// Only volantd and the VMM may read either: one holds the VM's secret, the other whatever its workload keeps.
const MODE: u32 = 0o600;

/// Writes the config disk; an old one is replaced.
pub(super) fn write_config(state_dir: &Path, content: &[u8]) -> Result<PathBuf, MediaError> {
    let path = state_dir.join(CONFIG_FILE);
    let written = remove_if_there(&path).and_then(|()| create(&path)?.write_all(content));
    match written {
        Ok(()) => Ok(path),
        Err(source) => {
            // Half a file is of no use to anybody.
            drop(fs_err::remove_file(&path));
            Err(MediaError::Write { path, source })
        }
    }
}

/// The writable disk, made if it is not there. What is on it is only looked at for what could deceive a VMM.
pub(super) fn ensure_writable(
    state_dir: &Path,
    size_mb: Option<u32>,
) -> Result<PathBuf, MediaError> {
    let path = state_dir.join(WRITABLE_FILE);
    if fs_err::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
        return match rootfs::container(&path) {
            Ok(None) => Ok(path),
            Ok(Some(format)) => Err(MediaError::Disguised { path, format }),
            Err(source) => Err(MediaError::Write { path, source }),
        };
    }
    let unfinished = state_dir.join(UNFINISHED_FILE);
    let size_mb = size_mb.unwrap_or(DEFAULT_WRITABLE_MB);
    // The name appears only when the whole file system is on the disk: it is to outlive a crash of the host.
    let made = remove_if_there(&unfinished)
        .and_then(|()| create(&unfinished))
        .and_then(|file| format_writable(file, size_mb))
        .and_then(|()| fs_err::rename(&unfinished, &path));
    match made {
        Ok(()) => Ok(path),
        Err(source) => {
            drop(fs_err::remove_file(&unfinished));
            Err(MediaError::Write { path, source })
        }
    }
}

/// Makes an empty file system of `size_mb`.
fn format_writable(file: fs_err::File, size_mb: u32) -> io::Result<()> {
    let options = ext4::Options {
        // Nobody sees when an empty file system was made, and all of one size are the same.
        time_s: 0,
        size: ext4::Size::Total(u64::from(size_mb) * 1024 * 1024),
        // A guest can end at any moment, and what it wrote is to be whole then.
        journal: true,
    };
    let written = ext4::write(&Tree::default(), &options, BufWriter::new(file)).map_err(
        |error| match error {
            WriteError::Output(source) => source,
            other => io::Error::other(other),
        },
    )?;
    let file = written
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

/// Removes what only one launch needs. The writable disk stays.
pub(super) fn remove_config(state_dir: &Path) -> Result<(), MediaError> {
    for name in [CONFIG_FILE, UNFINISHED_FILE] {
        let path = state_dir.join(name);
        if let Err(source) = remove_if_there(&path) {
            return Err(MediaError::Remove { path, source });
        }
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<fs_err::File> {
    fs_err::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
}

/// Removes a file; none there is fine.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
