//! Images in files of this machine: OCI layouts (a directory, or a tar archive of one) and what `docker save` writes. Archives are read
//! where they are, never unpacked.

#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use common::digest::Digest;
use serde::Deserialize;

use super::apply;
use super::budget::Budget;
use super::config::MAX_CONFIG_BYTES;
use super::descriptor::{
    self, Descriptor, DescriptorError, Document, Index, MAX_MANIFEST_BYTES, Manifest,
};
use super::layer::{self, End, LayerError};
use super::spool::{self, SpoolError, Workplace};
use super::unpack::StoredLayer;
use crate::tree::{Content, Kind, Tree};

/// How many indexes may lie in each other. Builders nest one.
const MAX_INDEX_DEPTH: usize = 4;

/// How many indexes are searched for a pinned manifest: each may have 4 MiB.
const MAX_INDEXES: usize = 64;

/// What an OCI layout has at its top (OCI image specification, image-layout.md).
const INDEX: &str = "index.json";

/// What `docker save` writes (moby, image/tarexport).
const DOCKER_MANIFEST: &str = "manifest.json";

/// An image that cannot be found or read in a file or directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing.
    #[error("There is no image at `{}`", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is neither a layout nor what `docker save` writes.
    #[error("`{}` is not a container image: it has neither `index.json` nor `manifest.json`", path.display())]
    NotAnImage {
        /// The path.
        path: PathBuf,
    },
    /// A digest is asked for of something without manifests.
    #[error("`{}` is not an OCI layout, which alone has images with digests: it has no `index.json`", path.display())]
    NoLayout {
        /// The path.
        path: PathBuf,
    },
    /// The archive cannot be decompressed.
    #[error("Cannot unpack `{}`", path.display())]
    Unpack {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: SpoolError,
    },
    /// The archive is malformed.
    #[error("The archive `{}` is refused", path.display())]
    Archive {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// A part of the image is missing.
    #[error("`{name}` is missing in the image")]
    Missing {
        /// Its name in the layout or archive.
        name: String,
    },
    /// A part of the image cannot be read.
    #[error("Cannot read `{name}` of the image")]
    ReadPart {
        /// Its name in the layout or archive.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part of the image has another size or digest.
    #[error("`{name}` is damaged: it does not have the size or digest that the image names")]
    Damaged {
        /// Its name in the layout or archive.
        name: String,
    },
    /// A part of the image is larger than any real one.
    #[error("`{name}` has more than {limit_bytes} bytes")]
    TooLarge {
        /// Its name in the layout or archive.
        name: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// The list of what `docker save` wrote is malformed.
    #[error("`{DOCKER_MANIFEST}` of the image is malformed")]
    Malformed(#[source] serde_json::Error),
    /// The manifest cannot be used.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
}

/// Which image of a path is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What it is called there; the only one if nothing.
    pub name: Option<String>,
    /// The digest of its manifest or index.
    pub pin: Option<Digest>,
    /// What the path must be.
    pub format: Format,
}

impl Wanted {
    /// The only image, whatever the format is.
    pub(super) const ONLY: Self = Self {
        name: None,
        pin: None,
        format: Format::Any,
    };
}

/// An image whose layers are on this machine, not yet looked into.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The digest of its manifest, where it has one.
    pub manifest: Option<Digest>,
    /// The config as it is.
    pub config: Vec<u8>,
    /// The layers, lowest first; `diff_id`s are not filled in.
    pub layers: Vec<StoredLayer>,
}

/// What a path of this machine is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Whatever is found.
    Any,
    /// A layout, as a directory or an archive.
    Oci,
    /// What `docker save` writes.
    Docker,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Where the parts of an image are.
enum Store {
    Directory(PathBuf),
    Archive(Tree),
}

/// Opens the image at `path` that is wanted.
///
/// # Errors
/// Where there is none, or it is damaged.
pub(super) fn open(
    path: &Path,
    wanted: &Wanted,
    workplace: Workplace<'_>,
) -> Result<Stored, StoreError> {
    let store = Store::open(path, workplace)?;
    let format = wanted.format;
    if format != Format::Docker && store.find(INDEX)?.is_some() {
        return oci(&store, wanted);
    }
    // What it writes has no manifest that a pin could name.
    if format != Format::Oci && wanted.pin.is_none() && store.find(DOCKER_MANIFEST)?.is_some() {
        return docker(&store, wanted.name.as_deref());
    }
    let path = path.to_path_buf();
    Err(match wanted.pin {
        Some(_) => StoreError::NoLayout { path },
        None => StoreError::NotAnImage { path },
    })
}

fn oci(store: &Store, wanted: &Wanted) -> Result<Stored, StoreError> {
    let json = store.read(INDEX, MAX_MANIFEST_BYTES)?;
    let mut index = match (Document::parse(&json, None)?, wanted.pin) {
        (Document::Index(index), Some(pin)) => pinned(store, &index, wanted, pin)?,
        (Document::Index(index), None) => index.named(wanted.name.as_deref())?,
        (Document::Manifest(manifest), pin) => {
            let digest = Digest::of(&json);
            if let Some(pin) = pin.filter(|pin| *pin != digest) {
                return Err(DescriptorError::not_pinned(pin, &[format!("`{digest}`")]).into());
            }
            return stored(store, Some(digest), &manifest);
        }
    };
    for _ in 0..MAX_INDEX_DEPTH {
        let chosen = index.for_platform()?;
        let (digest, json) = (chosen.digest, store.blob_bytes(chosen, MAX_MANIFEST_BYTES)?);
        match Document::parse(&json, Some(&chosen.media_type))? {
            Document::Manifest(manifest) => return stored(store, Some(digest), &manifest),
            Document::Index(inner) => index = inner,
        }
    }
    Err(StoreError::NotAnImage { path: INDEX.into() })
}

/// The descriptor with the digest `pin` in `index` or an index in that, as an index of its own.
fn pinned(store: &Store, index: &Index, wanted: &Wanted, pin: Digest) -> Result<Index, StoreError> {
    let mut names = Vec::new();
    let mut level = vec![index.called(wanted.name.as_deref())];
    let mut read = 0;
    for _ in 0..MAX_INDEX_DEPTH {
        let mut below = Vec::new();
        for index in &level {
            if let Some(found) = index.pinned(pin) {
                return Ok(found);
            }
            names.extend(index.digests());
            for inner in index.indexes() {
                read += 1;
                if read > MAX_INDEXES {
                    return Err(DescriptorError::not_pinned(pin, &names).into());
                }
                let json = store.blob_bytes(inner, MAX_MANIFEST_BYTES)?;
                if let Document::Index(inner) = Document::parse(&json, Some(&inner.media_type))? {
                    below.push(inner);
                }
            }
        }
        level = below;
    }
    Err(DescriptorError::not_pinned(pin, &names).into())
}

fn stored(
    store: &Store,
    digest: Option<Digest>,
    manifest: &Manifest,
) -> Result<Stored, StoreError> {
    let layer = |descriptor: &Descriptor| {
        let name = blob_name(descriptor.digest);
        let blob = store.get(&name)?;
        if blob.size_bytes() != descriptor.size {
            return Err(StoreError::Damaged { name });
        }
        Ok(StoredLayer {
            digest: Some(descriptor.digest),
            diff_id: None,
            blob,
        })
    };
    Ok(Stored {
        manifest: digest,
        config: store.blob_bytes(&manifest.config, MAX_CONFIG_BYTES)?,
        layers: manifest
            .layers
            .iter()
            .map(layer)
            .collect::<Result<_, _>>()?,
    })
}

fn docker(store: &Store, wanted: Option<&str>) -> Result<Stored, StoreError> {
    let json = store.read(DOCKER_MANIFEST, MAX_MANIFEST_BYTES)?;
    let images: Vec<DockerImage> = serde_json::from_slice(&json).map_err(StoreError::Malformed)?;
    let image = choose(&images, wanted)?;
    let layers = image.layers.as_deref().unwrap_or_default();
    descriptor::check_layers(layers.len(), None)?;
    let layer = |name: &String| {
        Ok(StoredLayer {
            digest: None,
            diff_id: None,
            blob: store.get(name)?,
        })
    };
    Ok(Stored {
        manifest: None,
        config: store.read(&image.config, MAX_CONFIG_BYTES)?,
        layers: layers
            .iter()
            .map(layer)
            .collect::<Result<_, StoreError>>()?,
    })
}

fn choose<'a>(
    images: &'a [DockerImage],
    wanted: Option<&str>,
) -> Result<&'a DockerImage, DescriptorError> {
    let tags = |image: &'a DockerImage| image.repo_tags.iter().flatten();
    let names = || {
        let names: Vec<String> = images
            .iter()
            .flat_map(tags)
            .map(|tag| format!("`{}`", tag.escape_debug()))
            .collect();
        descriptor::listed(&names)
    };
    match (images, wanted) {
        ([only], None) => Ok(only),
        (images, Some(wanted)) => images
            .iter()
            .find(|&image| tags(image).any(|tag| tag == wanted || same_name(tag, wanted)))
            .ok_or_else(|| DescriptorError::NoSuchName {
                wanted: wanted.to_owned(),
                is: format!("is only {}", names()),
            }),
        (_, None) => Err(DescriptorError::Several { names: names() }),
    }
}

