//! Artifacts: those of a plugin's versions, those in the store with who needs them, and the removal of what nobody needs.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use common::api::{
    ArtifactUsers, PluginArtifact, Pruned, PrunedArtifact, PutArtifact, SignatureState,
    StoredArtifact,
};
use common::digest::Digest;
use common::error_chain::Chain;
use common::manifest::{ArtifactKind, Manifest, RootfsFormat, Source};
use common::name::Name;
use jiff::Timestamp;
use tokio::sync::MutexGuard;

use super::downloads::Arrived;
use super::{ErrorKind, Service, ServiceError};
use crate::artifact::ArtifactStore;
use crate::log::blocking;
use crate::store::{AddedArtifact, ArtifactRecord, KeptArtifact, PluginRecord};

/// The longest version or name of an artifact that is kept for a plugin, in bytes.
const MAX_WORD_BYTES: usize = 128;

/// Whether artifacts are removed, or only named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// What nobody needs goes.
    Remove,
    /// Nothing is changed.
    DryRun,
}

impl Service {
    /// The artifacts of a plugin, of one version or of all: what the installed manifest names, and what is kept besides.
    ///
    /// # Errors
    /// If the plugin is not installed and nothing is kept for it, or the database fails.
    pub async fn plugin_artifacts(
        &self,
        name: &Name,
        version: Option<&str>,
    ) -> Result<Vec<PluginArtifact>, ServiceError> {
        let users = self.parts.store.artifact_users().await?;
        let installed = self.parts.store.plugin(name).await?;
        let kept = self.parts.store.kept_artifacts(name, version).await?;
        if installed.is_none()
            && kept.is_empty()
            && self
                .parts
                .store
                .kept_artifacts(name, None)
                .await?
                .is_empty()
        {
            return Err(ServiceError::no_plugin(name));
        }
        let installed = installed
            .filter(|plugin| version.is_none_or(|version| version == plugin.version))
            .map(of_manifest);
        let artifacts = Arc::clone(&self.parts.artifacts);
        blocking(move || {
            let all = installed.into_iter().chain(kept);
            all.map(|kept| described(&artifacts, kept, &users))
                .collect()
        })
        .await
    }

    /// An artifact of a plugin by its name; of the installed version if none is named.
    ///
    /// # Errors
    /// As [`Service::plugin_artifacts`], and if there is none of this name.
    pub async fn plugin_artifact(
        &self,
        plugin: &Name,
        name: &str,
        version: Option<&str>,
    ) -> Result<PluginArtifact, ServiceError> {
        let version = match version {
            Some(version) => version.to_owned(),
            None => self.find_plugin(plugin).await?.version,
        };
        let artifacts = self.plugin_artifacts(plugin, Some(&version)).await?;
        let found = artifacts.into_iter().find(|artifact| artifact.name == name);
        found.ok_or_else(|| {
            let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
            let message =
                format!("Version {version} of the plugin `{plugin}` has no artifact `{shown}`");
            ServiceError::new(ErrorKind::ArtifactNotFound, message)
        })
    }

