//! VMs' configurations: read, changed, rolled back, and moved to another version of the plugin. What a configuration may be is checked
//! here against plugin, host and store; the machine records it, and takes it at the next launch.

use std::path::Path;
use std::sync::Arc;

use common::api::{
    ConfigHistoryEntry, ConfigPatch, RollbackConfig, UpgradeVm, VersionedConfig, Vm, VmConfig,
    VmDesired,
};
use common::digest::Digest;
use common::manifest::{ArtifactKind, FieldProblem, Source};
use common::name::Name;
use tokio::sync::MutexGuard;

use super::downloads::Arrived;
use super::{ErrorKind, Service, ServiceError};
use crate::log::blocking;
use crate::machine::record::ConfigVersion;
use crate::machine::{MachineError, NewConfig};
use crate::media::MediaError;
use crate::store::{ArtifactRecord, PluginRecord, StoredConfig};

/// How often a change is made anew because another one came in between, where the caller did not say which version it meant.
const MAX_TRIES: u32 = 5;

/// An artifact that is stored, and what named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pinned {
    named: Named,
    digest: Digest,
}

/// How a configuration names what it boots.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    kind: ArtifactKind,
    url: String,
    checksum: Option<Digest>,
}

impl Named {
    fn by(config: &VmConfig) -> Self {
        let manifest = config.effective_manifest();
        let artifact = manifest.artifact();
        Self {
            kind: artifact.kind,
            url: artifact.url.to_owned(),
            checksum: artifact.checksum,
        }
    }
}

impl PluginRecord {
    /// Its artifact, for a configuration that boots it.
    pub(super) fn pinned(&self) -> Pinned {
        Pinned {
            named: Named::by(&VmConfig::new(self.manifest.clone())),
            digest: self.artifact.digest,
        }
    }
}

/// What becomes of a VM whose configuration was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// What runs goes on as it is.
    Leave,
    /// It is restarted, if it is up or on its way there.
    Restart,
}

impl Service {
    /// A VM's newest configuration.
    ///
    /// # Errors
    /// If there is no such VM, or the database fails.
    pub async fn vm_config(&self, name: &Name) -> Result<VersionedConfig, ServiceError> {
        Ok(shown(&self.newest(name).await?.version))
    }

    /// The kept versions of a VM's configuration, newest first.
    ///
    /// # Errors
    /// As [`Service::vm_config`].
    pub async fn vm_config_history(
        &self,
        name: &Name,
        limit: Option<u32>,
    ) -> Result<Vec<ConfigHistoryEntry>, ServiceError> {
        let id = self.parts.registry.id(name)?;
        // One more than are kept while an old one runs.
        let kept = self.parts.limits.store.config_versions;
        let limit = limit.unwrap_or(u32::MAX).min(kept.saturating_add(1));
        let stored = self.parts.store.vm_configs(id, limit).await?;
        Ok(stored.into_iter().map(StoredConfig::entry).collect())
    }

    /// Changes a VM's configuration. With `expected`, only if that still is the newest version.
    ///
    /// # Errors
    /// If there is no such VM, the version is another one, or the result cannot be; nothing is changed then.
    pub async fn patch_vm_config(
        &self,
        name: &Name,
        patch: ConfigPatch,
        expected: Option<u64>,
        afterwards: Afterwards,
    ) -> Result<VersionedConfig, ServiceError> {
        let change = |present: &ConfigVersion| {
            refuse_other_plugin(&present.config, &patch, "/plugin")?;
            let mut config = present.config.clone();
            patch.clone().apply(&mut config);
            Ok(Wanted::Chosen(config))
        };
        let made = self.reconfigure(name, expected, change).await;
        let made = made.map_err(|error| error.placed(&patch, str::to_owned))?;
        self.follow(name, afterwards).await?;
        Ok(shown(&made))
    }

    /// Makes an old version of a VM's configuration the newest one again.
    ///
    /// # Errors
    /// As [`Service::patch_vm_config`], and if the version is not kept.
    pub async fn rollback_vm_config(
        &self,
        name: &Name,
        version: u64,
        expected: Option<u64>,
        afterwards: Afterwards,
    ) -> Result<VersionedConfig, ServiceError> {
        let id = self.parts.registry.id(name)?;
        let Some(old) = self.parts.store.vm_config(id, version).await? else {
            let message = format!("Version {version} of the configuration of `{name}` is not kept");
            let hint = format!("`volar vms config history {name}` shows those that are");
            return Err(ServiceError::new(ErrorKind::ConfigVersionNotFound, message).hint(hint));
        };
        let old = old.version;
        let change = |_: &ConfigVersion| Ok(Wanted::Known(old.config.clone(), old.artifact));
        let made = self.reconfigure(name, expected, change).await;
        let made =
            made.map_err(|error| error.placed(&RollbackConfig { version }, str::to_owned))?;
        self.follow(name, afterwards).await?;
        Ok(shown(&made))
    }

