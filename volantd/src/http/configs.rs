//! Routes about VMs' configurations. A change takes effect at the VM's next start; `?restart=true` makes that now.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use common::api::{ConfigHistoryEntry, ConfigPatch, RollbackConfig, VersionedConfig, Vm};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{JsonBody, NamePath, OptionalJsonBody, QueryOf};
use super::detached::to_its_end;
use super::problem::HttpError;
use crate::service::{Afterwards, Service};

/// A version that no configuration has.
const NO_VERSION: u64 = 0;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(show, patch))
        .routes(routes!(history))
        .routes(routes!(rollback))
        .routes(routes!(upgrade))
}

/// Query of `GET …/config/history`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// At most so many, newest first.
    limit: Option<u32>,
}

/// Query of what changes a configuration.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangeQuery {
    /// Restarts the VM, if it is up, so that the change takes effect.
    #[serde(default)]
    restart: bool,
}

impl ChangeQuery {
    fn afterwards(&self) -> Afterwards {
        if self.restart {
            Afterwards::Restart
        } else {
            Afterwards::Leave
        }
    }
}

/// The version that the caller read, from `If-Match` (RFC 9110, 13.1.1). None if any is fine.
#[derive(Debug)]
pub(super) struct IfMatch(Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let expected = parts.headers.get(IF_MATCH).map(|value| {
            let text = value.to_str().unwrap_or_default().trim();
            version_of(text)
        });
        Ok(Self(expected.flatten()))
    }
}

/// What is not a version of ours, a weak tag included, matches nothing.
fn version_of(text: &str) -> Option<u64> {
    if text == "*" {
        return None;
    }
    let quoted = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let version = quoted.and_then(|digits| digits.parse().ok());
    Some(version.unwrap_or(NO_VERSION))
}

/// Whether the caller has a version already, from `If-None-Match` (RFC 9110, 13.1.2): tags are compared weakly, and there may be several.
#[derive(Debug)]
pub(super) struct IfNoneMatch(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let value = parts.headers.get(IF_NONE_MATCH);
        let text = value.and_then(|value| value.to_str().ok());
        Ok(Self(text.map(str::to_owned)))
    }
}

impl IfNoneMatch {
    fn has(&self, version: u64) -> bool {
        let tags = self.0.iter().flat_map(|text| text.split(','));
        tags.map(str::trim).any(|tag| {
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == format!("\"{version}\"")
        })
    }
}

/// A configuration and its `ETag`.
type Tagged = ([(HeaderName, HeaderValue); 1], Json<VersionedConfig>);

fn tagged(config: VersionedConfig) -> Tagged {
    let tag = HeaderValue::from_str(&format!("\"{}\"", config.version));
    // A number in quotes is always a valid value.
    let tag = tag.unwrap_or(HeaderValue::from_static("\"0\""));
    ([(ETAG, tag)], Json(config))
}

/// A VM's newest configuration
#[utoipa::path(get, path = "/api/v1/vms/{name}/config", tag = "vms", operation_id = "get_vm_config",
    params(NamePath, ("If-None-Match" = Option<String>, Header, description = "The version that the caller has")), responses(
    (status = 200, description = "The newest version; `ETag` is its number", body = VersionedConfig, headers(("ETag" = String, description = "The version, in quotes"))),
    (status = 304, description = "The caller has the newest version"),
    (status = 404, description = "`vm-not-found`: no VM has this name"),
))]
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    known: IfNoneMatch,
) -> Result<Response, HttpError> {
    let config = service.vm_config(&name).await?;
    let is_known = known.has(config.version);
    let answer = tagged(config);
    Ok(if is_known {
        (StatusCode::NOT_MODIFIED, answer.0).into_response()
    } else {
        answer.into_response()
    })
}

/// The kept versions of a VM's configuration, newest first
#[utoipa::path(get, path = "/api/v1/vms/{name}/config/history", tag = "vms", operation_id = "list_vm_configs", params(NamePath, HistoryQuery), responses(
    (status = 200, description = "At most 50 and the one that runs", body = Vec<ConfigHistoryEntry>),
    (status = 400, description = "`invalid-request`: the query is not valid"),
    (status = 404, description = "`vm-not-found`: no VM has this name"),
))]
pub(super) async fn history(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<HistoryQuery>,
) -> Result<Json<Vec<ConfigHistoryEntry>>, HttpError> {
    Ok(Json(service.vm_config_history(&name, query.limit).await?))
}

