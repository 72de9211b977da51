//! The REST API: decodes a request, calls the service, encodes the answer. Knows no SQL, no VMM and no machine.

mod auth;
mod body;
mod configs;
mod detached;
mod plugins;
mod problem;
mod stream;
mod system;
mod vms;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use crate::service::Service;
use problem::{HttpError, Incomplete};

pub use auth::TokenCheck;

/// The largest request body in bytes: a manifest, with room.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The header that names a request in answers and in the log.
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// All routes. `token` is what callers must present; the unix socket is guarded by its file mode instead.
pub fn router(service: Arc<Service>, token: Option<TokenCheck>) -> Router {
    let api = Router::new()
        .route("/api/v1/system/status", get(system::status))
        .route("/api/v1/system/info", get(system::info))
        .route("/api/v1/system/summary", get(system::summary))
        .route("/api/v1/plugins", get(plugins::list).post(plugins::install))
        .route(
            "/api/v1/plugins/{name}",
            get(plugins::show).delete(plugins::remove),
        )
        .route("/api/v1/plugins/{name}/manifest", get(plugins::manifest))
        .route("/api/v1/plugins/{name}/enabled", post(plugins::set_enabled))
        .route("/api/v1/plugins/{name}/artifacts", get(plugins::artifacts))
        .route("/api/v1/vms", get(vms::list).post(vms::create))
        .route("/api/v1/vms/{name}", get(vms::show).delete(vms::delete))
        .route("/api/v1/vms/{name}/start", post(vms::start))
        .route("/api/v1/vms/{name}/stop", post(vms::stop))
        .route("/api/v1/vms/{name}/restart", post(vms::restart))
        .route("/api/v1/vms/{name}/pause", post(vms::pause))
        .route("/api/v1/vms/{name}/resume", post(vms::resume))
        .route(
            "/api/v1/vms/{name}/config",
            get(configs::show).patch(configs::patch),
        )
        .route("/api/v1/vms/{name}/config/history", get(configs::history))
        .route(
            "/api/v1/vms/{name}/config/rollback",
            post(configs::rollback),
        )
        .route("/api/v1/vms/{name}/upgrade", post(configs::upgrade))
        .route("/api/v1/vms/{name}/logs", get(stream::logs))
        .route("/ws/v1/vms/{name}/console", get(stream::console));
    let api = match token {
        Some(token) => api.layer(middleware::from_fn_with_state(
            Arc::new(token),
            auth::require,
        )),
        None => api,
    };
    api.route("/healthz", get(system::healthz))
        .fallback(async || {
            HttpError::plain(
                StatusCode::NOT_FOUND,
                "not-found",
                "There is nothing at this path",
            )
        })
        .method_not_allowed_fallback(async || {
            HttpError::plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This path does not take this method",
            )
        })
        .layer(CatchPanicLayer::custom(|_| {
            HttpError::plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Something went wrong inside volantd",
            )
            .into_response()
        }))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(complete_problem))
        .with_state(service)
}

/// Gives each request an id, and each problem its path and that id.
async fn complete_problem(request: Request, next: Next) -> Response {
    let id = uuid::Uuid::now_v7().to_string();
    let path = request.uri().path().to_owned();
    let span =
        tracing::info_span!("request", request_id = %id, method = %request.method(), path = %path);
    let mut response = next.run(request).instrument(span).await;
    if let Some(Incomplete(mut problem)) = response.extensions_mut().remove::<Incomplete>() {
        problem.instance = path;
        problem.request_id.clone_from(&id);
        let text = serde_json::to_string(&problem).unwrap_or_default();
        *response.body_mut() = Body::from(text);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}
