//! VMs in the database: implements the machine's [`Journal`].

use std::net::Ipv4Addr;
use std::sync::Arc;

use common::api::{BootTimeline, Failure};
use common::guest_config::Secret;
use common::name::Name;
use rusqlite::{Row, Transaction, named_params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::configs::{self, RawConfig};
use super::{Failed, Store, StoreError, parsed};
use crate::machine::blueprint::Blueprint;
use crate::machine::choose_lease;
use crate::machine::plan::Step;
use crate::machine::ports::{BoxFuture, InstanceRecord, Lease};
use crate::machine::record::{
    ConfigVersion, Draft, Durability, Journal, JournalError, Progress, Unreadable, VmRecord,
};
use crate::machine::state::{Desired, Phase, State};

/// Each VM with its newest configuration, and with that of its present launch.
const SELECT: &str = "SELECT v.id, v.name, v.ip, v.mac, v.tap, v.cid, v.secret, v.created_at, v.desired, v.phase, v.steps_begun,
        v.launch, v.launched_version, v.instance, v.restarts, v.proven, v.failure, v.boot, v.quick_ends, v.grace_ms, v.generation, v.updated_at,
        c.version AS c_version, c.config AS c_config, c.artifact AS c_artifact, c.updated_at AS c_updated_at,
        l.version AS l_version, l.config AS l_config, l.artifact AS l_artifact, l.updated_at AS l_updated_at
    FROM vms v
    JOIN vm_configs c ON c.vm = v.id AND c.version = (SELECT max(version) FROM vm_configs WHERE vm = v.id)
    LEFT JOIN vm_configs l ON l.vm = v.id AND l.version = v.launched_version
    ORDER BY v.id";

const INSERT: &str = "INSERT INTO vms (name, ip, mac, tap, cid, secret, created_at, desired, phase, steps_begun, launch,
        launched_version, instance, restarts, proven, failure, boot, generation, updated_at)
    VALUES (:name, :ip, :mac, :tap, :cid, :secret, :created_at, :desired, :phase, '[]', NULL, NULL, NULL, 0, 0, NULL, NULL,
        :generation, :updated_at)";

const UPDATE: &str = "UPDATE vms SET desired = :desired, phase = :phase, steps_begun = :steps_begun, launch = :launch,
        launched_version = :launched_version, instance = :instance, restarts = :restarts, proven = :proven, failure = :failure, boot = :boot,
        quick_ends = :quick_ends, grace_ms = :grace_ms, generation = :generation, updated_at = :updated_at
    WHERE id = :id";

impl Journal for Store {
    fn insert(&self, draft: Draft) -> BoxFuture<'_, Result<VmRecord, JournalError>> {
        Box::pin(self.transact(Durability::Promised, move |transaction| {
            insert(transaction, draft)
        }))
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<Result<VmRecord, Unreadable>>, JournalError>> {
        Box::pin(self.transact(Durability::Noted, |transaction| {
            let mut statement = transaction.prepare(SELECT)?;
            let rows = statement
                .query_map([], Raw::read)?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(rows.into_iter().map(Raw::parse).collect())
        }))
    }

    fn save<'a>(
        &'a self,
        id: i64,
        progress: &'a Progress,
        durability: Durability,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(async move {
            let written = Written::of(progress)?;
            self.transact(durability, move |transaction| {
                written.update(transaction, id)
            })
            .await
        })
    }

    fn reconfigure<'a>(
        &'a self,
        id: i64,
        config: &'a ConfigVersion,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        let (config, kept) = (config.clone(), self.limits.config_versions);
        Box::pin(self.transact(Durability::Promised, move |transaction| {
            configs::insert(transaction, id, &config)?;
            configs::prune(transaction, id, kept)?;
            Ok(())
        }))
    }

    fn remove(&self, id: i64) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(self.transact(Durability::Promised, move |transaction| {
            transaction.execute("DELETE FROM vms WHERE id = ?1", [id])?;
            Ok(())
        }))
    }
}

impl From<Failed> for JournalError {
    fn from(failed: Failed) -> Self {
        Self::Failed {
            doing: "use the table of VMs",
            source: Box::new(failed.while_doing("run a statement")),
        }
    }
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        Failed::Sqlite(error).into()
    }
}

