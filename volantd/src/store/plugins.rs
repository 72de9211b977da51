//! Plugins and artifacts in the database.

use std::collections::BTreeSet;

use common::api::{ArtifactInfo, InstalledPlugin};
use common::digest::Digest;
use common::manifest::Manifest;
use common::name::Name;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::artifacts::USES;
use super::{Failed, Store, StoreError, parsed};

/// A file in the artifact store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactRecord {
    /// The SHA-256 of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// An installed plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRecord {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: String,
    /// Whether VMs can be created from it.
    pub enabled: bool,
    /// Its manifest.
    pub manifest: Manifest,
    /// The artifact that it boots.
    pub artifact: ArtifactRecord,
    /// Whether the manifest named that digest.
    pub pinned: bool,
    /// Where the artifact came from.
    pub source_url: String,
    /// When it was first installed.
    pub installed_at: Timestamp,
    /// When it was installed or changed last.
    pub updated_at: Timestamp,
}

impl PluginRecord {
    /// Its artifact as clients see it.
    pub fn artifact_info(&self) -> ArtifactInfo {
        ArtifactInfo {
            kind: self.manifest.artifact().kind.as_str().to_owned(),
            digest: self.artifact.digest,
            size_bytes: self.artifact.size_bytes,
            pinned: self.pinned,
            source_url: self.source_url.clone(),
        }
    }

    /// The plugin as clients see it.
    pub fn installed(&self) -> InstalledPlugin {
        InstalledPlugin {
            runtime: self.manifest.runtime.clone(),
            name: self.name.clone(),
            version: self.version.clone(),
            enabled: self.enabled,
            artifact: self.artifact_info(),
            installed_at: self.installed_at.to_string(),
        }
    }
}

const SELECT: &str = "SELECT p.name, p.version, p.enabled, p.manifest, p.artifact, a.size_bytes, p.pinned, p.source_url,
        p.installed_at, p.updated_at
    FROM plugins p JOIN artifacts a ON a.digest = p.artifact";

impl Store {
    /// Records a plugin and its artifact; one of this name is replaced, and keeps the time of its first installation.
    ///
    /// # Errors
    /// If the database fails; nothing is changed then.
    pub async fn install_plugin(&self, plugin: PluginRecord) -> Result<(), StoreError> {
        self.run("record the plugin", move |transaction| {
            let digest = plugin.artifact.digest.to_string();
            let (installed_at, updated_at) = (plugin.installed_at.to_string(), plugin.updated_at.to_string());
            insert_artifact(transaction, plugin.artifact, &updated_at)?;
            transaction.execute(
                "INSERT INTO plugins (name, version, enabled, manifest, artifact, pinned, source_url, installed_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (name) DO UPDATE SET version = excluded.version, enabled = excluded.enabled,
                     manifest = excluded.manifest, artifact = excluded.artifact, pinned = excluded.pinned,
                     source_url = excluded.source_url, updated_at = excluded.updated_at",
                params![
                    plugin.name.as_str(),
                    plugin.version,
                    plugin.enabled,
                    plugin.manifest.to_json(),
                    digest,
                    plugin.pinned,
                    plugin.source_url,
                    installed_at,
                    updated_at,
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// Records an artifact that is stored.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn record_artifact(&self, artifact: ArtifactRecord) -> Result<(), StoreError> {
        self.run("record the artifact", move |transaction| {
            insert_artifact(transaction, artifact, &Timestamp::now().to_string())?;
            Ok(())
        })
        .await
    }

    /// A plugin, if it is installed.
    ///
    /// # Errors
    /// If the database fails, or the row cannot be read.
    pub async fn plugin(&self, name: &Name) -> Result<Option<PluginRecord>, StoreError> {
        let name = name.clone();
        self.run("read the plugin", move |transaction| {
            let row = transaction
                .query_row(
                    &format!("{SELECT} WHERE p.name = ?1"),
                    [name.as_str()],
                    Raw::read,
                )
                .optional()?;
            row.map(Raw::parse).transpose().map_err(Failed::Value)
        })
        .await
    }

    /// All plugins, by name.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    pub async fn plugins(&self) -> Result<Vec<PluginRecord>, StoreError> {
        self.run("list the plugins", |transaction| {
            let mut statement = transaction.prepare(&format!("{SELECT} ORDER BY p.name"))?;
            let rows = statement
                .query_map([], Raw::read)?
                .collect::<Result<Vec<_>, _>>()?;
            rows.into_iter()
                .map(Raw::parse)
                .collect::<Result<_, _>>()
                .map_err(Failed::Value)
        })
        .await
    }

    /// Sets whether VMs can be created from a plugin. False if it is not installed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_plugin_enabled(
        &self,
        name: &Name,
        enabled: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let name = name.clone();
        self.run("change the plugin", move |transaction| {
            let changed = transaction.execute(
                "UPDATE plugins SET enabled = ?2, updated_at = ?3 WHERE name = ?1",
                params![name.as_str(), enabled, now.to_string()],
            )?;
            Ok(changed > 0)
        })
        .await
    }

    /// Forgets a plugin. Its VMs go on, and its artifact stays recorded. False if it is not installed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remove_plugin(&self, name: &Name) -> Result<bool, StoreError> {
        let name = name.clone();
        self.run("remove the plugin", move |transaction| {
            Ok(transaction.execute("DELETE FROM plugins WHERE name = ?1", [name.as_str()])? > 0)
        })
        .await
    }

    /// All recorded artifacts, in use or not.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    pub async fn artifacts(&self) -> Result<Vec<ArtifactRecord>, StoreError> {
        self.run("list the artifacts", |transaction| {
            let mut statement =
                transaction.prepare("SELECT digest, size_bytes FROM artifacts ORDER BY digest")?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?
                .collect::<Result<Vec<_>, _>>()?;
            let read = rows.into_iter().map(|(digest, size_bytes)| {
                Ok(ArtifactRecord {
                    digest: parsed(&digest, "digest", digest.parse())?,
                    size_bytes,
                })
            });
            read.collect::<Result<_, _>>().map_err(Failed::Value)
        })
        .await
    }

