//! Boot media from an installed plugin: what the VMM is given, what is refused, and that nothing is left.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use common::digest::Digest;
use common::guest_config::{GuestConfig, from_disk};
use common::manifest::{ArtifactKind, RootfsFormat};
use fledge::image::cpio::{Limits, ReadError, read_entries};
use volantd::artifact::ArtifactError;
use volantd::machine::ports::{DiskAccess, ExtraDisk, Launch, Media as _};
use volantd::media::DEFAULT_WRITABLE_MB;
use volantd::signature::Signatures;

use crate::stores::{INITRAMFS, Stores, archive, erofs, kernel, launch};

struct Place {
    temp: tempfile::TempDir,
    stores: Stores,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs_err::create_dir(temp.path().join("vm")).unwrap();
        let stores = Stores::open(temp.path(), Signatures::default());
        Self { temp, stores }
    }

    async fn install(&self, artifact: &[u8]) -> Result<Digest, ArtifactError> {
        self.install_as(ArtifactKind::Initramfs, artifact).await
    }

    async fn install_as(
        &self,
        kind: ArtifactKind,
        artifact: &[u8],
    ) -> Result<Digest, ArtifactError> {
        let file = self.temp.path().join("plugin.cpio");
        fs_err::write(&file, artifact).unwrap();
        self.stores.install(file, None, kind).await
    }

    fn launch(&self, artifact: Digest) -> Launch {
        launch(self.temp.path().join("vm"), artifact, INITRAMFS)
    }

    /// A launch of a root file system; `member` is more of the manifest's `rootfs`.
    fn rootfs_launch(&self, artifact: Digest, member: &str) -> Launch {
        let image = format!(r#""rootfs":{{"url":"/x"{member}}}"#);
        with_token(launch(self.temp.path().join("vm"), artifact, &image))
    }

    fn vm_file(&self, name: &str) -> PathBuf {
        self.temp.path().join("vm").join(name)
    }

    fn vm_files(&self) -> usize {
        fs_err::read_dir(self.temp.path().join("vm"))
            .unwrap()
            .count()
    }
}

/// With a variable that must not be on the kernel's command line.
fn with_token(mut launch: Launch) -> Launch {
    launch.manifest.workload.env = BTreeMap::from([("TOKEN".to_owned(), "hidden".to_owned())]);
    launch
}

/// The guest config of an initramfs.
fn config_of(initramfs: &[u8]) -> GuestConfig {
    let mut found = None;
    read_entries(initramfs, &Limits::default(), |entry, content| {
        if entry.path == b".volant/config.json" {
            let mut json = Vec::new();
            content.read_to_end(&mut json).map_err(ReadError::Input)?;
            found = Some(serde_json::from_slice(&json).unwrap());
        }
        Ok::<_, ReadError>(())
    })
    .unwrap();
    found.unwrap()
}

#[tokio::test]
async fn a_launch_gets_its_own_initramfs() {
    let place = Place::new();
    let digest = place.install(&archive()).await.unwrap();
    let launch = with_token(place.launch(digest));
    // A restart finds the file of the launch before.
    for _ in 0..2 {
        let media = place.stores.media.prepare(&launch).await.unwrap();
        assert_eq!(media.kernel, place.temp.path().join("vmlinux"));
        assert!(
            media
                .cmdline
                .contains(" ip=192.168.127.10::192.168.127.1:255.255.255.0:web:eth0:off "),
            "{}",
            media.cmdline
        );
        assert!(media.cmdline.contains(" volant.manifest="));
        let written = fs_err::read(media.initramfs.unwrap()).unwrap();
        assert_eq!(
            &written[..archive().len()],
            archive(),
            "the image is not touched"
        );
        let config = config_of(&written);
        assert_eq!(config.secret, launch.secret);
        assert_eq!(config.env["TOKEN"], "hidden");
        assert_eq!(config.manifest, None, "the command line has it");
    }
    for _ in 0..2 {
        place.stores.media.discard(&launch.paths).await.unwrap();
        assert_eq!(place.vm_files(), 0);
    }
}

