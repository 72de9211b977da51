//! Requests with an `Idempotency-Key`: the same key and body get the same answer, and nothing is done twice, not even where the client went
//! away before it had the answer. Only answers of success are kept: what failed may be tried again.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::api::IDEMPOTENCY_KEY_HEADER;
use common::digest::Digest;

use super::body::body;
use super::problem::HttpError;
use crate::cause::Cause;
use crate::service::{ErrorKind, KeptAnswer, Service, ServiceError};
use crate::task;

/// The routes that heed a key.
const PATHS: [&str; 2] = ["/api/v1/vms", "/api/v1/plugins"];

/// The longest key in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The largest answer that is kept, in bytes: a VM with its manifest, with room.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Says that an answer was given before.
const REPLAYED_HEADER: HeaderName = HeaderName::from_static("idempotent-replayed");

pub(super) async fn once(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let heeds = request.method() == Method::POST && PATHS.contains(&request.uri().path());
    match request.headers().get(IDEMPOTENCY_KEY_HEADER).cloned() {
        Some(key) if heeds => answer(service, key, request, next)
            .await
            .unwrap_or_else(IntoResponse::into_response),
        _ => next.run(request).await,
    }
}

async fn answer(
    service: Arc<Service>,
    key: HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, HttpError> {
    let key = read_key(&key)?;
    let (parts, content) = request.into_parts();
    let bytes = body(Request::from_parts(parts.clone(), content), &()).await?;
    let named = [parts.uri.path().as_bytes(), b"\n", &bytes].concat();
    let named = Digest::of(&named).to_string();
    let alone = service.alone_with(&key).await;
    if let Some(kept) = service.kept_answer(&key).await? {
        if kept.request != named {
            let message = "This idempotency key was used for another request";
            return Err(ServiceError::new(ErrorKind::IdempotencyMismatch, message)
                .hint("Use a new key for each new request")
                .into());
        }
        return Ok(replay(kept));
    }
    let request = Request::from_parts(parts, Body::from(bytes));
    let work = async move {
        let response = next.run(request).await;
        let response = keep(&service, &key, named, response).await;
        drop(alone);
        response
    };
    let done = task::spawn("request", Cause::current().scope(work)).await;
    // Not joined: the daemon ends, or the work panicked, which its task has reported.
    let interrupted = || ServiceError::new(ErrorKind::Internal, "The request was interrupted");
    done.map_err(|_| interrupted())?
}

fn read_key(key: &HeaderValue) -> Result<String, HttpError> {
    let text = key.to_str().unwrap_or_default().trim();
    if text.is_empty() || text.len() > MAX_KEY_BYTES {
        return Err(HttpError::plain(
            StatusCode::BAD_REQUEST,
            "invalid-request",
            format!("An idempotency key has 1 to {MAX_KEY_BYTES} printable characters"),
        ));
    }
    Ok(text.to_owned())
}

async fn keep(
    service: &Service,
    key: &str,
    request: String,
    response: Response,
) -> Result<Response, HttpError> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let (parts, content) = response.into_parts();
    let bytes: Bytes = to_bytes(content, MAX_ANSWER_BYTES).await.map_err(|error| {
        ServiceError::new(ErrorKind::Internal, "The answer cannot be read").caused(error)
    })?;
    let answer = KeptAnswer {
        request,
        status: parts.status.as_u16(),
        body: bytes.to_vec(),
    };
    service.keep_answer(key, answer).await;
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

fn replay(kept: KeptAnswer) -> Response {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    let mut response = (status, kept.body).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (REPLAYED_HEADER, "true"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
