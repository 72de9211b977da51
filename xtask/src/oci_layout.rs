//! Writes container images as OCI layout directories (OCI image specification 1.1), for tests and benches that need one made on the
//! spot. It knows what the specification requires and nothing of how fledge reads it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use fs_err as fs;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The tag under which other programs find the image.
pub(crate) const TAG: &str = "latest";

/// What a layer is written with.
pub(crate) type Tar<'a> = tar::Builder<Hashed<GzEncoder<Hashed<&'a mut fs::File>>>>;

/// An image that is being written.
#[derive(Debug)]
pub(crate) struct Layout {
    folder: PathBuf,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
}

impl Layout {
    /// Begins an image in `folder`, which is made.
    pub(crate) fn begin(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        fs::write(
            folder.join("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"}).to_string(),
        )?;
        Ok(Self {
            folder: folder.to_path_buf(),
            layers: Vec::new(),
            diff_ids: Vec::new(),
        })
    }

    /// Adds a layer, compressed with gzip, of whatever `fill` writes.
    pub(crate) fn layer(&mut self, fill: impl FnOnce(&mut Tar<'_>) -> Result<()>) -> Result<()> {
        let partial = self.folder.join("layer");
        let mut file = fs::File::create(&partial)?;
        let gzip = GzEncoder::new(Hashed::new(&mut file), Compression::default());
        let mut tar = tar::Builder::new(Hashed::new(gzip));
        fill(&mut tar)?;
        let (gzip, diff_id, _) = tar.into_inner()?.finish();
        let (_, digest, size) = gzip.finish()?.finish();
        fs::rename(&partial, self.blob(&digest))?;
        self.layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{digest}"),
            "size": size,
        }));
        self.diff_ids.push(format!("sha256:{diff_id}"));
        Ok(())
    }

    /// Ends the image; `config` is what a Dockerfile's `CMD`, `ENV` and so on become.
    pub(crate) fn finish(self, config: &Value) -> Result<()> {
        let config = self.json(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        }))?;
        let with_type = |mut descriptor: Value, media_type: &str| {
            if let Some(members) = descriptor.as_object_mut() {
                members.insert("mediaType".to_owned(), media_type.into());
            }
            descriptor
        };
        let manifest = self.json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": with_type(config, "application/vnd.oci.image.config.v1+json"),
            "layers": self.layers,
        }))?;
        let mut manifest = with_type(manifest, "application/vnd.oci.image.manifest.v1+json");
        if let Some(members) = manifest.as_object_mut() {
            let name = json!({"org.opencontainers.image.ref.name": TAG});
            members.insert("annotations".to_owned(), name);
        }
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(self.folder.join("index.json"), index.to_string())?;
        Ok(())
    }

    /// Writes a document as a blob, and returns its descriptor without a media type.
    fn json(&self, document: &Value) -> Result<Value> {
        let text = document.to_string();
        let digest = hex::encode(Sha256::digest(&text));
        fs::write(self.blob(&digest), &text)?;
        Ok(json!({"digest": format!("sha256:{digest}"), "size": text.len()}))
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest)
    }
}

/// Writes one entry of a layer, root's and from 1970.
pub(crate) fn entry(
    tar: &mut Tar<'_>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(u64::try_from(content.len())?);
    tar.append_data(&mut header, path, content)
        .with_context(|| format!("Could not write `{path}` into a layer"))
}

/// Hashes and counts what passes through.
#[derive(Debug)]
pub(crate) struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, hex::encode(self.hash.finalize()), self.bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += u64::try_from(written).unwrap_or(0);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blob_has_its_digest_for_a_name() {
        let temp = tempfile::tempdir().unwrap();
        let mut layout = Layout::begin(temp.path()).unwrap();
        layout
            .layer(|tar| entry(tar, "etc/x", tar::EntryType::Regular, 0o644, b"hello"))
            .unwrap();
        layout.finish(&json!({"Cmd": ["/x"]})).unwrap();
        let mut blobs = 0;
        for blob in fs::read_dir(temp.path().join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let digest = hex::encode(Sha256::digest(fs::read(blob.path()).unwrap()));
            assert_eq!(blob.file_name().to_str(), Some(digest.as_str()));
            blobs += 1;
        }
        assert_eq!(blobs, 3);
        let index = fs::read_to_string(temp.path().join("index.json")).unwrap();
        assert!(index.contains(TAG), "{index}");
    }
}
