//! The versions of VMs' configurations in the database. The machine writes them as a part of its [`Journal`](crate::machine::record::Journal);
//! what is read here is for people.

use common::api::ConfigHistoryEntry;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::vms::{from_json, json};
use super::{Failed, Store, StoreError, parsed};
use crate::machine::record::{ConfigVersion, JournalError};

/// A version of a VM's configuration as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConfig {
    /// Its number among those of all VMs.
    pub id: i64,
    /// The version.
    pub version: ConfigVersion,
}

impl StoredConfig {
    /// The version as clients see it.
    pub fn entry(self) -> ConfigHistoryEntry {
        ConfigHistoryEntry {
            id: self.id,
            version: self.version.version,
            updated_at: self.version.updated_at.to_string(),
            config: self.version.config,
        }
    }
}

const SELECT: &str = "SELECT id, version, config, artifact, updated_at FROM vm_configs";

impl Store {
    /// The kept versions of a VM's configuration, newest first, at most `limit`. None if there is no such VM.
    ///
    /// # Errors
    /// If the database fails, or a row cannot be read.
    pub async fn vm_configs(&self, vm: i64, limit: u32) -> Result<Vec<StoredConfig>, StoreError> {
        self.run("list the VM's configurations", move |transaction| {
            let sql = format!("{SELECT} WHERE vm = ?1 ORDER BY version DESC LIMIT ?2");
            let mut statement = transaction.prepare(&sql)?;
            let rows = statement
                .query_map([vm, i64::from(limit)], read)?
                .collect::<Result<Vec<_>, _>>()?;
            let parsed = rows.into_iter().map(parse);
            parsed.collect::<Result<_, _>>().map_err(Failed::Value)
        })
        .await
    }

    /// One version of a VM's configuration, if it is kept.
    ///
    /// # Errors
    /// If the database fails, or the row cannot be read.
    pub async fn vm_config(
        &self,
        vm: i64,
        version: u64,
    ) -> Result<Option<StoredConfig>, StoreError> {
        // The database's integers are signed: a version beyond them was never given.
        let Ok(version) = i64::try_from(version) else {
            return Ok(None);
        };
        self.run("read the VM's configuration", move |transaction| {
            let sql = format!("{SELECT} WHERE vm = ?1 AND version = ?2");
            let row = transaction
                .query_row(&sql, params![vm, version], read)
                .optional()?;
            row.map(parse).transpose().map_err(Failed::Value)
        })
        .await
    }
}

/// Adds a version.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    vm: i64,
    version: &ConfigVersion,
) -> Result<(), JournalError> {
    transaction.execute(
        "INSERT INTO vm_configs (vm, version, config, artifact, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            vm,
            version.version,
            json(&version.config)?,
            version.artifact.to_string(),
            version.updated_at.to_string(),
        ],
    )?;
    Ok(())
}

/// Forgets all versions of a VM but the newest `kept` and the one that runs.
pub(super) fn prune(transaction: &Transaction<'_>, vm: i64, kept: u32) -> rusqlite::Result<()> {
    transaction.execute(
        "DELETE FROM vm_configs WHERE vm = ?1
             AND version NOT IN (SELECT version FROM vm_configs WHERE vm = ?1 ORDER BY version DESC LIMIT ?2)
             AND version IS NOT (SELECT launched_version FROM vms WHERE id = ?1)",
        params![vm, kept],
    )?;
    Ok(())
}

/// A version as SQLite gives it.
pub(super) struct RawConfig {
    pub(super) version: u64,
    pub(super) config: String,
    pub(super) artifact: String,
    pub(super) updated_at: String,
}

impl RawConfig {
    /// Reads it; `row` names whose it is.
    pub(super) fn parse(self, row: &str) -> Result<ConfigVersion, StoreError> {
        Ok(ConfigVersion {
            version: self.version,
            config: from_json(row, "config", &self.config)?,
            artifact: parsed(row, "artifact", self.artifact.parse())?,
            updated_at: parsed(row, "updated_at", self.updated_at.parse())?,
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, RawConfig)> {
    let raw = RawConfig {
        version: row.get("version")?,
        config: row.get("config")?,
        artifact: row.get("artifact")?,
        updated_at: row.get("updated_at")?,
    };
    Ok((row.get("id")?, raw))
}

fn parse((id, raw): (i64, RawConfig)) -> Result<StoredConfig, StoreError> {
    let version = raw.parse(&format!("configuration {id}"))?;
    Ok(StoredConfig { id, version })
}
