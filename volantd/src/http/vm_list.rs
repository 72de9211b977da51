//! The query of `GET /api/v1/vms`, with the names of the Go system.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use common::api::VmStatus;

use super::problem::HttpError;
use crate::service::{Order, SortKey, VmFilter};

/// Statuses that can be asked for.
const STATUSES: [VmStatus; 9] = [
    VmStatus::Pending,
    VmStatus::Starting,
    VmStatus::Running,
    VmStatus::Paused,
    VmStatus::Stopping,
    VmStatus::Stopped,
    VmStatus::Crashed,
    VmStatus::Failed,
    VmStatus::Deleting,
];

/// The query, for the description: it is read by [`VmFilterQuery`], because `status` may come more than once.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters")]
pub(super) struct VmListParams {
    /// Only those with one of these statuses: repeated, or with commas between.
    status: Option<Vec<VmStatus>>,
    /// Only those with this runtime.
    runtime: Option<String>,
    /// Only those of this plugin.
    plugin: Option<String>,
    /// Only those whose name, address, runtime or plugin has this in it, in small or large letters.
    q: Option<String>,
    /// At most so many.
    limit: Option<u32>,
    /// Leave out so many first.
    offset: Option<u32>,
    /// `name`, `status`, `runtime`, `updated_at` or `created_at`, which is the default.
    sort: Option<String>,
    /// `asc`, which is the default, or `desc`.
    order: Option<String>,
}

/// The query, read.
#[derive(Debug)]
pub(super) struct VmFilterQuery(pub(super) VmFilter);

impl<S: Send + Sync> FromRequestParts<S> for VmFilterQuery {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HttpError> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse(query: &str) -> Result<VmFilter, HttpError> {
    let pairs: Vec<(String, String)> = pairs_of(query).map_err(wrong)?;
    let mut filter = VmFilter::default();
    for (key, value) in pairs {
        match key.as_str() {
            "status" => filter.statuses.extend(statuses(&value)?),
            "runtime" => filter.runtime = some(value),
            "plugin" => filter.plugin = some(value),
            "q" => filter.text = some(value.to_lowercase()),
            "limit" => filter.limit = Some(number("limit", &value)?),
            "offset" => filter.offset = number("offset", &value)?,
            "sort" => filter.sort = sort(&value)?,
            "order" => filter.order = order(&value)?,
            // As in the Go system, what nobody knows changes nothing.
            _ => {}
        }
    }
    Ok(filter)
}

/// Pairs of a query, decoded as forms are.
fn pairs_of(query: &str) -> Result<Vec<(String, String)>, String> {
    let uri = format!("/?{query}")
        .parse()
        .map_err(|_| "The query is not one".to_owned())?;
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    pairs
        .map(|query| query.0)
        .map_err(|error| error.body_text())
}

/// An empty value asks for nothing.
fn some(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

fn wrong(detail: impl Into<String>) -> HttpError {
    HttpError::plain(StatusCode::BAD_REQUEST, "invalid-request", detail)
}

fn number(key: &str, value: &str) -> Result<usize, HttpError> {
    let parsed: Result<u32, _> = value.parse();
    parsed
        .ok()
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| wrong(format!("`{key}` must be a number from 0 to {}", u32::MAX)))
}

fn statuses(value: &str) -> Result<Vec<VmStatus>, HttpError> {
    let words = value
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words
        .map(|word| {
            let mut known = STATUSES.into_iter();
            known
                .find(|status| status.as_str() == word.to_lowercase())
                .ok_or_else(|| {
                    let words: Vec<&str> = STATUSES.iter().map(|status| status.as_str()).collect();
                    wrong(format!("`status` must be of {}", words.join(", ")))
                })
        })
        .collect()
}

fn sort(value: &str) -> Result<SortKey, HttpError> {
    match value {
        "" | "created_at" => Ok(SortKey::CreatedAt),
        "name" => Ok(SortKey::Name),
        "status" => Ok(SortKey::Status),
        "runtime" => Ok(SortKey::Runtime),
        "updated_at" => Ok(SortKey::UpdatedAt),
        _ => Err(wrong(
            "`sort` must be name, status, runtime, updated_at or created_at",
        )),
    }
}

fn order(value: &str) -> Result<Order, HttpError> {
    match value.to_lowercase().as_str() {
        "" | "asc" => Ok(Order::Ascending),
        "desc" => Ok(Order::Descending),
        _ => Err(wrong("`order` must be asc or desc")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let filter = parse(
            "status=running,stopped&status=FAILED&runtime=caddy&q=We%20b&limit=5&offset=10&sort=name&order=desc&x=1",
        )
        .unwrap();
        let expected = VmFilter {
            statuses: vec![VmStatus::Running, VmStatus::Stopped, VmStatus::Failed],
            runtime: Some("caddy".to_owned()),
            plugin: None,
            text: Some("we b".to_owned()),
            sort: SortKey::Name,
            order: Order::Descending,
            offset: 10,
            limit: Some(5),
        };
        assert_eq!(filter, expected);
        assert_eq!(parse("").unwrap(), VmFilter::default());
        assert_eq!(parse("status=&q=").unwrap(), VmFilter::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for query in [
            "limit=-1",
            "limit=x",
            "offset=",
            "offset=1.5",
            "status=up",
            "sort=ip",
            "order=up",
        ] {
            let error = parse(query).unwrap_err();
            assert_eq!(error.0.status, 400, "{query}");
            let key = query.split('=').next().unwrap();
            assert!(error.0.detail.contains(key), "{}", error.0.detail);
        }
    }
}
