//! The stream of events. What happened is the event room's; here it becomes server-sent events (WHATWG HTML, 9.2).

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use common::api::{GAP_EVENT, LAGGED_EVENT, MissedEvents, VmEvent};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::QueryOf;
use super::problem::HttpError;
use crate::event::{Filter, Item, Reader};
use crate::service::Service;

/// How often a reader of a quiet stream is told that it still stands, so that nothing between the two lets it go.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The header in which a reader that comes back says what it has.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The most names or types in one request's filter.
const MAX_FILTERED: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default().routes(routes!(stream))
}

/// What happens to VMs and plugins, as it happens.
#[utoipa::path(
    get,
    path = "/api/v1/events/vms",
    tag = "events",
    operation_id = "stream_vm_events",
    params(
        ("vm" = Option<String>, Query, description = "Only events of these VMs or plugins; repeated, or with commas"),
        ("type" = Option<String>, Query, description = "Only events of these types; repeated, or with commas. `VM_LOG` and `DOWNLOAD` come only if they are asked for"),
        ("after" = Option<u64>, Query, description = "Begin after the event of this number, as far as it is kept; 0 for all that is kept. Without it only what comes"),
        ("Last-Event-ID" = Option<u64>, Header, description = "As `after`, and before it: what a reader that comes back has"),
    ),
    responses(
        (status = 200, description = "Server-sent events: the type as `event`, the number as `id`, and this as `data`. `GAP` says that events may be missing before the next one, `LAGGED` is the last event of a reader that is too slow", content_type = "text/event-stream", body = VmEvent),
        (status = 503, description = "`unavailable`: there are too many readers"),
    )
)]
async fn stream(
    State(service): State<Arc<Service>>,
    QueryOf(query): QueryOf<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let filter = Filter {
        names: words(&query, "vm")?,
        kinds: words(&query, "type")?,
    };
    let after: Option<u64> = match last_event_id(&headers)? {
        Some(id) => Some(id),
        None => words(&query, "after")?.pop(),
    };
    let reader = service.events(after, filter).await?;
    Ok(server_sent(events(reader)))
}

/// An answer of server-sent events.
pub(super) fn server_sent(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // nginx would collect them else.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

fn events(reader: Reader) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(reader, async |mut reader| {
        let event = match reader.next().await? {
            Item::Event(event) => of_event(&event),
            Item::Gap { after } => server_event(GAP_EVENT, &MissedEvents { after }),
            Item::Lagged { after } => server_event(LAGGED_EVENT, &MissedEvents { after }),
        };
        Some((Ok(event), reader))
    })
}

fn of_event(event: &VmEvent) -> Event {
    let sent = server_event(event.kind.as_str(), event);
    if event.id == 0 {
        sent
    } else {
        sent.id(event.id.to_string())
    }
}

/// One server-sent event; JSON has no line breaks of its own, so the data is one line.
pub(super) fn server_event(name: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}

/// What a reader that comes back has. An empty one is none: that is how a reader forgets it (WHATWG HTML, 9.2.6).
pub(super) fn last_event_id<T: FromStr<Err: std::fmt::Display>>(
    headers: &HeaderMap,
) -> Result<Option<T>, HttpError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    match value.to_str().map(str::trim) {
        Ok("") => Ok(None),
        Ok(text) => one(LAST_EVENT_ID.as_str(), text).map(Some),
        Err(_) => Err(refused("The Last-Event-ID is not text")),
    }
}

/// The values of a key that may be repeated, each a list with commas.
pub(super) fn words<T: FromStr<Err: std::fmt::Display>>(
    query: &[(String, String)],
    key: &str,
) -> Result<Vec<T>, HttpError> {
    let texts = query
        .iter()
        .filter(|(name, _)| name == key)
        .flat_map(|(_, value)| value.split(','))
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let mut found = Vec::new();
    for text in texts {
        if found.len() >= MAX_FILTERED {
            return Err(refused(format!(
                "`{key}` has more than {MAX_FILTERED} values"
            )));
        }
        found.push(one(key, text)?);
    }
    Ok(found)
}

fn one<T: FromStr<Err: std::fmt::Display>>(key: &str, text: &str) -> Result<T, HttpError> {
    text.parse()
        .map_err(|error| refused(format!("`{text}` is not valid for `{key}`: {error}")))
}

/// A query that is not valid.
pub(super) fn refused(detail: impl Into<String>) -> HttpError {
    HttpError::plain(StatusCode::BAD_REQUEST, "invalid-request", detail)
}

#[cfg(test)]
mod tests {
    use common::api::EventType;

    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn filters_are_repeated_or_have_commas() {
        let query = query(&[
            ("type", "VM_LOG, VM_RUNNING"),
            ("vm", "x"),
            ("type", "VM_STOPPED,"),
        ]);
        let kinds: Vec<EventType> = words(&query, "type").unwrap();
        assert_eq!(
            kinds,
            [EventType::VmLog, EventType::VmRunning, EventType::VmStopped]
        );
        let none: Vec<u64> = words(&query, "after").unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn what_is_not_valid_is_said() {
        let table = [
            (("type", "VM_LOST"), "`VM_LOST` is not a type of event"),
            (("vm", "no name"), "`no name` is not valid for `vm`"),
            (("after", "-1"), "`-1` is not valid for `after`"),
        ];
        for ((key, value), expected) in table {
            let query = query(&[(key, value)]);
            let error = match key {
                "type" => words::<EventType>(&query, key).map(drop),
                "vm" => words::<common::name::Name>(&query, key).map(drop),
                _ => words::<u64>(&query, key).map(drop),
            };
            let HttpError(problem) = error.unwrap_err();
            assert!(problem.detail.contains(expected), "{}", problem.detail);
            assert_eq!(problem.status, 400);
        }
        let many = vec!["1"; MAX_FILTERED + 1].join(",");
        assert!(words::<u64>(&query(&[("x", &many)]), "x").is_err());
    }

    #[test]
    fn the_last_id_may_be_forgotten() {
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_static(text))])
        };
        assert_eq!(last_event_id::<u64>(&HeaderMap::new()).unwrap(), None);
        assert_eq!(last_event_id::<u64>(&headers("")).unwrap(), None);
        assert_eq!(last_event_id::<u64>(&headers("17")).unwrap(), Some(17));
        assert!(last_event_id::<u64>(&headers("x")).is_err());
    }
}
