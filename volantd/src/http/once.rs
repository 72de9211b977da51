//! Requests with an `Idempotency-Key`: the same key and body get the same answer, and nothing is done twice, not even where the client went
//! away before it had the answer. Only answers of success are kept: what failed may be tried again.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::api::IDEMPOTENCY_KEY_HEADER;
use common::digest::Digest;

use super::body::{QueryOf, body};
use super::detached::to_its_end;
use super::problem::HttpError;
use super::vms::WaitQuery;
use crate::service::{ErrorKind, KeptAnswer, Service, ServiceError};

/// The route that makes VMs.
const VMS: &str = "/api/v1/vms";

/// The routes that heed a key.
const PATHS: [&str; 2] = [VMS, "/api/v1/plugins"];

/// The longest key in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The largest answer that is kept, in bytes: a VM with its manifest, with room. A larger one is given and not kept.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

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
    let (mut parts, content) = request.into_parts();
    let bytes = body(Request::from_parts(parts.clone(), content), &()).await?;
    let wait = take_wait(&mut parts).await?;
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let named = [method.as_bytes(), b" ", path.as_bytes(), b"\n", &bytes].concat();
    let named = Digest::of(&named).to_string();
    let alone = service.alone_with(&key).await;
    let (response, is_replayed) = if let Some(kept) = service.kept_answer(&key).await? {
        if kept.request != named {
            let message = "This idempotency key was used for another request";
            return Err(ServiceError::new(ErrorKind::IdempotencyMismatch, message)
                .hint("Use a new key for each new request")
                .into());
        }
        drop(alone);
        (replay(kept), true)
    } else {
        let request = Request::from_parts(parts, Body::from(bytes));
        let keeper = Arc::clone(&service);
        let work = async move {
            let response = next.run(request).await;
            let response = keep(&keeper, &key, named, response).await;
            drop(alone);
            response
        };
        (to_its_end(work).await?, false)
    };
    let mut response = waited(&service, wait, response).await?;
    if is_replayed {
        let yes = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED_HEADER, yes);
    }
    Ok(response)
}

/// Takes what the client waits for out of a request: its answer is kept before that, and whoever comes again waits again.
async fn take_wait(parts: &mut Parts) -> Result<WaitQuery, HttpError> {
    if parts.uri.path() != VMS {
        return Ok(WaitQuery::default());
    }
    let QueryOf(wait) = QueryOf::from_request_parts(parts, &()).await?;
    // All that its query has.
    parts.uri = Uri::from_static(VMS);
    Ok(wait)
}

/// The answer, once the VM that it is about is where the client wants it.
async fn waited(
    service: &Service,
    wait: WaitQuery,
    response: Response,
) -> Result<Response, HttpError> {
    if !wait.waits() || response.status() != StatusCode::CREATED {
        return Ok(response);
    }
    let unreadable = |error: axum::Error| {
        ServiceError::new(ErrorKind::Internal, "The answer cannot be read").caused(error)
    };
    // What this daemon has just written, or kept.
    let bytes = to_bytes(response.into_body(), usize::MAX).await;
    let vm = serde_json::from_slice(&bytes.map_err(unreadable)?);
    let vm = vm.map_err(|error| unreadable(axum::Error::new(error)))?;
    wait.created(service, vm).await
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
    let length = response.body().size_hint().upper();
    if length.is_none_or(|length| length > MAX_ANSWER_BYTES) {
        tracing::warn!("answer too large to be kept");
        return Ok(response);
    }
    let (parts, content) = response.into_parts();
    let bytes: Bytes = to_bytes(content, usize::MAX).await.map_err(|error| {
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
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, kept.body).into_response()
}
