//! Artifacts: files that plugins ship, fetched once, verified and kept under their SHA-256. Does not know what is in them: a
//! [`ContentCheck`] decides whether a file that has arrived is any good, before it becomes part of the store.

mod error;
mod fetch;
mod folder;
mod http;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use common::digest::Digest;
use common::manifest::{ArtifactKind, Source};
use fledge::signature::{MAX_SIGNATURE_BYTES, SignatureError};
use tokio::sync::Semaphore;

use crate::limits::{FetchLimits, Limits};
use crate::signature::{Refusal, Signatures, source_beside};

pub use error::ArtifactError;
pub(crate) use error::shown_source;
use fetch::Arrived;
use folder::Folder;
pub use folder::Stored;

/// The store's folder in the daemon's state folder.
const FOLDER: &str = "artifacts";

/// Where an artifact is, or would be, below the daemon's state folder.
pub fn path_of(state_dir: &Path, digest: &Digest) -> PathBuf {
    state_dir.join(FOLDER).join(digest.to_hex())
}

/// How a store works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactConfig {
    /// The daemon's state folder; the store is `artifacts` in it.
    pub state_dir: PathBuf,
    /// The largest artifact in bytes, [`crate::limits::ARTIFACT`] unless configured.
    pub max_bytes: u64,
}

/// Why a file is not taken into the store.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// It is not what it should be; the text is a clause such as "it is not compressed with gzip".
    #[error("{0}")]
    Content(String),
    /// What is made of it does not fit the disk, or cannot be written or read.
    #[error("The artifact could not be prepared")]
    Io(#[from] io::Error),
}

/// Looks at a file before it becomes an artifact.
pub trait ContentCheck: Send + Sync {
    /// Checks `file`, whose digest is `digest`, and makes what is needed of it to boot it as `kind`. Blocks; may be called again for the
    /// same digest.
    ///
    /// # Errors
    /// [`Rejection`]; the file is thrown away then.
    fn check(&self, file: &Path, digest: &Digest, kind: ArtifactKind) -> Result<(), Rejection>;
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have arrived.
    pub received_bytes: u64,
    /// Bytes that are to come in total, where the source says.
    pub total_bytes: Option<u64>,
}

/// Told of the progress of a fetch, often: keep it cheap.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// The store.
pub struct ArtifactStore {
    folder: Arc<Folder>,
    check: Arc<dyn ContentCheck>,
    signatures: Arc<Signatures>,
    fetches: Semaphore,
    /// How long one fetch may take.
    timeout: Duration,
    /// One lock for each digest that is being fetched, so that it is fetched once.
    in_flight: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl std::fmt::Debug for ArtifactStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactStore")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl ArtifactStore {
    /// Opens the store and removes what an interrupted fetch left.
    ///
    /// # Errors
    /// [`ArtifactError::Store`] if its folder cannot be made.
    pub fn open(
        config: &ArtifactConfig,
        check: Arc<dyn ContentCheck>,
    ) -> Result<Self, ArtifactError> {
        let limits = Limits::default().fetches;
        Ok(Self {
            folder: Arc::new(Folder::open(
                &config.state_dir.join(FOLDER),
                config.max_bytes,
            )?),
            check,
            signatures: Arc::default(),
            fetches: Semaphore::new(limits.max_fetches),
            timeout: limits.timeout,
            in_flight: Mutex::new(HashMap::new()),
        })
    }

    /// The same store, which fetches so many at a time, and each for so long.
    #[must_use]
    pub fn with_limits(mut self, limits: &FetchLimits) -> Self {
        self.fetches = Semaphore::new(limits.max_fetches);
        self.timeout = limits.timeout;
        self
    }

    /// The same store, which takes in only what `signatures` lets pass.
    #[must_use]
    pub fn with_signatures(mut self, signatures: Arc<Signatures>) -> Self {
        self.signatures = signatures;
        self
    }

    /// The artifact of this digest, if it is stored.
    ///
    /// # Errors
    /// [`ArtifactError::Store`] if the folder cannot be read.
    pub fn get(&self, digest: &Digest) -> Result<Option<Stored>, ArtifactError> {
        self.folder.get(digest)
    }

    /// Whether a signature of the artifact is kept; only such that a trusted key has made are.
    pub fn is_signed(&self, digest: &Digest) -> bool {
        self.folder.has_signature(digest)
    }

