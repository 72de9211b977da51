//! Manifests and indexes (OCI image specification, manifest.md and image-index.md; docker's distribution schema 2): what an image
//! consists of, by digest. Reading only.

use std::collections::BTreeMap;

use common::digest::Digest;
use serde::Deserialize;

/// The largest manifest or index that is read, in bytes: what registries must accept (OCI distribution specification, "Pushing
/// Manifests").
pub(super) const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// The most layers of an image; overlayfs cannot have more than 500, docker allows 127.
pub(super) const MAX_LAYERS: usize = 500;

/// Media types of an image's manifest.
pub(super) const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Media types of a list of manifests.
pub(super) const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// The annotation that names an image in a layout (OCI image specification, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation with which docker and containerd name an image in full.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// A manifest or index that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// It is not what the specification says.
    #[error("The image's manifest is malformed")]
    Malformed(#[source] serde_json::Error),
    /// It is too large.
    #[error("The image's manifest has more than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    /// It is of another kind.
    #[error("`{media_type}` is not the media type of a container image's {what}")]
    MediaType {
        /// What it says it is.
        media_type: String,
        /// What it should be: `manifest` or `layer`.
        what: &'static str,
    },
    /// It is something else that registries keep.
    #[error("It is not a container image but {what} (`{media_type}`)")]
    Artifact {
        /// In words: `a Helm chart`.
        what: &'static str,
        /// What it says it is.
        media_type: String,
    },
    /// It says to be something else than who names it says.
    #[error("The image's manifest is `{found}`, but is named as `{named}`")]
    Contradiction {
        /// What it says.
        found: String,
        /// What the index or the registry says.
        named: String,
    },
    /// It has none or too many layers, or not as many as its config says.
    #[error("The image has {count} layers, {problem}")]
    Layers {
        /// How many.
        count: usize,
        /// What is wrong with that.
        problem: &'static str,
    },
    /// There is none for this platform.
    #[error("The image is not there for `linux/amd64`, only for {platforms}")]
    Platform {
        /// What it is there for.
        platforms: String,
    },
    /// None has this name.
    #[error("There is no image `{wanted}`; there {is}")]
    NoSuchName {
        /// The name.
        wanted: String,
        /// What there is: `is only x`.
        is: String,
    },
    /// There are several and none was named.
    #[error("There are several images, name one of them: {names}")]
    Several {
        /// Their names.
        names: String,
    },
}

/// What a blob is and how it is named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Its config.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Several images, or one for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index(Vec<Descriptor>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads what `json` is. Who named it may have said so, as `named`; both must agree.
    ///
    /// # Errors
    /// Where it is malformed, or of another kind.
    pub(super) fn parse(json: &[u8], named: Option<&str>) -> Result<Self, DescriptorError> {
        if json.len() > MAX_MANIFEST_BYTES {
            return Err(DescriptorError::TooLarge);
        }
        let named = named.filter(|named| !named.is_empty());
        if let Some(named) = named.filter(|named| !is_document(named)) {
            return Err(wrong_type(named, "manifest"));
        }
        let raw: Raw = serde_json::from_slice(json).map_err(DescriptorError::Malformed)?;
        let said = raw.media_type.as_deref().filter(|said| !said.is_empty());
        if let (Some(found), Some(named)) = (said, named)
            && found != named
            && is_document(found)
        {
            let (found, named) = (found.to_owned(), named.to_owned());
            return Err(DescriptorError::Contradiction { found, named });
        }
        let media_type = said.or(named).unwrap_or_default();
        if raw.schema_version == 1 && raw.manifests.is_none() && raw.layers.is_none() {
            let name = "application/vnd.docker.distribution.manifest.v1+json";
            return Err(wrong_type(name, "manifest"));
        }
        // An index in a layout need not say what it is.
        match (media_type, raw.manifests, raw.config, raw.layers) {
            (kind, Some(manifests), _, _) if INDEX_TYPES.contains(&kind) || kind.is_empty() => {
                Ok(Self::Index(Index(manifests)))
            }
            (kind, None, Some(config), Some(layers))
                if MANIFEST_TYPES.contains(&kind) || kind.is_empty() =>
            {
                let manifest = Manifest { config, layers };
                manifest.checked(raw.artifact_type).map(Self::Manifest)
            }
            ("", ..) => Err(wrong_type("", "manifest")),
            (kind, ..) => Err(wrong_type(kind, "manifest")),
        }
    }
}

