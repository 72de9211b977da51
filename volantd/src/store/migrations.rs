//! Brings a database from any older format to the present one. Formats are numbered by SQLite's `user_version`; there is no way back.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{OpenError, StoreError};

/// Each brings a database one format further. Never changed once released; only added to.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_plugins_and_vms.sql"),
    include_str!("migrations/0002_configs.sql"),
    include_str!("migrations/0003_events.sql"),
    include_str!("migrations/0004_plugin_artifacts.sql"),
    include_str!("migrations/0005_ends.sql"),
];

pub(super) fn run(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    run_these(connection, path, MIGRATIONS)
}

pub(super) fn run_these(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StoreError> {
    let unreadable = |source| StoreError::Open {
        path: path.to_path_buf(),
        source: OpenError::Sqlite(source),
    };
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(unreadable)?;
    if found > known {
        return Err(StoreError::TooNew {
            path: path.to_path_buf(),
            found,
            known,
        });
    }
    for (version, migration) in (1..=known)
        .zip(migrations)
        .skip_while(|(version, _)| *version <= found)
    {
        step(connection, version, migration).map_err(|source| StoreError::Migrate {
            path: path.to_path_buf(),
            version,
            source,
        })?;
    }
    Ok(())
}

/// All of one migration, or nothing of it.
fn step(connection: &mut Connection, version: u32, migration: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    transaction.execute_batch(migration)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}