    /// Stores and checks an artifact and keeps it for a version of a plugin, which need not be installed.
    ///
    /// # Errors
    /// Whatever is wrong with the request, the source or the artifact; nothing is recorded then.
    pub async fn keep_artifact(
        &self,
        plugin: &Name,
        put: PutArtifact,
    ) -> Result<PluginArtifact, ServiceError> {
        let wanted = Wanted::of(&put)?;
        self.check_room(plugin, &put).await?;
        let (checksum, kind) = (wanted.checksum, wanted.kind);
        let Arrived {
            stored,
            held: _held,
        } = self.arrive(plugin, &wanted.source, checksum, kind).await?;
        // Others may have been kept while this one was on its way.
        self.check_room(plugin, &put).await?;
        if put.size_bytes != 0 && put.size_bytes != stored.size_bytes {
            self.collect_unused().await;
            let detail = format!("The artifact has {} bytes", stored.size_bytes);
            return Err(ServiceError::field("/size_bytes", detail));
        }
        let now = Timestamp::now();
        let (version, name) = (put.version.clone(), put.artifact_name.clone());
        let record = KeptArtifact {
            id: 0,
            plugin: plugin.clone(),
            version: put.version,
            name: put.artifact_name,
            kind: wanted.kind.as_str().to_owned(),
            artifact: ArtifactRecord {
                digest: stored.digest,
                size_bytes: stored.size_bytes,
            },
            pinned: wanted.checksum.is_some(),
            source_url: wanted.shown,
            format: put.format,
            created_at: now,
            updated_at: now,
        };
        self.parts.store.keep_artifact(record).await?;
        // What it replaces may be needed by nobody now.
        self.collect_unused().await;
        tracing::info!(plugin = %plugin, digest = %stored.digest, "artifact kept");
        self.plugin_artifact(plugin, &name, Some(&version)).await
    }

    /// Refuses what is one too many for its plugin.
    async fn check_room(&self, plugin: &Name, put: &PutArtifact) -> Result<(), ServiceError> {
        let kept = self.parts.store.kept_artifacts(plugin, None).await?;
        let replaces = kept
            .iter()
            .any(|kept| kept.version == put.version && kept.name == put.artifact_name);
        let limit = self.parts.limits.counts.max_artifacts_per_plugin;
        if kept.len() < limit || replaces {
            return Ok(());
        }
        let message = format!("{limit} artifacts are kept for `{plugin}` already");
        Err(ServiceError::new(ErrorKind::NoCapacity, message)
            .hint("Remove those of versions that are not needed any more"))
    }

    /// Lets go of the artifacts that are kept for a plugin, of one version or of all. What the installed manifest names stays.
    ///
    /// # Errors
    /// If the plugin is not installed and nothing is kept for it; if what the installed manifest names is all that the version has.
    pub async fn drop_artifacts(
        &self,
        plugin: &Name,
        version: Option<&str>,
    ) -> Result<(), ServiceError> {
        let dropped = self.parts.store.drop_artifacts(plugin, version).await?;
        if dropped == 0 {
            let installed = self.find_plugin(plugin).await?;
            if version == Some(installed.version.as_str()) {
                let message = format!(
                    "Version {} of the plugin `{plugin}` is installed and boots its artifact",
                    installed.version
                );
                return Err(
                    ServiceError::new(ErrorKind::ArtifactInUse, message).hint(format!(
                        "`volar plugins remove {plugin}` removes the plugin"
                    )),
                );
            }
        }
        self.collect_artifacts().await;
        Ok(())
    }

