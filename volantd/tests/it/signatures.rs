//! A host that requires signatures: what it takes in, and what it still boots when something changes on its disk.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::digest::Digest;
use common::guest_config::Secret;
use common::manifest::{ArtifactKind, Manifest, Source};
use fledge::image::initramfs;
use fledge::tree::{Content, Node, Tree};
use minisign::KeyPair;
use volantd::artifact::{ArtifactConfig, ArtifactError, ArtifactStore};
use volantd::machine::ports::{Launch, Lease, Media as _, VmPaths};
use volantd::media::{MAX_IMAGE_BYTES, MediaConfig, MediaStore};
use volantd::signature::{Policy, Signatures};

/// A state folder, and files to install from.
struct Host {
    temp: tempfile::TempDir,
    keys: KeyPair,
}

/// The stores of a daemon.
struct Daemon {
    media: Arc<MediaStore>,
    artifacts: ArtifactStore,
}

impl Host {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs_err::write(temp.path().join("vmlinux"), super::media::kernel()).unwrap();
        fs_err::create_dir(temp.path().join("vm")).unwrap();
        let keys = KeyPair::generate_unencrypted_keypair().unwrap();
        Self { temp, keys }
    }

    /// Starts a daemon; on its disk is what the one before left.
    fn daemon(&self, policy: Policy) -> Daemon {
        let state_dir = self.temp.path().join("state");
        let key = self.keys.pk.to_base64().parse().unwrap();
        let signatures = Arc::new(Signatures::new(vec![key], policy));
        let media = MediaConfig {
            state_dir: state_dir.clone(),
            kernel: self.temp.path().join("vmlinux"),
            subnet: "192.168.127.0/24".parse().unwrap(),
            host_ip: "192.168.127.1".parse().unwrap(),
            max_image_bytes: MAX_IMAGE_BYTES,
        };
        let media = Arc::new(MediaStore::open_with(media, Arc::clone(&signatures)).unwrap());
        let config = ArtifactConfig {
            state_dir,
            max_bytes: 1_000_000,
        };
        let artifacts = ArtifactStore::open(&config, media.clone()).unwrap();
        Daemon {
            media,
            artifacts: artifacts.with_signatures(signatures),
        }
    }

    fn artifact(&self) -> PathBuf {
        let path = self.temp.path().join("plugin.cpio.gz");
        fs_err::write(&path, artifact()).unwrap();
        path
    }

    /// Puts the signature of `keys` beside the artifact.
    fn sign(&self, keys: &KeyPair) {
        let content = std::io::Cursor::new(artifact());
        let signature = minisign::sign(None, &keys.sk, content, None, None).unwrap();
        let path = self.temp.path().join("plugin.cpio.gz.minisig");
        fs_err::write(path, signature.into_string()).unwrap();
    }

    fn stored(&self, digest: &Digest, suffix: &str) -> PathBuf {
        let name = format!("{}{suffix}", digest.to_hex());
        self.temp.path().join("state/artifacts").join(name)
    }

    fn image(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}.cpio", digest.to_hex());
        self.temp.path().join("state/media").join(name)
    }

    fn launch(&self, artifact: Digest) -> Launch {
        let json = br#"{"name":"hello","version":"1","initramfs":{"url":"/x"},
            "workload":{"type":"exec","entrypoint":["/bin/hello"]}}"#;
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
            manifest: Manifest::from_json(json).unwrap(),
            artifact,
            extra_cmdline: String::new(),
            api: None,
            secret: Secret::from_random([7; 32]),
            paths: VmPaths {
                state_dir: self.temp.path().join("vm"),
                run_dir: PathBuf::from("/nonexistent"),
            },
        }
    }

    /// Prepares a boot, and says why not where it is refused.
    async fn boot(&self, daemon: &Daemon, digest: Digest) -> Result<(), String> {
        let launch = self.launch(digest);
        let prepared = daemon.media.prepare(&launch).await;
        prepared.map(|_| ()).map_err(|error| error.message)
    }
}

async fn install(daemon: &Daemon, path: &Path) -> Result<Digest, ArtifactError> {
    let source = Source::File(path.to_path_buf());
    let kind = ArtifactKind::Initramfs;
    let fetch = daemon.artifacts.fetch(
        &source,
        Some(Digest::of(&artifact())),
        kind,
        Arc::new(|_| {}),
    );
    Ok(fetch.await?.digest)
}

fn archive() -> Vec<u8> {
    let init = Node::file(0o755, Content::Bytes(b"#!/bin/hello\n".to_vec()));
    let mut tree = Tree::default();
    tree.replace(b"init", init).unwrap();
    initramfs::write(&tree, Vec::new()).unwrap()
}

