//! Container images: from a registry, a file, a container engine or a Dockerfile to a tree and what its author wants to run. Layers are
//! values: nothing is unpacked onto this machine, and nothing of it is looked at. Writes no image: see [`crate::image`].
//!
//! ```text
//! source ──> registry, local, dockerfile, store ──> blobs ──> spool ──> layer ──> apply ──> tree
//!                                                     └─────> config ──> defaults
//! ```

mod apply;
mod attributes;
mod auth;
mod budget;
mod command;
mod config;
mod defaults;
mod descriptor;
mod dockerfile;
mod error;
mod layer;
mod local;
mod registry;
mod source;
mod spool;
mod store;
#[cfg(test)]
mod tests;
mod unpack;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::digest::Digest;
use oci_client::Reference;
use tokio::sync::watch;

use self::budget::Budget;
use self::dockerfile::Build;
use self::local::Engines;
use self::registry::Registry;
use self::spool::Workplace;
use self::store::{Stored, Wanted};
use crate::cache::TEMPORARY_PREFIX;
use crate::fetch::{Cache, Client};
use crate::tree::Tree;
use crate::ui::Ui;

pub use auth::{AuthError, Keyring};
pub use budget::Exhausted;
pub use command::{CommandError, Programs};
pub use config::{Config, ConfigError, Healthcheck};
pub use defaults::{Defaults, Health};
pub use descriptor::DescriptorError;
pub use dockerfile::{DockerfileError, Request};
pub use error::ImageError;
pub use layer::LayerError;
pub use local::{Engine, LocalError};
pub use registry::RegistryError;
pub use source::{Place, Source, SourceError, plugin_name};
pub use spool::SpoolError;
pub use store::{Format, StoreError};
pub use unpack::{UnpackError, tree_of};

/// A container image.
#[derive(Debug)]
pub struct Image {
    /// Its files.
    pub tree: Tree,
    /// What its author wants to run.
    pub config: Config,
    /// What it is.
    pub identity: Identity,
}

/// What an image is, for who wants to know what went into an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// As the user called it.
    pub reference: String,
    /// The digest of its manifest for this platform; archives of `docker save` have none.
    pub manifest: Option<Digest>,
    /// The digest of its config, which docker calls the image's ID.
    pub config: Digest,
    /// The digests of its layers as they are stored, lowest first.
    pub layers: Vec<Digest>,
}

/// Gets images.
#[derive(Debug)]
pub struct Loader<'a> {
    /// For downloads.
    pub client: &'a Client,
    /// Where layers are kept, the same directory as that of [`crate::fetch::Cache`]; also where files without names are.
    pub cache: PathBuf,
    /// Credentials, and where programs are.
    pub keyring: Keyring,
    /// For progress and notes.
    pub ui: &'a Ui,
    /// Becomes true when the user presses Ctrl-C.
    pub interrupted: watch::Receiver<bool>,
}