    /// All artifacts in the store, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn stored_artifacts(&self) -> Result<Vec<StoredArtifact>, ServiceError> {
        let mut users = self.parts.store.artifact_users().await?;
        let added = self.parts.store.added_artifacts().await?;
        let pinned = self.parts.store.pinned_artifacts().await?;
        let artifacts = Arc::clone(&self.parts.artifacts);
        blocking(move || {
            let described = added
                .into_iter()
                .map(|AddedArtifact { artifact, added_at }| StoredArtifact {
                    digest: artifact.digest,
                    size_bytes: artifact.size_bytes,
                    added_at: added_at.to_string(),
                    pinned: pinned.contains(&artifact.digest),
                    signature: signature_of(&artifacts, &artifact.digest),
                    used_by: users.remove(&artifact.digest).unwrap_or_default(),
                });
            Ok(described.collect())
        })
        .await
    }

    /// An artifact in the store.
    ///
    /// # Errors
    /// If there is none of this digest, or the database fails.
    pub async fn stored_artifact(&self, digest: &Digest) -> Result<StoredArtifact, ServiceError> {
        let artifacts = self.stored_artifacts().await?;
        let found = artifacts
            .into_iter()
            .find(|artifact| artifact.digest == *digest);
        found.ok_or_else(|| {
            let message = format!("There is no artifact {digest} in the store");
            ServiceError::new(ErrorKind::ArtifactNotFound, message)
        })
    }

    /// Removes an artifact that nobody needs.
    ///
    /// # Errors
    /// If there is none of this digest, or somebody needs it; who that is, is said.
    pub async fn remove_artifact(&self, digest: &Digest) -> Result<(), ServiceError> {
        let _none_installs = self.no_install_now()?;
        let artifact = self.stored_artifact(digest).await?;
        if !self.parts.store.forget_artifact(digest).await? {
            let message = format!("The artifact is needed by {}", named(&artifact.used_by));
            return Err(ServiceError::new(ErrorKind::ArtifactInUse, message));
        }
        self.remove_unrecorded().await?;
        Ok(())
    }

    /// Removes the artifacts that no plugin, no VM and no version that a VM can go back to needs, or says which they are.
    ///
    /// # Errors
    /// If an install runs now, or the database or the store fails.
    pub async fn prune(&self, prune: Prune) -> Result<Pruned, ServiceError> {
        let _none_installs = self.no_install_now()?;
        let removed = self.unneeded().await?;
        if prune == Prune::Remove {
            self.try_collect_unused().await?;
        }
        Ok(Pruned {
            dry_run: prune == Prune::DryRun,
            freed_bytes: removed.iter().map(|artifact| artifact.size_bytes).sum(),
            removed,
        })
    }

    /// The artifacts that nobody needs, with those that were never recorded because their install was interrupted.
    ///
    /// # Errors
    /// If the database or the store fails.
    pub(super) async fn unneeded(&self) -> Result<Vec<PrunedArtifact>, ServiceError> {
        let needed = self.parts.store.artifacts_in_use().await?;
        let artifacts = Arc::clone(&self.parts.artifacts);
        blocking(move || {
            let mut unneeded = Vec::new();
            for digest in artifacts.list()? {
                if !needed.contains(&digest) {
                    let stored = artifacts.get(&digest)?;
                    unneeded.push(PrunedArtifact {
                        digest,
                        size_bytes: stored.map_or(0, |stored| stored.size_bytes),
                    });
                }
            }
            Ok(unneeded)
        })
        .await
    }

    /// Removes the files of artifacts that nobody needs. What resists is tried again the next time.
    pub async fn collect_artifacts(&self) {
        // An artifact that has arrived is in the store before whatever needs it is recorded. An install collects at its own end; what else
        // keeps this from it is over soon, and the next collection does it.
        if let Ok(_none_installs) = self.installing.try_lock() {
            self.collect_unused().await;
        }
    }

    pub(super) async fn collect_unused(&self) {
        if let Err(error) = self.try_collect_unused().await {
            tracing::warn!(error = %Chain(&error), "unused artifacts not removed");
        }
    }

    async fn try_collect_unused(&self) -> Result<(), ServiceError> {
        self.parts.store.forget_unused_artifacts().await?;
        self.remove_unrecorded().await
    }

    /// Removes files that are not recorded, or not any more, and media made of them.
    async fn remove_unrecorded(&self) -> Result<(), ServiceError> {
        let recorded = self.parts.store.artifacts().await?;
        let recorded: HashSet<Digest> = recorded
            .into_iter()
            .map(|artifact| artifact.digest)
            .collect();
        let artifacts = Arc::clone(&self.parts.artifacts);
        let media = Arc::clone(&self.parts.media);
        blocking(move || {
            for digest in artifacts.list()? {
                if !recorded.contains(&digest) {
                    artifacts.remove(&digest)?;
                    tracing::info!(%digest, "unused artifact removed");
                }
            }
            let failed = |error| {
                ServiceError::new(ErrorKind::Internal, "Boot media cannot be removed").caused(error)
            };
            media.collect_garbage(&recorded).map_err(failed)?;
            Ok(())
        })
        .await
    }

    fn no_install_now(&self) -> Result<MutexGuard<'_, ()>, ServiceError> {
        self.installing.try_lock().map_err(|_| {
            let message = "An artifact is being installed now: it is not known yet who needs it";
            ServiceError::new(ErrorKind::Unavailable, message)
        })
    }
}