    /// Moves a VM to the present version of its plugin, and restarts it if it is up. One that has it already stays as it is.
    ///
    /// # Errors
    /// If there is no such VM or plugin, the plugin is switched off or has another version than was asked for, or the result cannot be.
    pub async fn upgrade_vm(&self, name: &Name, request: UpgradeVm) -> Result<Vm, ServiceError> {
        let present = self.newest(name).await?.version;
        let plugin = self.find_enabled_plugin(&present.config.plugin).await?;
        if let Some(wanted) = &request.version
            && *wanted != plugin.version
        {
            let (plugin, version) = (&plugin.name, &plugin.version);
            let detail = format!("The plugin `{plugin}` has version `{version}`, not `{wanted}`");
            return Err(ServiceError::field("/version", detail));
        }
        let mut after = present.config.clone();
        after.set_manifest(plugin.manifest.clone());
        let artifact_stays = after.initramfs.is_some()
            || after.rootfs.is_some()
            || present.artifact == plugin.artifact.digest;
        if after != present.config || !artifact_stays {
            let pinned = plugin.pinned();
            let change = |present: &ConfigVersion| {
                let mut config = present.config.clone();
                config.set_manifest(plugin.manifest.clone());
                // The same address may have another content by now.
                Ok(if Named::by(&config) == pinned.named {
                    Wanted::Known(config, pinned.digest)
                } else {
                    Wanted::Chosen(config)
                })
            };
            let made = self.reconfigure(name, None, change).await;
            made.map_err(|error| error.placed(&request, str::to_owned))?;
            self.follow(name, Afterwards::Restart).await?;
            tracing::info!(vm = %name, version = plugin.version, "vm upgraded");
        }
        self.get_vm(name)
    }

    pub(super) async fn newest(&self, name: &Name) -> Result<StoredConfig, ServiceError> {
        let id = self.parts.registry.id(name)?;
        let newest = self.parts.store.vm_configs(id, 1).await?.pop();
        // It went in between.
        newest.ok_or_else(|| ServiceError::no_vm(name))
    }

    /// Makes the next version with `change`, from what is the newest one then.
    async fn reconfigure(
        &self,
        name: &Name,
        expected: Option<u64>,
        change: impl Fn(&ConfigVersion) -> Result<Wanted, ServiceError>,
    ) -> Result<Arc<ConfigVersion>, ServiceError> {
        let mut tries = 0;
        loop {
            let present = self.newest(name).await?.version;
            if let Some(expected) = expected
                && expected != present.version
            {
                let (name, present) = (name.clone(), present.version);
                return Err(MachineError::VersionMismatch { name, present }.into());
            }
            let (config, known) = match change(&present)? {
                Wanted::Chosen(config) => (config, None),
                Wanted::Known(config, digest) => (config, Some(digest)),
            };
            self.check_config(&config)?;
            let mut candidates = Vec::new();
            candidates.extend(known.map(|digest| Pinned {
                named: Named::by(&config),
                digest,
            }));
            candidates.push(Pinned {
                named: Named::by(&present.config),
                digest: present.artifact,
            });
            // Held until the version is recorded: nothing collects its artifact in between.
            let (artifact, _held) = self.pin(&config, &candidates).await?;
            self.check_memory(&config, &artifact)?;
            let new = NewConfig {
                config,
                artifact,
                from: present.version,
            };
            tries += 1;
            match self.parts.registry.reconfigure(name, new).await {
                Err(MachineError::VersionMismatch { .. })
                    if expected.is_none() && tries < MAX_TRIES => {}
                done => return Ok(done?),
            }
        }
    }

    /// Restarts a VM that should be up.
    async fn follow(&self, name: &Name, afterwards: Afterwards) -> Result<(), ServiceError> {
        let vm = self.parts.registry.get(name)?;
        if afterwards == Afterwards::Restart && vm.desired == VmDesired::Running {
            self.parts.registry.restart(name).await?;
        }
        Ok(())
    }

