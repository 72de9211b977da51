//! Routes of the Go system that this version has not: each says so in a sentence, so that its clients know why.

use std::sync::Arc;

use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::HttpError;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(mcp))
        .routes(routes!(list_deployments, create_deployment))
        .routes(routes!(get_deployment, scale_deployment, delete_deployment))
        .routes(routes!(vfio_info))
        .routes(routes!(vfio_validate))
        .routes(routes!(vfio_groups))
        .routes(routes!(vfio_bind))
        .routes(routes!(vfio_unbind))
        .routes(routes!(vfio_paths))
        .routes(routes!(list_drift_routes, add_drift_route))
        .routes(routes!(remove_drift_route))
        .routes(routes!(devtools))
}

fn not_yet(what: &str) -> HttpError {
    HttpError::plain(
        StatusCode::NOT_IMPLEMENTED,
        "not-implemented",
        format!("This version of Volant has no {what}"),
    )
}

macro_rules! absent {
    ($($method:ident $path:literal $name:ident $operation:literal $what:literal $summary:literal ($($parameter:literal),*);)*) => {
        $(
            #[doc = $summary]
            #[utoipa::path(
                $method,
                path = $path,
                tag = "not yet",
                operation_id = $operation,
                params($(($parameter = String, Path, description = "As in the Go system")),*),
                responses((status = 501, description = "`not-implemented`: this version cannot do it yet"))
            )]
            async fn $name() -> HttpError {
                not_yet($what)
            }
        )*
    };
}

absent! {
    post "/api/v1/mcp" mcp "call_mcp" "MCP front end: use the REST API" "Runs a command of the MCP front end" ();
    get "/api/v1/deployments" list_deployments "list_deployments" "deployments" "Lists the deployments" ();
    post "/api/v1/deployments" create_deployment "create_deployment" "deployments" "Creates a deployment" ();
    get "/api/v1/deployments/{name}" get_deployment "get_deployment" "deployments" "Shows a deployment" ("name");
    patch "/api/v1/deployments/{name}" scale_deployment "scale_deployment" "deployments" "Scales a deployment" ("name");
    delete "/api/v1/deployments/{name}" delete_deployment "delete_deployment" "deployments" "Deletes a deployment" ("name");
    post "/api/v1/vfio/devices/info" vfio_info "get_vfio_device" "device passthrough" "Describes a device of the host" ();
    post "/api/v1/vfio/devices/validate" vfio_validate "validate_vfio_devices" "device passthrough" "Checks devices of the host" ();
    post "/api/v1/vfio/devices/iommu-groups" vfio_groups "list_vfio_groups" "device passthrough" "Lists groups of devices" ();
    post "/api/v1/vfio/devices/bind" vfio_bind "bind_vfio_devices" "device passthrough" "Takes devices from the host" ();
    post "/api/v1/vfio/devices/unbind" vfio_unbind "unbind_vfio_devices" "device passthrough" "Gives devices back to the host" ();
    post "/api/v1/vfio/devices/group-paths" vfio_paths "list_vfio_paths" "device passthrough" "Lists the paths of devices" ();
    get "/api/v1/drift/routes" list_drift_routes "list_drift_routes" "drift routes" "Lists the drift routes" ();
    post "/api/v1/drift/routes" add_drift_route "add_drift_route" "drift routes" "Adds a drift route" ();
    delete "/api/v1/drift/routes/{protocol}/{port}" remove_drift_route "remove_drift_route" "drift routes" "Removes a drift route" ("protocol", "port");
    get "/ws/v1/vms/{name}/devtools/{*path}" devtools "open_vm_devtools" "way to the devtools of a browser in a VM: a workload's WebSockets are at `/api/v1/vms/{name}/agent/v1/…`" "Connects to the devtools of a browser in a VM" ("name", "path");
}
