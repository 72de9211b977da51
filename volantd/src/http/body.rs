//! Reads a request's path, query and JSON body; what cannot be read is a problem document, not axum's plain text.

use std::error::Error as _;

use axum::body::Bytes;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use common::json::{self, JsonError};
use common::name::Name;
use serde::de::DeserializeOwned;

use super::admission::Place;
use super::problem::HttpError;
use crate::cause::Cause;
use crate::limits::RequestLimits;

/// A JSON body of type `T`; unknown members are ignored as in the Go system.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, state: &S) -> Result<Self, HttpError> {
        let bytes = body(request, state).await?;
        parse_json(&bytes).map(Self)
    }
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HttpError> {
    json::read(bytes).map_err(|error| {
        let mut problem = invalid(format!("The body is not valid: {error}"));
        if let JsonError::Shape(wrong) = error {
            problem.0.errors = vec![wrong];
        }
        problem
    })
}

fn invalid(detail: String) -> HttpError {
    HttpError::plain(StatusCode::BAD_REQUEST, "invalid-request", detail)
}

/// As [`JsonBody`], where no body at all stands for the default.
#[derive(Debug)]
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, state: &S) -> Result<Self, HttpError> {
        let bytes = body(request, state).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        parse_json(&bytes).map(Self)
    }
}

/// The raw body, within the router's limit.
pub(super) async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, HttpError> {
    check_media_type(request.headers())?;
    let limits: RequestLimits = request.extensions().get().copied().unwrap_or_default();
    let read = tokio::time::timeout(limits.body_timeout, Bytes::from_request(request, state));
    let read = read.await.map_err(|_| {
        HttpError::plain(
            StatusCode::REQUEST_TIMEOUT,
            "request-timeout",
            format!(
                "The body did not arrive within {} s",
                limits.body_timeout.as_secs()
            ),
        )
    })?;
    read.map_err(|rejection| {
        let status = rejection.status();
        let code = if status == StatusCode::PAYLOAD_TOO_LARGE {
            "too-large"
        } else {
            "invalid-request"
        };
        HttpError::plain(
            status,
            code,
            format!(
                "The body cannot be read, or is larger than the limit of {} KiB",
                limits.max_body_bytes / 1024
            ),
        )
    })
}

/// Bodies are JSON. One that does not say what it is may be; a page's form is not.
fn check_media_type(headers: &HeaderMap) -> Result<(), HttpError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let media = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let media = media.split(';').next().unwrap_or_default().trim();
    if media == "application/json"
        || (media.starts_with("application/") && media.ends_with("+json"))
    {
        return Ok(());
    }
    let mut problem = HttpError::plain(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "The body must be JSON",
    );
    problem.0.hints = vec!["Send it with `Content-Type: application/json`".to_owned()];
    Err(problem)
}

/// The `{name}` in a path. A text that cannot be a name names nothing: 404.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(names("name"), parameter_in = Path)]
pub(super) struct NamePath(
    /// The name of the VM or plugin.
    pub(super) Name,
);

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let not_found =
            |detail: String| HttpError::plain(StatusCode::NOT_FOUND, "not-found", detail);
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found("There is nothing at this path".to_owned()))?;
        text.parse()
            .map(Self)
            .map_err(|error: common::name::InvalidName| not_found(error.to_string()))
    }
}

/// The query as type `T`.
#[derive(Debug)]
pub(super) struct QueryOf<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| {
                // The cause is "parameter: reason", or a reason alone.
                let reason = rejection.source().map(ToString::to_string);
                invalid(wrong_query(&reason.unwrap_or_default()))
            })?;
        Ok(Self(query))
    }
}

/// A sentence about a query that is not what it should be.
fn wrong_query(reason: &str) -> String {
    let (parameter, reason) = match reason.split_once(": ") {
        // A name has no blanks; a sentence has.
        Some((parameter, reason)) if !parameter.contains([' ', '`']) => (Some(parameter), reason),
        _ => (None, reason),
    };
    let number = ["invalid digit", "number too", "cannot parse integer"];
    let plain = if number.iter().any(|text| reason.contains(text)) {
        "it must be a whole number, and not too large".to_owned()
    } else if reason.contains("`true` or `false`") {
        "it must be `true` or `false`".to_owned()
    } else {
        reason.replace("unknown variant ", "there is no ")
    };
    match parameter {
        Some(parameter) => format!("The query parameter `{parameter}` is not valid: {plain}"),
        None => format!("The query is not valid: {plain}"),
    }
}

/// A request to speak `WebSocket` from here on. It keeps its place among the streams until it ends.
pub(super) struct Upgrade {
    upgrade: WebSocketUpgrade,
    place: Option<Place>,
}

impl Upgrade {
    /// Answers, and then serves the client, whose messages have at most so many bytes.
    pub(super) fn serve<F, Fut>(self, max_message_bytes: usize, serve: F) -> Response
    where
        F: FnOnce(WebSocket) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let Self { upgrade, place } = self;
        let cause = Cause::current();
        upgrade
            .max_message_size(max_message_bytes)
            .max_frame_size(max_message_bytes)
            .on_upgrade(async move |socket| {
                cause.scope(serve(socket)).await;
                drop(place);
            })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state).await;
        let place = parts.extensions.get().cloned();
        upgrade
            .map(|upgrade| Self { upgrade, place })
            .map_err(|rejection| {
                let detail = format!("This path speaks WebSocket only: {}", rejection.body_text());
                HttpError::plain(rejection.status(), "invalid-request", detail)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default)]
    struct Asked {
        limit: Option<u32>,
        all: bool,
        sort: Option<Sort>,
        needed: Option<String>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Sort {
        Name,
        Age,
    }

    #[tokio::test]
    async fn a_wrong_query_is_a_sentence() {
        let number = "The query parameter `limit` is not valid: it must be a whole number, and not too large";
        let table = [
            ("limit=x", number),
            ("limit=-1", number),
            ("limit=", number),
            ("limit=99999999999", number),
            (
                "all=yes",
                "The query parameter `all` is not valid: it must be `true` or `false`",
            ),
            (
                "sort=up",
                "The query parameter `sort` is not valid: there is no `up`, expected `name` or `age`",
            ),
        ];
        for (query, expected) in table {
            let request = Request::builder()
                .uri(format!("/x?{query}"))
                .body(())
                .unwrap();
            let (mut parts, ()) = request.into_parts();
            let read = QueryOf::<Asked>::from_request_parts(&mut parts, &()).await;
            let HttpError(problem) = read.unwrap_err();
            assert_eq!((problem.status, problem.detail.as_str()), (400, expected));
        }
    }

    #[test]
    fn a_body_is_an_object() {
        let HttpError(problem) = parse_json::<Asked>(b"[1, true]").unwrap_err();
        assert_eq!((problem.status, problem.errors.len()), (400, 1));
        let read: Asked = parse_json(br#"{"limit": 1, "needed": "x"}"#).unwrap();
        assert_eq!((read.limit, read.all), (Some(1), false));
        assert!(read.sort.is_none() && read.needed.is_some());
    }
}
