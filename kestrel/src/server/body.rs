//! The bodies of answers: a few bytes of the agent's own, a stream of the agent's, or one from the workload.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use common::api::{PROBLEM_CONTENT_TYPE, Problem};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio::sync::mpsc;

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
    /// The agent's own, piece by piece, each put together when there is room for it. A failure breaks the connection, so that
    /// nobody takes the beginning for the whole.
    Stream {
        /// The pieces.
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        /// Held until the body is dropped.
        _unanswered: Option<Unanswered>,
    },
    /// What the workload sends, as it comes.
    Workload(Incoming),
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Own { bytes, .. } => Pin::new(bytes)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Stream { chunks, .. } => chunks
                .poll_recv(context)
                .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data).map_err(Into::into))),
            Self::Workload(incoming) => Pin::new(incoming).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { bytes, .. } => bytes.is_end_stream(),
            Self::Stream { .. } => false,
            Self::Workload(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { bytes, .. } => bytes.size_hint(),
            Self::Stream { .. } => SizeHint::default(),
            Self::Workload(incoming) => incoming.size_hint(),
        }
    }
}

/// An answer of the agent's own.
pub(super) fn json(status: StatusCode, text: String) -> Response<AgentBody> {
    let mut response = empty(status);
    *response.body_mut() = AgentBody::Own {
        bytes: Full::from(text),
        unanswered: None,
    };
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<AgentBody> {
    let mut response = Response::new(AgentBody::Own {
        bytes: Full::default(),
        unanswered: None,
    });
    *response.status_mut() = status;
    response
}

/// An answer that comes piece by piece.
pub(super) fn streamed(
    content_type: &'static str,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    unanswered: Option<Unanswered>,
) -> Response<AgentBody> {
    let mut response = Response::new(AgentBody::Stream {
        chunks,
        _unanswered: unanswered,
    });
    let kind = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// An error with a stable code and a plain sentence.
pub(super) fn problem(status: StatusCode, code: &str, detail: &str) -> Response<AgentBody> {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = Problem::new(status.as_u16(), title, code, detail);
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