#[tokio::test]
async fn a_manifest_without_room_on_the_command_line_travels_in_the_file() {
    let place = Place::new();
    let mut launch = place.launch(place.install(&archive()).await.unwrap());
    // Digests do not compress, so they are long on the line as well.
    let words = (0..100_u32).map(|number| Digest::of(&number.to_le_bytes()).to_hex());
    launch.manifest.workload.entrypoint.extend(words);
    let media = place.stores.media.prepare(&launch).await.unwrap();
    assert!(!media.cmdline.contains("volant.manifest="));
    let config = config_of(&fs_err::read(media.initramfs.unwrap()).unwrap());
    assert_eq!(config.manifest, Some(launch.manifest));
}

#[tokio::test]
async fn refusals_say_what_to_do_and_leave_nothing() {
    let place = Place::new();
    let digest = place.install(&archive()).await.unwrap();

    let mut small = place.launch(digest);
    small.memory_mib = 16;
    let refused = place.stores.media.prepare(&small).await.unwrap_err();
    assert!(
        refused.message.contains("needs at least 48 MiB"),
        "{}",
        refused.message
    );
    assert_eq!(refused.hints, ["Give the VM more memory: `--memory 48`"]);
    assert!(place.stores.media.check_memory(&digest, 16).is_err());
    assert!(place.stores.media.check_memory(&digest, 48).is_ok());

    let mut long = place.launch(digest);
    long.extra_cmdline = "x".repeat(3000);
    let refused = place.stores.media.prepare(&long).await.unwrap_err();
    assert!(
        refused.message.contains("the kernel reads 2047"),
        "{}",
        refused.message
    );

    let mut heavy = place.launch(digest);
    heavy.manifest.workload.env = BTreeMap::from([("X".to_owned(), "y".repeat(2_000_000))]);
    let refused = place.stores.media.prepare(&heavy).await.unwrap_err();
    assert!(
        refused.message.contains("a guest reads at most 1048576"),
        "{}",
        refused.message
    );

    let unknown = place.launch(Digest::of(b"never installed"));
    let refused = place.stores.media.prepare(&unknown).await.unwrap_err();
    assert!(
        refused.message.contains("is not in the store"),
        "{}",
        refused.message
    );
    assert!(refused.hints[0].contains("volar plugins install"));

    let mut nowhere = place.launch(digest);
    nowhere.paths.state_dir = PathBuf::from("/nonexistent");
    let refused = place.stores.media.prepare(&nowhere).await.unwrap_err();
    assert!(
        refused.message.contains("/nonexistent/initramfs.cpio"),
        "{}",
        refused.message
    );

    place.stores.media.check_kernel().unwrap();
    fs_err::remove_file(place.temp.path().join("vmlinux")).unwrap();
    let refused = place
        .stores
        .media
        .prepare(&place.launch(digest))
        .await
        .unwrap_err();
    assert!(
        refused.message.contains("vmlinux` is missing"),
        "{}",
        refused.message
    );
    assert!(refused.hints[0].contains("cargo xtask kernel"));
    assert_eq!(place.vm_files(), 0);
}

#[tokio::test]
async fn a_bad_artifact_is_neither_stored_nor_prepared() {
    let place = Place::new();
    let refused = place.install(b"not an archive").await.unwrap_err();
    assert!(
        matches!(refused, ArtifactError::NotBootable { .. }),
        "{refused:?}"
    );
    assert!(place.stores.artifacts.list().unwrap().is_empty());
    assert_eq!(
        place.stores.media.collect_garbage(&HashSet::new()).unwrap(),
        []
    );
}

#[tokio::test]
async fn an_image_that_was_removed_is_made_again() {
    let place = Place::new();
    let digest = place.install(&archive()).await.unwrap();
    assert_eq!(
        place
            .stores
            .media
            .collect_garbage(&HashSet::from([digest]))
            .unwrap(),
        []
    );
    assert_eq!(
        place.stores.media.collect_garbage(&HashSet::new()).unwrap(),
        [digest]
    );
    place
        .stores
        .media
        .prepare(&place.launch(digest))
        .await
        .unwrap();
}

