//! Errors as clients read them (RFC 9457): the one map from a build's errors to HTTP. Every code is explained in docs/errors.md.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use common::error_chain::Chain;
use common::exit_code::ExitCode;

use super::jobs::{MAX_QUEUED, Refused};
use crate::commands::build::BuildError;
use crate::confinement::ConfinementError;

/// Seconds after which a client may try again where the queue was full or a server could not be reached.
const RETRY_AFTER_S: &str = "5";

/// A response that says what went wrong. Its `instance` is filled in by [`complete`].
#[derive(Debug)]
pub(super) struct HttpError(pub(super) Box<Problem>);

/// Marks a response whose body is a problem that still lacks its request's path.
#[derive(Debug, Clone)]
struct Incomplete(Box<Problem>);

impl HttpError {
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(problem(status, code, detail)))
    }

    /// The body is not what it should be, or a path in it is none.
    pub(super) fn invalid(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, "invalid-request", detail)
    }

    pub(super) fn no_job(id: &str) -> Self {
        let detail = format!(
            "There is no job `{id}`: the program was started anew, or too many jobs ended since"
        );
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }
}

impl From<Refused> for HttpError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::QueueFull => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "queue-full",
                format!("{MAX_QUEUED} jobs wait already; try again when one has ended"),
            ),
            Refused::Ending => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "fledge is shutting down and builds nothing any more",
            ),
        }
    }
}

impl From<Problem> for HttpError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(PROBLEM_CONTENT_TYPE);
        headers.insert(header::CONTENT_TYPE, content_type);
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
            }
            _ => {}
        }
        response.extensions_mut().insert(Incomplete(self.0));
        response
    }
}

/// Writes the body of a response that is a problem, now that the request's `path` is known.
pub(super) fn complete(response: &mut Response, path: &str) {
    if let Some(Incomplete(mut problem)) = response.extensions_mut().remove::<Incomplete>() {
        path.clone_into(&mut problem.instance);
        let text = serde_json::to_string(&problem).unwrap_or_default();
        *response.body_mut() = Body::from(text);
    }
}

/// Why a build failed. Its hints are about the command line, and left out.
pub(super) fn of_build(error: &BuildError) -> Problem {
    let (status, code) = match error {
        BuildError::Confinement(ConfinementError::Outside { .. }) => {
            (StatusCode::FORBIDDEN, "outside-root")
        }
        error => match error.exit_code() {
            ExitCode::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            ExitCode::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ExitCode::Verification => (StatusCode::UNPROCESSABLE_ENTITY, "checksum-mismatch"),
            ExitCode::Capacity => (StatusCode::INSUFFICIENT_STORAGE, "no-capacity"),
            ExitCode::Internal => return internal(),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "build-failed"),
        },
    };
    problem(status, code, Chain(error).to_string())
}

/// The build was stopped.
pub(super) fn cancelled() -> Problem {
    let detail = "The build was cancelled; nothing was written";
    problem(StatusCode::CONFLICT, "cancelled", detail)
}

/// A bug. What it was is in this program's own messages.
pub(super) fn internal() -> Problem {
    let detail = "Something went wrong inside fledge";
    problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
}

fn problem(status: StatusCode, code: &str, detail: impl Into<String>) -> Problem {
    let title = status.canonical_reason().unwrap_or("Error");
    Problem::new(status.as_u16(), title, code, detail)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::fetch::FetchError;

    #[test]
    fn errors_have_the_status_that_says_who_must_act() {
        let path = || "x".into();
        let output = |kind: io::ErrorKind| BuildError::Output {
            path: path(),
            source: kind.into(),
        };
        let fetch = |source| BuildError::Fetch {
            name: "agent",
            flag: "--agent",
            source,
        };
        for (error, status, code) in [
            (
                BuildError::NoOutputDirectory { path: path() },
                404,
                "not-found",
            ),
            (
                BuildError::OutputIsDirectory { path: path() },
                422,
                "build-failed",
            ),
            (output(io::ErrorKind::StorageFull), 507, "no-capacity"),
            (output(io::ErrorKind::PermissionDenied), 422, "build-failed"),
            (
                fetch(FetchError::Nowhere {
                    failures: Vec::new(),
                }),
                503,
                "unavailable",
            ),
            (
                BuildError::Runtime(io::ErrorKind::Other.into()),
                500,
                "internal",
            ),
        ] {
            let problem = of_build(&error);
            assert_eq!(
                (problem.status, problem.code.as_str()),
                (status, code),
                "{error}"
            );
            assert_eq!(problem.error, problem.detail);
        }
    }
}