fn insert(transaction: &Transaction<'_>, draft: Draft) -> Result<VmRecord, JournalError> {
    let Draft {
        name,
        config,
        artifact,
        secret,
        created_at,
        pool,
    } = draft;
    let taken: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM vms WHERE name = ?1)",
        [name.as_str()],
        |row| row.get(0),
    )?;
    if taken {
        return Err(JournalError::Exists { name });
    }
    let lease = choose_lease(&name, pool, &leases(transaction)?)?;
    let progress = Progress::new(created_at);
    transaction.execute(
        INSERT,
        named_params! {
            ":name": name.as_str(),
            ":ip": lease.ip.to_string(),
            ":mac": lease.mac,
            ":tap": lease.tap,
            ":cid": lease.cid,
            ":secret": secret.expose(),
            ":created_at": created_at.to_string(),
            ":desired": progress.state.desired.as_str(),
            ":phase": json(&progress.state.phase)?,
            ":generation": progress.generation,
            ":updated_at": progress.updated_at.to_string(),
        },
    )?;
    let id = transaction.last_insert_rowid();
    let config = ConfigVersion {
        version: 1,
        config,
        artifact,
        updated_at: created_at,
    };
    configs::insert(transaction, id, &config)?;
    Ok(VmRecord {
        id,
        blueprint: Arc::new(Blueprint::of(&name, &config)),
        config: Arc::new(config),
        lease,
        secret,
        created_at,
        progress,
    })
}

