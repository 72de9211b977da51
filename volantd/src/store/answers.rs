//! What requests with an idempotency key were answered, so that one that comes again gets the same answer, also from the next daemon.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::{Store, StoreError};

/// How long an answer is kept.
pub const ANSWER_AGE: Duration = Duration::from_hours(24);

/// What the bodies of all answers may take, in bytes: many small ones, or a few with large manifests. The oldest go first.
pub(super) const MAX_KEPT_BYTES: u32 = 64 * 1024 * 1024;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The digest of what was asked: method, path and body. The same key must not be used for something else. How long a client waits for
    /// what it asked for is no part of it.
    pub request: String,
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

const TRIM_BYTES: &str = "DELETE FROM answers WHERE rowid IN (
    SELECT rowid FROM (SELECT rowid, SUM(LENGTH(body)) OVER (ORDER BY rowid DESC) AS bytes FROM answers)
    WHERE bytes > ?1)";

impl Store {
    /// What a key was answered, if it is kept still.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn answer(
        &self,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let key = key.to_owned();
        self.run("look for an answer", move |transaction| {
            Ok(transaction
                .query_row(
                    "SELECT request, status, body FROM answers WHERE key = ?1 AND answered_at_ms > ?2",
                    params![key, oldest_ms(now)],
                    |row| {
                        Ok(KeptAnswer {
                            request: row.get(0)?,
                            status: row.get(1)?,
                            body: row.get(2)?,
                        })
                    },
                )
                .optional()?)
        })
        .await
    }

    /// Keeps what a key was answered; what is too old or too much goes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keep_answer(
        &self,
        key: &str,
        answer: KeptAnswer,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (key, kept) = (key.to_owned(), self.limits.idempotency_keys);
        self.run("keep an answer", move |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO answers (key, request, status, body, answered_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![key, answer.request, answer.status, answer.body, now.as_millisecond()],
            )?;
            transaction.execute(
                "DELETE FROM answers WHERE answered_at_ms <= ?1
                     OR key NOT IN (SELECT key FROM answers ORDER BY answered_at_ms DESC LIMIT ?2)",
                params![oldest_ms(now), kept],
            )?;
            transaction.execute(TRIM_BYTES, [MAX_KEPT_BYTES])?;
            Ok(())
        })
        .await
    }
}

fn oldest_ms(now: Timestamp) -> i64 {
    let age_ms = i64::try_from(ANSWER_AGE.as_millis()).unwrap_or(i64::MAX);
    now.as_millisecond().saturating_sub(age_ms)
}
