//! `/api/v1/vms/{name}/agent/…`: requests to the workload, passed on through the agent, streamed both ways with any change of protocol.
//!
//! Only the agent's public paths lead through: `v1` for the workload, and `healthz`. What changes the guest needs its secret, which stays
//! in this daemon. Nothing is read, kept or tried twice. All workloads have this daemon's address in a browser, so that cookies are not
//! passed on, either way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts, Path, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, any, on};
use common::agent::SECRET_HEADER;
use common::api::API_KEY_HEADER;
use common::name::Name;
use hyper::header::UPGRADE;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::time::timeout;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::KeyInOwnHeader;
use super::guest_answer::{contain, remove_hop_by_hop, set_upgrade, wanted_upgrade};
use super::problem::HttpError;
use super::redirection::Vantage;
use crate::agent::{GuestBody, Trust, upgraded};
use crate::limits::RequestLimits;
use crate::service::{GuestWay, Hold, Service, Way};
use crate::task;

/// How long a client's connection may take to change its protocol once both have agreed.
const SWITCH_LIMIT: Duration = Duration::from_secs(10);

const PATH: &str = "/api/v1/vms/{name}/agent/{*path}";

const ROOT: &str = "/api/v1/vms/{name}/agent/";

/// How many parts of a request's path stand before the guest's: an empty one, `api`, `v1`, `vms`, the name and `agent`.
const OWN_PARTS: usize = 6;

/// The VM and the path in its guest, as it was written: escapes are the workload's to read.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(names("name", "path"), parameter_in = Path)]
pub(super) struct GuestPath(
    /// The name of the VM.
    Name,
    /// `v1` and what the workload gets of it, or `healthz`.
    String,
);

impl<S: Send + Sync> FromRequestParts<S> for GuestPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let nothing = || {
            HttpError::plain(
                StatusCode::NOT_FOUND,
                "not-found",
                "There is nothing at this path: a guest has `v1/…` and `healthz`",
            )
        };
        // The root has no path behind the name.
        let Path(parameters) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| nothing())?;
        let name = parameters.first().map(|(_, name)| name.parse());
        let name = name.ok_or_else(nothing)?.map_err(|_| nothing())?;
        let path = parts.uri.path().splitn(OWN_PARTS + 1, '/').nth(OWN_PARTS);
        path.filter(|path| is_public(path))
            .map(|path| Self(name, path.to_owned()))
            .ok_or_else(nothing)
    }
}

/// Whether a path of the agent is for everybody.
fn is_public(path: &str) -> bool {
    matches!(path, "" | "v1" | "healthz") || path.starts_with("v1/")
}

/// A route of one method: each has a name of its own in the description.
macro_rules! passed_on {
    ($method:ident, $id:literal) => {
        /// Passes a request on to the workload of a VM
        ///
        /// With `v1/…` the workload gets the rest of the path, below the path of its `base_url`; `healthz` is the agent's own. Bodies stream,
        /// WebSocket and other changes of protocol go through. A browser shows what comes in a sandbox. Cookies are not passed on, either way,
        /// and a redirect within the workload leads below this path. One to another host goes only to a client on TCP that has its token in
        /// `Authorization`, which clients do not take along.
        #[utoipa::path(
            $method,
            path = "/api/v1/vms/{name}/agent/{*path}",
            tag = "vms",
            operation_id = $id,
            params(GuestPath),
            responses(
                (status = 200, description = "Whatever the workload answers, with whatever status", body = Vec<u8>, content_type = "*/*"),
                (status = 404, description = "`vm-not-found`, `not-found`: there is no such VM, or the path is not for everybody"),
                (status = 409, description = "`wrong-phase`: the VM does not run"),
                (status = 502, description = "`guest-unreachable`: the guest does not answer as it should"),
                (status = 503, description = "`unavailable`: too many requests are passed on to this VM already"),
                (status = 504, description = "`guest-timeout`: the guest took too long"),
            )
        )]
        async fn $method(
            service: State<Arc<Service>>,
            limits: Extension<RequestLimits>,
            path: GuestPath,
            request: Request,
        ) -> Result<Response, HttpError> {
            forward(service, limits, path, request).await
        }
    };
}

passed_on!(get, "call_vm_get");
passed_on!(post, "call_vm_post");
passed_on!(put, "call_vm_put");
passed_on!(patch, "call_vm_patch");
passed_on!(delete, "call_vm_delete");

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    // HEAD goes the way of GET and stays itself.
    OpenApiRouter::default()
        .routes(routes!(get, post, put, patch, delete))
        .route(PATH, on(MethodFilter::OPTIONS, forward))
        // The agent has nothing there, and says so itself, as in the Go system.
        .route(ROOT, any(forward))
}