/// Change a VM's configuration
#[utoipa::path(patch, path = "/api/v1/vms/{name}/config", tag = "vms", operation_id = "change_vm_config", request_body = ConfigPatch,
    params(NamePath, ChangeQuery, ("If-Match" = Option<String>, Header, description = "The version that this changes")),
    responses(
    (status = 200, description = "The new version", body = VersionedConfig, headers(("ETag" = String, description = "The version, in quotes"))),
    (status = 400, description = "`invalid-request`: the body or query is not valid, or the configuration cannot be"),
    (status = 404, description = "`vm-not-found`: no VM has this name"),
    (status = 409, description = "`wrong-phase`: the VM is being deleted"),
    (status = 412, description = "`version-mismatch`: there is a newer version"),
    (status = 422, description = "`checksum-mismatch`, `bad-signature`: the artifact is not the one that was meant"),
    (status = 501, description = "`not-implemented`: it asks for something that is not built yet"),
    (status = 503, description = "`unavailable`: an artifact cannot be fetched"),
))]
pub(super) async fn patch(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<ChangeQuery>,
    IfMatch(expected): IfMatch,
    JsonBody(patch): JsonBody<ConfigPatch>,
) -> Result<Tagged, HttpError> {
    let afterwards = query.afterwards();
    let changed = to_its_end(async move {
        service
            .patch_vm_config(&name, patch, expected, afterwards)
            .await
    });
    Ok(tagged(changed.await?))
}

/// Make an old version of a VM's configuration the newest one again
#[utoipa::path(post, path = "/api/v1/vms/{name}/config/rollback", tag = "vms", operation_id = "roll_vm_config_back", request_body = RollbackConfig,
    params(NamePath, ChangeQuery, ("If-Match" = Option<String>, Header, description = "The version that this replaces")),
    responses(
    (status = 200, description = "The new version", body = VersionedConfig, headers(("ETag" = String, description = "The version, in quotes"))),
    (status = 400, description = "`invalid-request`: the body or query is not valid, or the configuration cannot be on this host any more"),
    (status = 404, description = "`vm-not-found`, `config-version-not-found`: there is no such VM, or the version is not kept"),
    (status = 409, description = "`wrong-phase`: the VM is being deleted"),
    (status = 412, description = "`version-mismatch`: there is a newer version"),
))]
pub(super) async fn rollback(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<ChangeQuery>,
    IfMatch(expected): IfMatch,
    JsonBody(request): JsonBody<RollbackConfig>,
) -> Result<Tagged, HttpError> {
    let afterwards = query.afterwards();
    let changed = to_its_end(async move {
        service
            .rollback_vm_config(&name, request.version, expected, afterwards)
            .await
    });
    Ok(tagged(changed.await?))
}

/// Move a VM to the present version of its plugin
#[utoipa::path(post, path = "/api/v1/vms/{name}/upgrade", tag = "vms", operation_id = "upgrade_vm", request_body = Option<common::api::UpgradeVm>,
    params(NamePath), responses(
    (status = 200, description = "The VM, which restarts if it was up", body = Vm),
    (status = 404, description = "`vm-not-found`, `plugin-not-found`: there is no such VM or plugin"),
    (status = 409, description = "`plugin-disabled`, `wrong-phase`: the plugin is switched off, or the VM goes"),
    (status = 400, description = "`invalid-request`: the plugin has another version, or the VM cannot have it"),
))]
pub(super) async fn upgrade(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    OptionalJsonBody(request): OptionalJsonBody<common::api::UpgradeVm>,
) -> Result<Json<Vm>, HttpError> {
    let upgraded = to_its_end(async move { service.upgrade_vm(&name, request).await });
    Ok(Json(upgraded.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_the_caller_has_is_known() {
        let table = [
            (Some("\"3\""), true),
            (Some("W/\"3\""), true),
            (Some("\"1\", \"3\""), true),
            (Some("*"), true),
            (Some("3"), false),
            (Some("\"33\""), false),
            (None, false),
        ];
        for (text, expected) in table {
            let known = IfNoneMatch(text.map(str::to_owned));
            assert_eq!(known.has(3), expected, "{text:?}");
        }
    }

    #[test]
    fn only_a_version_of_ours_matches() {
        let table = [
            ("*", None),
            ("\"3\"", Some(3)),
            ("3", Some(NO_VERSION)),
            ("W/\"3\"", Some(NO_VERSION)),
            ("\"x\"", Some(NO_VERSION)),
            ("\"1\", \"2\"", Some(NO_VERSION)),
            ("", Some(NO_VERSION)),
        ];
        for (text, expected) in table {
            assert_eq!(version_of(text), expected, "{text}");
        }
    }
}
