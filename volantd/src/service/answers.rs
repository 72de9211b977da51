//! Answers to requests with an idempotency key: one request for each key at a time, and what it was answered. What a key means is the front
//! end's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use common::error_chain::Chain;
use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;

use super::{Service, ServiceError};
use crate::store::KeptAnswer;

/// One lock for each key that a request is being answered for.
#[derive(Debug, Default)]
pub(super) struct Keys {
    answered_now: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Keys {
    fn lock_of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut now = self
            .answered_now
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        now.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = now.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        now.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

impl Service {
    /// Waits until no other request with this key is answered.
    pub async fn alone_with(&self, key: &str) -> OwnedMutexGuard<()> {
        self.keys.lock_of(key).lock_owned().await
    }

    /// What a request with this key was answered.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn kept_answer(&self, key: &str) -> Result<Option<KeptAnswer>, ServiceError> {
        Ok(self.parts.store.answer(key, Timestamp::now()).await?)
    }

    /// Keeps an answer. What was asked for is done, so a failure is the log's business only.
    pub async fn keep_answer(&self, key: &str, answer: KeptAnswer) {
        let kept = self.parts.store.keep_answer(key, answer, Timestamp::now());
        if let Err(error) = kept.await {
            tracing::warn!(error = %Chain(&error), "answer not kept");
        }
    }
}