async fn forward(
    State(service): State<Arc<Service>>,
    Extension(limits): Extension<RequestLimits>,
    GuestPath(name, path): GuestPath,
    mut request: Request,
) -> Result<Response, HttpError> {
    let way = service.way(&name, Way::Proxy)?;
    let protocol = wanted_upgrade(request.headers());
    let client = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    parts.uri = guest_uri(&path, &parts.uri)?;
    let vantage = vantage(&way, &parts);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    make_foreign(&mut parts.headers);
    if let Some(protocol) = protocol {
        set_upgrade(&mut parts.headers, protocol);
    }
    let request = Request::from_parts(parts, body);
    // A stream may be silent for as long as it likes.
    let limit = limits.proxy_timeout;
    let answer = way.open(Trust::Open, request, limit).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client = client.ok_or_else(|| {
            HttpError::plain(
                StatusCode::BAD_GATEWAY,
                "guest-unreachable",
                "The workload changed the protocol without being asked",
            )
        })?;
        return Ok(switch(way, client, answer));
    }
    let (mut parts, body) = answer.into_parts();
    parts.extensions.clear();
    contain(&mut parts.headers);
    vantage.redirect(&mut parts.headers);
    Ok((parts.status, parts.headers, Body::new(way.streaming(body))).into_response())
}

/// From where the client sees what the guest will answer; `asked` is its request, with the path in the guest.
fn vantage(way: &GuestWay, asked: &Parts) -> Vantage {
    let host = asked.headers.get(HOST).and_then(|host| host.to_str().ok());
    // Only TCP has an address.
    let is_remote = asked.extensions.get::<ConnectInfo<SocketAddr>>().is_some();
    let has_own_header = asked.extensions.get::<KeyInOwnHeader>().is_some();
    Vantage {
        name: way.name().clone(),
        base_url: way.base_url().map(str::to_owned),
        guest: way.address(),
        asked: asked.uri.clone(),
        host: host.map(str::to_owned),
        may_leave: is_remote && !has_own_header,
    }
}

/// The path in the guest, with the query as it was.
fn guest_uri(path: &str, asked: &Uri) -> Result<Uri, HttpError> {
    let query = asked
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("/{path}{query}").parse().map_err(|_| {
        let detail = "The path cannot be passed on";
        HttpError::plain(StatusCode::BAD_REQUEST, "invalid-request", detail)
    })
}

/// Takes out what is between the client and this daemon only.
fn make_foreign(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(API_KEY_HEADER);
    headers.remove(SECRET_HEADER);
    headers.remove("proxy-authorization");
    headers.remove(COOKIE);
    // As the token's check leaves it: a workload's own credentials are passed on, marked so that no log shows them.
    if let Some(value) = headers.get_mut(AUTHORIZATION) {
        value.set_sensitive(true);
    }
}

/// Answers the client as the guest did, and then lets both talk.
fn switch(way: GuestWay, client: OnUpgrade, answer: hyper::Response<GuestBody>) -> Response {
    let mut headers = answer.headers().clone();
    let protocol = headers.get(UPGRADE).cloned();
    contain(&mut headers);
    let protocol = protocol.unwrap_or(HeaderValue::from_static("websocket"));
    set_upgrade(&mut headers, protocol);
    let hold = way.hold();
    drop(task::spawn("guest-tunnel", async move {
        let switched = timeout(SWITCH_LIMIT, async {
            tokio::join!(client, upgraded(answer))
        });
        if let Ok((Ok(client), Ok(guest))) = switched.await {
            tunnel(TokioIo::new(client), guest, hold).await;
        }
    }));
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Carries bytes both ways until either end breaks off or the guest is gone.
async fn tunnel(mut client: TokioIo<Upgraded>, mut guest: TokioIo<Upgraded>, hold: Hold) {
    tokio::select! {
        // Whoever broke off knows; the other sees the end of its connection.
        ended = copy_bidirectional(&mut client, &mut guest) => drop(ended),
        () = hold.gone() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_paths_lead_into_a_guest() {
        let table = [
            ("v1", true),
            ("v1/", true),
            ("v1/agent/exec", true),
            ("v1//x/../y", true),
            ("healthz", true),
            ("healthz/x", false),
            ("agent/exec", false),
            ("agent/status", false),
            ("agent%2fexec", false),
            ("/agent/exec", false),
            ("v1%2f..%2fagent/exec", false),
            ("v10/x", false),
            ("", true),
        ];
        for (path, expected) in table {
            assert_eq!(is_public(path), expected, "{path}");
        }
    }

    #[test]
    fn paths_keep_their_escapes_and_query() {
        let asked: Uri = "/api/v1/vms/a/agent/v1/x?y=%20&z".parse().unwrap();
        let uri = guest_uri("v1/a%2Fb", &asked).unwrap();
        assert_eq!(uri.to_string(), "/v1/a%2Fb?y=%20&z");
    }

    #[test]
    fn what_is_ours_stays_here() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-volant-api-key",
            "x-volant-secret",
            "proxy-authorization",
            "te",
            "cookie",
            "authorization",
        ] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        make_foreign(&mut headers);
        let mut left: Vec<_> = headers.keys().map(axum::http::HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization"]);
    }
}
