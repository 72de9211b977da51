//! Plugins: installed from a manifest, with the artifact that it names stored and checked first.

use common::api::{EventType, InstalledPlugin};
use common::error_chain::Chain;
use common::manifest::{Manifest, Source};
use common::name::Name;
use jiff::Timestamp;

use super::downloads::Arrived;
use super::{ErrorKind, Service, ServiceError};
use crate::artifact::ArtifactError;
use crate::store::{ArtifactRecord, PluginRecord};

impl Service {
    /// Stores and checks the artifact, then records the plugin. An older one of the name is replaced; its VMs stay as they are.
    ///
    /// # Errors
    /// Whatever is wrong with the source or the artifact; nothing is recorded then.
    pub async fn install_plugin(
        &self,
        manifest: Manifest,
    ) -> Result<InstalledPlugin, ServiceError> {
        self.check_plugin_count(&manifest.name).await?;
        let artifact = manifest.artifact();
        let source = Source::parse(artifact.url).map_err(|error| {
            ServiceError::field(&artifact.kind.pointer("url"), error.to_string())
        })?;
        let (kind, expected) = (artifact.kind, artifact.checksum);
        let source_url = artifact.url.to_owned();
        let Arrived {
            stored,
            held: _held,
        } = self.arrive(&manifest.name, &source, expected, kind).await?;
        let now = Timestamp::now();
        let record = PluginRecord {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            enabled: manifest.enabled,
            artifact: ArtifactRecord {
                digest: stored.digest,
                size_bytes: stored.size_bytes,
            },
            pinned: expected.is_some(),
            source_url,
            manifest,
            installed_at: now,
            updated_at: now,
        };
        let name = record.name.clone();
        // Others may have been installed while the artifact was on its way.
        self.check_plugin_count(&name).await?;
        self.parts.store.install_plugin(record).await?;
        self.learn_plugins().await?;
        // The artifact of the plugin that this one replaces may be needed by nobody now.
        self.collect_unused().await;
        tracing::info!(plugin = %name, digest = %stored.digest, "plugin installed");
        let installed = self.find_plugin(&name).await?.installed();
        let message = format!("Version {} of the plugin is installed", installed.version);
        self.parts
            .events
            .plugin(EventType::PluginInstalled, &name, message);
        Ok(installed)
    }

    /// Refuses a new plugin where there are as many as there may be.
    async fn check_plugin_count(&self, name: &Name) -> Result<(), ServiceError> {
        let limit = self.parts.limits.counts.max_plugins;
        let names = self.plugin_names().await?;
        if names.len() < limit || names.contains(name) {
            return Ok(());
        }
        let message = format!("{limit} plugins are installed already");
        Err(ServiceError::new(ErrorKind::NoCapacity, message)
            .hint("Remove one, or raise `max_plugins` in volantd's configuration"))
    }

    /// The names of all plugins, sorted.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn plugin_names(&self) -> Result<Vec<Name>, ServiceError> {
        Ok(self
            .parts
            .store
            .plugins()
            .await?
            .into_iter()
            .map(|plugin| plugin.name)
            .collect())
    }

    /// All plugins, by name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn installed_plugins(&self) -> Result<Vec<InstalledPlugin>, ServiceError> {
        let plugins = self.parts.store.plugins().await?;
        Ok(plugins.iter().map(PluginRecord::installed).collect())
    }

    /// A plugin's manifest; `enabled` is as it was set last.
    ///
    /// # Errors
    /// If there is none of this name, or the database fails.
    pub async fn plugin(&self, name: &Name) -> Result<Manifest, ServiceError> {
        let plugin = self.find_plugin(name).await?;
        Ok(Manifest {
            enabled: plugin.enabled,
            ..plugin.manifest
        })
    }

    /// Sets whether VMs can be created from a plugin.
    ///
    /// # Errors
    /// As [`Service::plugin`].
    pub async fn set_plugin_enabled(&self, name: &Name, enabled: bool) -> Result<(), ServiceError> {
        if self
            .parts
            .store
            .set_plugin_enabled(name, enabled, Timestamp::now())
            .await?
        {
            tracing::info!(plugin = %name, enabled, "plugin switched");
            Ok(())
        } else {
            Err(ServiceError::no_plugin(name))
        }
    }

    /// Forgets a plugin. Its VMs go on: each keeps the manifest and artifact that it was created with.
    ///
    /// # Errors
    /// As [`Service::plugin`].
    pub async fn remove_plugin(&self, name: &Name) -> Result<(), ServiceError> {
        if !self.parts.store.remove_plugin(name).await? {
            return Err(ServiceError::no_plugin(name));
        }
        self.learn_plugins().await?;
        self.collect_artifacts().await;
        tracing::info!(plugin = %name, "plugin removed");
        let message = "The plugin is removed";
        self.parts
            .events
            .plugin(EventType::PluginRemoved, name, message);
        Ok(())
    }

    pub(super) async fn find_plugin(&self, name: &Name) -> Result<PluginRecord, ServiceError> {
        self.parts
            .store
            .plugin(name)
            .await?
            .ok_or_else(|| ServiceError::no_plugin(name))
    }
}

impl From<ArtifactError> for ServiceError {
    fn from(error: ArtifactError) -> Self {
        let kind = match &error {
            ArtifactError::ChecksumMismatch { .. } => ErrorKind::ChecksumMismatch,
            ArtifactError::Signature { .. } => ErrorKind::BadSignature,
            ArtifactError::Refused { status, .. } if *status < 500 => ErrorKind::Invalid,
            ArtifactError::Unreachable { .. }
            | ArtifactError::Refused { .. }
            | ArtifactError::TimedOut { .. }
            | ArtifactError::Incomplete { .. } => ErrorKind::Unavailable,
            ArtifactError::Read { .. }
            | ArtifactError::Redirected { .. }
            | ArtifactError::TooLarge { .. }
            | ArtifactError::NotBootable { .. }
            | ArtifactError::NotAFile { .. } => ErrorKind::Invalid,
            ArtifactError::NoSpace { .. } => ErrorKind::NoCapacity,
            ArtifactError::Store { .. } | ArtifactError::Client(_) | ArtifactError::Worker(_) => {
                ErrorKind::Internal
            }
        };
        let mut refused = Self::new(kind, error.to_string());
        refused.hints = error.hints();
        // The path or URL is the user's own; why it could not be read is part of the answer.
        if let (ErrorKind::Unavailable | ErrorKind::Invalid, Some(cause)) =
            (kind, std::error::Error::source(&error))
        {
            refused.message = format!("{}: {cause}", refused.message);
        }
        // Why a signature does not hold is in the causes.
        if kind == ErrorKind::BadSignature {
            refused.message = Chain(&error).to_string();
        }
        refused.caused(error)
    }
}

impl From<crate::store::StoreError> for ServiceError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::new(ErrorKind::Internal, "The database failed").caused(error)
    }
}
