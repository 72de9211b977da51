//! A host that requires signatures: what it takes in, and what it still boots when something changes on its disk.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use common::digest::Digest;
use common::manifest::ArtifactKind;
use minisign::KeyPair;
use volantd::artifact::ArtifactError;
use volantd::machine::ports::Media as _;
use volantd::signature::{Policy, Signatures};

use crate::stores::{INITRAMFS, Stores, archive, launch};

/// A state folder, and files to install from.
struct Host {
    temp: tempfile::TempDir,
    keys: KeyPair,
}

impl Host {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs_err::create_dir(temp.path().join("vm")).unwrap();
        let keys = KeyPair::generate_unencrypted_keypair().unwrap();
        Self { temp, keys }
    }

    /// Starts a daemon; on its disk is what the one before left.
    fn daemon(&self, policy: Policy) -> Stores {
        let key = self.keys.pk.to_base64().parse().unwrap();
        Stores::open(self.temp.path(), Signatures::new(vec![key], policy))
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

    /// Prepares a boot, and says why not where it is refused.
    async fn boot(&self, daemon: &Stores, digest: Digest) -> Result<(), String> {
        let launch = launch(self.temp.path().join("vm"), digest, INITRAMFS);
        let prepared = daemon.media.prepare(&launch).await;
        prepared.map(|_| ()).map_err(|error| error.message)
    }
}

async fn install(daemon: &Stores, path: &Path) -> Result<Digest, ArtifactError> {
    let checksum = Digest::of(&artifact());
    daemon
        .install(path.to_path_buf(), Some(checksum), ArtifactKind::Initramfs)
        .await
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