    /// The artifacts that a plugin or a VM needs; a VM needs those of all kept versions of its configuration.
    ///
    /// # Errors
    /// If the database fails, or a digest cannot be read.
    pub async fn artifacts_in_use(&self) -> Result<BTreeSet<Digest>, StoreError> {
        self.run("list the artifacts in use", |transaction| {
            let mut statement =
                transaction.prepare(&format!("SELECT DISTINCT artifact FROM ({USES})"))?;
            let rows = statement
                .query_map([], |row| row.get::<_, String>(0))?
                .collect::<Result<Vec<_>, _>>()?;
            let read = rows
                .iter()
                .map(|digest| parsed(digest, "digest", digest.parse()));
            read.collect::<Result<_, _>>().map_err(Failed::Value)
        })
        .await
    }

    /// Forgets the artifacts that nothing needs and gives their digests: their files may be removed.
    ///
    /// # Errors
    /// If the database fails, or a digest cannot be read.
    pub async fn forget_unused_artifacts(&self) -> Result<Vec<Digest>, StoreError> {
        self.run("forget unused artifacts", |transaction| {
            let mut statement = transaction.prepare(&format!(
                "DELETE FROM artifacts WHERE digest NOT IN (SELECT artifact FROM ({USES})) RETURNING digest"
            ))?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
            let read = rows.iter().map(|digest| parsed(digest, "digest", digest.parse()));
            read.collect::<Result<_, _>>().map_err(Failed::Value)
        })
        .await
    }
}

pub(super) fn insert_artifact(
    transaction: &Transaction<'_>,
    artifact: ArtifactRecord,
    now: &str,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO artifacts (digest, size_bytes, added_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (digest) DO UPDATE SET size_bytes = excluded.size_bytes",
        params![artifact.digest.to_string(), artifact.size_bytes, now],
    )?;
    Ok(())
}

/// A row as SQLite gives it.
struct Raw {
    name: String,
    version: String,
    enabled: bool,
    manifest: String,
    artifact: String,
    size_bytes: u64,
    pinned: bool,
    source_url: String,
    installed_at: String,
    updated_at: String,
}

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            version: row.get(1)?,
            enabled: row.get(2)?,
            manifest: row.get(3)?,
            artifact: row.get(4)?,
            size_bytes: row.get(5)?,
            pinned: row.get(6)?,
            source_url: row.get(7)?,
            installed_at: row.get(8)?,
            updated_at: row.get(9)?,
        })
    }

    fn parse(self) -> Result<PluginRecord, StoreError> {
        let row = self.name.as_str();
        Ok(PluginRecord {
            name: parsed(row, "name", self.name.parse())?,
            version: self.version,
            enabled: self.enabled,
            manifest: parsed(
                row,
                "manifest",
                Manifest::from_json(self.manifest.as_bytes()),
            )?,
            artifact: ArtifactRecord {
                digest: parsed(row, "artifact", self.artifact.parse())?,
                size_bytes: self.size_bytes,
            },
            pinned: self.pinned,
            source_url: self.source_url,
            installed_at: parsed(row, "installed_at", self.installed_at.parse())?,
            updated_at: parsed(row, "updated_at", self.updated_at.parse())?,
        })
    }
}
