//! A VM's log as text, JSON lines, server-sent events or WebSocket messages, and the log of its serial console as the bytes that it is.
//!
//! Nothing is collected: what is read is sent on, so that a client that reads slowly costs a place and no memory.

use std::convert::Infallible;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::http::{HeaderMap, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use common::agent::log::LogStream;
use common::api::{
    CONSOLE_EVENT, ConsolePiece, LAGGED_EVENT, LOG_EVENT, LogEntry, LogMessage, MissedEvents,
    NDJSON_CONTENT_TYPE,
};
use common::name::Name;
use futures_util::StreamExt as _;
use futures_util::stream::{self, Stream};
use jiff::{SignedDuration, Timestamp};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{NamePath, QueryOf, Upgrade};
use super::events::{last_event_id, refused, server_event, server_sent, words};
use super::problem::HttpError;
use crate::console::{LogPart, LogReader, Piece};
use crate::log::{Filter, Follow, Item, Place, Reader, Since};
use crate::service::Service;

/// What a reader of text reads last when it was too slow.
const LAGGED: &str = "[the log went on faster than it was read]\n";

/// The bytes that are put together before they are sent, as long as there are more at once.
const BATCH_BYTES: usize = 32 * 1024;

/// How long a client may take to take one message.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// The largest message that a reader of a WebSocket may send, in bytes: it has nothing to say.
const MAX_INPUT_BYTES: usize = 4096;

/// Where lines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Workload(LogStream),
    Console,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [LogStream::Stdout, LogStream::Stderr, LogStream::Agent]
            .into_iter()
            .find(|stream| stream.as_str() == text)
            .map(Self::Workload)
            .or_else(|| (text == "console").then_some(Self::Console))
            .ok_or_else(|| "expected `stdout`, `stderr`, `agent` or `console`".to_owned())
    }
}

/// `2026-01-02T03:04:05Z`, or how long ago, such as `10m` or `1h30m`.
#[derive(Debug, Clone, Copy)]
enum Moment {
    At(Timestamp),
    Ago(SignedDuration),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        text.parse::<SignedDuration>()
            .ok()
            .filter(|duration| !duration.is_negative())
            .map(Self::Ago)
            .ok_or_else(|| "expected an RFC 3339 time, or a duration such as `10m`".to_owned())
    }
}

impl Moment {
    fn since(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(Timestamp::MIN),
        }
    }
}

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Events,
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
struct Asked {
    sources: Vec<Source>,
    filter: Filter,
    /// Where a reader of the console comes back to.
    after: Option<Place>,
    format: Format,
}

impl Asked {
    fn of(query: &[(String, String)], headers: &HeaderMap) -> Result<Self, HttpError> {
        let sources: Vec<Source> = words(query, "stream")?;
        let streams = sources.iter().filter_map(|source| match source {
            Source::Workload(stream) => Some(*stream),
            Source::Console => None,
        });
        let moment: Option<Moment> = words(query, "since")?.pop();
        let is_console = sources.contains(&Source::Console);
        let (id, after) = if is_console {
            (None, last_event_id(headers)?)
        } else {
            (last_event_id(headers)?, None)
        };
        let since = match (id, moment) {
            (Some(id), _) => Since::Id(id),
            (None, Some(moment)) => Since::Time(moment.since(Timestamp::now())),
            (None, None) => Since::Begin,
        };
        let follows = flag(query, "follow")?;
        let asked = Self {
            filter: Filter {
                streams: streams.collect(),
                since,
                tail: words(query, "tail")?.pop(),
                follow: if follows { Follow::Onwards } else { Follow::No },
            },
            after,
            format: format(query, headers)?,
            sources,
        };
        if is_console
            && (asked.sources.len() > 1
                || asked.format == Format::Json
                || asked.filter.since != Since::Begin)
        {
            return Err(refused(
                "The console is bytes without times: ask for it alone, as text or events, and without `since`",
            ));
        }
        Ok(asked)
    }

    fn is_console(&self) -> bool {
        self.sources.contains(&Source::Console)
    }

    /// What a reader of the console asks for.
    fn part(&self) -> LogPart {
        LogPart {
            tail: self.filter.tail,
            follow: self.filter.follow,
            after: self.after,
        }
    }
}

fn flag(query: &[(String, String)], key: &str) -> Result<bool, HttpError> {
    let text = query.iter().rev().find(|(name, _)| name == key);
    match text.map(|(_, value)| value.as_str()) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(other) => Err(refused(format!(
            "`{other}` is not valid for `{key}`: expected `true` or `false`"
        ))),
    }
}

