//! Artifacts in the database: who needs which, and those that are kept for versions of plugins. The files are the artifact store's.

use std::collections::{BTreeMap, HashSet};

use common::api::ArtifactUsers;
use common::digest::Digest;
use common::name::Name;
use jiff::Timestamp;
use rusqlite::{Row, params};

use super::plugins::insert_artifact;
use super::{ArtifactRecord, Failed, Store, StoreError, parsed};

/// Who needs which artifact: the only place that says it. Digest, `plugin` or `vm`, name.
pub(super) const USES: &str = "SELECT artifact, 'plugin' AS kind, name FROM plugins
    UNION SELECT artifact, 'plugin', plugin FROM plugin_artifacts
    UNION SELECT c.artifact, 'vm', v.name FROM vm_configs c JOIN vms v ON v.id = c.vm";

/// The artifacts whose digest a plugin, a request or a VM's configuration names.
const PINNED: &str = "SELECT artifact FROM plugins WHERE pinned
    UNION SELECT artifact FROM plugin_artifacts WHERE pinned
    UNION SELECT artifact FROM vm_configs WHERE artifact IN (
        json_extract(config, '$.rootfs.checksum'), json_extract(config, '$.initramfs.checksum'),
        json_extract(config, '$.manifest.rootfs.checksum'), json_extract(config, '$.manifest.initramfs.checksum'))";

/// An artifact that is kept for a version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptArtifact {
    /// Its number; 0 before it is recorded.
    pub id: i64,
    /// The plugin.
    pub plugin: Name,
    /// The plugin's version.
    pub version: String,
    /// Its name among the version's.
    pub name: String,
    /// `initramfs` or `rootfs`.
    pub kind: String,
    /// The file.
    pub artifact: ArtifactRecord,
    /// Whether its digest was named beforehand.
    pub pinned: bool,
    /// Where it came from.
    pub source_url: String,
    /// The format's name as it was given.
    pub format: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was added or replaced last.
    pub updated_at: Timestamp,
}

/// An artifact and when it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedArtifact {
    /// The file.
    pub artifact: ArtifactRecord,
    /// When it was recorded first.
    pub added_at: Timestamp,
}

impl Store {
    /// Keeps an artifact for a version of a plugin, in the place of one of its name.
    ///
    /// # Errors
    /// If the database fails; nothing is changed then.
    pub async fn keep_artifact(&self, kept: KeptArtifact) -> Result<(), StoreError> {
        self.run("record the artifact", move |transaction| {
            let (digest, now) = (kept.artifact.digest.to_string(), kept.updated_at.to_string());
            insert_artifact(transaction, kept.artifact, &now)?;
            transaction.execute(
                "INSERT INTO plugin_artifacts (plugin, version, name, kind, artifact, pinned, source_url, format, created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)
                 ON CONFLICT (plugin, version, name) DO UPDATE SET kind = excluded.kind, artifact = excluded.artifact,
                     pinned = excluded.pinned, source_url = excluded.source_url, format = excluded.format,
                     updated_at = excluded.updated_at",
                params![
                    kept.plugin.as_str(),
                    kept.version,
                    kept.name,
                    kept.kind,
                    digest,
                    kept.pinned,
                    kept.source_url,
                    kept.format,
                    now,
                ],
            )?;
            Ok(())
        })
        .await
    }