impl Manifest {
    fn checked(self, artifact_type: Option<String>) -> Result<Self, DescriptorError> {
        let config_type = self.config.media_type.as_str();
        if !CONFIG_TYPES.contains(&config_type) {
            // Of an artifact with an empty config, only this says what it is.
            let kind = artifact_type.filter(|kind| !kind.is_empty());
            return Err(artifact(kind.as_deref().unwrap_or(config_type)));
        }
        let mut types = self.layers.iter().map(|layer| layer.media_type.as_str());
        // Some tools put a module into an image with a config like any other.
        if let Some(wasm) = types.find(|name| name.contains("wasm")) {
            return Err(artifact(wasm));
        }
        for layer in &self.layers {
            if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
                return Err(wrong_type(&layer.media_type, "layer"));
            }
        }
        check_layers(self.layers.len(), None)?;
        Ok(self)
    }
}

/// Checks how many layers there are, and that the config knows as many.
pub(super) fn check_layers(count: usize, in_config: Option<usize>) -> Result<(), DescriptorError> {
    let problem = if count > MAX_LAYERS {
        "more than any container engine takes"
    } else if in_config.is_some_and(|in_config| in_config != count) {
        "but its config knows another number of them"
    } else {
        return Ok(());
    };
    Err(DescriptorError::Layers { count, problem })
}

impl Index {
    /// The image for this system's guests.
    ///
    /// # Errors
    /// Where there is none, with what there is.
    pub(super) fn for_platform(&self) -> Result<&Descriptor, DescriptorError> {
        let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == "amd64";
        // A list without platforms has one image.
        if let [only] = self.0.as_slice()
            && only.platform.is_none()
        {
            return Ok(only);
        }
        self.0
            .iter()
            .find(|entry| entry.platform.as_ref().is_some_and(fits))
            .ok_or_else(|| DescriptorError::Platform {
                platforms: self.platforms(),
            })
    }

    fn platforms(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for platform in self.0.iter().filter_map(|entry| entry.platform.as_ref()) {
            // Attestations lie in an index as images for `unknown/unknown`.
            if platform.os == "unknown" {
                continue;
            }
            let variant = platform.variant.as_deref().map(|v| format!("/{v}"));
            let name = format!(
                "`{}/{}{}`",
                platform.os,
                platform.architecture,
                variant.unwrap_or_default()
            );
            if !names.contains(&name) {
                names.push(name);
            }
        }
        listed(&names)
    }

    /// The entries that are called `wanted`, or all of them.
    pub(super) fn called(&self, wanted: Option<&str>) -> Self {
        let is_called = |entry: &&Descriptor| wanted.is_none_or(|wanted| entry.is_called(wanted));
        Self(self.0.iter().filter(is_called).cloned().collect())
    }

    /// The entry with this digest, as an index of its own.
    pub(super) fn pinned(&self, digest: Digest) -> Option<Self> {
        let found = self.0.iter().find(|entry| entry.digest == digest)?;
        Some(Self(vec![found.clone()]))
    }

    /// The entries that are indexes themselves.
    pub(super) fn indexes(&self) -> impl Iterator<Item = &Descriptor> {
        let is_index = |entry: &&Descriptor| INDEX_TYPES.contains(&entry.media_type.as_str());
        self.0.iter().filter(is_index)
    }

