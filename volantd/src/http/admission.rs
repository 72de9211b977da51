//! How much is answered at once: requests and streams apart, so that neither starves the other. Counts nothing for longer than it is open.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::HttpError;
use crate::limits::RequestLimits;
use crate::metrics::{Metrics, OpenStream};

/// Seconds after which a client may try again.
const RETRY_AFTER_S: &str = "1";

/// The room on one listener.
#[derive(Debug)]
pub(super) struct Room {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A place in the room; free again when the last copy is dropped.
#[derive(Debug, Clone)]
pub(super) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
    _stream: Option<Arc<OpenStream>>,
}

impl Room {
    pub(super) fn new(limits: &RequestLimits, metrics: Arc<Metrics>) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            requests: places(limits.max_requests),
            streams: places(limits.max_streams),
            metrics,
        }
    }
}

pub(super) async fn admit(
    State(room): State<Arc<Room>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_stream = is_stream(request.uri());
    let places = if is_stream {
        &room.streams
    } else {
        &room.requests
    };
    let Ok(permit) = Arc::clone(places).try_acquire_owned() else {
        return full();
    };
    let place = Place {
        _permit: Arc::new(permit),
        _stream: is_stream.then(|| Arc::new(OpenStream::new(Arc::clone(&room.metrics)))),
    };
    // Whoever goes on after the answer, such as a WebSocket, takes it from here.
    request.extensions_mut().insert(place.clone());
    let response = next.run(request).await;
    response.map(|body| {
        Body::new(Placed {
            body,
            _place: place,
        })
    })
}

/// A body that keeps its place until it is sent, or given up.
struct Placed {
    body: Body,
    _place: Place,
}

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the answer may stay open: by its path, because nobody has looked at the request yet.
fn is_stream(uri: &Uri) -> bool {
    let path = uri.path();
    // As the logs read it: a key that is escaped is that key all the same.
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let follows = query.is_ok_and(|Query(pairs)| {
        pairs
            .iter()
            .any(|(key, value)| key == "follow" && matches!(value.as_str(), "" | "true" | "1"))
    });
    path.starts_with("/ws/")
        || path.starts_with("/api/v1/events/")
        || path.contains("/agent/")
        || path.ends_with("/files")
        || follows
}

fn full() -> Response {
    let mut problem = HttpError::plain(
        StatusCode::TOO_MANY_REQUESTS,
        "too-many-requests",
        "As much is asked of the daemon at once as it answers at once",
    );
    problem.0.hints = vec![
        "`max_requests` and `max_streams` in volantd's configuration are the limits".to_owned(),
    ];
    let mut response = problem.into_response();
    let retry = HeaderValue::from_static(RETRY_AFTER_S);
    response.headers_mut().insert(header::RETRY_AFTER, retry);
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn request(path: &str) -> Request {
        axum::http::Request::get(path).body(Body::empty()).unwrap()
    }

    #[test]
    fn what_may_stay_open_is_a_stream_whatever_it_is_accepted_as() {
        let logs = "/api/v1/vms/web/logs";
        let table = [
            (format!("{logs}?follow=true"), true),
            (format!("{logs}?tail=1&follow"), true),
            (format!("{logs}?follow=1&stream=console"), true),
            (format!("{logs}?f%6fllow=tr%75e"), true),
            (format!("{logs}?follow=false"), false),
            (logs.to_owned(), false),
            ("/api/v1/events/vms".to_owned(), true),
            ("/ws/v1/vms/web/logs".to_owned(), true),
            ("/api/v1/vms/web/agent/v1/x".to_owned(), true),
            ("/api/v1/vms/web/files?path=/".to_owned(), true),
            ("/api/v1/vms".to_owned(), false),
        ];
        for (target, expected) in table {
            assert_eq!(is_stream(&target.parse().unwrap()), expected, "{target}");
        }
    }

    #[tokio::test]
    async fn a_place_is_taken_until_the_body_is_read() {
        let limits = RequestLimits {
            max_requests: 1,
            max_streams: 1,
            ..RequestLimits::default()
        };
        let room = Arc::new(Room::new(&limits, Arc::default()));
        let router: Router = Router::new()
            .fallback(get(async || "hello"))
            .layer(from_fn_with_state(room, admit));
        let open = router.clone().oneshot(request("/a")).await.unwrap();
        assert_eq!(open.status(), 200);
        let length = open.body().size_hint().exact();
        assert_eq!(length, Some(5), "clients are told the length");
        let refused = router.clone().oneshot(request("/a")).await.unwrap();
        assert_eq!(refused.status(), 429);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        let stream = router.clone().oneshot(request("/ws/a")).await.unwrap();
        assert_eq!(stream.status(), 200, "streams have a place of their own");
        let refused = router.clone().oneshot(request("/b?follow=true")).await;
        assert_eq!(refused.unwrap().status(), 429);
        drop(open.into_body().collect().await.unwrap());
        let again = router.oneshot(request("/a")).await.unwrap();
        assert_eq!(again.status(), 200);
    }
}
