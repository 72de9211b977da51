//! Routes about plugins.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use common::api::{InstalledPlugin, PluginList, PluginNames, SetEnabled};
use common::manifest::{Manifest, ManifestError, ManifestInput};
use common::name::Name;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{JsonBody, NamePath, QueryOf, body};
use super::detached::to_its_end;
use super::problem::HttpError;
use crate::service::{ErrorKind, Service, ServiceError};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(list, install))
        .routes(routes!(show, remove))
        .routes(routes!(manifest))
        .routes(routes!(set_enabled))
}

/// Query of the list of plugins.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Detail {
    /// Whether plugins are objects rather than names.
    #[serde(default)]
    detail: bool,
}

/// The list of plugins in either form: names, or with `detail` objects.
#[derive(utoipa::ToSchema)]
#[schema(as = ListedPlugins)]
#[expect(dead_code, reason = "describes the answer")]
struct Listed {
    /// The plugins, by name.
    plugins: Vec<ListedPlugin>,
}

/// A plugin in either form.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answer")]
enum ListedPlugin {
    Name(Name),
    Plugin(InstalledPlugin),
}

/// Lists the installed plugins
#[utoipa::path(
    get,
    path = "/api/v1/plugins",
    tag = "plugins",
    operation_id = "list_plugins",
    params(Detail),
    responses((status = 200, description = "The plugins, by name: their names, or with `detail` objects", body = Listed))
)]
async fn list(
    State(service): State<Arc<Service>>,
    QueryOf(query): QueryOf<Detail>,
) -> Result<Response, HttpError> {
    if query.detail {
        let plugins = service.installed_plugins().await?;
        return Ok(Json(PluginList { plugins }).into_response());
    }
    let plugins = service.plugin_names().await?;
    Ok(Json(PluginNames { plugins }).into_response())
}

/// Installs a plugin: fetches and checks its artifact, then records it
#[utoipa::path(
    post,
    path = "/api/v1/plugins",
    tag = "plugins",
    operation_id = "install_plugin",
    params(("Idempotency-Key" = Option<String>, Header, description = "Names the request: one with the same key and body gets the same answer, and nothing is done twice")),
    request_body = ManifestInput,
    responses(
        (status = 201, description = "The plugin is installed, in the place of one of its name", body = InstalledPlugin),
        (status = 400, description = "`invalid-request`: the manifest or what it names is not right"),
        (status = 422, description = "`checksum-mismatch`, `bad-signature`, `idempotency-mismatch`: the artifact is not the one that was meant, or the key came with another request"),
        (status = 501, description = "`not-implemented`: the manifest asks for something that is not built yet"),
        (status = 503, description = "`unavailable`: the artifact's source cannot be reached"),
        (status = 507, description = "`no-capacity`: there is no space for the artifact"),
    )
)]
async fn install(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<(StatusCode, Json<InstalledPlugin>), HttpError> {
    let bytes = body(request, &()).await?;
    let manifest =
        Manifest::from_json(&bytes).map_err(|error: ManifestError| ServiceError::from(error))?;
    let installed = to_its_end(async move { service.install_plugin(manifest).await });
    Ok((StatusCode::CREATED, Json(installed.await?)))
}

/// Shows a plugin's manifest
#[utoipa::path(
    get,
    path = "/api/v1/plugins/{name}",
    tag = "plugins",
    operation_id = "get_plugin",
    params(NamePath),
    responses(
        (status = 200, description = "The manifest", body = Manifest),
        (status = 404, description = "`plugin-not-found`: no plugin has this name"),
    )
)]
async fn show(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Manifest>, HttpError> {
    Ok(Json(service.plugin(&name).await?))
}

/// Shows a plugin's manifest to guests: one that is switched off has none for them
#[utoipa::path(
    get,
    path = "/api/v1/plugins/{name}/manifest",
    tag = "plugins",
    operation_id = "get_plugin_manifest",
    params(NamePath),
    responses(
        (status = 200, description = "The manifest", body = Manifest),
        (status = 404, description = "`plugin-not-found`: no plugin has this name"),
        (status = 409, description = "`plugin-disabled`: it is switched off"),
    )
)]
async fn manifest(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Manifest>, HttpError> {
    let manifest = service.plugin(&name).await?;
    if manifest.enabled {
        Ok(Json(manifest))
    } else {
        Err(ServiceError::new(
            ErrorKind::PluginDisabled,
            format!("The plugin `{name}` is switched off"),
        )
        .into())
    }
}

/// Removes a plugin; its VMs go on
#[utoipa::path(
    delete,
    path = "/api/v1/plugins/{name}",
    tag = "plugins",
    operation_id = "remove_plugin",
    params(NamePath),
    responses(
        (status = 204, description = "It is removed"),
        (status = 404, description = "`plugin-not-found`: no plugin has this name"),
    )
)]
async fn remove(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<StatusCode, HttpError> {
    to_its_end(async move { service.remove_plugin(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets whether VMs can be created from a plugin
#[utoipa::path(
    post,
    path = "/api/v1/plugins/{name}/enabled",
    tag = "plugins",
    operation_id = "set_plugin_enabled",
    params(NamePath),
    request_body = SetEnabled,
    responses(
        (status = 200, description = "It is set"),
        (status = 404, description = "`plugin-not-found`: no plugin has this name"),
        (status = 400, description = "`invalid-request`: the body is not valid"),
    )
)]
async fn set_enabled(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    JsonBody(SetEnabled { enabled }): JsonBody<SetEnabled>,
) -> Result<StatusCode, HttpError> {
    service.set_plugin_enabled(&name, enabled).await?;
    Ok(StatusCode::OK)
}