impl Loader<'_> {
    /// Gets the image and applies its layers.
    ///
    /// # Errors
    /// Where it cannot be had or used.
    pub async fn load(&self, source: &Source) -> Result<Image, ImageError> {
        let mut interrupted = self.interrupted.clone();
        tokio::select! {
            image = self.find(source) => image,
            // The sender lives as long as the program: an error here is no interruption.
            Ok(_) = interrupted.wait_for(|&stop| stop) => Err(ImageError::Interrupted),
        }
    }

    /// Builds a Dockerfile and applies the layers of what comes out. `text` is what the user calls it.
    ///
    /// # Errors
    /// Where there is no builder, or it fails.
    pub async fn build(&self, request: &Request, text: &str) -> Result<Image, ImageError> {
        let build = Build {
            request,
            programs: &self.keyring.programs,
            directory: &self.cache,
            ui: self.ui,
            interrupted: &self.interrupted,
        };
        // Not raced against Ctrl-C: it ends its builder first.
        let built = build.run().await.map_err(|error| match error {
            DockerfileError::Build {
                source: CommandError::Interrupted,
                ..
            } => ImageError::Interrupted,
            error => error.into(),
        })?;
        let image = self.stored(&built.archive, Wanted::ONLY, text).await;
        drop(built.room);
        image
    }

    async fn find(&self, source: &Source) -> Result<Image, ImageError> {
        let text = &source.text;
        match &source.place {
            Place::Path {
                path,
                name,
                pin,
                format,
            } => {
                let wanted = Wanted {
                    name: name.clone(),
                    pin: *pin,
                    format: *format,
                };
                self.stored(path, wanted, text).await
            }
            Place::Registry(reference) => self.pull(reference, text).await,
            Place::Docker(reference) => self.save(Engine::Docker, reference, text).await,
            Place::Podman(reference) => self.save(Engine::Podman, reference, text).await,
            Place::Anywhere(reference) => {
                let engines = self.engines();
                match engines.who_has(reference).await? {
                    Some(engine) => self.save(engine, reference, text).await,
                    None => self.pull(reference, text).await,
                }
            }
        }
    }

    fn engines(&self) -> Engines<'_> {
        Engines {
            programs: &self.keyring.programs,
            interrupted: &self.interrupted,
        }
    }

    async fn save(
        &self,
        engine: Engine,
        reference: &Reference,
        text: &str,
    ) -> Result<Image, ImageError> {
        let engines = self.engines();
        engines.look(engine, reference).await?;
        let command = engine.command();
        self.ui.detail(&format!("{reference}: from {command}"));
        let room = |source| ImageError::Room {
            directory: self.cache.clone(),
            source,
        };
        let archive = fs_err::create_dir_all(&self.cache)
            .and_then(|()| {
                tempfile::Builder::new()
                    .prefix(TEMPORARY_PREFIX)
                    .tempfile_in(&self.cache)
            })
            .map_err(room)?;
        let file = archive.reopen().map_err(room)?;
        engines.save(engine, reference, file).await?;
        // The engine wrote the one image that it was asked for.
        self.stored(archive.path(), Wanted::ONLY, text).await
    }

    async fn pull(&self, reference: &Reference, text: &str) -> Result<Image, ImageError> {
        let credentials = self.keyring.find(reference, &self.interrupted).await?;
        let http = self.client.http().map_err(ImageError::Http)?.clone();
        let cache = Cache::new(self.cache.clone());
        let registry = Registry::new(http, reference.clone(), credentials, cache);
        self.ui.detail(&format!("{reference}: from its registry"));
        let stored = registry.pull(self.ui).await?;
        match self.unpacked(stored, text).await {
            // What was in the cache is not what its name says.
            Err(ImageError::Unpack { source, .. }) if source.is_damage() => {
                registry.forget_damaged().await?;
                let stored = registry.pull(self.ui).await?;
                self.unpacked(stored, text).await
            }
            result => result,
        }
    }

    async fn stored(&self, path: &Path, wanted: Wanted, text: &str) -> Result<Image, ImageError> {
        let path = path.to_path_buf();
        let (directory, interrupted) = (self.cache.clone(), self.interrupted.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let budget = Budget::default();
            let workplace = Workplace {
                directory: &directory,
                budget: &budget,
                stop: &|| *interrupted.borrow(),
            };
            store::open(&path, &wanted, workplace)
        });
        let stored = opening.await.map_err(|_| ImageError::Interrupted)?;
        let stored = stored.map_err(|source| ImageError::Store {
            image: text.to_owned(),
            source,
        })?;
        self.unpacked(stored, text).await
    }

    async fn unpacked(&self, stored: Stored, text: &str) -> Result<Image, ImageError> {
        let (directory, interrupted) = (self.cache.clone(), self.interrupted.clone());
        let text: Arc<str> = text.into();
        let unpacking = tokio::task::spawn_blocking(move || {
            unpacked(stored, &text, &directory, &|| *interrupted.borrow())
        });
        let mut image = unpacking.await.map_err(|_| ImageError::Interrupted)??;
        for line in attributes::strip(&mut image.tree) {
            self.ui.warn(&line);
        }
        Ok(image)
    }
}

/// Applies the layers of an image that is on this machine.
fn unpacked(
    mut stored: Stored,
    text: &str,
    directory: &Path,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Image, ImageError> {
    let image = || text.to_owned();
    let config = Config::parse(&stored.config).map_err(|source| ImageError::Config {
        image: image(),
        source,
    })?;
    descriptor::check_layers(stored.layers.len(), Some(config.diff_ids.len())).map_err(
        |source| ImageError::Layers {
            image: image(),
            source,
        },
    )?;
    for (layer, diff_id) in stored.layers.iter_mut().zip(&config.diff_ids) {
        layer.diff_id = Some(*diff_id);
    }
    let unpacked = unpack::unpack(&stored.layers, directory, stop);
    let (tree, layers) = unpacked.map_err(|source| ImageError::Unpack {
        image: image(),
        source,
    })?;
    Ok(Image {
        tree,
        identity: Identity {
            reference: image(),
            manifest: stored.manifest,
            config: Digest::of(&stored.config),
            layers,
        },
        config,
    })
}