    /// The digests of all stored artifacts, sorted.
    ///
    /// # Errors
    /// [`ArtifactError::Store`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Digest>, ArtifactError> {
        self.folder.list()
    }

    /// Removes an artifact; none of this digest is fine. Whether anybody needs it is the caller's business.
    ///
    /// # Errors
    /// [`ArtifactError::Store`] if it cannot be removed.
    pub fn remove(&self, digest: &Digest) -> Result<(), ArtifactError> {
        self.folder.remove(digest)
    }

    /// Fetches what is at `source`, checks it and stores it. With `expected`, nothing is fetched that is there already. `kind` is
    /// what it must be able to boot as.
    ///
    /// On error nothing is left behind, also when the future is dropped.
    ///
    /// # Errors
    /// [`ArtifactError`], for example where the digest is not `expected`.
    pub async fn fetch(
        &self,
        source: &Source,
        expected: Option<Digest>,
        kind: ArtifactKind,
        on_progress: OnProgress,
    ) -> Result<Stored, ArtifactError> {
        let lock = expected.map(|digest| self.lock_of(digest));
        let _only_one = match &lock {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        if let Some(digest) = expected
            && let Some(stored) = self.folder.get(&digest)?
        {
            let file = stored.path.clone();
            self.check_signature(source, file.clone(), digest).await?;
            self.check_content(source, file, digest, kind).await?;
            return Ok(stored);
        }
        // The semaphore is never closed; without a permit the fetch would only be unbounded.
        let _slot = self.fetches.acquire().await.ok();
        let arrived = fetch::fetch(&self.folder, source, self.timeout, on_progress).await?;
        let Arrived { partial, digest } = arrived;
        if let Some(expected) = expected
            && expected != digest
        {
            return Err(ArtifactError::ChecksumMismatch {
                from: shown_source(source),
                expected,
                got: digest,
            });
        }
        let file = partial.path().to_path_buf();
        self.check_signature(source, file.clone(), digest).await?;
        self.check_content(source, file, digest, kind).await?;
        let folder = Arc::clone(&self.folder);
        blocking(move || folder.keep(&partial, &digest)).await
    }

    /// Makes sure that a trusted key has signed `file`, if signatures are required, and keeps the signature. One that is kept already is
    /// enough; else the one beside `source` is fetched, as the artifact is.
    async fn check_signature(
        &self,
        source: &Source,
        file: PathBuf,
        digest: Digest,
    ) -> Result<(), ArtifactError> {
        if !self.signatures.are_required() {
            return Ok(());
        }
        let refused = |refusal| ArtifactError::Signature {
            from: shown_source(source),
            source: refusal,
        };
        let signatures = Arc::clone(&self.signatures);
        let stored = file.clone();
        let kept = blocking(move || Ok(signatures.verify_stored(&stored, &digest))).await?;
        if kept.is_ok() {
            return Ok(());
        }
        let folder = Arc::new(self.folder.limited_to(MAX_SIGNATURE_BYTES));
        let beside = source_beside(source);
        let fetched = fetch::fetch(&folder, &beside, self.timeout, Arc::new(|_| {})).await;
        let partial = match fetched {
            Ok(Arrived { partial, .. }) => partial,
            Err(error) if error.is_not_there() => return Err(refused(Refusal::Missing)),
            Err(ArtifactError::TooLarge { .. }) => {
                return Err(refused(Refusal::Signature(SignatureError::Format)));
            }
            Err(error) => return Err(error),
        };
        let signatures = Arc::clone(&self.signatures);
        let checked = blocking(move || {
            let checked = fs_err::read(partial.path())
                .map_err(Refusal::Read)
                .and_then(|bytes| signatures.verify(&file, &digest, &bytes));
            // Before the artifact's own name: none is ever there without.
            if checked.is_ok() {
                folder.keep_signature(&partial, &digest)?;
            }
            Ok(checked)
        });
        let key = checked.await?.map_err(refused)?;
        tracing::info!(%digest, %key, "signature verified");
        Ok(())
    }

    async fn check_content(
        &self,
        source: &Source,
        file: PathBuf,
        digest: Digest,
        kind: ArtifactKind,
    ) -> Result<(), ArtifactError> {
        let check = Arc::clone(&self.check);
        let checked = blocking(move || Ok(check.check(&file, &digest, kind))).await?;
        checked.map_err(|rejection| match rejection {
            Rejection::Content(reason) => ArtifactError::NotBootable {
                from: shown_source(source),
                kind,
                reason,
            },
            Rejection::Io(source) => ArtifactError::from_write(self.folder.path(), source),
        })
    }

    fn lock_of(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        in_flight.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = in_flight.get(&digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        in_flight.insert(digest, Arc::downgrade(&lock));
        lock
    }
}

/// Runs what blocks on a thread made for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(gone) => Err(ArtifactError::Worker(gone)),
    }
}