fn format(query: &[(String, String)], headers: &HeaderMap) -> Result<Format, HttpError> {
    let text = query.iter().rev().find(|(name, _)| name == "format");
    match text.map(|(_, value)| value.as_str()) {
        Some("text") => return Ok(Format::Text),
        Some("json") => return Ok(Format::Json),
        Some(other) => {
            return Err(refused(format!(
                "`{other}` is not valid for `format`: expected `text` or `json`"
            )));
        }
        None => {}
    }
    let accepts = |wanted: &str| {
        headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.contains(wanted))
    };
    Ok(if accepts("text/event-stream") {
        Format::Events
    } else if accepts(NDJSON_CONTENT_TYPE) {
        Format::Json
    } else {
        Format::Text
    })
}

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(show))
        .routes(routes!(socket))
}

/// What a VM's workload writes, or its serial console.
#[utoipa::path(
    get,
    path = "/api/v1/vms/{name}/logs",
    tag = "vms",
    operation_id = "get_vm_logs",
    params(
        NamePath,
        ("follow" = Option<bool>, Query, description = "Keep the answer open for what comes, until the VM is deleted"),
        ("since" = Option<String>, Query, description = "Only lines of this RFC 3339 time or later, or of so long ago, such as `10m`"),
        ("tail" = Option<u64>, Query, description = "Only the last so many lines of those that there are"),
        ("stream" = Option<String>, Query, description = "`stdout`, `stderr`, `agent`; repeated, or with commas; all three if none is given. `console` alone is the serial console"),
        ("format" = Option<String>, Query, description = "`text` or `json`; else by the header Accept, else text"),
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was read: only what comes after it. Of lines it is their number; give no `tail` with it"),
    ),
    responses(
        (status = 200, description = "The lines: as text, as one JSON object a line (`application/x-ndjson`), or as server-sent events `log` with ids (`text/event-stream`). The console comes as text, or as events `console` with `{\"base64\": …}` as data. An event without data only has the id to come back with. `LAGGED` is the last event of a reader that is too slow", content(
            (String = "text/plain"), (LogEntry = "application/x-ndjson"), (LogEntry = "text/event-stream")
        )),
        (status = 404, description = "`vm-not-found`: no VM has this name"),
        (status = 503, description = "`unavailable`: there are too many readers"),
    )
)]
async fn show(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let asked = Asked::of(&query, &headers)?;
    if asked.is_console() {
        let reader = service.read_console_log(&name, asked.part())?;
        return Ok(match asked.format {
            Format::Events => server_sent(console_events(reader)),
            Format::Text | Format::Json => text(
                "text/plain; charset=utf-8",
                Body::from_stream(reader.bytes()),
            ),
        });
    }
    let follows = asked.filter.follow == Follow::Onwards;
    let mut reader = service.read_log(&name, asked.filter)?;
    Ok(match asked.format {
        Format::Text => text("text/plain; charset=utf-8", pieces(reader, as_text)),
        Format::Json => text(NDJSON_CONTENT_TYPE, pieces(reader, as_json)),
        Format::Events => {
            // An error is told by the next read.
            let begin = if follows {
                reader.begin().await.ok()
            } else {
                None
            };
            let begin = stream::iter(begin.map(|id| Ok(id_alone(&id))));
            server_sent(begin.chain(events(reader)))
        }
    })
}

fn text(content_type: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "as the other way to write a line, which can fail"
)]
fn as_text(item: &Item) -> io::Result<String> {
    Ok(match item {
        Item::Line(entry) if entry.partial => entry.line.clone(),
        Item::Line(entry) => format!("{}\n", entry.line),
        Item::Lagged => LAGGED.to_owned(),
    })
}

fn as_json(item: &Item) -> io::Result<String> {
    match item {
        Item::Line(entry) => Ok(serde_json::to_string(entry)? + "\n"),
        // No line of JSON that is not one of the log can say it: the answer breaks off, so that it is not taken for the whole.
        Item::Lagged => Err(io::Error::other("The log went on faster than it was read")),
    }
}

/// A body of lines, several at once where there are several.
fn pieces(reader: Reader, write: fn(&Item) -> io::Result<String>) -> Body {
    let pieces = stream::unfold((reader, write), async |(mut reader, write)| {
        let piece = match reader.next().await.transpose()? {
            Ok(item) => piece(&item, &mut reader, write),
            Err(error) => Err(error),
        };
        Some((piece.map(Bytes::from), (reader, write)))
    });
    Body::from_stream(pieces)
}

