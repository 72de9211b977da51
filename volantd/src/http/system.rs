//! Routes about the daemon itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::api::{DiskUse, Pruned, SystemInfo, SystemStatus, SystemSummary};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::QueryOf;
use super::detached::to_its_end;
use super::problem::HttpError;
use crate::service::{Prune, Service};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(status))
        .routes(routes!(info))
        .routes(routes!(summary))
        .routes(routes!(disk_use))
        .routes(routes!(prune))
}

/// What load balancers ask may have no token.
pub(super) fn open_routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default().routes(routes!(healthz))
}

/// Whether the daemon answers
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "system",
    operation_id = "healthz",
    security(()),
    responses((status = 200, description = "It does", body = Object))
)]
async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Whether the daemon works, and how busy its host is
#[utoipa::path(
    get,
    path = "/api/v1/system/status",
    tag = "system",
    operation_id = "get_system_status",
    responses((status = 200, description = "It works", body = SystemStatus))
)]
async fn status(State(service): State<Arc<Service>>) -> Result<Json<SystemStatus>, HttpError> {
    Ok(Json(service.status()?))
}

/// Facts about the daemon and its hypervisor
#[utoipa::path(
    get,
    path = "/api/v1/system/info",
    tag = "system",
    operation_id = "get_system_info",
    responses((status = 200, description = "The facts", body = SystemInfo))
)]
async fn info(State(service): State<Arc<Service>>) -> Json<SystemInfo> {
    Json(service.info().clone())
}

/// How many VMs and plugins there are
#[utoipa::path(
    get,
    path = "/api/v1/system/summary",
    tag = "system",
    operation_id = "get_system_summary",
    responses((status = 200, description = "The numbers", body = SystemSummary))
)]
async fn summary(State(service): State<Arc<Service>>) -> Result<Json<SystemSummary>, HttpError> {
    Ok(Json(service.summary().await?))
}

/// Shows what takes the host's disk
#[utoipa::path(
    get,
    path = "/api/v1/system/df",
    tag = "system",
    operation_id = "get_system_df",
    responses((status = 200, description = "What takes it, by kind", body = DiskUse))
)]
async fn disk_use(State(service): State<Arc<Service>>) -> Result<Json<DiskUse>, HttpError> {
    Ok(Json(service.disk_use().await?))
}

/// Query of the prune route.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct PruneQuery {
    /// Only say what would be removed.
    #[serde(default)]
    dry_run: bool,
}

/// Removes the artifacts that no plugin, no VM and no kept version of a VM's configuration needs
#[utoipa::path(
    post,
    path = "/api/v1/system/prune",
    tag = "system",
    operation_id = "prune_system",
    params(PruneQuery),
    responses(
        (status = 200, description = "What was, or would be, removed", body = Pruned),
        (status = 503, description = "`unavailable`: an artifact is being installed now"),
    )
)]
async fn prune(
    State(service): State<Arc<Service>>,
    QueryOf(query): QueryOf<PruneQuery>,
) -> Result<Json<Pruned>, HttpError> {
    let prune = if query.dry_run {
        Prune::DryRun
    } else {
        Prune::Remove
    };
    let pruned = to_its_end(async move { service.prune(prune).await });
    Ok(Json(pruned.await?))
}
