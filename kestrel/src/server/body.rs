//! The bodies of answers: a few bytes of the agent's own, or a stream from the workload.

use std::pin::Pin;
use std::task::{Context, Poll};

use common::api::Problem;
use common::api::{PROBLEM_CONTENT_TYPE, PROBLEM_TYPE_BASE};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::status::Unanswered;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AgentBody {
    /// The agent's own. It may count as unanswered until it is written.
    Own {
        /// The bytes.
        bytes: Full<Bytes>,
        /// Held until the body is dropped, which is when it has been written.
        unanswered: Option<Unanswered>,
    },
    /// What the workload sends, as it comes.
    Workload(Incoming),
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Own { bytes, .. } => Pin::new(bytes)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Workload(incoming) => Pin::new(incoming).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { bytes, .. } => bytes.is_end_stream(),
            Self::Workload(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { bytes, .. } => bytes.size_hint(),
            Self::Workload(incoming) => incoming.size_hint(),
        }
    }
}

/// An answer of the agent's own.
pub(super) fn json(status: StatusCode, text: String) -> Response<AgentBody> {
    let mut response = Response::new(AgentBody::Own {
        bytes: Full::from(text),
        unanswered: None,
    });
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// An error with a stable code and a plain sentence.
pub(super) fn problem(status: StatusCode, code: &str, detail: &str) -> Response<AgentBody> {
    let problem = Problem {
        kind: format!("{PROBLEM_TYPE_BASE}{code}"),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
        error: detail.to_owned(),
        instance: String::new(),
        code: code.to_owned(),
        request_id: String::new(),
        hints: Vec::new(),
        errors: Vec::new(),
    };
    // A structure of strings always has a JSON form.
    let mut response = json(status, serde_json::to_string(&problem).unwrap_or_default());
    let kind = HeaderValue::from_static(PROBLEM_CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A path that exists, asked with another method.
pub(super) fn method_not_allowed(allowed: &[Method]) -> Response<AgentBody> {
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    let names = names.join(", ");
    let detail = format!("This path answers {names} only");
    let mut response = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        &detail,
    );
    if let Ok(value) = HeaderValue::try_from(names) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}