/// An id without data (WHATWG HTML, 9.2.6): where a reader comes back to that has read nothing yet.
fn id_alone(id: &impl ToString) -> Event {
    Event::default().id(id.to_string())
}

fn console_events(reader: LogReader) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(reader, async |mut reader| {
        let event = match reader.next().await {
            Ok(Some(Piece::Bytes(bytes, place))) => match (bytes.is_empty(), place) {
                (true, Some(place)) => id_alone(&place),
                (true, None) => Event::default().comment(""),
                (false, place) => {
                    let event = server_event(CONSOLE_EVENT, &ConsolePiece::new(&bytes));
                    match place {
                        Some(place) => event.id(place.to_string()),
                        None => event,
                    }
                }
            },
            Ok(Some(Piece::Lagged)) => server_event(LAGGED_EVENT, &serde_json::json!({})),
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(%error, "console log not read");
                return None;
            }
        };
        Some((Ok(event), reader))
    })
}

/// A first line, and others that are there.
fn piece(
    first: &Item,
    reader: &mut Reader,
    write: fn(&Item) -> io::Result<String>,
) -> io::Result<String> {
    let mut piece = write(first)?;
    while piece.len() < BATCH_BYTES
        && let Some(item) = reader.at_hand()
    {
        piece.push_str(&write(&item)?);
    }
    Ok(piece)
}

fn events(reader: Reader) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold((reader, 0), async |(mut reader, last)| {
        match reader.next().await {
            Ok(Some(Item::Line(entry))) => {
                let event = server_event(LOG_EVENT, &entry).id(entry.id.to_string());
                Some((Ok(event), (reader, entry.id)))
            }
            Ok(Some(Item::Lagged)) => {
                let event = server_event(LAGGED_EVENT, &MissedEvents { after: last });
                Some((Ok(event), (reader, last)))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "log not read");
                None
            }
        }
    })
}

/// What a VM's workload writes, as WebSocket messages of JSON; it follows until the VM is deleted.
#[utoipa::path(
    get,
    path = "/ws/v1/vms/{name}/logs",
    tag = "vms",
    operation_id = "open_vm_logs",
    params(
        NamePath,
        ("since" = Option<String>, Query, description = "Only lines of this RFC 3339 time or later, or of so long ago, such as `10m`"),
        ("tail" = Option<u64>, Query, description = "Only the last so many lines of those that there are"),
        ("stream" = Option<String>, Query, description = "`stdout`, `stderr`, `agent`; repeated, or with commas; all three if none is given"),
    ),
    responses(
        (status = 101, description = "A WebSocket; each text message is this", body = LogMessage),
        (status = 404, description = "`vm-not-found`: no VM has this name"),
        (status = 426, description = "`invalid-request`: the connection cannot be upgraded"),
    )
)]
async fn socket(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<Vec<(String, String)>>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let mut asked = Asked::of(&query, &headers)?;
    if asked.is_console() {
        return Err(refused("The console has a WebSocket of its own"));
    }
    asked.filter.follow = Follow::Onwards;
    let reader = service.read_log(&name, asked.filter)?;
    Ok(upgrade.serve(MAX_INPUT_BYTES, async move |socket| {
        serve(socket, name, reader).await;
    }))
}

async fn serve(mut socket: WebSocket, name: Name, reader: Reader) {
    // A stream, because its next item is not lost when something else comes first.
    let items = stream::unfold(reader, async |mut reader| {
        let item = reader.next().await.transpose()?;
        Some((item, reader))
    });
    let mut items = std::pin::pin!(items);
    let (code, reason) = loop {
        tokio::select! {
            item = items.next() => {
                let message = match item {
                    Some(Ok(Item::Line(entry))) => message(&name, entry),
                    Some(Ok(Item::Lagged)) => break (close_code::AGAIN, "too slow"),
                    Some(Err(_)) => break (close_code::ERROR, "the log cannot be read"),
                    None => break (close_code::NORMAL, "the VM is deleted"),
                };
                let sent = tokio::time::timeout(SEND_LIMIT, socket.send(message)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    };
    let reason = Utf8Bytes::from_static(reason);
    // The client may be gone already: then there is nobody to tell.
    drop(
        socket
            .send(Message::Close(Some(CloseFrame { code, reason })))
            .await,
    );
}

fn message(name: &Name, entry: LogEntry) -> Message {
    let message = LogMessage {
        name: name.clone(),
        stream: entry.stream,
        line: entry.line,
        timestamp: entry.time,
    };
    Message::text(serde_json::to_string(&message).unwrap_or_default())
}

#[cfg(test)]
mod tests;