    /// The artifacts that are kept for a plugin, of one version or of all; by version and name.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    pub async fn kept_artifacts(
        &self,
        plugin: &Name,
        version: Option<&str>,
    ) -> Result<Vec<KeptArtifact>, StoreError> {
        let (plugin, version) = (plugin.clone(), version.map(str::to_owned));
        self.run("list the plugin's artifacts", move |transaction| {
            let mut statement = transaction.prepare(
                "SELECT k.id, k.plugin, k.version, k.name, k.kind, k.artifact, a.size_bytes, k.pinned, k.source_url, k.format,
                     k.created_at, k.updated_at
                 FROM plugin_artifacts k JOIN artifacts a ON a.digest = k.artifact
                 WHERE k.plugin = ?1 AND (?2 IS NULL OR k.version = ?2) ORDER BY k.version, k.name",
            )?;
            let rows = statement
                .query_map(params![plugin.as_str(), version], Raw::read)?
                .collect::<Result<Vec<_>, _>>()?;
            let read = rows.into_iter().map(Raw::parse);
            read.collect::<Result<_, _>>().map_err(Failed::Value)
        })
        .await
    }

    /// Lets go of the artifacts that are kept for a plugin, of one version or of all, and says how many there were.
    ///
    /// # Errors
    /// If the database fails; nothing is changed then.
    pub async fn drop_artifacts(
        &self,
        plugin: &Name,
        version: Option<&str>,
    ) -> Result<usize, StoreError> {
        let (plugin, version) = (plugin.clone(), version.map(str::to_owned));
        self.run("let go of the plugin's artifacts", move |transaction| {
            Ok(transaction.execute(
                "DELETE FROM plugin_artifacts WHERE plugin = ?1 AND (?2 IS NULL OR version = ?2)",
                params![plugin.as_str(), version],
            )?)
        })
        .await
    }

    /// Forgets an artifact that nobody needs; false if somebody does, or it is not recorded.
    ///
    /// # Errors
    /// If the database fails; nothing is changed then.
    pub async fn forget_artifact(&self, digest: &Digest) -> Result<bool, StoreError> {
        let digest = digest.to_string();
        self.run("forget the artifact", move |transaction| {
            let forget = format!(
                "DELETE FROM artifacts WHERE digest = ?1 AND digest NOT IN (SELECT artifact FROM ({USES}))"
            );
            Ok(transaction.execute(&forget, [digest])? > 0)
        })
        .await
    }

    /// All recorded artifacts, oldest first.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    pub async fn added_artifacts(&self) -> Result<Vec<AddedArtifact>, StoreError> {
        self.run("list the artifacts", |transaction| {
            let mut statement = transaction.prepare(
                "SELECT digest, size_bytes, added_at FROM artifacts ORDER BY added_at, digest",
            )?;
            let rows = statement
                .query_map([], |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get(1)?,
                        row.get::<_, String>(2)?,
                    ))
                })?
                .collect::<Result<Vec<_>, _>>()?;
            let read = rows.into_iter().map(|(digest, size_bytes, added_at)| {
                Ok(AddedArtifact {
                    artifact: ArtifactRecord {
                        digest: parsed(&digest, "digest", digest.parse())?,
                        size_bytes,
                    },
                    added_at: parsed(&digest, "added_at", added_at.parse())?,
                })
            });
            read.collect::<Result<_, _>>().map_err(Failed::Value)
        })
        .await
    }

    /// The artifacts whose digest is named by somebody who needs them.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    pub async fn pinned_artifacts(&self) -> Result<HashSet<Digest>, StoreError> {
        self.run("list the pinned artifacts", |transaction| {
            let mut statement = transaction.prepare(PINNED)?;
            let rows = statement
                .query_map([], |row| row.get::<_, String>(0))?
                .collect::<Result<Vec<_>, _>>()?;
            let read = rows
                .into_iter()
                .map(|digest| parsed(&digest, "artifact", digest.parse()));
            read.collect::<Result<_, _>>().map_err(Failed::Value)
        })
        .await
    }

    /// Who needs which artifact.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    pub async fn artifact_users(&self) -> Result<BTreeMap<Digest, ArtifactUsers>, StoreError> {
        self.run("list who needs which artifact", |transaction| {
            let mut statement = transaction.prepare(&format!("{USES} ORDER BY 1, 2, 3"))?;
            let rows = statement
                .query_map([], |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, String>(2)?,
                    ))
                })?
                .collect::<Result<Vec<_>, _>>()?;
            let mut users: BTreeMap<Digest, ArtifactUsers> = BTreeMap::new();
            for (digest, kind, name) in rows {
                let digest = parsed(&name, "artifact", digest.parse()).map_err(Failed::Value)?;
                let of = users.entry(digest).or_default();
                let names = if kind == "vm" {
                    &mut of.vms
                } else {
                    &mut of.plugins
                };
                names.push(parsed(&name, "name", name.parse()).map_err(Failed::Value)?);
            }
            Ok(users)
        })
        .await
    }
}

/// A row as SQLite gives it.
struct Raw {
    id: i64,
    plugin: String,
    version: String,
    name: String,
    kind: String,
    artifact: String,
    size_bytes: u64,
    pinned: bool,
    source_url: String,
    format: String,
    created_at: String,
    updated_at: String,
}

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            plugin: row.get(1)?,
            version: row.get(2)?,
            name: row.get(3)?,
            kind: row.get(4)?,
            artifact: row.get(5)?,
            size_bytes: row.get(6)?,
            pinned: row.get(7)?,
            source_url: row.get(8)?,
            format: row.get(9)?,
            created_at: row.get(10)?,
            updated_at: row.get(11)?,
        })
    }

    fn parse(self) -> Result<KeptArtifact, StoreError> {
        let row = self.name.as_str();
        Ok(KeptArtifact {
            id: self.id,
            plugin: parsed(row, "plugin", self.plugin.parse())?,
            artifact: ArtifactRecord {
                digest: parsed(row, "artifact", self.artifact.parse())?,
                size_bytes: self.size_bytes,
            },
            created_at: parsed(row, "created_at", self.created_at.parse())?,
            updated_at: parsed(row, "updated_at", self.updated_at.parse())?,
            version: self.version,
            name: self.name,
            kind: self.kind,
            pinned: self.pinned,
            source_url: self.source_url,
            format: self.format,
        })
    }
}
