//! One HTTP/1.1 request and its answer, bounded in size. Time is bounded by the caller.

use std::pin::pin;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

use super::AgentError;
use super::connect::Stream;
use crate::cause::Cause;

/// The largest answer that is read, in bytes: a status with 64 phases and long sentences has about 8 KiB.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// The largest head of an answer that is read, in bytes; hyper needs 8 KiB at least.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What is asked.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) header: Option<(&'static str, &'a str)>,
}

/// Sends `call` and reads the answer's body. Any status but 2xx is [`AgentError::Refused`].
pub(super) async fn exchange(
    stream: Box<dyn Stream>,
    call: &Call<'_>,
) -> Result<Vec<u8>, AgentError> {
    let broken = |error: hyper::Error| AgentError::Http(Box::new(error));
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.path)
        .header(HOST, "guest")
        .header(CONNECTION, "close");
    if let Some((name, value)) = call.header {
        request = request.header(name, value);
    }
    let mut request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| AgentError::Http(Box::new(error)))?;
    Cause::current().mark(request.headers_mut());
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if !status.is_success() {
            return Err(AgentError::Refused {
                status: status.as_u16(),
            });
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        body.map(|body| body.to_bytes().to_vec()).map_err(|error| {
            if error.is::<LengthLimitError>() {
                AgentError::TooLarge {
                    limit_bytes: MAX_ANSWER_BYTES,
                }
            } else {
                AgentError::Http(error)
            }
        })
    };
    let (mut answer, connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        biased;
        done = &mut answer => return done,
        // The agent closed the connection. What it sent before is still in the answer's hands, and so is an error.
        _closed = connection => {}
    }
    answer.await
}
