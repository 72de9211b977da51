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
        /// What it should be: `manifest`, `config` or `layer`.
        what: &'static str,
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
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads what `json` is, which `media_type` says if it does not say so itself.
    ///
    /// # Errors
    /// Where it is malformed, or of another kind.
    pub(super) fn parse(json: &[u8], media_type: Option<&str>) -> Result<Self, DescriptorError> {
        if json.len() > MAX_MANIFEST_BYTES {
            return Err(DescriptorError::TooLarge);
        }
        let raw: Raw = serde_json::from_slice(json).map_err(DescriptorError::Malformed)?;
        let media_type = raw.media_type.as_deref().or(media_type).unwrap_or_default();
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
                Manifest { config, layers }.checked().map(Self::Manifest)
            }
            ("", ..) => Err(wrong_type("", "manifest")),
            (kind, ..) => Err(wrong_type(kind, "manifest")),
        }
    }
}

impl Manifest {
    fn checked(self) -> Result<Self, DescriptorError> {
        if !CONFIG_TYPES.contains(&self.config.media_type.as_str()) {
            return Err(wrong_type(&self.config.media_type, "config"));
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

    /// The image that is called `wanted` in a layout, or the only one.
    ///
    /// # Errors
    /// Where there is none or not one.
    pub(super) fn named(&self, wanted: Option<&str>) -> Result<Self, DescriptorError> {
        let matching: Vec<&Descriptor> = match wanted {
            Some(wanted) => self
                .0
                .iter()
                .filter(|entry| entry.is_called(wanted))
                .collect(),
            None => self.0.iter().collect(),
        };
        let names: Vec<String> = self.0.iter().filter_map(Descriptor::name).collect();
        match (matching.as_slice(), wanted) {
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
            (matching, _) => Ok(Self(matching.iter().map(|&entry| entry.clone()).collect())),
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

fn wrong_type(media_type: &str, what: &'static str) -> DescriptorError {
    DescriptorError::MediaType {
        media_type: media_type.chars().take(120).collect(),
        what,
    }
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
                (manifest(kind, "x/c", layer), "`x/c`"),
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
