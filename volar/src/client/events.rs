//! The stream of events: connects, and connects again where the connection ends. Prints nothing; the caller is told of gaps.

use std::time::{Duration, Instant};

use common::api::{GAP_EVENT, LAGGED_EVENT, VmEvent};
use reqwest::header::ACCEPT;
use reqwest::{Method, Response};

use super::sse::SseParser;
use super::{Client, ClientError, query};

/// How long the stream may be silent: volantd says something every 15 s.
const MAX_SILENCE: Duration = Duration::from_secs(45);

/// The first pause before a connection is made again. It doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(200);

/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long volantd may be away until it is given up: long enough for an upgrade, and no script hangs for ever.
const MAX_ABSENCE: Duration = Duration::from_mins(5);

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Of these VMs or plugins; of all if none.
    pub names: Vec<String>,
    /// Of these types; of all but `VM_LOG` and `DOWNLOAD` if none.
    pub types: Vec<String>,
    /// Those after this one; only new ones if not given.
    pub after: Option<u64>,
}

/// What a reader is told.
#[derive(Debug)]
pub enum Told {
    /// An event, and the JSON that it came in.
    Event(Box<VmEvent>, String),
    /// Some events may be missing here.
    Gap,
    /// The connection ended; it is made again.
    Away,
    /// It is there again.
    Back,
}

/// Reads events for as long as it is asked.
#[derive(Debug)]
pub struct EventReader {
    client: Client,
    query: EventQuery,
    last_id: Option<u64>,
    parser: SseParser,
    response: Option<Response>,
    away_since: Option<Instant>,
    pause: Duration,
    /// Nobody knows what happened while it was away: no event had come before that.
    missed: bool,
}

impl Client {
    /// Opens the stream of events.
    pub async fn events(&self, query: EventQuery) -> Result<EventReader, ClientError> {
        let mut reader = EventReader {
            client: self.clone(),
            last_id: query.after,
            query,
            parser: SseParser::default(),
            response: None,
            away_since: None,
            pause: MIN_PAUSE,
            missed: false,
        };
        reader.connect().await?;
        Ok(reader)
    }
}

impl EventReader {
    /// What is next. It only ends with an error.
    pub async fn next(&mut self) -> Result<Told, ClientError> {
        loop {
            if std::mem::take(&mut self.missed) {
                return Ok(Told::Gap);
            }
            if let Some(told) = self.parsed() {
                return Ok(told);
            }
            let Some(response) = &mut self.response else {
                if self.come_back().await? {
                    self.missed = self.last_id.is_none();
                    return Ok(Told::Back);
                }
                continue;
            };
            let chunk = tokio::time::timeout(MAX_SILENCE, response.chunk()).await;
            if let Ok(Ok(Some(bytes))) = chunk {
                self.parser.push(&bytes);
            } else {
                self.leave();
                return Ok(Told::Away);
            }
        }
    }

    fn parsed(&mut self) -> Option<Told> {
        while let Some(event) = self.parser.next_event() {
            match event.name.as_str() {
                GAP_EVENT => return Some(Told::Gap),
                LAGGED_EVENT => {
                    self.leave();
                    return Some(Told::Away);
                }
                _ => {}
            }
            if let Some(id) = event.id.and_then(|id| id.parse().ok()) {
                self.last_id = Some(id);
            }
            // A type that this version does not know is none of its business.
            if let Ok(value) = serde_json::from_str::<VmEvent>(&event.data) {
                return Some(Told::Event(Box::new(value), event.data));
            }
        }
        None
    }

    fn leave(&mut self) {
        self.response = None;
        self.parser = SseParser::default();
        self.away_since.get_or_insert_with(Instant::now);
    }

    /// Tries to connect once, after a pause.
    async fn come_back(&mut self) -> Result<bool, ClientError> {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        match self.connect().await {
            Ok(()) => Ok(true),
            Err(error) => {
                let away = self
                    .away_since
                    .map_or(Duration::ZERO, |since| since.elapsed());
                if error.is_passing() && away < MAX_ABSENCE {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let (names, types) = (self.query.names.join(","), self.query.types.join(","));
        let after = self.last_id.map(|id| id.to_string());
        let mut pairs = Vec::new();
        if !names.is_empty() {
            pairs.push(("vm", names.as_str()));
        }
        if !types.is_empty() {
            pairs.push(("type", types.as_str()));
        }
        if let Some(after) = &after {
            pairs.push(("after", after));
        }
        let path = format!("/api/v1/events/vms{}", query(&pairs));
        let mut builder = self.client.request(Method::GET, &path);
        builder = builder.header(ACCEPT, "text/event-stream");
        if let (Some(id), true) = (self.last_id, self.away_since.is_some()) {
            builder = builder.header("last-event-id", id.to_string());
        }
        let response = self
            .client
            .stream(builder, "GET /api/v1/events/vms")
            .await?;
        self.response = Some(response);
        self.away_since = None;
        self.pause = MIN_PAUSE;
        Ok(())
    }
}
