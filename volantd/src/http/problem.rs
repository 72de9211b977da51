//! The one map from the daemon's errors to HTTP (RFC 9457). Internal causes go to the log under the request's id, never to the body.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use common::error_chain::Chain;

use crate::service::{ErrorKind, ServiceError};

/// Seconds after which a client may try again when something outside the daemon is missing.
const RETRY_AFTER_S: &str = "5";

/// Status and stable code of a kind of error.
pub(super) const fn status_and_code(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid-request"),
        ErrorKind::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "not-implemented"),
        ErrorKind::ConfigVersionNotFound => (StatusCode::NOT_FOUND, "config-version-not-found"),
        ErrorKind::VersionMismatch => (StatusCode::PRECONDITION_FAILED, "version-mismatch"),
        ErrorKind::WaitTimeout => (StatusCode::GATEWAY_TIMEOUT, "wait-timeout"),
        ErrorKind::VmNotFound => (StatusCode::NOT_FOUND, "vm-not-found"),
        ErrorKind::PluginNotFound => (StatusCode::NOT_FOUND, "plugin-not-found"),
        ErrorKind::ArtifactNotFound => (StatusCode::NOT_FOUND, "artifact-not-found"),
        ErrorKind::ArtifactInUse => (StatusCode::CONFLICT, "artifact-in-use"),
        ErrorKind::IdempotencyMismatch => {
            (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-mismatch")
        }
        ErrorKind::VmExists => (StatusCode::CONFLICT, "vm-exists"),
        ErrorKind::PluginDisabled => (StatusCode::CONFLICT, "plugin-disabled"),
        ErrorKind::WrongPhase => (StatusCode::CONFLICT, "wrong-phase"),
        ErrorKind::ActionNotFound => (StatusCode::NOT_FOUND, "action-not-found"),
        ErrorKind::RuntimeMismatch => (StatusCode::CONFLICT, "runtime-mismatch"),
        ErrorKind::AmbiguousVm => (StatusCode::CONFLICT, "ambiguous-vm"),
        ErrorKind::GuestUnreachable => (StatusCode::BAD_GATEWAY, "guest-unreachable"),
        ErrorKind::GuestTimedOut => (StatusCode::GATEWAY_TIMEOUT, "guest-timeout"),
        ErrorKind::OpenapiNotFound => (StatusCode::NOT_FOUND, "openapi-not-found"),
        ErrorKind::OpenapiUnavailable => (StatusCode::BAD_GATEWAY, "openapi-unavailable"),
        ErrorKind::ChecksumMismatch => (StatusCode::UNPROCESSABLE_ENTITY, "checksum-mismatch"),
        ErrorKind::BadSignature => (StatusCode::UNPROCESSABLE_ENTITY, "bad-signature"),
        ErrorKind::NoCapacity => (StatusCode::INSUFFICIENT_STORAGE, "no-capacity"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// A response that says what went wrong. `instance` and `request_id` are filled in by [`super::requests::follow`].
#[derive(Debug)]
pub(super) struct HttpError(pub(super) Box<Problem>);

/// Marks a response whose body is a problem that still lacks its request's path and id.
#[derive(Debug, Clone)]
pub(super) struct Incomplete(pub(super) Box<Problem>);

impl HttpError {
    /// An error of HTTP itself: a route, method, token or body.
    pub(super) fn plain(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self(Box::new(Problem::new(status.as_u16(), title, code, detail)))
    }
}

impl From<ServiceError> for HttpError {
    fn from(error: ServiceError) -> Self {
        let (status, code) = status_and_code(error.kind);
        if error.kind == ErrorKind::Internal {
            tracing::error!(error = %Chain(&error), "request failed");
            let mut problem = Self::plain(status, code, "Something went wrong inside volantd");
            problem.0.hints = vec![
                "The daemon's log has the cause under this request id: `journalctl -u volantd`"
                    .to_owned(),
            ];
            return problem;
        }
        tracing::info!(error = %Chain(&error), code, "request refused");
        let mut problem = Self::plain(status, code, error.message);
        problem.0.hints = error.hints;
        problem.0.errors = error.fields;
        problem
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(PROBLEM_CONTENT_TYPE),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response.extensions_mut().insert(Incomplete(self.0));
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use common::exit_code::ExitCode;

    use super::*;

    #[test]
    fn every_kind_has_the_status_and_exit_code_that_users_rely_on() {
        let table = [
            (ErrorKind::Invalid, 400, ExitCode::Invalid),
            (ErrorKind::NotImplemented, 501, ExitCode::Invalid),
            (ErrorKind::ConfigVersionNotFound, 404, ExitCode::NotFound),
            (ErrorKind::VersionMismatch, 412, ExitCode::Conflict),
            (ErrorKind::WaitTimeout, 504, ExitCode::Timeout),
            (ErrorKind::VmNotFound, 404, ExitCode::NotFound),
            (ErrorKind::PluginNotFound, 404, ExitCode::NotFound),
            (ErrorKind::ArtifactNotFound, 404, ExitCode::NotFound),
            (ErrorKind::ArtifactInUse, 409, ExitCode::Conflict),
            (ErrorKind::IdempotencyMismatch, 422, ExitCode::Invalid),
            (ErrorKind::VmExists, 409, ExitCode::Conflict),
            (ErrorKind::PluginDisabled, 409, ExitCode::Conflict),
            (ErrorKind::WrongPhase, 409, ExitCode::Conflict),
            (ErrorKind::ActionNotFound, 404, ExitCode::NotFound),
            (ErrorKind::RuntimeMismatch, 409, ExitCode::Conflict),
            (ErrorKind::AmbiguousVm, 409, ExitCode::Conflict),
            (ErrorKind::GuestUnreachable, 502, ExitCode::Unavailable),
            (ErrorKind::GuestTimedOut, 504, ExitCode::Unavailable),
            (ErrorKind::OpenapiNotFound, 404, ExitCode::NotFound),
            (ErrorKind::OpenapiUnavailable, 502, ExitCode::Unavailable),
            (ErrorKind::ChecksumMismatch, 422, ExitCode::Verification),
            (ErrorKind::BadSignature, 422, ExitCode::Verification),
            (ErrorKind::NoCapacity, 507, ExitCode::Capacity),
            (ErrorKind::Unavailable, 503, ExitCode::Unavailable),
            (ErrorKind::Internal, 500, ExitCode::Internal),
        ];
        for (kind, status, exit) in table {
            let (found, code) = status_and_code(kind);
            assert_eq!(found.as_u16(), status, "{kind:?}");
            assert_eq!(ExitCode::from_problem(status, code), exit, "{kind:?}");
        }
    }

    #[test]
    fn the_cause_of_an_internal_error_stays_inside() {
        let cause = std::io::Error::other("/secret/path is broken");
        let HttpError(problem) = ServiceError::new(ErrorKind::Internal, "The database failed")
            .caused(cause)
            .into();
        assert!(!problem.detail.contains("secret") && !problem.detail.contains("database"));
    }

    /// What stands in quotes behind a status in the sources of this layer.
    fn codes_in_sources() -> BTreeSet<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
        let mut codes = BTreeSet::new();
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs_err::read_to_string(path).unwrap();
            for pair in text.split("StatusCode::").skip(1) {
                let mut parts = pair.split('"');
                let (status, code) = (parts.next().unwrap(), parts.next().unwrap_or_default());
                let is_status =
                    |c: char| c.is_ascii_uppercase() || c == '_' || c == ',' || c.is_whitespace();
                let is_code = |c: char| c.is_ascii_lowercase() || c == '-';
                if status.chars().all(is_status) && code.chars().all(is_code) {
                    codes.insert(code.to_owned());
                }
            }
        }
        codes
    }

    #[test]
    fn every_code_is_explained() {
        let explained = include_str!("../../../docs/errors.md");
        let codes = codes_in_sources();
        for known in [
            "unauthorized",
            "too-many-requests",
            "vm-not-found",
            "internal",
        ] {
            assert!(
                codes.contains(known),
                "{known} is not found in the sources: {codes:?}"
            );
        }
        for code in codes {
            assert!(
                explained.contains(&format!("\n## {code}\n")),
                "docs/errors.md does not explain `{code}`"
            );
            assert!(
                explained.contains(&format!("`{code}`")),
                "docs/errors.md gives no exit code for `{code}`"
            );
        }
    }

    #[test]
    fn every_code_of_the_description_is_explained() {
        let explained = include_str!("../../../docs/errors.md");
        let document: serde_json::Value = serde_json::from_str(&super::super::document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let operations = paths
            .values()
            .flat_map(|item| item.as_object().unwrap().values());
        let mut found = 0;
        for operation in operations {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if !status.starts_with(['4', '5']) {
                    continue;
                }
                // The codes are what stands in backticks before the colons.
                let description = response["description"].as_str().unwrap();
                let codes = description
                    .split("; ")
                    .filter_map(|part| part.split_once(": "));
                for code in codes.flat_map(|(codes, _)| codes.split(", ")) {
                    let code = code.trim_matches('`');
                    found += 1;
                    assert!(
                        explained.contains(&format!("\n## {code}\n")),
                        "docs/errors.md does not explain `{code}`, which {status} has: {description}"
                    );
                }
            }
        }
        assert!(found > 100, "{found}");
    }
}
