//! Routes about artifacts: by plugin and version, as in the Go system, and by digest.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use common::api::{PluginArtifact, PutArtifact, StoredArtifact};
use common::digest::Digest;
use common::name::Name;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{JsonBody, NamePath, QueryOf};
use super::detached::to_its_end;
use super::problem::HttpError;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(of_plugin, keep, let_go))
        .routes(routes!(one_of_plugin))
        .routes(routes!(all))
        .routes(routes!(show, remove))
}

/// Query of the routes of a plugin's artifacts.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct OfVersion {
    /// Only those of this version of the plugin.
    version: Option<String>,
}

/// Lists the artifacts of a plugin
#[utoipa::path(
    get,
    path = "/api/v1/plugins/{name}/artifacts",
    tag = "artifacts",
    operation_id = "list_plugin_artifacts",
    params(NamePath, OfVersion),
    responses(
        (status = 200, description = "The artifact that the installed manifest names, and those that are kept", body = Vec<PluginArtifact>),
        (status = 404, description = "`plugin-not-found`: no plugin has this name, and nothing is kept for one"),
    )
)]
async fn of_plugin(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<OfVersion>,
) -> Result<Json<Vec<PluginArtifact>>, HttpError> {
    let artifacts = service.plugin_artifacts(&name, query.version.as_deref());
    Ok(Json(artifacts.await?))
}

/// Stores and checks an artifact and keeps it for a version of a plugin
///
/// The plugin need not be installed: an install of a manifest that names the artifact's checksum fetches nothing then. The store is real:
/// the artifact is fetched now, and read as what its kind says. So a kind other than `initramfs` and `rootfs` is refused, and a source that
/// cannot be reached; the Go system recorded either.
#[utoipa::path(
    post,
    path = "/api/v1/plugins/{name}/artifacts",
    tag = "artifacts",
    operation_id = "keep_plugin_artifact",
    params(NamePath),
    request_body = PutArtifact,
    responses(
        (status = 201, description = "It is kept, in the place of one of its version and name", body = PluginArtifact),
        (status = 404, description = "`not-found`: no plugin can have this name"),
        (status = 400, description = "`invalid-request`: the request is not right, or what it names is no such artifact"),
        (status = 422, description = "`checksum-mismatch`, `bad-signature`: the artifact is not the one that was meant"),
        (status = 503, description = "`unavailable`: the source cannot be reached"),
        (status = 507, description = "`no-capacity`: there is no space, or too many are kept for the plugin"),
    )
)]
async fn keep(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    JsonBody(put): JsonBody<PutArtifact>,
) -> Result<(StatusCode, Json<PluginArtifact>), HttpError> {
    let kept = to_its_end(async move { service.keep_artifact(&name, put).await });
    Ok((StatusCode::CREATED, Json(kept.await?)))
}

/// Lets go of the artifacts that are kept for a plugin
#[utoipa::path(
    delete,
    path = "/api/v1/plugins/{name}/artifacts",
    tag = "artifacts",
    operation_id = "remove_plugin_artifacts",
    params(NamePath, OfVersion),
    responses(
        (status = 204, description = "None is kept any more; what the installed manifest names stays"),
        (status = 404, description = "`plugin-not-found`: no plugin has this name, and nothing is kept for one"),
        (status = 409, description = "`artifact-in-use`: what the installed manifest names is all that the version has"),
    )
)]
async fn let_go(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<OfVersion>,
) -> Result<StatusCode, HttpError> {
    let dropped = async move {
        let version = query.version.as_deref();
        service.drop_artifacts(&name, version).await
    };
    to_its_end(dropped).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Shows an artifact of a plugin
///
/// Without `version` it is that of the installed version, where the Go system answers 400.
#[utoipa::path(
    get,
    path = "/api/v1/plugins/{name}/artifacts/{artifact}",
    tag = "artifacts",
    operation_id = "get_plugin_artifact",
    params(
        NamePath,
        ("artifact" = String, Path, description = "The artifact's name; of what the installed manifest names, its kind"),
        OfVersion,
    ),
    responses(
        (status = 200, description = "The artifact; of the installed version unless one is named", body = PluginArtifact),
        (status = 404, description = "`plugin-not-found`, `artifact-not-found`: there is no such plugin or artifact"),
    )
)]
async fn one_of_plugin(
    State(service): State<Arc<Service>>,
    ArtifactPath { plugin, artifact }: ArtifactPath,
    QueryOf(query): QueryOf<OfVersion>,
) -> Result<Json<PluginArtifact>, HttpError> {
    let found = service.plugin_artifact(&plugin, &artifact, query.version.as_deref());
    Ok(Json(found.await?))
}

/// Lists all artifacts in the store with who needs them
#[utoipa::path(
    get,
    path = "/api/v1/artifacts",
    tag = "artifacts",
    operation_id = "list_artifacts",
    responses((status = 200, description = "The artifacts, oldest first", body = Vec<StoredArtifact>))
)]
async fn all(State(service): State<Arc<Service>>) -> Result<Json<Vec<StoredArtifact>>, HttpError> {
    Ok(Json(service.stored_artifacts().await?))
}

/// Shows an artifact in the store
#[utoipa::path(
    get,
    path = "/api/v1/artifacts/{digest}",
    tag = "artifacts",
    operation_id = "get_artifact",
    params(DigestPath),
    responses(
        (status = 200, description = "The artifact", body = StoredArtifact),
        (status = 404, description = "`artifact-not-found`: none has this digest"),
    )
)]
async fn show(
    State(service): State<Arc<Service>>,
    DigestPath(digest): DigestPath,
) -> Result<Json<StoredArtifact>, HttpError> {
    Ok(Json(service.stored_artifact(&digest).await?))
}

/// Removes an artifact that nobody needs
#[utoipa::path(
    delete,
    path = "/api/v1/artifacts/{digest}",
    tag = "artifacts",
    operation_id = "remove_artifact",
    params(DigestPath),
    responses(
        (status = 204, description = "It is removed"),
        (status = 404, description = "`artifact-not-found`: none has this digest"),
        (status = 409, description = "`artifact-in-use`: a plugin or VM needs it; `detail` names them"),
        (status = 503, description = "`unavailable`: an artifact is being installed now"),
    )
)]
async fn remove(
    State(service): State<Arc<Service>>,
    DigestPath(digest): DigestPath,
) -> Result<StatusCode, HttpError> {
    to_its_end(async move { service.remove_artifact(&digest).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn nothing(detail: impl Into<String>) -> HttpError {
    HttpError::plain(StatusCode::NOT_FOUND, "not-found", detail)
}

/// The `{digest}` in a path, with or without `sha256:`. A text that is no digest names nothing: 404.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(names("digest"), parameter_in = Path)]
struct DigestPath(
    /// The artifact's SHA-256.
    Digest,
);

impl<S: Send + Sync> FromRequestParts<S> for DigestPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| nothing("There is nothing at this path"))?;
        let digest: Result<Digest, common::digest::InvalidDigest> = text.parse();
        digest.map(Self).map_err(|error| nothing(error.to_string()))
    }
}

/// A plugin's name and an artifact's.
#[derive(Debug)]
struct ArtifactPath {
    plugin: Name,
    artifact: String,
}

impl<S: Send + Sync> FromRequestParts<S> for ArtifactPath {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((plugin, artifact)) =
            path.map_err(|_| nothing("There is nothing at this path"))?;
        let plugin: Result<Name, common::name::InvalidName> = plugin.parse();
        Ok(Self {
            plugin: plugin.map_err(|error| nothing(error.to_string()))?,
            artifact,
        })
    }
}
