//! A job's log as server-sent events (HTML standard, § 9.2). Readers pull: a slow one holds nobody up, and learns what it missed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::jobs::Job;
use super::log::Entry;
use super::routes::describe;
use crate::ui::Said;

/// How often a silent stream shows that it is alive; proxies cut after a minute.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The header in which a reader that comes again says what it has.
const LAST_EVENT_ID: &str = "last-event-id";

/// What a reader has already: the number of its last entry.
pub(super) fn last_read(headers: &HeaderMap) -> u64 {
    let value = headers.get(LAST_EVENT_ID);
    let number = value.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    number.unwrap_or(0)
}

/// Whether nothing follows `last`: a reader that has all is told not to come again.
pub(super) fn is_complete(job: &Job, last: u64) -> bool {
    let rest = job.log.after(last);
    rest.ended && rest.entries.is_empty()
}

/// What follows `last`, up to the end of the job.
pub(super) fn stream(
    job: Arc<Job>,
    last: u64,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + Send> {
    let reader = Reader {
        news: job.log.watch(),
        job,
        last,
        pending: VecDeque::new(),
        ended: false,
    };
    let events = stream::unfold(reader, async |mut reader| {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEPALIVE))
}

struct Reader {
    job: Arc<Job>,
    news: watch::Receiver<u64>,
    last: u64,
    pending: VecDeque<Event>,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            self.news.mark_unchanged();
            self.read();
            // The log is the job's own and cannot go away before its end.
            if self.pending.is_empty() && !self.ended && self.news.changed().await.is_err() {
                return None;
            }
        }
    }

    fn read(&mut self) {
        let rest = self.job.log.after(self.last);
        if rest.skipped > 0 {
            let data = json!({ "count": rest.skipped });
            self.pending.push_back(event("skipped", &data));
        }
        for (number, entry) in rest.entries {
            self.last = number;
            let event = match entry {
                Entry::Said(said) => {
                    let data = serde_json::to_value(&said).unwrap_or_default();
                    event(name(&said), &data)
                }
                Entry::Phase(phase) if phase.is_final() => event("end", &describe(&self.job)),
                Entry::Phase(phase) => event("state", &json!({ "state": phase })),
            };
            self.pending.push_back(event.id(number.to_string()));
        }
        self.ended = rest.ended;
    }
}

const fn name(said: &Said) -> &'static str {
    match said {
        Said::Result { .. } => "result",
        Said::Note { .. } => "note",
        Said::Warning { .. } => "warning",
        Said::Detail { .. } => "detail",
        Said::Error { .. } => "error",
        Said::Progress { .. } => "progress",
    }
}

/// JSON has no line breaks of its own, so the data is one line.
fn event(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}
