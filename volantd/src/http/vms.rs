//! Routes about VMs. A request is answered once it is accepted; waiting is the client's, by `?after=<generation>`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use common::api::{CreateVm, MAX_LONG_POLL_MS, Problem, TOTAL_COUNT_HEADER, Vm};
use common::manifest::MAX_WAIT_MS;
use serde::Deserialize;

use super::body::{JsonBody, NamePath, QueryOf};
use super::problem::HttpError;
use crate::service::{ErrorKind, Service, ServiceError};

/// Query of `GET /api/v1/vms/{name}`.
#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    /// Answer once the VM's generation is greater than this.
    after: Option<u64>,
    /// Or after this time.
    timeout_ms: Option<u64>,
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

pub(super) async fn list(
    State(service): State<Arc<Service>>,
) -> ([(HeaderName, String); 1], Json<Vec<Vm>>) {
    let vms = service.list_vms();
    (
        [(
            HeaderName::from_static(TOTAL_COUNT_HEADER),
            vms.len().to_string(),
        )],
        Json(vms),
    )
}

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    JsonBody(request): JsonBody<CreateVm>,
) -> Result<(StatusCode, Json<Vm>), HttpError> {
    let arrived = Instant::now();
    Ok((
        StatusCode::CREATED,
        Json(service.create_vm(request, arrived).await?),
    ))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(wait): QueryOf<Wait>,
) -> Result<Json<Vm>, HttpError> {
    let vm = match wait.after {
        None => service.get_vm(&name)?,
        Some(after) => {
            let timeout_ms = wait
                .timeout_ms
                .unwrap_or(MAX_LONG_POLL_MS)
                .min(MAX_LONG_POLL_MS);
            service
                .wait_vm(&name, after, Duration::from_millis(timeout_ms))
                .await?
        }
    };
    Ok(Json(vm))
}

pub(super) async fn start(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Vm>, HttpError> {
    Ok(Json(service.start_vm(&name).await?))
}

pub(super) async fn stop(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<GraceQuery>,
) -> Result<Json<Vm>, HttpError> {
    Ok(Json(service.stop_vm(&name, query.grace()?).await?))
}

pub(super) async fn restart(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<GraceQuery>,
) -> Result<Json<Vm>, HttpError> {
    Ok(Json(service.restart_vm(&name, query.grace()?).await?))
}

/// Make the CPUs of a VM stand still
#[utoipa::path(post, path = "/api/v1/vms/{name}/pause", tag = "vms", params(("name" = String, Path, description = "The VM")), responses(
    (status = 200, description = "The VM, paused", body = Vm),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It does not run", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Its VMM refuses", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn pause(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Vm>, HttpError> {
    Ok(Json(service.pause_vm(&name).await?))
}

/// Make the CPUs of a paused VM go on
#[utoipa::path(post, path = "/api/v1/vms/{name}/resume", tag = "vms", params(("name" = String, Path, description = "The VM")), responses(
    (status = 200, description = "The VM, running", body = Vm),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "It is not up", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Its VMM refuses", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn resume(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<Json<Vm>, HttpError> {
    Ok(Json(service.resume_vm(&name).await?))
}

pub(super) async fn delete(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
) -> Result<StatusCode, HttpError> {
    service.delete_vm(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
