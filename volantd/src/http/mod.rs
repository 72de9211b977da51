//! The REST API: decodes a request, calls the service, encodes the answer. Knows no SQL, no VMM and no machine.

mod absent;
mod actions;
mod admission;
mod artifacts;
mod auth;
mod body;
mod configs;
mod console;
mod detached;
mod events;
mod exec;
mod files;
mod gate;
mod guest_answer;
mod logs;
mod once;
mod openapi;
mod plugins;
mod problem;
mod proxy;
mod stats;
mod system;
#[cfg(test)]
mod testing;
mod vm_list;
mod vms;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;

use crate::access::Access;
use crate::limits::RequestLimits;
use crate::service::Service;
use admission::Room;
use problem::{HttpError, Incomplete};

pub use auth::TokenCheck;
pub use openapi::document;

/// The header that names a request in answers and in the log.
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The routes that need a token, where there is one.
fn guarded() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .merge(system::routes())
        .merge(plugins::routes())
        .merge(artifacts::routes())
        .merge(vms::routes())
        .merge(configs::routes())
        .merge(events::routes())
        .merge(logs::routes())
        .merge(console::routes())
        .merge(absent::routes())
        .merge(actions::routes())
        .merge(exec::routes())
        .merge(files::routes())
        .merge(proxy::routes())
        .merge(stats::routes())
}

/// The routes that never do.
fn open() -> OpenApiRouter<Arc<Service>> {
    system::open_routes().merge(openapi::routes())
}

/// All routes with their descriptions.
fn described() -> OpenApiRouter<Arc<Service>> {
    openapi::base().merge(guarded()).merge(open())
}

/// What callers pass.
#[derive(Debug)]
pub enum Door {
    /// The unix socket, which its file mode guards. The token is not wanted, and taken out where it is sent.
    Unix(Option<TokenCheck>),
    /// TCP.
    Tcp(Gate),
}

/// What callers over TCP must fulfil.
#[derive(Debug, Default)]
pub struct Gate {
    /// From where, by which name and from which pages.
    pub access: Access,
    /// What they must present.
    pub token: Option<TokenCheck>,
}

/// All routes, for one listener.
pub fn router(service: Arc<Service>, limits: RequestLimits, door: Door) -> Router {
    let api = Router::from(guarded()).layer(middleware::from_fn_with_state(
        Arc::clone(&service),
        once::once,
    ));
    let finish = |api: Router<Arc<Service>>| finished(api.merge(open()), limits);
    let api = match door {
        Door::Unix(None) => finish(api),
        Door::Unix(Some(token)) => {
            let token = Arc::new(token);
            finish(api.layer(middleware::from_fn_with_state(token, auth::take_out)))
        }
        Door::Tcp(Gate { access, token }) => {
            let api = match token.map(Arc::new) {
                Some(token) => api.layer(middleware::from_fn_with_state(token, auth::require)),
                None => api,
            };
            let access = Arc::new(access);
            finish(api).layer(middleware::from_fn_with_state(access, gate::check))
        }
    };
    api.layer(middleware::from_fn(complete_problem))
        .with_state(service)
}

/// The routes with what holds for all of them.
fn finished(api: Router<Arc<Service>>, limits: RequestLimits) -> Router<Arc<Service>> {
    let room = Arc::new(Room::new(&limits));
    api.fallback(async || {
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
    .layer(DefaultBodyLimit::max(limits.max_body_bytes))
    .layer(Extension(limits))
    .layer(middleware::from_fn_with_state(room, admission::admit))
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