/// What all VMs hold, of records that can be read and of those that cannot.
fn leases(transaction: &Transaction<'_>) -> Result<Vec<Lease>, JournalError> {
    let mut statement = transaction.prepare("SELECT ip, mac, tap, cid FROM vms")?;
    let rows = statement.query_map([], |row| {
        let ip: String = row.get(0)?;
        // An address that is not one is nobody's.
        let ip = ip.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
        Ok(Lease {
            ip,
            mac: row.get(1)?,
            tap: row.get(2)?,
            cid: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A [`Progress`] as it is written.
struct Written {
    desired: &'static str,
    phase: String,
    steps_begun: String,
    launch: Option<String>,
    launched_version: Option<u64>,
    instance: Option<String>,
    restarts: u32,
    proven: bool,
    failure: Option<String>,
    boot: Option<String>,
    quick_ends: u32,
    grace_ms: Option<u64>,
    generation: u64,
    updated_at: String,
}

impl Written {
    fn of(progress: &Progress) -> Result<Self, JournalError> {
        Ok(Self {
            desired: progress.state.desired.as_str(),
            phase: json(&progress.state.phase)?,
            steps_begun: json(&progress.begun)?,
            launch: progress.launch.clone(),
            launched_version: progress.launched_version,
            instance: progress.instance.as_ref().map(json).transpose()?,
            restarts: progress.restarts,
            proven: progress.proven,
            failure: progress.failure.as_ref().map(json).transpose()?,
            boot: progress.boot.as_ref().map(json).transpose()?,
            quick_ends: progress.quick_ends,
            grace_ms: progress.grace_ms,
            generation: progress.generation,
            updated_at: progress.updated_at.to_string(),
        })
    }

    fn update(&self, transaction: &Transaction<'_>, id: i64) -> Result<(), JournalError> {
        let changed = transaction.execute(
            UPDATE,
            named_params! {
                ":id": id,
                ":desired": self.desired,
                ":phase": self.phase,
                ":steps_begun": self.steps_begun,
                ":launch": self.launch,
                ":launched_version": self.launched_version,
                ":instance": self.instance,
                ":restarts": self.restarts,
                ":proven": self.proven,
                ":failure": self.failure,
                ":boot": self.boot,
                ":quick_ends": self.quick_ends,
                ":grace_ms": self.grace_ms,
                ":generation": self.generation,
                ":updated_at": self.updated_at,
            },
        )?;
        if changed == 1 {
            Ok(())
        } else {
            Err(rusqlite::Error::StatementChangedRows(changed).into())
        }
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, JournalError> {
    serde_json::to_string(value).map_err(|error| JournalError::Failed {
        doing: "write a record",
        source: Box::new(error),
    })
}

/// A row as SQLite gives it.
struct Raw {
    id: i64,
    name: String,
    newest: RawConfig,
    launched: Option<RawConfig>,
    ip: String,
    mac: String,
    tap: String,
    cid: u32,
    secret: String,
    created_at: String,
    desired: String,
    phase: String,
    steps_begun: String,
    launch: Option<String>,
    launched_version: Option<u64>,
    instance: Option<String>,
    restarts: u32,
    proven: bool,
    failure: Option<String>,
    boot: Option<String>,
    quick_ends: u32,
    grace_ms: Option<u64>,
    generation: u64,
    updated_at: String,
}

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let launched: Option<u64> = row.get("l_version")?;
        Ok(Self {
            id: row.get("id")?,
            name: row.get("name")?,
            newest: RawConfig {
                version: row.get("c_version")?,
                config: row.get("c_config")?,
                artifact: row.get("c_artifact")?,
                updated_at: row.get("c_updated_at")?,
            },
            launched: match launched {
                Some(version) => Some(RawConfig {
                    version,
                    config: row.get("l_config")?,
                    artifact: row.get("l_artifact")?,
                    updated_at: row.get("l_updated_at")?,
                }),
                None => None,
            },
            ip: row.get("ip")?,
            mac: row.get("mac")?,
            tap: row.get("tap")?,
            cid: row.get("cid")?,
            secret: row.get("secret")?,
            created_at: row.get("created_at")?,
            desired: row.get("desired")?,
            phase: row.get("phase")?,
            steps_begun: row.get("steps_begun")?,
            launch: row.get("launch")?,
            launched_version: row.get("launched_version")?,
            instance: row.get("instance")?,
            restarts: row.get("restarts")?,
            proven: row.get("proven")?,
            failure: row.get("failure")?,
            boot: row.get("boot")?,
            quick_ends: row.get("quick_ends")?,
            grace_ms: row.get("grace_ms")?,
            generation: row.get("generation")?,
            updated_at: row.get("updated_at")?,
        })
    }

    fn parse(self) -> Result<VmRecord, Unreadable> {
        let name = self.name.clone();
        self.into_record().map_err(|error| Unreadable {
            name,
            source: Box::new(error),
        })
    }

    fn into_record(self) -> Result<VmRecord, StoreError> {
        let progress = self.progress()?;
        let row = self.name.as_str();
        let name: Name = parsed(row, "name", self.name.parse())?;
        let lease = Lease {
            ip: parsed(row, "ip", self.ip.parse())?,
            mac: self.mac,
            tap: self.tap,
            cid: self.cid,
        };
        let newest = self.newest.parse(row)?;
        let launched = self.launched.map(|raw| raw.parse(row)).transpose()?;
        let blueprint = Blueprint::of(&name, launched.as_ref().unwrap_or(&newest));
        Ok(VmRecord {
            id: self.id,
            blueprint: Arc::new(blueprint),
            config: Arc::new(newest),
            lease,
            secret: Secret::from_stored(self.secret),
            created_at: parsed(row, "created_at", self.created_at.parse())?,
            progress,
        })
    }

    fn progress(&self) -> Result<Progress, StoreError> {
        let row = self.name.as_str();
        let desired: Desired = parsed(
            row,
            "desired",
            serde_json::from_value(self.desired.clone().into()),
        )?;
        let phase: Phase = from_json(row, "phase", &self.phase)?;
        let begun: Vec<Step> = from_json(row, "steps_begun", &self.steps_begun)?;
        let instance: Option<InstanceRecord> =
            self.optional("instance", self.instance.as_deref())?;
        let failure: Option<Failure> = self.optional("failure", self.failure.as_deref())?;
        let boot: Option<BootTimeline> = self.optional("boot", self.boot.as_deref())?;
        Ok(Progress {
            state: State { phase, desired },
            begun,
            launch: self.launch.clone(),
            launched_version: self.launched_version,
            instance,
            restarts: self.restarts,
            proven: self.proven,
            failure,
            boot,
            quick_ends: self.quick_ends,
            grace_ms: self.grace_ms,
            generation: self.generation,
            updated_at: parsed(row, "updated_at", self.updated_at.parse())?,
        })
    }

    fn optional<T: DeserializeOwned>(
        &self,
        column: &'static str,
        text: Option<&str>,
    ) -> Result<Option<T>, StoreError> {
        text.map(|text| from_json(&self.name, column, text))
            .transpose()
    }
}

pub(super) fn from_json<T: DeserializeOwned>(
    row: &str,
    column: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    parsed(row, column, serde_json::from_str(text))
}
