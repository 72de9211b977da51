//! Routes about VMs. A request is answered once it is accepted, or with `?wait=` once the VM is where that wants it. A client that goes away
//! ends its wait, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use common::api::{CreateVm, MAX_LONG_POLL_MS, TOTAL_COUNT_HEADER, Vm, WaitGoal, WaitLimit};
use common::manifest::MAX_WAIT_MS;
use serde::Deserialize;
use tokio::time::timeout;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{JsonBody, NamePath, QueryOf};
use super::detached::to_its_end;
use super::problem::HttpError;
use super::vm_list::{VmFilterQuery, VmListParams};
use crate::service::{ErrorKind, Service, ServiceError};

/// Query of `GET /api/v1/vms/{name}`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// Answer once the VM's generation is another one than this.
    after: Option<u64>,
    /// Or after this time in milliseconds, at most 30000.
    timeout_ms: Option<u64>,
    /// Answer once the VM is there.
    wait: Option<WaitGoal>,
    /// How long `wait` may take: milliseconds, or a number with `ms`, `s` or `m`. Three minutes if not given.
    #[param(value_type = Option<String>)]
    timeout: Option<WaitLimit>,
}

/// Query of whatever changes where a VM is. What is asked for goes on when the wait for it is over.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Answer once the VM is there.
    wait: Option<WaitGoal>,
    /// How long `wait` may take: milliseconds, or a number with `ms`, `s` or `m`. Three minutes if not given.
    #[param(value_type = Option<String>)]
    timeout: Option<WaitLimit>,
}

impl WaitQuery {
    /// The VM as it is, or once it is where the query wants it; nothing once it is gone.
    async fn settle(self, service: &Service, vm: Vm) -> Result<Option<Vm>, HttpError> {
        let Some(goal) = self.wait else {
            return Ok(Some(vm));
        };
        let limit = self.timeout.unwrap_or_default().duration();
        Ok(service.wait_for_vm(&vm.name, goal, limit).await?)
    }

    /// The answer to a creation that is done, once the VM is where the query wants it.
    pub(super) async fn created(self, service: &Service, vm: Vm) -> Result<Response, HttpError> {
        let vm = self.settle(service, vm).await?;
        Ok(answered(StatusCode::CREATED, vm))
    }

    /// Whether the query wants anything.
    pub(super) const fn waits(self) -> bool {
        self.wait.is_some()
    }
}

/// A VM, or 204 for one that is gone.
fn answered(status: StatusCode, vm: Option<Vm>) -> Response {
    match vm {
        Some(vm) => (status, Json(vm)).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// Query of `POST …/stop` and `…/restart`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct GraceQuery {
    /// How long the workload may take to end, in milliseconds; as configured if not given.
    grace_ms: Option<u64>,
}

impl GraceQuery {
    fn grace(&self) -> Result<Option<Duration>, ServiceError> {
        if self.grace_ms.is_some_and(|grace| grace > MAX_WAIT_MS) {
            let detail = format!("`grace_ms` is at most {MAX_WAIT_MS}");
            return Err(ServiceError::new(ErrorKind::Invalid, detail));
        }
        Ok(self.grace_ms.map(Duration::from_millis))
    }
}

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(show, delete))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Lists the VMs
#[utoipa::path(
    get,
    path = "/api/v1/vms",
    tag = "vms",
    operation_id = "list_vms",
    params(VmListParams),
    responses((
        status = 200,
        description = "A page of VMs",
        body = Vec<Vm>,
        headers(("x-total-count" = u64, description = "Number of VMs on all pages")),
    ))
)]
async fn list(
    State(service): State<Arc<Service>>,
    VmFilterQuery(filter): VmFilterQuery,
) -> ([(HeaderName, String); 1], Json<Vec<Vm>>) {
    let (vms, total) = service.page_of_vms(&filter);
    let count = HeaderName::from_static(TOTAL_COUNT_HEADER);
    ([(count, total.to_string())], Json(vms))
}

