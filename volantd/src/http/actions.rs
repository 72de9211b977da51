//! Actions of plugins, and the description of a VM's API: routes only.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use common::name::Name;
use hyper::body::Bytes;
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{NamePath, body};
use super::guest_answer::sentence;
use super::problem::HttpError;
use crate::service::{ActionAnswer, Service};

/// What a browser may do with what a workload made: nothing.
const POLICY: &str = "default-src 'none'; sandbox";

/// A plugin's action, and the VM where the path names one.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(names("name", "plugin", "action"), parameter_in = Path)]
pub(super) struct VmAction(
    /// The name of the VM.
    Name,
    /// The name of the plugin.
    Name,
    /// The name of the action in the plugin's manifest.
    String,
);

/// A plugin's action.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(names("plugin", "action"), parameter_in = Path)]
pub(super) struct PluginAction(
    /// The name of the plugin.
    Name,
    /// The name of the action in the plugin's manifest.
    String,
);

fn nothing() -> HttpError {
    let detail = "There is nothing at this path";
    HttpError::plain(StatusCode::NOT_FOUND, "not-found", detail)
}

impl<S: Send + Sync> FromRequestParts<S> for VmAction {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let path = Path::<(String, String, String)>::from_request_parts(parts, state).await;
        let Path((vm, plugin, action)) = path.map_err(|_| nothing())?;
        match (vm.parse(), plugin.parse()) {
            (Ok(vm), Ok(plugin)) => Ok(Self(vm, plugin, action)),
            _ => Err(nothing()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PluginAction {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((plugin, action)) = path.map_err(|_| nothing())?;
        match plugin.parse() {
            Ok(plugin) => Ok(Self(plugin, action)),
            Err(_) => Err(nothing()),
        }
    }
}

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(in_vm))
        .routes(routes!(of_plugin))
        .routes(routes!(description))
}

/// Calls an action of a plugin in a VM
#[utoipa::path(
    post,
    path = "/api/v1/vms/{name}/actions/{plugin}/{action}",
    tag = "vms",
    operation_id = "call_vm_action",
    params(VmAction),
    request_body(content = Object, description = "What the workload gets"),
    responses(
        (status = 200, description = "What the workload answered", body = Vec<u8>, content_type = "*/*"),
        (status = 202, description = "It answered without content"),
        (status = 404, description = "`vm-not-found`, `plugin-not-found`, `action-not-found`"),
        (status = 409, description = "`wrong-phase`, `runtime-mismatch`: the VM does not run, or is of another runtime"),
        (status = 502, description = "`guest-unreachable`: the guest does not answer as it should"),
        (status = 503, description = "`unavailable`: too many requests are passed on to this VM already"),
        (status = 504, description = "`guest-timeout`: the action took too long"),
        (status = "4XX", description = "`action-failed`: what the workload refused with"),
        (status = "5XX", description = "`action-failed`: what the workload failed with"),
    )
)]
async fn in_vm(
    State(service): State<Arc<Service>>,
    VmAction(vm, plugin, action): VmAction,
    request: Request,
) -> Result<Response, HttpError> {
    let input = object(request).await?;
    let answer = service.call_action(&vm, &plugin, &action, input).await?;
    shown(&action, answer)
}

/// Calls an action of a plugin in its one VM that runs
#[utoipa::path(
    post,
    path = "/api/v1/plugins/{plugin}/actions/{action}",
    tag = "plugins",
    operation_id = "call_plugin_action",
    params(PluginAction),
    request_body(content = Object, description = "What the workload gets"),
    responses(
        (status = 200, description = "What the workload answered", body = Vec<u8>, content_type = "*/*"),
        (status = 202, description = "It answered without content"),
        (status = 404, description = "`plugin-not-found`, `action-not-found`"),
        (status = 409, description = "`ambiguous-vm`, `wrong-phase`: not exactly one VM of the plugin runs"),
        (status = 502, description = "`guest-unreachable`: the guest does not answer as it should"),
        (status = 503, description = "`unavailable`: too many requests are passed on to this VM already"),
        (status = 504, description = "`guest-timeout`: the action took too long"),
        (status = "4XX", description = "`action-failed`: what the workload refused with"),
        (status = "5XX", description = "`action-failed`: what the workload failed with"),
    )
)]
async fn of_plugin(
    State(service): State<Arc<Service>>,
    PluginAction(plugin, action): PluginAction,
    request: Request,
) -> Result<Response, HttpError> {
    let input = object(request).await?;
    let answer = service.call_plugin_action(&plugin, &action, input).await?;
    shown(&action, answer)
}

/// Shows how the API of a VM's workload is described
///
/// As `OpenAPI`: the workload's own (`/openapi`, or the path that its manifest gives), else the one at the public address that its manifest names.
#[utoipa::path(
    get,
    path = "/api/v1/vms/{name}/openapi",
    tag = "vms",
    operation_id = "get_vm_openapi",
    params(NamePath),
    responses(
        (status = 200, description = "The document, as JSON or YAML", content(
            (Object = "application/json"),
            (String = "application/yaml"),
        )),
        (status = 404, description = "`vm-not-found`, `openapi-not-found`: there is no such VM, or nothing describes it"),
        (status = 502, description = "`openapi-unavailable`: it cannot be had from where the manifest says"),
    )
)]
async fn description(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Response, HttpError> {
    let found = service.describe_api(&name).await?;
    let kind = HeaderValue::from_static(found.content_type);
    Ok((foreign(kind), found.document).into_response())
}

/// The body, if it is a JSON object.
async fn object(request: Request) -> Result<Bytes, HttpError> {
    let bytes = body(request, &()).await?;
    match serde_json::from_slice::<Map<String, Value>>(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            let detail = format!("The body is not a JSON object: {error}");
            let status = StatusCode::BAD_REQUEST;
            Err(HttpError::plain(status, "invalid-request", detail))
        }
    }
}

/// What a workload answered, for a client.
fn shown(action: &str, answer: ActionAnswer) -> Result<Response, HttpError> {
    let ActionAnswer {
        vm,
        status,
        content_type,
        body,
    } = answer;
    if status.is_success() {
        if body.is_empty() {
            return Ok(StatusCode::ACCEPTED.into_response());
        }
        let kind = HeaderValue::from_static("application/octet-stream");
        let headers = foreign(content_type.unwrap_or(kind));
        return Ok((headers, body).into_response());
    }
    let said = sentence(&String::from_utf8_lossy(&body));
    let detail = format!(
        "The action `{action}` of `{vm}` answered with HTTP status {}: {}",
        status.as_u16(),
        said.trim()
    );
    let refused = status.is_client_error() || status.is_server_error();
    let status = if refused {
        status
    } else {
        StatusCode::BAD_GATEWAY
    };
    Err(HttpError::plain(status, "action-failed", detail))
}

fn foreign(content_type: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, content_type),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ])
}
