//! The route that Prometheus scrapes. What is counted, and how, is `metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::HttpError;
use crate::metrics::CONTENT_TYPE;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default().routes(routes!(show))
}

/// Metrics of the daemon and of all VMs, for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "system",
    operation_id = "get_metrics",
    responses((
        status = 200,
        description = "All metrics in the OpenMetrics text format",
        body = String,
        content_type = "application/openmetrics-text",
    ))
)]
async fn show(State(service): State<Arc<Service>>) -> Result<Response, HttpError> {
    let text = service.scrape().await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
