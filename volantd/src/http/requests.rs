//! What happens around every request: its id and span, its place in a caller's trace, how it is counted, and the last words of its problem.
//! Lets everything through; who is let in is decided elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Span;
use tracing::field::Empty;

use super::problem::Incomplete;
use crate::cause::{Cause, REQUEST_ID_HEADER};
use crate::logging::trace::{self, Remote};
use crate::service::Service;

/// The longest id of a caller that is taken over, in bytes: a UUID has 36, and it stands in every log line of the request.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// What is counted for paths that no route has: a client may ask for any.
const NO_ROUTE: &str = "none";

/// Follows a request from its head to that of its answer.
pub(super) async fn follow(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let id = id_of(request.headers());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or(NO_ROUTE, MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!(
        "request",
        request_id = text(&id),
        method = %method,
        route = %route,
        trace_id = Empty,
        status = Empty,
        elapsed_ms = Empty,
    );
    let mut marks = trace::begin(&span, Remote::of(request.headers()));
    marks.insert(REQUEST_ID_HEADER, id.clone());
    let cause = Cause::request(span.clone(), marks);
    let mut response = cause.scope(next.run(request)).await;
    complete(&mut response, id, path);
    let (status, took) = (response.status().as_u16(), began.elapsed());
    close(&span, &format!("{method} {route}"), status, took);
    service
        .metrics()
        .request(&route, method.as_str(), status, took);
    response
}

/// Gives the answer its request's id, and a problem its path as well.
fn complete(response: &mut Response, id: HeaderValue, path: String) {
    if let Some(Incomplete(mut problem)) = response.extensions_mut().remove::<Incomplete>() {
        problem.instance = path;
        text(&id).clone_into(&mut problem.request_id);
        let document = serde_json::to_string(&problem).unwrap_or_default();
        *response.body_mut() = Body::from(document);
    }
    response.headers_mut().insert(REQUEST_ID_HEADER, id);
}

/// Says how the request went. Work that it caused may go on in its span; for the trace it is over.
fn close(span: &Span, name: &str, status: u16, took: Duration) {
    let elapsed_ms = took.as_secs_f64() * 1000.0;
    span.record("status", status);
    span.record("elapsed_ms", elapsed_ms);
    span.in_scope(|| tracing::debug!("request answered"));
    trace::end(span, name, status);
}

/// The caller's id if it is a plain one, else a new one.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(REQUEST_ID_HEADER).iter();
    let only = given.next().filter(|_| given.next().is_none());
    only.filter(|id| is_plain(id.as_bytes()))
        .cloned()
        .unwrap_or_else(|| {
            // Hexadecimal digits and hyphens are a header's value always.
            HeaderValue::from_str(&uuid::Uuid::now_v7().to_string())
                .unwrap_or(HeaderValue::from_static(""))
        })
}

fn is_plain(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
        && id
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// An id as text; it has nothing else in it.
fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_is_taken_over_and_any_other_is_replaced() {
        let headers = |values: &[&'static str]| {
            let values = values
                .iter()
                .map(|value| (REQUEST_ID_HEADER, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                headers.append(name, value);
            }
            headers
        };
        assert_eq!(id_of(&headers(&["deploy-7_a.b"])), "deploy-7_a.b");
        let long = "x".repeat(MAX_REQUEST_ID_BYTES + 1);
        assert!(is_plain(&long.as_bytes()[1..]) && !is_plain(long.as_bytes()));
        for odd in [&[][..], &[""], &["a b"], &["a\"b"], &["a", "b"]] {
            let id = id_of(&headers(odd));
            assert!(
                uuid::Uuid::parse_str(text(&id)).is_ok(),
                "{odd:?} gave {id:?}"
            );
        }
    }
}
