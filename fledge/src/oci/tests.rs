//! Archives and images made for tests, and whole images from every kind of file.

use std::io::Write;

use tar::{Builder, EntryType, Header};

use super::*;
use crate::tree::{Kind, Node};

mod images;
mod umoci;

/// A header of root's, from 1970.
pub(super) fn header(name: &str, kind: EntryType, size_bytes: u64) -> Header {
    let mut header = Header::new_ustar();
    // Not `set_path`, which refuses what is to be tested.
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

/// A tar archive in the making, of anything.
pub(super) struct Tar(Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self(Builder::new(Vec::new()))
    }
}

impl Tar {
    /// Adds PAX records for the next entry.
    pub(super) fn pax(&mut self, records: &[(&str, &[u8])]) {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
    }

    /// What goes into the header for `name`, which may not fit.
    fn short<'a>(&mut self, name: &'a str) -> &'a str {
        if name.len() <= 100 {
            return name;
        }
        self.pax(&[("path", name.as_bytes())]);
        "long"
    }

    /// Adds an entry without content, with its header changed.
    pub(super) fn add(&mut self, name: &str, kind: EntryType, change: impl Fn(&mut Header)) {
        let short = self.short(name);
        let mut header = header(short, kind, 0);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
    }

    pub(super) fn directory(&mut self, name: &str) {
        self.add(name, EntryType::Directory, |header| header.set_mode(0o755));
    }

    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        let short = self.short(name);
        let size_bytes = u64::try_from(content.len()).unwrap();
        let header = header(short, EntryType::Regular, size_bytes);
        self.0.append(&header, content).unwrap();
    }

    pub(super) fn link(&mut self, name: &str, kind: EntryType, target: &str) {
        if target.len() > 100 {
            self.pax(&[("linkpath", target.as_bytes())]);
        }
        self.add(name, kind, |header| {
            let field = &mut header.as_old_mut().linkname;
            let length = target.len().min(100);
            field[..length].copy_from_slice(&target.as_bytes()[..length]);
        });
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// What lies where: `path kind`, or what a file holds.
pub(super) fn seen(tree: &Tree) -> Vec<String> {
    let describe = |node: &Node| match &node.kind {
        Kind::File(content) => {
            let mut bytes = Vec::new();
            content.copy_to(&mut bytes).unwrap();
            format!("= {}", String::from_utf8_lossy(&bytes))
        }
        Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
        _ => node.what().to_owned(),
    };
    tree.iter()
        .map(|item| {
            let path = String::from_utf8_lossy(item.path);
            format!("{path} {}", describe(item.node))
        })
        .collect()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image in the making.
#[derive(Clone, Default)]
pub(super) struct Made {
    /// Plain archives, lowest first.
    pub(super) layers: Vec<Vec<u8>>,
    /// The member `config` of its config.
    pub(super) config: serde_json::Value,
    /// `arm64`, say, instead of `amd64`.
    pub(super) architecture: Option<&'static str>,
}

impl Made {
    pub(super) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|layer| Digest::of(layer).to_string())
            .collect();
        serde_json::json!({
            "os": "linux",
            "architecture": self.architecture.unwrap_or("amd64"),
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    /// The blobs of the image, compressed layers first, then config and manifest.
    pub(super) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs: Vec<Vec<u8>> = self.layers.iter().map(|layer| gzip(layer)).collect();
        let describe = |media_type: &str, blob: &[u8]| {
            serde_json::json!({
                "mediaType": media_type,
                "digest": Digest::of(blob).to_string(),
                "size": blob.len(),
            })
        };
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers: Vec<_> = blobs.iter().map(|blob| describe(layer, blob)).collect();
        let config = self.config();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": descriptor::MANIFEST_TYPES[0],
            "config": describe("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers,
        });
        blobs.push(config);
        blobs.push(manifest.to_string().into_bytes());
        blobs
    }

    /// Writes an OCI layout; the image is called `latest` there.
    pub(super) fn write_layout(&self, directory: &Path) {
        let blobs = self.blobs();
        let manifest = blobs.last().unwrap();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": descriptor::MANIFEST_TYPES[0],
                "digest": Digest::of(manifest).to_string(),
                "size": manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": "latest"},
            }],
        });
        let sha256 = directory.join("blobs/sha256");
        fs_err::create_dir_all(&sha256).unwrap();
        for blob in &blobs {
            fs_err::write(sha256.join(Digest::of(blob).to_hex()), blob).unwrap();
        }
        fs_err::write(directory.join("index.json"), index.to_string()).unwrap();
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs_err::write(directory.join("oci-layout"), version).unwrap();
    }

    /// What `docker save` wrote before it wrote layouts.
    pub(super) fn docker_archive(&self, tag: &str) -> Vec<u8> {
        let mut tar = Tar::default();
        let config = self.config();
        let name = format!("{}.json", Digest::of(&config).to_hex());
        tar.file(&name, &config);
        let mut layers = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            tar.file(&format!("{at}/layer.tar"), layer);
            // The same layer of another image, as a link.
            tar.link(
                &format!("{at}-link/layer.tar"),
                EntryType::Symlink,
                &format!("../{at}/layer.tar"),
            );
            layers.push(format!("{at}-link/layer.tar"));
        }
        let manifest = serde_json::json!([{"Config": name, "RepoTags": [tag], "Layers": layers}]);
        tar.file("manifest.json", manifest.to_string().as_bytes());
        tar.finish()
    }
}

/// Loads as the program does, without a network, a container engine and credentials.
pub(super) async fn load(text: &str, directory: &Path) -> Result<Image, ImageError> {
    load_with(text, directory, Keyring::default()).await
}

pub(super) async fn load_with(
    text: &str,
    directory: &Path,
    keyring: Keyring,
) -> Result<Image, ImageError> {
    let interrupted = command::tests::never();
    let client = Client::new(interrupted.clone());
    let loader = Loader {
        client: &client,
        cache: directory.join("cache"),
        keyring,
        ui: &Ui::new(crate::ui::Verbosity::Quiet),
        interrupted,
    };
    loader.load(&Source::parse(text, directory).unwrap()).await
}

/// An error with its causes.
pub(super) fn whole(error: &ImageError) -> String {
    common::error_chain::Chain(error).to_string()
}
