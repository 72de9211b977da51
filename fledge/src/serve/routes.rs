//! The routes: decode a request, ask the jobs, encode the answer.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::events;
use super::gate::{Access, Gate, Head};
use super::jobs::{Job, Jobs, Status};
use super::problem::{self, HttpError};
use super::request;
use crate::confinement::Confinement;
use crate::timestamp;

/// The one route that needs no key.
const HEALTH_PATH: &str = "/v1/healthz";

/// What the routes work with.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) gate: Gate,
    pub(super) confinement: Confinement,
    pub(super) jobs: Arc<Jobs>,
}

/// All routes.
pub(super) fn router(server: Server) -> Router {
    let server = Arc::new(server);
    Router::new()
        .route(HEALTH_PATH, get(async || "ok"))
        .route("/v1/build", post(build))
        .route("/v1/jobs", get(list).post(submit))
        .route("/v1/jobs/{id}", get(show).delete(cancel))
        .route("/v1/jobs/{id}/events", get(follow))
        .fallback(async || {
            HttpError::new(
                StatusCode::NOT_FOUND,
                "not-found",
                "There is nothing at this path",
            )
        })
        .method_not_allowed_fallback(async || {
            HttpError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This path does not take this method",
            )
        })
        .layer(DefaultBodyLimit::max(request::MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), guard))
        .with_state(server)
}

/// Asks the gate, and completes the answer.
async fn guard(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();
    let access = if path == HEALTH_PATH {
        Access::Anybody
    } else {
        Access::WithKey
    };
    let head = Head {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
    };
    let mut response = match server.gate.admit(head, access) {
        Err(refused) => refused.into_response(),
        Ok(()) if request.method() == axum::http::Method::OPTIONS => {
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(()) => next.run(request).await,
    };
    problem::complete(&mut response, &path);
    server.gate.open(&headers, response.headers_mut());
    response
}

/// Builds and waits. A client that goes away takes its build with it.
async fn build(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<Value>, HttpError> {
    let request = request::read(request, &server.confinement).await?;
    let waiting = Waiting {
        job: server.jobs.submit(request)?,
        jobs: Arc::clone(&server.jobs),
    };
    let status = waiting.job.ended().await;
    match (result(&status), status.problem) {
        (Some(result), _) => Ok(Json(result)),
        (None, problem) => Err(problem.unwrap_or_else(problem::internal).into()),
    }
}

/// Somebody who waits for a job. Once the job has ended, cancelling it changes nothing.
struct Waiting {
    job: Arc<Job>,
    jobs: Arc<Jobs>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.jobs.cancel(&self.job);
    }
}

async fn submit(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Response, HttpError> {
    let request = request::read(request, &server.confinement).await?;
    let job = server.jobs.submit(request)?;
    let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    Ok((StatusCode::ACCEPTED, location, Json(describe(&job))).into_response())
}

async fn list(State(server): State<Arc<Server>>) -> Json<Value> {
    let jobs: Vec<Value> = server.jobs.list().iter().map(|job| describe(job)).collect();
    Json(json!({ "jobs": jobs }))
}

async fn show(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, HttpError> {
    let job = find(&server, &id)?;
    Ok(Json(describe(&job)))
}

/// Stops a job. What it is then, the answer says: a build that runs takes a moment to notice.
async fn cancel(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let job = find(&server, &id)?;
    server.jobs.cancel(&job);
    let status = if job.status().phase.is_final() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(describe(&job))).into_response())
}

async fn follow(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let job = find(&server, &id)?;
    let last = events::last_read(&headers);
    if events::is_complete(&job, last) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(events::stream(job, last).into_response())
}

fn find(server: &Server, id: &str) -> Result<Arc<Job>, HttpError> {
    server.jobs.find(id).ok_or_else(|| HttpError::no_job(id))
}

/// A job as clients read it.
pub(super) fn describe(job: &Job) -> Value {
    let status = job.status();
    let time = |time: Option<SystemTime>| {
        let since = time?.duration_since(UNIX_EPOCH).ok()?;
        Some(timestamp::rfc3339(u32::try_from(since.as_secs()).ok()?))
    };
    let request = &job.request;
    json!({
        "id": job.id,
        "state": status.phase,
        "config_path": request.config,
        "output_path": request.output,
        "manifest_path": request.manifest,
        "created_at": time(Some(status.created)),
        "started_at": time(status.started),
        "ended_at": time(status.ended),
        "result": result(&status),
        "problem": status.problem,
    })
}

/// What a job made.
fn result(status: &Status) -> Option<Value> {
    let built = status.built.as_ref()?;
    Some(json!({ "output": built.artifact, "manifest": built.manifest }))
}
