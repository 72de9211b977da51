//! Files of the host that a user may name for a VM: they lie in folders that the daemon's configuration allows. Opens nothing but to look
//! at a disk's beginning and end.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::rootfs;
use crate::machine::ports::{Disk, ExtraDisk};

/// The smallest unit of a disk (virtio 1.2, 5.2).
const SECTOR_BYTES: u64 = 512;

/// A file that a VM is not given.
#[derive(Debug, thiserror::Error)]
pub enum AllowedError {
    /// It lies elsewhere.
    #[error(
        "`{}` is not in a folder that this daemon allows ({})",
        path.display(),
        folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Outside {
        /// The path as it was given.
        path: PathBuf,
        /// The folders.
        folders: Vec<PathBuf>,
    },
    /// It is not there, or cannot be looked at.
    #[error("Cannot find `{}`", path.display())]
    Find {
        /// The path as it was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no plain disk.
    #[error("`{}` cannot be a disk: {why}", path.display())]
    NotADisk {
        /// The path as it was given.
        path: PathBuf,
        /// A clause.
        why: String,
    },
}

/// The file itself, with all links followed, if it lies in one of the folders. What lies elsewhere is not told apart from what does not
/// exist.
pub(super) fn find(path: &Path, folders: &[PathBuf]) -> Result<PathBuf, AllowedError> {
    let outside = || AllowedError::Outside {
        path: path.to_path_buf(),
        folders: folders.to_vec(),
    };
    let plain = path.is_absolute()
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || !folders.iter().any(|folder| path.starts_with(folder)) {
        return Err(outside());
    }
    let failed = |source| AllowedError::Find {
        path: path.to_path_buf(),
        source,
    };
    let found = fs_err::canonicalize(path).map_err(failed)?;
    let mut real = folders
        .iter()
        .filter_map(|folder| fs_err::canonicalize(folder).ok());
    if real.any(|folder| found.starts_with(&folder)) {
        Ok(found)
    } else {
        Err(outside())
    }
}

/// As [`find`], for a file that a guest is given as a disk: a plain image in whole sectors.
pub(super) fn find_disk(path: &Path, folders: &[PathBuf]) -> Result<PathBuf, AllowedError> {
    let found = find(path, folders)?;
    let failed = |source| AllowedError::Find {
        path: path.to_path_buf(),
        source,
    };
    let refused = |why: &str| AllowedError::NotADisk {
        path: path.to_path_buf(),
        why: why.to_owned(),
    };
    let metadata = fs_err::metadata(&found).map_err(failed)?;
    if !metadata.is_file() {
        return Err(refused("it is not a regular file"));
    }
    if metadata.len() == 0 || !metadata.len().is_multiple_of(SECTOR_BYTES) {
        return Err(refused("its size is not a multiple of 512 bytes"));
    }
    match rootfs::container(&found).map_err(failed)? {
        // A guest would see the container's own bytes, and a VMM could be deceived by them.
        Some(format) => Err(refused(&format!("it is {format}, not a plain image"))),
        None => Ok(found),
    }
}

/// The disks that a VM's user gave to it.
pub(super) fn extra_disks(
    disks: &[ExtraDisk],
    folders: &[PathBuf],
) -> Result<Vec<Disk>, AllowedError> {
    let found = disks.iter().map(|disk| {
        Ok(Disk {
            path: find_disk(&disk.path, folders)?,
            access: disk.access,
            serial: Some(disk.name.to_string()),
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_in_allowed_folders_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let root = fs_err::canonicalize(temp.path()).unwrap();
        let (inside, outside) = (root.join("in"), root.join("out"));
        for folder in [&inside, &outside] {
            fs_err::create_dir(folder).unwrap();
            fs_err::write(folder.join("a"), [7; 1024]).unwrap();
        }
        symlink(outside.join("a"), inside.join("escape")).unwrap();
        symlink(inside.join("a"), inside.join("alias")).unwrap();
        let folders = [inside.clone()];
        assert_eq!(find(&inside.join("a"), &folders).unwrap(), inside.join("a"));
        assert_eq!(
            find(&inside.join("alias"), &folders).unwrap(),
            inside.join("a")
        );
        for bad in [
            outside.join("a"),
            outside.join("none"),
            inside.join("escape"),
            inside.join("../out/a"),
            PathBuf::from("a"),
        ] {
            let error = find(&bad, &folders).unwrap_err();
            assert!(matches!(error, AllowedError::Outside { .. }), "{error}");
        }
        let error = find(&inside.join("none"), &folders).unwrap_err();
        assert!(matches!(error, AllowedError::Find { .. }), "{error}");
    }

    #[test]
    fn a_disk_is_a_plain_image() {
        let temp = tempfile::tempdir().unwrap();
        let folder = fs_err::canonicalize(temp.path()).unwrap();
        let folders = [folder.clone()];
        let write = |name: &str, content: &[u8]| {
            fs_err::write(folder.join(name), content).unwrap();
            find_disk(&folder.join(name), &folders)
        };
        assert!(write("plain", &[0; 512]).is_ok());
        let mut qcow2 = b"QFI\xfb".to_vec();
        qcow2.resize(1024, 0);
        for (content, why) in [
            (Vec::new(), "multiple of 512"),
            (vec![0; 100], "multiple of 512"),
            (qcow2, "a qcow2 image, not a plain image"),
        ] {
            let error = write("x", &content).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let error = find_disk(&folder.join("."), &folders);
        assert!(error.is_err());
    }
}
