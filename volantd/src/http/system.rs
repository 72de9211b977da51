//! Routes about the daemon itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use common::api::{SystemInfo, SystemSummary};
use serde_json::{Value, json};

use super::problem::HttpError;
use crate::service::Service;

pub(super) async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(super) async fn status() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(super) async fn info(State(service): State<Arc<Service>>) -> Json<SystemInfo> {
    Json(service.info().clone())
}

pub(super) async fn summary(
    State(service): State<Arc<Service>>,
) -> Result<Json<SystemSummary>, HttpError> {
    Ok(Json(service.summary().await?))
}
