//! Artifacts on their way into the store: fetched, held until they are recorded, and those that listen told how far they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::api::Download;
use common::digest::Digest;
use common::manifest::{ArtifactKind, Source};
use common::name::Name;
use tokio::sync::MutexGuard;

use super::{Service, ServiceError};
use crate::artifact::{OnProgress, Progress, Stored, shown_source};

/// The least time between two tellings: what somebody who looks at a bar can see.
const PAUSE: Duration = Duration::from_millis(250);

/// An artifact that is stored and that nothing collects as long as this is there.
pub(super) struct Arrived<'a> {
    pub(super) stored: Stored,
    pub(super) held: MutexGuard<'a, ()>,
}

impl Service {
    /// Fetches and checks an artifact for a plugin, and keeps all others from collecting it until it is recorded.
    ///
    /// Nobody waits for a source: the lock is taken when the artifact has arrived.
    pub(super) async fn arrive(
        &self,
        plugin: &Name,
        source: &Source,
        expected: Option<Digest>,
        kind: ArtifactKind,
    ) -> Result<Arrived<'_>, ServiceError> {
        let on_progress = self.tells_download(plugin, source);
        let artifacts = &self.parts.artifacts;
        let first = artifacts.fetch(source, expected, kind, Arc::clone(&on_progress));
        let digest = first.await?.digest;
        let held = self.installing.lock().await;
        // A collection may have come in between. What is there, as nearly always, is neither fetched nor prepared again.
        let stored = artifacts.fetch(source, Some(digest), kind, on_progress);
        Ok(Arrived {
            stored: stored.await?,
            held,
        })
    }

    /// What tells how far the download of `source` for `plugin` is.
    fn tells_download(&self, plugin: &Name, source: &Source) -> OnProgress {
        let (plugin, source) = (plugin.clone(), shown_source(source));
        let events = Arc::clone(&self.parts.events);
        let pace = Mutex::new(Pace::default());
        Arc::new(move |progress| {
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            if pace.is_due(Instant::now(), progress) {
                let download = Download {
                    source: source.clone(),
                    received_bytes: progress.received_bytes,
                    total_bytes: progress.total_bytes,
                };
                events.download(&plugin, download);
            }
        })
    }
}

/// When something was told last.
#[derive(Debug, Default)]
struct Pace(Option<Instant>);

impl Pace {
    /// Whether it is time again: the first and the last of all are told at once.
    fn is_due(&mut self, now: Instant, progress: Progress) -> bool {
        let is_whole = progress.total_bytes == Some(progress.received_bytes);
        let waited = self
            .0
            .is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if is_whole || waited {
            self.0 = Some(now);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_a_second_are_told_and_the_first_and_the_last() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        let told: Vec<u64> = (1..=1000)
            .filter(|ms| {
                let progress = Progress {
                    received_bytes: *ms,
                    total_bytes: Some(1000),
                };
                pace.is_due(begun + Duration::from_millis(*ms), progress)
            })
            .collect();
        assert_eq!(told, [1, 251, 501, 751, 1000]);
    }
}