/// Whether both name the same image: `nginx` is `docker.io/library/nginx:latest`.
fn same_name(left: &str, right: &str) -> bool {
    let whole = |name: &str| name.parse::<oci_client::Reference>().ok();
    whole(left).is_some_and(|left| whole(right) == Some(left))
}

/// Where a layout has a blob.
fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

impl Store {
    fn open(path: &Path, workplace: Workplace<'_>) -> Result<Self, StoreError> {
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound {
                path: path.to_path_buf(),
            },
            _ => StoreError::Read {
                path: path.to_path_buf(),
                source,
            },
        };
        let metadata = fs_err::metadata(path).map_err(read)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        let size_bytes = metadata.len();
        let path = path.to_path_buf();
        if !metadata.is_file() {
            return Err(StoreError::NotAnImage { path });
        }
        let content = Content::Host {
            path: path.clone(),
            size_bytes,
        };
        Self::index(&content, workplace, path)
    }

    /// Reads what is where in an archive, as if it were a layer.
    fn index(
        content: &Content,
        workplace: Workplace<'_>,
        path: PathBuf,
    ) -> Result<Self, StoreError> {
        let archive = match spool::uncompressed(content, workplace) {
            Ok(archive) => archive,
            Err(source) => return Err(StoreError::Unpack { path, source }),
        };
        let budget = Budget::default();
        let mut tree = Tree::default();
        let whole = archive.whole();
        let indexed = whole.open().map_err(LayerError::from).and_then(|reader| {
            // Nobody says what its digest is: without its end it may have lost anything.
            let entries = layer::read(reader, archive.size_bytes(), End::Marked, &budget)?;
            let part = |offset, size_bytes| archive.part(offset, size_bytes);
            apply::apply(&mut tree, entries, part, &budget)
        });
        match indexed {
            Ok(()) => Ok(Self::Archive(tree)),
            Err(source) => Err(StoreError::Archive { path, source }),
        }
    }

    /// The part called `name`, if it is there.
    fn find(&self, name: &str) -> Result<Option<Content>, StoreError> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(name);
                match fs_err::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => Ok(Some(Content::Host {
                        path,
                        size_bytes: metadata.len(),
                    })),
                    Ok(_) => Ok(None),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(StoreError::ReadPart {
                        name: name.to_owned(),
                        source,
                    }),
                }
            }
            // Old archives have a link where two images share a layer.
            Self::Archive(tree) => Ok(match tree.resolve(name.as_bytes()) {
                Some((_, node)) => match &node.kind {
                    Kind::File(content) => Some(content.clone()),
                    _ => None,
                },
                None => None,
            }),
        }
    }

    fn get(&self, name: &str) -> Result<Content, StoreError> {
        // Names come from the image: one that leads out of a directory is none.
        let is_inside = !name.starts_with('/') && !name.split('/').any(|part| part == "..");
        let found = if is_inside { self.find(name)? } else { None };
        found.ok_or_else(|| StoreError::Missing {
            name: layer::shown(name.as_bytes()),
        })
    }

    fn read(&self, name: &str, limit_bytes: usize) -> Result<Vec<u8>, StoreError> {
        let content = self.get(name)?;
        let mut bytes = Vec::new();
        let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
        content
            .open()
            .and_then(|reader| reader.take(limit.saturating_add(1)).read_to_end(&mut bytes))
            .map_err(|source| StoreError::ReadPart {
                name: name.to_owned(),
                source,
            })?;
        if bytes.len() > limit_bytes {
            return Err(StoreError::TooLarge {
                name: name.to_owned(),
                limit_bytes,
            });
        }
        Ok(bytes)
    }

    fn blob_bytes(&self, blob: &Descriptor, limit_bytes: usize) -> Result<Vec<u8>, StoreError> {
        let name = blob_name(blob.digest);
        let bytes = self.read(&name, limit_bytes)?;
        if u64::try_from(bytes.len()) == Ok(blob.size) && Digest::of(&bytes) == blob.digest {
            Ok(bytes)
        } else {
            Err(StoreError::Damaged { name })
        }
    }
}
