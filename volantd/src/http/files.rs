//! `/api/v1/vms/{name}/files`: tar archives between a client and the agent of a guest, streamed. Reads no archive: the guest's agent packs
//! and unpacks, and the client does the same for itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::agent::FILES_PATH;
use common::agent::stats::{FILE_STAT_HEADER, FileStat};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{NamePath, QueryOf};
use super::guest_answer;
use super::problem::HttpError;
use crate::agent::Trust;
use crate::limits::RequestLimits;
use crate::service::{ErrorKind, GuestWay, Service, ServiceError, Way};

/// What a tar archive is called.
const TAR: &str = "application/x-tar";

/// Query of the file routes.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FileQuery {
    /// An absolute path in the guest, at most 4096 bytes. A link as its last part is not followed.
    path: String,
}

/// The query as it came, once its path is known to be absolute.
struct AskedQuery(String);

impl<S: Send + Sync> FromRequestParts<S> for AskedQuery {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let QueryOf(FileQuery { path }) = QueryOf::from_request_parts(parts, state).await?;
        if path.starts_with('/') {
            return Ok(Self(parts.uri.query().unwrap_or_default().to_owned()));
        }
        let detail = "The path must be absolute: it begins with `/`";
        Err(ServiceError::new(ErrorKind::Invalid, detail).into())
    }
}

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default().routes(routes!(look, get, put))
}

/// Says what is at a path in a VM
#[utoipa::path(
    head,
    path = "/api/v1/vms/{name}/files",
    tag = "vms",
    operation_id = "stat_vm_file",
    params(NamePath, FileQuery),
    responses(
        (status = 200, description = "It is there", headers(
            ("x-volant-file-stat" = String, description = "`{name, kind, size_bytes, mode, link_target}` as JSON"),
        )),
        (status = 404, description = "`vm-not-found`, `not-found`: there is no such VM, or nothing at this path"),
        (status = 409, description = "`wrong-phase`: the VM does not run"),
        (status = 400, description = "`invalid-request`: no path is given, or one that is not absolute"),
        (status = 502, description = "`guest-unreachable`: the guest's agent does not answer as it should"),
        (status = 503, description = "`unavailable`: too many files of this VM are being copied already"),
        (status = 504, description = "`guest-timeout`: the guest took too long"),
    )
)]
async fn look(
    State(service): State<Arc<Service>>,
    Extension(limits): Extension<RequestLimits>,
    NamePath(name): NamePath,
    AskedQuery(query): AskedQuery,
) -> Result<Response, HttpError> {
    let request = request(Method::HEAD, &query, Body::empty())?;
    let way = service.way(&name, Way::Copy)?;
    ask(way, request, limits.copy_timeout).await
}

/// Copies a file or directory out of a VM
///
/// The archive's members begin with the path's last part. A copy that fails in its middle breaks the connection.
#[utoipa::path(
    get,
    path = "/api/v1/vms/{name}/files",
    tag = "vms",
    operation_id = "get_vm_file",
    params(NamePath, FileQuery),
    responses(
        (status = 200, description = "A tar archive", body = Vec<u8>, content_type = "application/x-tar", headers(
            ("x-volant-file-stat" = String, description = "`{name, kind, size_bytes, mode, link_target}` as JSON"),
        )),
        (status = 404, description = "`vm-not-found`, `not-found`: there is no such VM, or nothing at this path"),
        (status = 409, description = "`wrong-phase`: the VM does not run"),
        (status = 400, description = "`invalid-request`: no absolute path is given"),
        (status = 422, description = "`not-copyable`: it is a device, pipe or socket"),
        (status = 502, description = "`guest-unreachable`: the guest's agent does not answer as it should"),
        (status = 503, description = "`unavailable`, `too-many-copies`: too many files of this VM are being copied already"),
        (status = 504, description = "`guest-timeout`: the guest took too long"),
    )
)]
async fn get(
    State(service): State<Arc<Service>>,
    Extension(limits): Extension<RequestLimits>,
    NamePath(name): NamePath,
    AskedQuery(query): AskedQuery,
) -> Result<Response, HttpError> {
    let request = request(Method::GET, &query, Body::empty())?;
    let way = service.way(&name, Way::Copy)?;
    ask(way, request, limits.copy_timeout).await
}

