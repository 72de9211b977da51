//! Routes about plugins.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use common::api::{ArtifactInfo, InstalledPlugin, PluginNames, SetEnabled};
use common::manifest::{Manifest, ManifestError};

use super::body::{JsonBody, NamePath, body};
use super::problem::HttpError;
use crate::service::{ErrorKind, Service, ServiceError};

pub(super) async fn list(
    State(service): State<Arc<Service>>,
) -> Result<Json<PluginNames>, HttpError> {
    Ok(Json(PluginNames {
        plugins: service.plugin_names().await?,
    }))
}

pub(super) async fn install(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<(StatusCode, Json<InstalledPlugin>), HttpError> {
    let bytes = body(request, &()).await?;
    let manifest =
        Manifest::from_json(&bytes).map_err(|error: ManifestError| ServiceError::from(error))?;
    Ok((
        StatusCode::CREATED,
        Json(service.install_plugin(manifest).await?),
    ))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Manifest>, HttpError> {
    Ok(Json(service.plugin(&name).await?))
}

/// As [`show`], for guests: a plugin that is switched off has no manifest for them.
pub(super) async fn manifest(
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

pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<StatusCode, HttpError> {
    service.remove_plugin(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn set_enabled(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    JsonBody(SetEnabled { enabled }): JsonBody<SetEnabled>,
) -> Result<StatusCode, HttpError> {
    service.set_plugin_enabled(&name, enabled).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn artifacts(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Vec<ArtifactInfo>>, HttpError> {
    Ok(Json(service.plugin_artifacts(&name).await?))
}
