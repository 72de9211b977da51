//! What VMs use: routes only.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::api::VmStats;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::NamePath;
use super::problem::HttpError;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(of_vm))
        .routes(routes!(of_all))
}

/// Shows what a VM uses
#[utoipa::path(
    get,
    path = "/api/v1/vms/{name}/stats",
    tag = "vms",
    operation_id = "get_vm_stats",
    params(NamePath),
    responses(
        (status = 200, description = "Counters and present values", body = VmStats),
        (status = 404, description = "`vm-not-found`: no VM has this name"),
        (status = 409, description = "`wrong-phase`: nothing of the VM runs"),
    )
)]
async fn of_vm(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<VmStats>, HttpError> {
    Ok(Json(service.stats(&name).await?))
}

/// Shows what all VMs use
///
/// Of a guest that does not answer within a second only the host's side is shown.
#[utoipa::path(
    get,
    path = "/api/v1/stats",
    tag = "vms",
    operation_id = "list_vm_stats",
    responses((status = 200, description = "The VMs that use anything, oldest first", body = Vec<VmStats>))
)]
async fn of_all(State(service): State<Arc<Service>>) -> Json<Vec<VmStats>> {
    Json(service.all_stats().await)
}