/// Create a VM and start it
#[utoipa::path(post, path = "/api/v1/vms", tag = "vms", operation_id = "create_vm", params(("Idempotency-Key" = Option<String>, Header, description = "Names the request: one with the same key and body gets the same answer, and nothing is done twice"), WaitQuery), request_body = CreateVm, responses(
    (status = 201, description = "The VM", body = Vm),
    (status = 204, description = "It is gone, as it was waited for"),
    (status = 400, description = "`invalid-request`: the body or query is not valid, or the VM cannot be"),
    (status = 404, description = "`plugin-not-found`: no such plugin"),
    (status = 409, description = "`vm-exists`, `plugin-disabled`, `wrong-phase`: the name is taken, the plugin is switched off, or the VM does not come where it was waited for"),
    (status = 422, description = "`idempotency-mismatch`, `checksum-mismatch`, `bad-signature`: the key came with another request, or the artifact is not the one that was meant"),
    (status = 501, description = "`not-implemented`: it asks for something that is not built yet"),
    (status = 503, description = "`unavailable`: no VM can be launched on this host"),
    (status = 504, description = "`wait-timeout`: it is not where it was waited for; what was asked for goes on"),
    (status = 507, description = "`no-capacity`: no address is left"),
))]
async fn create(
    State(service): State<Arc<Service>>,
    QueryOf(wait): QueryOf<WaitQuery>,
    JsonBody(request): JsonBody<CreateVm>,
) -> Result<Response, HttpError> {
    let (arrived, creating) = (Instant::now(), Arc::clone(&service));
    let vm = to_its_end(async move { creating.create_vm(request, arrived).await }).await?;
    wait.created(&service, vm).await
}

/// A VM, now or once it changes
#[utoipa::path(get, path = "/api/v1/vms/{name}", tag = "vms", operation_id = "get_vm", params(NamePath, ShowQuery), responses(
    (status = 200, description = "The VM", body = Vm),
    (status = 204, description = "It is gone, as it was waited for"),
    (status = 400, description = "`invalid-request`: the query is not valid"),
    (status = 404, description = "`vm-not-found`: no such VM"),
    (status = 409, description = "`wrong-phase`: it does not come where it was waited for"),
    (status = 504, description = "`wait-timeout`: it is not where it was waited for"),
))]
async fn show(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<ShowQuery>,
) -> Result<Response, HttpError> {
    if let Some(goal) = query.wait {
        let limit = query.timeout.unwrap_or_default().duration();
        let vm = service.wait_for_vm(&name, goal, limit).await?;
        return Ok(answered(StatusCode::OK, vm));
    }
    let vm = match query.after {
        None => service.get_vm(&name)?,
        Some(after) => {
            let timeout_ms = query
                .timeout_ms
                .unwrap_or(MAX_LONG_POLL_MS)
                .min(MAX_LONG_POLL_MS);
            service
                .wait_vm(&name, after, Duration::from_millis(timeout_ms))
                .await?
        }
    };
    Ok(Json(vm).into_response())
}

/// Start a VM, or resume it
#[utoipa::path(post, path = "/api/v1/vms/{name}/start", tag = "vms", operation_id = "start_vm", params(NamePath, WaitQuery), responses(
    (status = 200, description = "The VM", body = Vm),
    (status = 204, description = "It is gone, as it was waited for"),
    (status = 400, description = "`invalid-request`: the query is not valid"),
    (status = 404, description = "`vm-not-found`: no such VM"),
    (status = 409, description = "`wrong-phase`: it is being deleted, or does not come where it was waited for"),
    (status = 503, description = "`unavailable`: no VM can be launched on this host"),
    (status = 504, description = "`wait-timeout`: it is not where it was waited for; what was asked for goes on"),
))]
async fn start(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(wait): QueryOf<WaitQuery>,
) -> Result<Response, HttpError> {
    let vm = service.start_vm(&name).await?;
    Ok(answered(StatusCode::OK, wait.settle(&service, vm).await?))
}

