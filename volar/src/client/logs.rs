//! A VM's log: lines with their time and stream, or bytes where volantd has no lines (the serial console).

use std::time::Duration;

use common::api::{CONSOLE_EVENT, ConsolePiece, LAGGED_EVENT, LogEntry};
use common::name::Name;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};

use super::sse::SseParser;
use super::{Client, ClientError, Endpoint, LineReader, query};

/// How long a log that is not followed may be silent. volantd reads it from a file.
const LOG_SILENCE: Duration = Duration::from_secs(30);

/// How long a followed log in server-sent events may be silent: volantd says something every 15 s.
const FOLLOW_SILENCE: Duration = Duration::from_secs(45);

/// Whether a log goes on with what is written later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Follow {
    /// It ends with what is there.
    #[default]
    No,
    /// It goes on until the VM is deleted.
    Onwards,
}

/// Which part of which log.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Whether it goes on.
    pub follow: Follow,
    /// Only the last lines.
    pub tail: Option<u32>,
    /// Only since a time (RFC 3339) or for a duration (`10m`).
    pub since: Option<String>,
    /// Only these streams; what the workload and the agent wrote if none.
    pub streams: Vec<String>,
}

impl LogQuery {
    /// Only the serial console, which has no lines.
    pub fn is_console(&self) -> bool {
        self.streams == ["console"]
    }

    /// Where it was followed before it goes on after an id: that says more than how many lines were wanted at first.
    fn query(&self, last_id: Option<&str>) -> String {
        let follow = self.follow == Follow::Onwards;
        let mut pairs = vec![("follow", if follow { "true" } else { "false" })];
        let tail = self.tail.filter(|_| last_id.is_none());
        let tail = tail.map(|lines| lines.to_string());
        if let Some(tail) = &tail {
            pairs.push(("tail", tail));
        }
        if let Some(since) = &self.since {
            pairs.push(("since", since));
        }
        let streams = self.streams.join(",");
        if !streams.is_empty() {
            pairs.push(("stream", &streams));
        }
        // A followed log comes as events: they have ids, and the daemon is heard of also where nothing is written.
        if !self.is_console() && !follow {
            pairs.push(("format", "json"));
        }
        query(&pairs)
    }
}

/// A log, as the daemon has it.
#[derive(Debug)]
pub enum Log {
    /// Lines.
    Lines(Box<LineLog>),
    /// Bytes as the guest wrote them.
    Raw(Box<RawLog>),
}

/// A line, or what stands for one.
#[derive(Debug)]
pub enum LogPiece {
    /// A line, and the JSON that it came in.
    Line(LogEntry, String),
    /// Bytes of the console, as the guest wrote them.
    Bytes(Vec<u8>),
    /// The connection ended while the log was followed: it goes on after the last piece that was told.
    Cut,
    /// So it is, but some of what comes next is not kept any more.
    Lagged,
}

/// A log that arrives in lines.
#[derive(Debug)]
pub struct LineLog {
    body: RawLog,
    format: LineFormat,
}

#[derive(Debug)]
enum LineFormat {
    Json(LineReader, bool),
    Events(SseParser),
}

/// A log that arrives in pieces.
#[derive(Debug)]
pub struct RawLog {
    response: Response,
    silence: Option<Duration>,
    endpoint: Endpoint,
    call: String,
}

impl Client {
    /// The log of a VM. `last_id` goes on after the event of that id, where it was followed before.
    pub async fn logs(
        &self,
        name: &Name,
        what: &LogQuery,
        last_id: Option<&str>,
    ) -> Result<Log, ClientError> {
        let path = format!("/api/v1/vms/{name}/logs{}", what.query(last_id));
        let call = format!("{} /api/v1/vms/{name}/logs", Method::GET);
        let mut builder = self.request(Method::GET, &path);
        if what.follow == Follow::Onwards {
            builder = builder.header(ACCEPT, "text/event-stream");
        }
        if let Some(id) = last_id {
            builder = builder.header("last-event-id", id);
        }
        let response = self.stream(builder, &call).await?;
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let format = if kind.starts_with("text/event-stream") {
            Some(LineFormat::Events(SseParser::default()))
        } else if kind.contains("json") {
            Some(LineFormat::Json(LineReader::default(), false))
        } else {
            None
        };
        let silence = match (&format, what.follow) {
            (Some(LineFormat::Events(..)), _) => Some(FOLLOW_SILENCE),
            (_, Follow::No) => Some(LOG_SILENCE),
            (_, Follow::Onwards) => None,
        };
        let body = RawLog {
            response,
            silence,
            endpoint: self.endpoint.clone(),
            call,
        };
        Ok(match format {
            Some(format) => Log::Lines(Box::new(LineLog { body, format })),
            None => Log::Raw(Box::new(body)),
        })
    }
}

impl LineLog {
    /// The id of the last line, to go on after it.
    pub fn last_id(&self) -> Option<&str> {
        match &self.format {
            LineFormat::Events(parser) => parser.last_id(),
            LineFormat::Json(..) => None,
        }
    }

    /// The next line; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<LogPiece>, ClientError> {
        loop {
            if let Some(piece) = self.format.parsed() {
                return Ok(Some(piece));
            }
            match (self.body.next().await, &mut self.format) {
                (Ok(Some(bytes)), LineFormat::Json(lines, _)) => lines.push(&bytes),
                (Ok(Some(bytes)), LineFormat::Events(parser)) => parser.push(&bytes),
                (Ok(None), LineFormat::Json(_, ended @ false)) => *ended = true,
                (Ok(None), _) => return Ok(None),
                (
                    Err(ClientError::Cut { .. } | ClientError::Timeout { .. }),
                    LineFormat::Events(..),
                ) => {
                    return Ok(Some(LogPiece::Cut));
                }
                (Err(error), _) => return Err(error),
            }
        }
    }
}

impl LineFormat {
    fn parsed(&mut self) -> Option<LogPiece> {
        match self {
            Self::Json(lines, ended) => loop {
                let line = lines.next_line();
                let line = if *ended {
                    line.or_else(|| lines.rest())
                } else {
                    line
                };
                if let Some(piece) = of_json(line?) {
                    return Some(piece);
                }
            },
            Self::Events(parser) => loop {
                let event = parser.next_event()?;
                match event.name.as_str() {
                    LAGGED_EVENT => return Some(LogPiece::Lagged),
                    CONSOLE_EVENT => {
                        let piece = serde_json::from_str::<ConsolePiece>(&event.data).ok();
                        if let Some(bytes) = piece.and_then(|piece| piece.bytes()) {
                            return Some(LogPiece::Bytes(bytes));
                        }
                    }
                    _ => {
                        if let Some(piece) = of_json(event.data) {
                            return Some(piece);
                        }
                    }
                }
            },
        }
    }
}

fn of_json(json: String) -> Option<LogPiece> {
    let line = serde_json::from_str(&json).ok()?;
    Some(LogPiece::Line(line, json))
}

impl RawLog {
    /// The next piece, as the guest wrote it; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let limit = self.silence.unwrap_or(Duration::MAX);
        let chunk = self.response.chunk();
        let result = match self.silence {
            Some(silence) => match tokio::time::timeout(silence, chunk).await {
                Ok(result) => result,
                Err(_) => {
                    return Err(ClientError::Timeout {
                        call: self.call.clone(),
                        limit,
                    });
                }
            },
            None => chunk.await,
        };
        match result {
            Ok(bytes) => Ok(bytes.map(|bytes| bytes.to_vec())),
            Err(source) => Err(ClientError::call(&self.endpoint, &self.call, limit, source)),
        }
    }
}
