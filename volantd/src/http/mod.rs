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
mod metrics;
mod once;
mod openapi;
mod plugins;
mod problem;
mod proxy;
mod redirection;
mod requests;
mod stats;
mod system;
#[cfg(test)]
mod testing;
mod vm_list;
mod vms;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::IntoResponse;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::access::Access;
use crate::limits::RequestLimits;
use crate::service::Service;
use admission::Room;
use problem::HttpError;

pub use auth::TokenCheck;
pub use openapi::document;

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
        .merge(metrics::routes())
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
    let room = Room::new(&limits, Arc::clone(service.metrics()));
    let finish = |api: Router<Arc<Service>>| finished(api.merge(open()), limits, room);
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
    api.layer(middleware::from_fn_with_state(
        Arc::clone(&service),
        requests::follow,
    ))
    .with_state(service)
}

/// The routes with what holds for all of them.
fn finished(api: Router<Arc<Service>>, limits: RequestLimits, room: Room) -> Router<Arc<Service>> {
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
    .layer(middleware::from_fn_with_state(
        Arc::new(room),
        admission::admit,
    ))
}
