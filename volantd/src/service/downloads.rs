//! Tells those that listen how far downloads are, a few times a second. Downloads nothing itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::api::Download;
use common::manifest::Source;
use common::name::Name;

use super::Service;
use crate::artifact::{OnProgress, Progress, shown_source};

/// The least time between two tellings: what somebody who looks at a bar can see.
const PAUSE: Duration = Duration::from_millis(250);

impl Service {
    /// What tells how far the download of `source` for `plugin` is.
    pub(super) fn tells_download(&self, plugin: &Name, source: &Source) -> OnProgress {
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