    /// The entries by digest, with their names, for people.
    pub(super) fn digests(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|entry| match entry.name() {
            Some(name) => format!("`{}` ({name})", entry.digest),
            None => format!("`{}`", entry.digest),
        })
    }

    /// The image that is called `wanted` in a layout, or the only one.
    ///
    /// # Errors
    /// Where there is none or not one.
    pub(super) fn named(&self, wanted: Option<&str>) -> Result<Self, DescriptorError> {
        let matching = self.called(wanted);
        let names: Vec<String> = self.0.iter().filter_map(Descriptor::name).collect();
        match (matching.0.as_slice(), wanted) {
            ([], Some(wanted)) => Err(DescriptorError::NoSuchName {
                wanted: wanted.to_owned(),
                is: format!("is only {}", listed(&names)),
            }),
            ([], None) => Err(DescriptorError::NoSuchName {
                wanted: String::new(),
                is: "is none at all".to_owned(),
            }),
            (several, None)
                if several.iter().any(|entry| entry.platform.is_none()) && several.len() > 1 =>
            {
                Err(DescriptorError::Several {
                    names: listed(&names),
                })
            }
            _ => Ok(matching),
        }
    }
}

impl DescriptorError {
    /// Nothing has the digest `pin`; what there is, is `names`.
    pub(super) fn not_pinned(pin: Digest, names: &[String]) -> Self {
        Self::NoSuchName {
            wanted: pin.to_string(),
            is: format!("is only {}", listed(names)),
        }
    }
}

impl Descriptor {
    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn is_called(&self, wanted: &str) -> bool {
        self.annotation(REF_NAME) == Some(wanted)
            || self.annotation(IMAGE_NAME) == Some(wanted)
            || self.digest.to_string() == wanted
    }

    fn name(&self) -> Option<String> {
        let name = self.annotation(REF_NAME).or(self.annotation(IMAGE_NAME))?;
        Some(format!("`{}`", name.escape_debug()))
    }
}

/// Whether this is the media type of a manifest or an index.
pub(super) fn is_document(media_type: &str) -> bool {
    MANIFEST_TYPES.contains(&media_type) || INDEX_TYPES.contains(&media_type)
}

fn wrong_type(media_type: &str, what: &'static str) -> DescriptorError {
    DescriptorError::MediaType {
        media_type: shown_type(media_type),
        what,
    }
}

/// What an artifact's media type begins with, and what it is: as Helm, the WebAssembly working group of the CNCF, and sigstore have them.
const ARTIFACTS: [(&str, &str); 4] = [
    ("application/vnd.cncf.helm.", "a Helm chart"),
    ("application/vnd.wasm.", "a WebAssembly module"),
    ("application/wasm", "a WebAssembly module"),
    ("application/vnd.dev.cosign.", "a signature"),
];

fn artifact(media_type: &str) -> DescriptorError {
    let known = ARTIFACTS
        .iter()
        .find(|(start, _)| media_type.starts_with(start));
    DescriptorError::Artifact {
        what: known.map_or("another artifact", |(_, what)| what),
        media_type: shown_type(media_type),
    }
}

/// A media type for people.
pub(super) fn shown_type(media_type: &str) -> String {
    let start = media_type.chars().take(120);
    start.flat_map(char::escape_debug).collect()
}

