//! What only one guest may know, as JSON and as the second archive of its initramfs. Written anew for every launch.

use std::io::{self, Write as _};
use std::path::Path;

use common::build_spec::GuestPath;
use common::guest_config::{GUEST_CONFIG_PATH, GuestConfig, MAX_GUEST_CONFIG_BYTES};
use fledge::image::initramfs;
use fledge::tree::{Content, Node, Origin, Tree};
use fs_err::os::unix::fs::OpenOptionsExt as _;

use super::MediaError;
use super::disks::remove_if_there;
use crate::machine::ports::Launch;

/// Only root in the guest may look into the folder of the file.
const FOLDER_PERMISSIONS: u32 = 0o700;

/// Only root in the guest may read the file, until the agent removes it.
const FILE_PERMISSIONS: u32 = 0o600;

/// On the host only volantd and the VMM may read the initramfs: it holds the VM's secret.
const INITRAMFS_MODE: u32 = 0o600;

/// Where an archive may begin: Linux wants a multiple of 4 (init/initramfs.c), cpio(1) fills up to 512.
const ALIGNMENT_BYTES: u64 = 512;

/// The guest config for `launch`; with the manifest where the command line has no room for it.
pub(super) fn config(
    launch: &Launch,
    cmdline_carries_manifest: bool,
) -> Result<Vec<u8>, MediaError> {
    let mut manifest = launch.manifest.clone();
    // The environment is there once: in the member of its own.
    let env = std::mem::take(&mut manifest.workload.env);
    let config = GuestConfig {
        secret: launch.secret.clone(),
        env,
        manifest: (!cmdline_carries_manifest).then_some(manifest),
    };
    let json =
        serde_json::to_vec(&config).map_err(|error| MediaError::GuestArchive(Box::new(error)))?;
    if json.len() > MAX_GUEST_CONFIG_BYTES {
        return Err(MediaError::GuestConfig { bytes: json.len() });
    }
    Ok(json)
}

/// The archive that holds a guest config.
pub(super) fn archive(json: Vec<u8>) -> Result<Vec<u8>, MediaError> {
    render(json).map_err(MediaError::GuestArchive)
}

fn render(json: Vec<u8>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let file: GuestPath = GUEST_CONFIG_PATH.parse()?;
    let mut tree = Tree::default();
    if let Some((folder, _)) = GUEST_CONFIG_PATH.rsplit_once('/') {
        let folder = folder.parse()?;
        tree.insert(&folder, Node::directory(FOLDER_PERMISSIONS), Origin::Boot)?;
    }
    let node = Node::file(FILE_PERMISSIONS, Content::Bytes(json));
    tree.insert(&file, node, Origin::Boot)?;
    Ok(initramfs::write(&tree, Vec::new())?)
}

/// Writes `target`: the image `base` and behind it `tail`. An old file of this name is replaced.
pub(super) fn append(base: &Path, tail: &[u8], target: &Path) -> io::Result<()> {
    remove_if_there(target)?;
    let image = fs_err::File::open(base)?;
    let initramfs = fs_err::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(INITRAMFS_MODE)
        .open(target)?;
    // The standard library copies plain files with copy_file_range(2), which shares blocks where the file system can. It does not
    // recognise wrapped files.
    let (mut image, mut initramfs) = (image.into_file(), initramfs.into_file());
    let copied = io::copy(&mut image, &mut initramfs)?;
    let gap = copied.next_multiple_of(ALIGNMENT_BYTES) - copied;
    initramfs.write_all(&vec![0; usize::try_from(gap).unwrap_or(0)])?;
    // Not synced: after a crash of the host the VM is gone, and the next launch writes it anew.
    initramfs.write_all(tail)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use fledge::image::cpio::{Limits, ReadError, read_entries};

    use super::*;

    #[test]
    fn both_archives_are_read_as_one() {
        let temp = tempfile::tempdir().unwrap();
        let (base, target) = (temp.path().join("base"), temp.path().join("target"));
        let mut tree = Tree::default();
        let init = Node::file(0o755, Content::Bytes(b"x".to_vec()));
        tree.replace(b"init", init).unwrap();
        let mut first = initramfs::write(&tree, Vec::new()).unwrap();
        // As archives of others may end: at no boundary at all.
        first.truncate(first.len() - 5);
        fs_err::write(&base, &first).unwrap();
        fs_err::write(&target, "an old file").unwrap();
        append(&base, &archive(b"{}".to_vec()).unwrap(), &target).unwrap();

        let mut found = Vec::new();
        let written = fs_err::read(&target).unwrap();
        read_entries(&written[..], &Limits::default(), |entry, _| {
            found.push((
                String::from_utf8(entry.path.clone()).unwrap(),
                entry.permissions,
            ));
            Ok::<_, ReadError>(())
        })
        .unwrap();
        let names: Vec<(&str, u32)> = found
            .iter()
            .map(|(path, mode)| (path.as_str(), *mode))
            .collect();
        assert_eq!(
            names,
            [
                ("init", 0o755),
                (".volant", 0o700),
                (".volant/config.json", 0o600)
            ]
        );
        assert_eq!(
            fs_err::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