fn artifact() -> Vec<u8> {
    let level = flate2::Compression::default();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(&archive()).unwrap();
    encoder.finish().unwrap()
}

fn reason(error: &ArtifactError) -> String {
    common::error_chain::Chain(error).to_string()
}

#[tokio::test]
async fn only_what_a_trusted_key_signed_is_installed() {
    let host = Host::new();
    let daemon = host.daemon(Policy::Required);
    let path = host.artifact();
    let refused = install(&daemon, &path).await.unwrap_err();
    assert!(
        reason(&refused).contains("It has no signature"),
        "{refused:?}"
    );
    assert!(refused.hints()[0].contains("fledge sign"));
    host.sign(&KeyPair::generate_unencrypted_keypair().unwrap());
    let refused = install(&daemon, &path).await.unwrap_err();
    assert!(
        reason(&refused).contains("It was signed with key"),
        "{refused:?}"
    );
    let signature = host.temp.path().join("plugin.cpio.gz.minisig");
    fs_err::write(&signature, [b'x'; 5000]).unwrap();
    let refused = install(&daemon, &path).await.unwrap_err();
    assert!(
        reason(&refused).contains("not a minisign signature"),
        "{refused:?}"
    );
    assert_eq!(daemon.artifacts.list().unwrap(), []);
    let digest = Digest::of(&artifact());
    assert!(
        !host.image(&digest).exists(),
        "it was looked into before it was trusted"
    );

    host.sign(&host.keys);
    assert_eq!(install(&daemon, &path).await.unwrap(), digest);
    assert!(host.stored(&digest, ".minisig").exists());
    // Installed again, it is enough that it is there.
    fs_err::remove_file(&signature).unwrap();
    install(&daemon, &path).await.unwrap();
    host.boot(&daemon, digest).await.unwrap();
    daemon.artifacts.remove(&digest).unwrap();
    assert!(!host.stored(&digest, ".minisig").exists());
}

#[tokio::test]
async fn what_was_installed_before_does_not_boot_without_a_signature() {
    let host = Host::new();
    let path = host.artifact();
    let daemon = host.daemon(Policy::Optional);
    let digest = install(&daemon, &path).await.unwrap();
    host.boot(&daemon, digest).await.unwrap();
    drop(daemon);

    let daemon = host.daemon(Policy::Required);
    let refused = host.boot(&daemon, digest).await.unwrap_err();
    assert!(
        refused.contains("It has no signature, and this host requires one"),
        "{refused}"
    );
    // Installing it again brings the signature only.
    host.sign(&host.keys);
    install(&daemon, &path).await.unwrap();
    host.boot(&daemon, digest).await.unwrap();
}

#[tokio::test]
async fn a_changed_artifact_does_not_boot() {
    let host = Host::new();
    let daemon = host.daemon(Policy::Required);
    let path = host.artifact();
    host.sign(&host.keys);
    let digest = install(&daemon, &path).await.unwrap();
    let stored = host.stored(&digest, "");
    let mut bytes = fs_err::read(&stored).unwrap();
    bytes[4] ^= 1; // The time in gzip's header: it unpacks to the same.
    fs_err::write(&stored, bytes).unwrap();
    let refused = host.boot(&daemon, digest).await.unwrap_err();
    assert!(
        refused.contains("The signature does not match"),
        "{refused}"
    );
    fs_err::write(&stored, artifact()).unwrap();
    host.boot(&daemon, digest).await.unwrap();
    fs_err::remove_file(host.stored(&digest, ".minisig")).unwrap();
    let refused = host.boot(&daemon, digest).await.unwrap_err();
    assert!(refused.contains("It has no signature"), "{refused}");
}

#[tokio::test]
async fn a_changed_image_is_prepared_anew() {
    let host = Host::new();
    let daemon = host.daemon(Policy::Required);
    let path = host.artifact();
    host.sign(&host.keys);
    let digest = install(&daemon, &path).await.unwrap();
    let image = host.image(&digest);
    let whole = archive();
    let mut other = whole.clone();
    other[200] ^= 1;
    for changed in [
        &other[..],
        &whole[..100],
        &[&whole[..], b"more"].concat(),
        b"",
    ] {
        fs_err::write(&image, changed).unwrap();
        host.boot(&daemon, digest).await.unwrap();
        assert_eq!(fs_err::read(&image).unwrap(), whole);
        let booted = fs_err::read(host.temp.path().join("vm/initramfs.cpio")).unwrap();
        assert!(booted.starts_with(&whole));
    }
}