/// At most ten, for people.
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing that has a name".to_owned(),
        names if names.len() > 10 => {
            format!("{} and {} more", names[..10].join(", "), names.len() - 10)
        }
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn blob(media_type: &str, rest: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":1{rest}}}"#)
    }

    fn manifest(kind: &str, config: &str, layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{},"layers":[{}]}}"#,
            blob(config, ""),
            blob(layer, "")
        )
    }

    fn error(json: &str) -> String {
        Document::parse(json.as_bytes(), None)
            .unwrap_err()
            .to_string()
    }

    fn index(entries: &[String]) -> Index {
        let json = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        );
        match Document::parse(json.as_bytes(), None).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("a manifest"),
        }
    }

    fn entry(os: &str, architecture: &str) -> String {
        let rest = format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#);
        blob(MANIFEST_TYPES[0], &rest)
    }

    fn called(name: &str) -> String {
        let rest = format!(r#","annotations":{{"{REF_NAME}":"{name}"}}"#);
        blob(MANIFEST_TYPES[0], &rest)
    }

    #[test]
    fn both_dialects_are_read_and_others_refused_by_name() {
        for (kind, config, layer) in [
            (MANIFEST_TYPES[0], CONFIG_TYPES[0], LAYER_TYPES[1]),
            (MANIFEST_TYPES[1], CONFIG_TYPES[1], LAYER_TYPES[4]),
        ] {
            assert!(Document::parse(manifest(kind, config, layer).as_bytes(), None).is_ok());
            for (json, name) in [
                (manifest("x/m", config, layer), "`x/m`"),
                (
                    manifest(kind, "x/c", layer),
                    "not a container image but another artifact (`x/c`)",
                ),
                (manifest(kind, config, "x/l"), "`x/l`"),
            ] {
                assert!(error(&json).contains(name), "{}", error(&json));
            }
        }
        assert!(error(r#"{"schemaVersion":1,"fsLayers":[]}"#).contains("manifest.v1"));
        assert!(error("{}").contains("media type"));
        assert!(error("[").contains("malformed"));
    }

    #[test]
    fn who_names_a_manifest_must_agree_with_it() {
        let json = manifest(MANIFEST_TYPES[0], CONFIG_TYPES[0], LAYER_TYPES[0]);
        let silent = json.replacen(MANIFEST_TYPES[0], "", 1);
        let parse = |json: &str, named: &str| match Document::parse(json.as_bytes(), Some(named)) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        for (json, named) in [
            (&json, MANIFEST_TYPES[0]),
            (&json, ""),
            (&silent, MANIFEST_TYPES[1]),
        ] {
            assert_eq!(parse(json, named), "", "{named}");
        }
        for (named, expected) in [
            ("text/html", "`text/html` is not the media type of"),
            ("application/vnd.in-toto+json", "is not the media type of"),
            (INDEX_TYPES[0], "but is named as"),
            (MANIFEST_TYPES[1], "but is named as"),
        ] {
            assert!(parse(&json, named).contains(expected), "{named}");
        }
        // What cannot be read is not read where its name says enough.
        assert!(parse("<html>", "text/html").contains("`text/html`"));
    }

    #[test]
    fn artifacts_are_no_images() {
        let kind = MANIFEST_TYPES[0];
        let empty = "application/vnd.oci.empty.v1+json";
        let typed = manifest(kind, empty, empty).replacen(
            '{',
            r#"{"artifactType":"application/vnd.example+type","#,
            1,
        );
        let helm = "application/vnd.cncf.helm.config.v1+json";
        let wasm = "application/vnd.wasm.config.v0+json";
        for (json, expected) in [
            (
                manifest(kind, helm, "x/l"),
                format!("a Helm chart (`{helm}`)"),
            ),
            (
                manifest(kind, wasm, "application/wasm"),
                format!("a WebAssembly module (`{wasm}`)"),
            ),
            (
                manifest(kind, CONFIG_TYPES[0], "application/wasm"),
                "a WebAssembly module (`application/wasm`)".to_owned(),
            ),
            (
                typed,
                "another artifact (`application/vnd.example+type`)".to_owned(),
            ),
        ] {
            let expected = format!("It is not a container image but {expected}");
            assert_eq!(error(&json), expected);
        }
    }

    #[test]
    fn the_platform_is_chosen_or_what_there_is_is_listed() {
        let arm = entry("linux", "arm64");
        let unknown = entry("unknown", "unknown");
        assert!(
            index(&[arm.clone(), entry("linux", "amd64")])
                .for_platform()
                .is_ok()
        );
        assert!(index(&[blob(MANIFEST_TYPES[0], "")]).for_platform().is_ok());
        let message = index(&[arm.clone(), unknown, entry("windows", "amd64"), arm])
            .for_platform()
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with("only for `linux/arm64`, `windows/amd64`"),
            "{message}"
        );
    }

    #[test]
    fn layouts_are_searched_by_name() {
        let two = index(&[called("a"), called("b")]);
        assert_eq!(two.named(Some("a")).unwrap().0.len(), 1);
        for (wanted, expected) in [
            (None, "one of them: `a`, `b`"),
            (Some("c"), "there is only `a`, `b`"),
        ] {
            let message = two.named(wanted).unwrap_err().to_string();
            assert!(message.ends_with(expected), "{message}");
        }
        assert!(index(&[called("a")]).named(None).is_ok());
        assert!(
            index(&[entry("linux", "arm64"), entry("linux", "amd64")])
                .named(None)
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Document::parse(&bytes, None));
        }
    }
}