/// Whether a stored artifact is signed. Blocks.
fn signature_of(artifacts: &ArtifactStore, digest: &Digest) -> SignatureState {
    if artifacts.is_signed(digest) {
        SignatureState::Verified
    } else {
        SignatureState::None
    }
}

/// What is shown of an artifact. Blocks.
fn described(
    artifacts: &ArtifactStore,
    kept: KeptArtifact,
    users: &BTreeMap<Digest, ArtifactUsers>,
) -> Result<PluginArtifact, ServiceError> {
    let digest = kept.artifact.digest;
    let stored = artifacts.get(&digest)?;
    Ok(PluginArtifact {
        id: kept.id,
        plugin: kept.plugin,
        version: kept.version,
        name: kept.name,
        kind: kept.kind,
        source_url: kept.source_url,
        checksum: digest,
        format: kept.format,
        local_path: stored.map_or_else(String::new, |stored| {
            stored.path.to_string_lossy().into_owned()
        }),
        size_bytes: kept.artifact.size_bytes,
        created_at: kept.created_at.to_string(),
        updated_at: kept.updated_at.to_string(),
        digest,
        pinned: kept.pinned,
        signature: signature_of(artifacts, &digest),
        used_by: users.get(&digest).cloned().unwrap_or_default(),
    })
}

/// What the installed manifest names, as if it were kept; its name is its kind.
fn of_manifest(plugin: PluginRecord) -> KeptArtifact {
    let kind = plugin.manifest.artifact().kind.as_str().to_owned();
    KeptArtifact {
        id: 0,
        name: kind.clone(),
        kind,
        format: format_of(&plugin.manifest),
        plugin: plugin.name,
        version: plugin.version,
        artifact: plugin.artifact,
        pinned: plugin.pinned,
        source_url: plugin.source_url,
        created_at: plugin.installed_at,
        updated_at: plugin.updated_at,
    }
}

fn format_of(manifest: &Manifest) -> String {
    let rootfs = manifest.rootfs.as_ref().and_then(|rootfs| rootfs.format);
    let initramfs = manifest.initramfs.as_ref();
    rootfs
        .map(|format| format.to_string())
        .or_else(|| initramfs.and_then(|initramfs| initramfs.format.clone()))
        .unwrap_or_default()
}

/// Users of an artifact in a sentence.
fn named(users: &ArtifactUsers) -> String {
    let plugins = users
        .plugins
        .iter()
        .map(|name| format!("the plugin `{name}`"));
    let vms = users.vms.iter().map(|name| format!("the VM `{name}`"));
    let all: Vec<String> = plugins.chain(vms).collect();
    if all.is_empty() {
        // Somebody came to need it after its users were looked up.
        return "somebody".to_owned();
    }
    all.join(", ")
}

/// A request to keep an artifact, read.
#[derive(Debug)]
struct Wanted {
    source: Source,
    shown: String,
    checksum: Option<Digest>,
    kind: ArtifactKind,
}