const ROOTFS: ArtifactKind = ArtifactKind::Rootfs(None);

#[tokio::test]
async fn a_root_file_system_boots_from_the_store_with_disks_beside_it() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let place = Place::new();
    let digest = place.install_as(ROOTFS, &erofs()).await.unwrap();
    let launch = place.rootfs_launch(digest, r#","writable_mb":32"#);
    for round in 0..2 {
        let media = place.stores.media.prepare(&launch).await.unwrap();
        assert_eq!(media.initramfs, None);
        let line = format!(" {} ", media.cmdline);
        assert!(line.contains(" root=/dev/vda ro rootfstype=erofs init=/bin/kestrel volant.config=/dev/vdb volant.writable=/dev/vdc "), "{line}");
        assert!(!line.contains("hidden"));
        let access: Vec<DiskAccess> = media.disks.iter().map(|disk| disk.access).collect();
        let expected = [
            DiskAccess::ReadOnly,
            DiskAccess::ReadOnly,
            DiskAccess::ReadWrite,
        ];
        assert_eq!(access, expected);
        // The artifact itself, and no copy of it.
        let stored = place.stores.artifacts.get(&digest).unwrap().unwrap();
        assert_eq!(media.disks[0].path, stored.path);
        let config = fs_err::read(&media.disks[1].path).unwrap();
        assert_eq!(config.len() % 4096, 0);
        let config: GuestConfig = serde_json::from_slice(from_disk(&config)).unwrap();
        assert_eq!(config.secret, launch.secret);
        assert_eq!(config.env["TOKEN"], "hidden");
        let writable = fs_err::metadata(&media.disks[2].path).unwrap();
        assert_eq!(writable.len(), 32 << 20);
        assert!(writable.blocks() * 512 < 4 << 20, "it is sparse");
        for disk in &media.disks[1..] {
            let mode = fs_err::metadata(&disk.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", disk.path.display());
        }
        // What a guest wrote is there at the next launch.
        let mut disk = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&media.disks[2].path)
            .unwrap();
        let mut first = [0];
        std::io::Read::read_exact(&mut disk, &mut first).unwrap();
        assert_eq!(first[0], round);
        std::io::Seek::rewind(&mut disk).unwrap();
        std::io::Write::write_all(&mut disk, &[1]).unwrap();
        for _ in 0..2 {
            place.stores.media.discard(&launch.paths).await.unwrap();
            assert_eq!(place.vm_files(), 1);
        }
        assert!(place.vm_file("writable.ext4").is_file());
    }
    assert!(place.stores.media.check_memory(&digest, 1).is_ok());
}

#[tokio::test]
async fn the_writable_disk_is_a_good_file_system() {
    let place = Place::new();
    let digest = place.install_as(ROOTFS, &erofs()).await.unwrap();
    let media = place
        .stores
        .media
        .prepare(&place.rootfs_launch(digest, ""))
        .await
        .unwrap();
    let path = &media.disks[2].path;
    assert_eq!(
        fs_err::metadata(path).unwrap().len(),
        u64::from(DEFAULT_WRITABLE_MB) << 20
    );
    match std::process::Command::new("e2fsck")
        .arg("-fn")
        .arg(path)
        .output()
    {
        Ok(checked) => assert!(checked.status.success(), "{checked:?}"),
        Err(error) => println!("SKIPPED: the disk is not checked by e2fsck: {error}"),
    }
}

