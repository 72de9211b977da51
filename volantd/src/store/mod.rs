//! The daemon's database: SQLite in one file, for the daemon's user only, because the secrets of all VMs are in it.
//!
//! One connection behind a lock, used on blocking threads: SQLite has one writer anyway, and nothing here takes longer than a disk's
//! answer. No lock is held over an await. What plugins and VMs mean is not known here.

mod answers;
mod artifacts;
mod configs;
mod events;
mod migrations;
mod plugins;
mod vms;

#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fs_err::os::unix::fs::OpenOptionsExt;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::limits::{Limits, StoreLimits};
use crate::machine::record::Durability;

pub use answers::{ANSWER_AGE, KeptAnswer};
pub use artifacts::{AddedArtifact, KeptArtifact};
pub use configs::StoredConfig;
pub use plugins::{ArtifactRecord, PluginRecord};

/// How long a write waits for another process that has the file, such as somebody's `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What went wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be made or opened.
    #[error("Cannot open the database `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: OpenError,
    },
    /// A later version made it.
    #[error(
        "The database `{}` has format {found}, and this volantd knows formats up to {known}: install the version that wrote it, or a later one",
        path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is known.
        known: u32,
    },
    /// It could not be brought to the present format.
    #[error("Cannot bring the database `{}` to format {version}", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The format.
        version: u32,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A statement failed.
    #[error("Cannot {doing}")]
    Statement {
        /// What was tried.
        doing: &'static str,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A stored value is not what it should be.
    #[error("The {column} of `{row}` cannot be read")]
    Value {
        /// The column.
        column: &'static str,
        /// The row's name.
        row: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon is ending.
    #[error("The database is closed")]
    Closed,
}

/// Why a database file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system refused.
    #[error("The file cannot be made for the daemon's user only")]
    File(#[source] io::Error),
    /// SQLite refused.
    #[error("It is not a database, or a damaged one")]
    Sqlite(#[source] rusqlite::Error),
}

/// The database. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
    limits: StoreLimits,
}

impl Store {
    /// Opens the database, makes it if it is not there, and brings it to the present format. Blocks; meant for the daemon's start.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::TooNew`] or [`StoreError::Migrate`]; the file is as it was then.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open {
            path: path.to_path_buf(),
            source,
        };
        make_private(path).map_err(|error| failed(OpenError::File(error)))?;
        let mut connection =
            Connection::open(path).map_err(|error| failed(OpenError::Sqlite(error)))?;
        configure(&connection).map_err(|error| failed(OpenError::Sqlite(error)))?;
        migrations::run(&mut connection, path)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            limits: Limits::default().store,
        })
    }

    /// The same database, of which so much is kept.
    #[must_use]
    pub fn with_limits(mut self, limits: StoreLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs `work` in a transaction on a blocking thread.
    async fn transact<T, E>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Failed> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        let done = tokio::task::spawn_blocking(move || {
            // A panic while the lock is held drops the transaction, which rolls it back.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            set_durability(&connection, durability).map_err(Failed::Sqlite)?;
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(Failed::Sqlite)?;
            let value = work(&transaction)?;
            transaction.commit().map_err(Failed::Sqlite)?;
            Ok(value)
        });
        // Not joined: the runtime ends, or the work panicked, which its thread has reported.
        done.await.unwrap_or_else(|_| Err(Failed::Closed.into()))
    }

    /// As [`Store::transact`], for work that fails as statements do.
    async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.transact(Durability::Promised, work)
            .await
            .map_err(|failed| failed.while_doing(doing))
    }
}

/// Why a transaction was given up.
#[derive(Debug)]
enum Failed {
    Sqlite(rusqlite::Error),
    Value(StoreError),
    Closed,
}

impl Failed {
    fn while_doing(self, doing: &'static str) -> StoreError {
        match self {
            Self::Sqlite(source) => StoreError::Statement { doing, source },
            Self::Value(error) => error,
            Self::Closed => StoreError::Closed,
        }
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Makes the file for the daemon's user only. SQLite gives its `-wal` and `-shm` files the mode of the database.
fn make_private(path: &Path) -> io::Result<()> {
    fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    fs_err::set_permissions(path, Permissions::from_mode(0o600))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// In WAL mode `FULL` writes through to the disk at each commit, with all commits before it; `NORMAL` leaves that to the next checkpoint.
fn set_durability(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let mode = match durability {
        Durability::Promised => "FULL",
        Durability::Noted => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", mode)
}

/// A value of a row, read from text.
fn parsed<T>(
    row: &str,
    column: &'static str,
    result: Result<T, impl std::error::Error + Send + Sync + 'static>,
) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::Value {
        column,
        row: row.to_owned(),
        source: Box::new(source),
    })
}
