//! Events in the database: implements [`Archive`]. A row that cannot be read is left out, because an event is a convenience.

use common::api::VmEvent;
use rusqlite::params;

use super::{Failed, Store, StoreError};
use crate::event::{Archive, ArchiveError};
use crate::machine::ports::BoxFuture;
use crate::machine::record::Durability;

const INSERT: &str = "INSERT OR REPLACE INTO events (id, event) VALUES (?1, ?2)";

const TRIM: &str =
    "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?1)";

const AFTER: &str = "SELECT id, event FROM events WHERE id > ?1 ORDER BY id LIMIT ?2";

const LAST: &str =
    "SELECT id, event FROM (SELECT id, event FROM events ORDER BY id DESC LIMIT ?1) ORDER BY id";

impl Archive for Store {
    fn append(&self, events: Vec<VmEvent>) -> BoxFuture<'_, Result<(), ArchiveError>> {
        Box::pin(async move {
            let kept = self.limits.events;
            // Lost at a power cut, as the VMs that they are about may be.
            self.transact(Durability::Noted, move |transaction| {
                let mut insert = transaction.prepare_cached(INSERT)?;
                for event in &events {
                    let text = serde_json::to_string(event)
                        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
                    insert.execute(params![event.id, text])?;
                }
                transaction.execute(TRIM, [kept])?;
                Ok(())
            })
            .await
            .map_err(|failed: Failed| failed.while_doing("write events"))
            .map_err(failed)
        })
    }

    fn last(&self, count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>> {
        Box::pin(async move {
            self.run("read the last events", move |transaction| {
                read(transaction, LAST, params![count])
            })
            .await
            .map_err(failed)
        })
    }

    fn after(&self, id: u64, count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>> {
        Box::pin(async move {
            // What is above the column's range cannot be there.
            let Ok(id) = i64::try_from(id) else {
                return Ok(Vec::new());
            };
            self.run("read events", move |transaction| {
                read(transaction, AFTER, params![id, count])
            })
            .await
            .map_err(failed)
        })
    }
}

fn failed(error: StoreError) -> ArchiveError {
    ArchiveError(Box::new(error))
}

fn read(
    transaction: &rusqlite::Transaction<'_>,
    select: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<VmEvent>, Failed> {
    let mut statement = transaction.prepare_cached(select)?;
    let rows = statement
        .query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(u64, String)>, _>>()?;
    let parse = |(id, text): (u64, String)| match serde_json::from_str::<VmEvent>(&text) {
        Ok(event) => Some(VmEvent { id, ..event }),
        Err(error) => {
            tracing::warn!(id, %error, "event left out");
            None
        }
    };
    Ok(rows.into_iter().filter_map(parse).collect())
}