#[tokio::test]
async fn an_ephemeral_guest_has_no_disk_to_write_on() {
    let place = Place::new();
    let digest = place.install_as(ROOTFS, &erofs()).await.unwrap();
    let launch = place.rootfs_launch(digest, r#","ephemeral":true,"writable_mb":64"#);
    let media = place.stores.media.prepare(&launch).await.unwrap();
    assert_eq!(media.disks.len(), 2);
    assert!(media.cmdline.contains(" volant.writable=tmpfs:64 "));
    place.stores.media.discard(&launch.paths).await.unwrap();
    assert_eq!(place.vm_files(), 0);
}

#[tokio::test]
async fn bad_root_file_systems_and_disks_are_refused() {
    let place = Place::new();
    let table = [
        (
            ROOTFS,
            archive(),
            "is a cpio archive, which an `initramfs` is",
        ),
        (
            ArtifactKind::Rootfs(Some(RootfsFormat::Ext4)),
            erofs(),
            "holds erofs, and the manifest's `rootfs.format` says ext4",
        ),
        (ArtifactKind::Initramfs, erofs(), "neither a cpio archive"),
    ];
    for (kind, artifact, sentence) in table {
        let refused = place.install_as(kind, &artifact).await.unwrap_err();
        assert!(refused.to_string().contains(sentence), "{refused}");
        assert!(!refused.hints().is_empty());
    }
    assert!(place.stores.artifacts.list().unwrap().is_empty());

    let digest = place.install_as(ROOTFS, &erofs()).await.unwrap();
    let unknown = place.rootfs_launch(Digest::of(b"never installed"), "");
    let refused = place.stores.media.prepare(&unknown).await.unwrap_err();
    assert!(
        refused.message.contains("is not in the store"),
        "{}",
        refused.message
    );
    let mut nowhere = place.rootfs_launch(digest, "");
    nowhere.paths.state_dir = PathBuf::from("/nonexistent");
    let refused = place.stores.media.prepare(&nowhere).await.unwrap_err();
    assert!(
        refused.message.contains("/nonexistent/writable.ext4"),
        "{}",
        refused.message
    );
    assert_eq!(place.vm_files(), 0);

    // A half made disk of an interrupted launch is no disk.
    let launch = place.rootfs_launch(digest, "");
    fs_err::write(place.vm_file("writable.ext4.partial"), "x").unwrap();
    place.stores.media.prepare(&launch).await.unwrap();
    // A guest that makes its disk look like a container of other files does not get to see them.
    let mut disk = fs_err::read(place.vm_file("writable.ext4")).unwrap();
    disk.truncate(4096);
    disk[..4].copy_from_slice(b"QFI\xfb");
    fs_err::write(place.vm_file("writable.ext4"), disk).unwrap();
    let refused = place.stores.media.prepare(&launch).await.unwrap_err();
    assert!(
        refused
            .message
            .contains("made into a qcow2 image by its guest"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn a_vm_can_have_its_own_kernel_and_further_disks() {
    let place = Place::new();
    let digest = place.install(&archive()).await.unwrap();
    let (kernels, disks) = (
        place.temp.path().join("kernels"),
        place.temp.path().join("disks"),
    );
    for folder in [&kernels, &disks] {
        fs_err::create_dir(folder).unwrap();
    }
    fs_err::write(kernels.join("own"), kernel()).unwrap();
    fs_err::write(disks.join("data"), [0; 1024]).unwrap();
    let extra = |path: PathBuf| ExtraDisk {
        name: "data".parse().unwrap(),
        path,
        access: DiskAccess::ReadOnly,
    };
    let launch = Launch {
        kernel: Some(kernels.join("own")),
        disks: vec![extra(disks.join("data"))],
        ..place.launch(digest)
    };
    let media = place.stores.media.prepare(&launch).await.unwrap();
    assert_eq!(media.kernel, kernels.join("own"));
    assert_eq!(media.disks.len(), 1);
    assert_eq!(media.disks[0].path, disks.join("data"));
    assert_eq!(media.disks[0].serial.as_deref(), Some("data"));

    let elsewhere = place.temp.path().join("vmlinux");
    let refused = [
        Launch {
            kernel: Some(elsewhere.clone()),
            ..place.launch(digest)
        },
        Launch {
            disks: vec![extra(elsewhere)],
            ..place.launch(digest)
        },
    ];
    for launch in refused {
        let error = place.stores.media.prepare(&launch).await.unwrap_err();
        assert!(
            error
                .message
                .contains("is not in a folder that this daemon allows"),
            "{error}"
        );
    }
    let error = place
        .stores
        .media
        .check_other_kernel(&disks.join("data"))
        .unwrap_err();
    assert!(!error.hints().is_empty(), "{error}");
}