impl Wanted {
    fn of(put: &PutArtifact) -> Result<Self, ServiceError> {
        for (pointer, word) in [
            ("/version", &put.version),
            ("/artifact_name", &put.artifact_name),
        ] {
            let printable = word.chars().all(|c| !c.is_control());
            if word.is_empty() || word.len() > MAX_WORD_BYTES || !printable {
                let detail = format!("Write 1 to {MAX_WORD_BYTES} printable characters");
                return Err(ServiceError::field(pointer, detail));
            }
        }
        let (pointer, shown) = if put.source_url.is_empty() {
            ("/local_path", &put.local_path)
        } else {
            ("/source_url", &put.source_url)
        };
        if shown.is_empty() {
            let detail = "Name where the artifact is, here or in `local_path`";
            return Err(ServiceError::field("/source_url", detail));
        }
        let source = Source::parse(shown)
            .map_err(|error| ServiceError::field(pointer, error.to_string()))?;
        let checksum = match put.checksum.trim() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|error: common::digest::InvalidDigest| {
                        ServiceError::field("/checksum", error.to_string())
                    })?,
            ),
        };
        Ok(Self {
            source,
            shown: shown.clone(),
            checksum,
            kind: kind_of(put)?,
        })
    }
}

fn kind_of(put: &PutArtifact) -> Result<ArtifactKind, ServiceError> {
    match put.kind.as_str() {
        "" | "initramfs" => Ok(ArtifactKind::Initramfs),
        // The Go system's own word for a root file system says how the disk is stored only.
        "rootfs" if matches!(put.format.as_str(), "" | "raw") => Ok(ArtifactKind::Rootfs(None)),
        "rootfs" => {
            let mut known = RootfsFormat::ALL.into_iter();
            let format = known.find(|format| format.as_str() == put.format);
            let wrong = || ServiceError::field("/format", "Write `erofs`, `ext4` or `squashfs`");
            Ok(ArtifactKind::Rootfs(Some(format.ok_or_else(wrong)?)))
        }
        _ => Err(ServiceError::field(
            "/kind",
            "Write `initramfs` or `rootfs`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(change: impl FnOnce(&mut PutArtifact)) -> PutArtifact {
        let mut put = PutArtifact {
            version: "1".to_owned(),
            artifact_name: "boot".to_owned(),
            kind: String::new(),
            source_url: "/srv/a.gz".to_owned(),
            checksum: String::new(),
            format: String::new(),
            local_path: String::new(),
            size_bytes: 0,
        };
        change(&mut put);
        put
    }

    #[test]
    fn requests_are_read() {
        let wanted = Wanted::of(&put(|_| {})).unwrap();
        assert_eq!(wanted.kind, ArtifactKind::Initramfs);
        assert_eq!(wanted.checksum, None);
        let rootfs = put(|put| {
            "rootfs".clone_into(&mut put.kind);
            "ext4".clone_into(&mut put.format);
            std::mem::swap(&mut put.source_url, &mut put.local_path);
        });
        let wanted = Wanted::of(&rootfs).unwrap();
        assert_eq!(wanted.kind, ArtifactKind::Rootfs(Some(RootfsFormat::Ext4)));
        assert_eq!(wanted.shown, "/srv/a.gz");
        let raw = put(|put| {
            "rootfs".clone_into(&mut put.kind);
            "raw".clone_into(&mut put.format);
        });
        let wanted = Wanted::of(&raw).unwrap();
        assert_eq!(wanted.kind, ArtifactKind::Rootfs(None));
    }

    #[test]
    fn wrong_members_are_named() {
        type Change = fn(&mut PutArtifact);
        let table: [(&str, Change); 7] = [
            ("/version", |put| put.version.clear()),
            ("/artifact_name", |put| put.artifact_name = "\n".to_owned()),
            ("/source_url", |put| put.source_url.clear()),
            ("/source_url", |put| put.source_url = "ftp://x/y".to_owned()),
            ("/checksum", |put| put.checksum = "sha256:7".to_owned()),
            ("/kind", |put| put.kind = "kernel".to_owned()),
            ("/format", |put| {
                put.kind = "rootfs".to_owned();
                put.format = "fat".to_owned();
            }),
        ];
        for (pointer, change) in table {
            let error = Wanted::of(&put(change)).unwrap_err();
            assert_eq!(error.fields[0].pointer, pointer);
        }
    }
}