/// Copies files and directories into a directory of a VM
///
/// The archive may be of any size.
#[utoipa::path(
    put,
    path = "/api/v1/vms/{name}/files",
    tag = "vms",
    operation_id = "put_vm_files",
    params(NamePath, FileQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar", description = "A tar archive"),
    responses(
        (status = 204, description = "They are there"),
        (status = 404, description = "`vm-not-found`, `not-found`: there is no such VM, or nothing at this path"),
        (status = 409, description = "`wrong-phase`: the VM does not run"),
        (status = 422, description = "`not-a-directory`, `invalid-archive`: it cannot be unpacked there"),
        (status = 502, description = "`guest-unreachable`: the guest's agent does not answer as it should"),
        (status = 503, description = "`unavailable`, `too-many-copies`: too many files of this VM are being copied already"),
        (status = 504, description = "`guest-timeout`: the guest took too long"),
        (status = 507, description = "`disk-full`: the guest's disk is full"),
    )
)]
async fn put(
    State(service): State<Arc<Service>>,
    Extension(limits): Extension<RequestLimits>,
    NamePath(name): NamePath,
    AskedQuery(query): AskedQuery,
    body: Body,
) -> Result<Response, HttpError> {
    let body = unstalled(body, limits.copy_timeout);
    let request = request(Method::PUT, &query, body)?;
    let way = service.way(&name, Way::Copy)?;
    ask(way, request, limits.copy_timeout).await
}

/// A body that breaks off where its sender is silent for longer than `limit`: it would keep one of the VM's few copies for ever.
fn unstalled(body: Body, limit: Duration) -> Body {
    let pieces = body.into_data_stream();
    Body::from_stream(stream::try_unfold(pieces, move |mut pieces| async move {
        let piece = tokio::time::timeout(limit, pieces.next()).await;
        let piece = piece.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let piece = piece.transpose().map_err(io::Error::other)?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, pieces)))
    }))
}

/// The same request to the agent. The query goes as it came: a path may have bytes that are no text.
fn request(method: Method, query: &str, body: Body) -> Result<Request<Body>, HttpError> {
    let uri = format!("{FILES_PATH}?{query}");
    Request::builder()
        .method(method)
        .uri(uri)
        .header(header::CONTENT_TYPE, TAR)
        .body(body)
        .map_err(|error| {
            HttpError::plain(
                StatusCode::BAD_REQUEST,
                "invalid-request",
                error.to_string(),
            )
        })
}

async fn ask(
    way: GuestWay,
    request: Request<Body>,
    limit: Duration,
) -> Result<Response, HttpError> {
    let answer = way.open(Trust::Secret, request, limit).await?;
    let status = answer.status();
    if !matches!(status, StatusCode::OK | StatusCode::NO_CONTENT) {
        return Err(guest_answer::problem(answer).await);
    }
    let mut headers = HeaderMap::new();
    let stat = answer.headers().get(FILE_STAT_HEADER);
    if let Some(stat) = stat.filter(|stat| is_stat(stat.as_bytes())) {
        headers.insert(FILE_STAT_HEADER, stat.clone());
    }
    if status == StatusCode::OK {
        let tar = header::HeaderValue::from_static(TAR);
        headers.insert(header::CONTENT_TYPE, tar);
    }
    let body = Body::new(way.streaming(answer.into_body()));
    Ok((status, headers, body).into_response())
}

fn is_stat(text: &[u8]) -> bool {
    serde_json::from_slice::<FileStat>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_whose_sender_stalls_breaks_off_and_a_slow_one_does_not() {
        let limit = Duration::from_secs(2);
        let sent = |pauses_s: &'static [u64]| {
            let pieces = stream::iter(pauses_s).then(async |pause_s| {
                tokio::time::sleep(Duration::from_secs(*pause_s)).await;
                Ok::<_, io::Error>("piece ")
            });
            to_bytes(unstalled(Body::from_stream(pieces), limit), usize::MAX)
        };
        assert_eq!(
            sent(&[1, 1, 1, 1]).await.unwrap(),
            "piece piece piece piece "
        );
        assert_eq!(sent(&[]).await.unwrap(), "");
        let error = sent(&[1, 1, 3, 1]).await.unwrap_err();
        let chain = common::error_chain::Chain(&error).to_string();
        assert!(chain.contains("timed out"), "{chain}");
    }
}