    /// Refuses what could never run on this host.
    pub(super) fn check_config(&self, config: &VmConfig) -> Result<(), ServiceError> {
        let problems = config.problems();
        if let Some(first) = problems.first() {
            return Err(ServiceError {
                fields: problems.clone(),
                ..ServiceError::new(ErrorKind::Invalid, first.detail.clone())
            });
        }
        if let Some(FieldProblem { pointer, detail }) = config.not_implemented() {
            let refused = ServiceError::field(&pointer, detail);
            return Err(ServiceError {
                kind: ErrorKind::NotImplemented,
                ..refused
            });
        }
        self.check_size(config)?;
        let media = &self.parts.media;
        if let Some(kernel) = &config.kernel_override {
            let checked = media.check_other_kernel(Path::new(kernel));
            checked.map_err(|error| refused_media("/kernel_override", &error))?;
        }
        for (index, disk) in config.disks.iter().enumerate() {
            let checked = media.check_disk(Path::new(&disk.path));
            checked.map_err(|error| refused_media(&format!("/disks/{index}/path"), &error))?;
        }
        Ok(())
    }

    fn check_size(&self, config: &VmConfig) -> Result<(), ServiceError> {
        let (host, (cpu_cores, memory_mib)) = (self.parts.capacity, config.size());
        if !(1..=host.cpu_cores).contains(&cpu_cores) {
            let detail = format!(
                "A VM can have 1 to {} CPUs on this host, not {cpu_cores}",
                host.cpu_cores
            );
            return Err(ServiceError::field("/resources/cpu_cores", detail));
        }
        if !(1..=host.memory_mib).contains(&memory_mib) {
            let detail = format!(
                "A VM can have 1 to {} MiB of memory on this host, not {memory_mib}",
                host.memory_mib
            );
            return Err(ServiceError::field("/resources/memory_mb", detail));
        }
        Ok(())
    }

    /// Whether what the VM boots fits its memory. A root file system is not unpacked.
    pub(super) fn check_memory(
        &self,
        config: &VmConfig,
        artifact: &Digest,
    ) -> Result<(), ServiceError> {
        let (_, memory_mib) = config.size();
        let checked = self.parts.media.check_memory(artifact, memory_mib);
        checked.map_err(|error| refused_media("/resources/memory_mb", &error))
    }

    /// The stored artifact that a configuration boots: one of those that are known, or fetched now. It is kept from being collected as
    /// long as the guard is there.
    pub(super) async fn pin(
        &self,
        config: &VmConfig,
        known: &[Pinned],
    ) -> Result<(Digest, MutexGuard<'_, ()>), ServiceError> {
        let wanted = Named::by(config);
        if let Some(found) = known.iter().find(|pinned| pinned.named == wanted) {
            let (artifacts, digest) = (Arc::clone(&self.parts.artifacts), found.digest);
            let held = self.installing.lock().await;
            // It may have been collected since it was known: then it comes anew.
            if blocking(move || artifacts.get(&digest)).await?.is_some() {
                return Ok((found.digest, held));
            }
        }
        let pointer = config.boot_pointer("url");
        let source = Source::parse(&wanted.url)
            .map_err(|error| ServiceError::field(&pointer, error.to_string()))?;
        let Arrived { stored, held } = self
            .arrive(&config.plugin, &source, wanted.checksum, wanted.kind)
            .await?;
        let record = ArtifactRecord {
            digest: stored.digest,
            size_bytes: stored.size_bytes,
        };
        self.parts.store.record_artifact(record).await?;
        Ok((stored.digest, held))
    }
}

/// What a change makes of a configuration.
enum Wanted {
    /// It boots whatever it names.
    Chosen(VmConfig),
    /// It boots this, which is stored.
    Known(VmConfig, Digest),
}

/// A VM's plugin never changes.
pub(super) fn refuse_other_plugin(
    config: &VmConfig,
    patch: &ConfigPatch,
    pointer: &str,
) -> Result<(), ServiceError> {
    match &patch.plugin {
        Some(other) if *other != config.plugin => {
            let detail = format!("The VM runs the plugin `{}`, not `{other}`", config.plugin);
            Err(ServiceError::field(pointer, detail))
        }
        _ => Ok(()),
    }
}

fn refused_media(pointer: &str, error: &MediaError) -> ServiceError {
    let hints = error.hints();
    let detail = common::error_chain::Chain(error).to_string();
    ServiceError {
        hints,
        ..ServiceError::field(pointer, detail)
    }
}

fn shown(version: &ConfigVersion) -> VersionedConfig {
    VersionedConfig {
        version: version.version,
        updated_at: version.updated_at.to_string(),
        config: version.config.clone(),
    }
}
