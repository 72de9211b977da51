//! The artifact and media stores of a daemon on a folder, what is installed into them, and launches from them: for tests that stop
//! short of a VMM.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::digest::Digest;
use common::guest_config::Secret;
use common::manifest::{ArtifactKind, Manifest, Source};
use fledge::image::initramfs;
use fledge::tree::{Content, Node, Tree};
use volantd::artifact::{ArtifactConfig, ArtifactError, ArtifactStore};
use volantd::machine::ports::{Launch, Lease, VmPaths};
use volantd::media::{MAX_IMAGE_BYTES, MediaConfig, MediaStore};
use volantd::signature::Signatures;

/// The smallest kernel that passes: an ELF header, one segment with the note of the PVH entry (owner `Xen`, type 18).
pub(crate) fn kernel() -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = 1;
    file[64] = 4;
    file[72] = 120;
    file[96] = 20;
    for number in [4_u32, 4, 18] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0\0\0\0\0");
    file
}

/// The smallest initramfs that passes, not compressed.
pub(crate) fn archive() -> Vec<u8> {
    let init = Node::file(0o755, Content::Bytes(b"#!/bin/hello\n".to_vec()));
    let mut tree = Tree::default();
    tree.replace(b"init", init).unwrap();
    initramfs::write(&tree, Vec::new()).unwrap()
}

/// A file system with a superblock and nothing else: 64 KiB of EROFS.
pub(crate) fn erofs() -> Vec<u8> {
    let mut image = vec![0; 64 * 1024];
    image[1024..1028].copy_from_slice(b"\xe2\xe1\xf5\xe0");
    image[1024 + 12] = 12;
    image[1024 + 36] = 16;
    image
}

/// The stores in the subfolder `state`.
pub(crate) struct Stores {
    pub(crate) media: Arc<MediaStore>,
    pub(crate) artifacts: ArtifactStore,
}

impl Stores {
    /// Opens them, or makes them, and a kernel called `vmlinux` beside them.
    pub(crate) fn open(folder: &Path, signatures: Signatures) -> Self {
        let (state_dir, kernel_path) = (folder.join("state"), folder.join("vmlinux"));
        fs_err::write(&kernel_path, kernel()).unwrap();
        let signatures = Arc::new(signatures);
        let media = MediaConfig {
            state_dir: state_dir.clone(),
            kernel: kernel_path,
            kernel_dirs: vec![folder.join("kernels")],
            disk_dirs: vec![folder.join("disks")],
            subnet: "192.168.127.0/24".parse().unwrap(),
            host_ip: "192.168.127.1".parse().unwrap(),
            max_image_bytes: MAX_IMAGE_BYTES,
        };
        let media = Arc::new(MediaStore::open_with(media, Arc::clone(&signatures)).unwrap());
        let config = ArtifactConfig {
            state_dir,
            max_bytes: 100_000_000,
        };
        let artifacts = ArtifactStore::open(&config, media.clone()).unwrap();
        Self {
            media,
            artifacts: artifacts.with_signatures(signatures),
        }
    }

    /// Installs a file, which should have a digest if one is given.
    pub(crate) async fn install(
        &self,
        file: PathBuf,
        checksum: Option<Digest>,
        kind: ArtifactKind,
    ) -> Result<Digest, ArtifactError> {
        let source = Source::File(file);
        let fetch = self
            .artifacts
            .fetch(&source, checksum, kind, Arc::new(|_| {}));
        Ok(fetch.await?.digest)
    }
}

/// A launch of a VM whose files are in `vm_folder`. `image` is the member of its manifest that names the image.
pub(crate) fn launch(vm_folder: PathBuf, artifact: Digest, image: &str) -> Launch {
    let manifest = format!(
        r#"{{"name":"hello","version":"1",{image},
        "workload":{{"type":"exec","entrypoint":["/bin/hello"]}}}}"#
    );
    Launch {
        vm: "web".parse().unwrap(),
        instance: "instance".to_owned(),
        cpu_cores: 1,
        memory_mib: 128,
        lease: Lease {
            ip: "192.168.127.10".parse().unwrap(),
            mac: "02:f9:e8:54:fb:c4".to_owned(),
            tap: "vttap-web".to_owned(),
            cid: 3,
        },
        manifest: Manifest::from_json(manifest.as_bytes()).unwrap(),
        artifact,
        kernel: None,
        disks: Vec::new(),
        extra_cmdline: String::new(),
        api: None,
        secret: Secret::from_random([7; 32]),
        paths: VmPaths {
            state_dir: vm_folder,
            run_dir: PathBuf::from("/nonexistent"),
        },
    }
}

/// The `image` of a [`launch`] of an initramfs.
pub(crate) const INITRAMFS: &str = r#""initramfs":{"url":"/x"}"#;