/// Stop a VM
#[utoipa::path(post, path = "/api/v1/vms/{name}/stop", tag = "vms", operation_id = "stop_vm", params(NamePath, GraceQuery, WaitQuery), responses(
    (status = 200, description = "The VM", body = Vm),
    (status = 204, description = "It is gone, as it was waited for"),
    (status = 400, description = "`invalid-request`: the query is not valid"),
    (status = 404, description = "`vm-not-found`: no such VM"),
    (status = 409, description = "`wrong-phase`: it is being deleted, or does not come where it was waited for"),
    (status = 504, description = "`wait-timeout`: it is not where it was waited for; what was asked for goes on"),
))]
async fn stop(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<GraceQuery>,
    QueryOf(wait): QueryOf<WaitQuery>,
) -> Result<Response, HttpError> {
    let vm = service.stop_vm(&name, query.grace()?).await?;
    Ok(answered(StatusCode::OK, wait.settle(&service, vm).await?))
}

/// Stop a VM and start it again
#[utoipa::path(post, path = "/api/v1/vms/{name}/restart", tag = "vms", operation_id = "restart_vm", params(NamePath, GraceQuery, WaitQuery), responses(
    (status = 200, description = "The VM", body = Vm),
    (status = 204, description = "It is gone, as it was waited for"),
    (status = 400, description = "`invalid-request`: the query is not valid"),
    (status = 404, description = "`vm-not-found`: no such VM"),
    (status = 409, description = "`wrong-phase`: it is being deleted, or does not come where it was waited for"),
    (status = 503, description = "`unavailable`: no VM can be launched on this host"),
    (status = 504, description = "`wait-timeout`: it is not where it was waited for; what was asked for goes on"),
))]
async fn restart(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<GraceQuery>,
    QueryOf(wait): QueryOf<WaitQuery>,
) -> Result<Response, HttpError> {
    let vm = service.restart_vm(&name, query.grace()?).await?;
    Ok(answered(StatusCode::OK, wait.settle(&service, vm).await?))
}

/// Make the CPUs of a VM stand still
#[utoipa::path(post, path = "/api/v1/vms/{name}/pause", tag = "vms", operation_id = "pause_vm", params(NamePath), responses(
    (status = 200, description = "The VM, paused", body = Vm),
    (status = 404, description = "`vm-not-found`: no such VM"),
    (status = 409, description = "`wrong-phase`: it does not run"),
    (status = 503, description = "`unavailable`: its VMM refuses"),
))]
async fn pause(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Vm>, HttpError> {
    Ok(Json(service.pause_vm(&name).await?))
}

/// Make the CPUs of a paused VM go on
#[utoipa::path(post, path = "/api/v1/vms/{name}/resume", tag = "vms", operation_id = "resume_vm", params(NamePath), responses(
    (status = 200, description = "The VM, running", body = Vm),
    (status = 404, description = "`vm-not-found`: no such VM"),
    (status = 409, description = "`wrong-phase`: it is not up"),
    (status = 503, description = "`unavailable`: its VMM refuses"),
))]
async fn resume(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Vm>, HttpError> {
    Ok(Json(service.resume_vm(&name).await?))
}

/// Delete a VM
#[utoipa::path(delete, path = "/api/v1/vms/{name}", tag = "vms", operation_id = "delete_vm", params(NamePath, WaitQuery), responses(
    (status = 204, description = "Nothing of it is left"),
    (status = 400, description = "`invalid-request`: the query is not valid"),
    (status = 404, description = "`vm-not-found`: no such VM"),
    (status = 503, description = "`unavailable`: something of it resists, and is tried again"),
    (status = 504, description = "`wait-timeout`: it is not gone after `timeout`, and goes on being removed"),
))]
async fn delete(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(wait): QueryOf<WaitQuery>,
) -> Result<StatusCode, HttpError> {
    let (deleting, of) = (Arc::clone(&service), name.clone());
    let deleted = to_its_end(async move { deleting.delete_vm(&of).await });
    match wait.timeout {
        None => deleted.await?,
        // Whatever resists goes on being removed.
        Some(limit) => match timeout(limit.duration(), deleted).await {
            Ok(deleted) => deleted?,
            Err(_) => drop(
                service
                    .wait_for_vm(&name, WaitGoal::Gone, Duration::ZERO)
                    .await?,
            ),
        },
    }
    Ok(StatusCode::NO_CONTENT)
}
