//! Reads a request's path, query and JSON body; what cannot be read is a problem document, not axum's plain text.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use common::manifest::FieldProblem;
use common::name::Name;
use serde::de::DeserializeOwned;

use super::problem::HttpError;

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
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let segments = error.path().iter().map(ToString::to_string);
        let pointer = segments.fold(String::new(), |pointer, segment| pointer + "/" + &segment);
        let syntax = error.inner().is_syntax() || error.inner().is_eof();
        let detail = error.into_inner().to_string();
        let status = if syntax {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        let mut problem = HttpError::plain(
            status,
            "invalid-request",
            format!("The body is not valid: {detail}"),
        );
        problem.0.errors = vec![FieldProblem::new(pointer, detail)];
        problem
    })
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
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| {
            let status = rejection.status();
            let code = if status == StatusCode::PAYLOAD_TOO_LARGE {
                "too-large"
            } else {
                "invalid-request"
            };
            HttpError::plain(
                status,
                code,
                "The body cannot be read, or is larger than the limit of 1 MiB",
            )
        })
}

/// The `{name}` in a path. A text that cannot be a name names nothing: 404.
#[derive(Debug)]
pub(super) struct NamePath(pub(super) Name);

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
                HttpError::plain(
                    StatusCode::BAD_REQUEST,
                    "invalid-request",
                    rejection.body_text(),
                )
            })?;
        Ok(Self(query))
    }
}
