//! The log of a guest's workload: implements [`LogSource`]. Passes on bytes as they come; what is in them is not looked at here.

use common::agent::{LOGS_PATH, SECRET_HEADER};
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::exchange::MAX_HEAD_BYTES;
use super::{ANSWER_LIMIT, AgentClient, AgentError, CONNECT_LIMIT, connect};
use crate::log::{LogBytes, LogSource};
use crate::machine::ports::{BoxFuture, GuestEndpoint, StepError};

/// The largest piece that is read at once, in bytes; hyper needs 8 KiB at least.
const MAX_PIECE_BYTES: usize = MAX_HEAD_BYTES;

impl LogSource for AgentClient {
    fn open<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        after: u64,
    ) -> BoxFuture<'a, Result<LogBytes, StepError>> {
        Box::pin(async move { Ok(self.open_log(guest, after).await?) })
    }
}

impl AgentClient {
    async fn open_log(&self, guest: &GuestEndpoint, after: u64) -> Result<LogBytes, AgentError> {
        let port = self.port.unwrap_or(guest.agent_port);
        let stream = connect::agent(guest, port, CONNECT_LIMIT).await?;
        let answered = tokio::time::timeout(ANSWER_LIMIT, ask(stream, guest, after)).await;
        answered.unwrap_or(Err(AgentError::TimedOut {
            limit: ANSWER_LIMIT,
        }))
    }
}

async fn ask(
    stream: Box<dyn connect::Stream>,
    guest: &GuestEndpoint,
    after: u64,
) -> Result<LogBytes, AgentError> {
    let broken = |error: hyper::Error| AgentError::Http(Box::new(error));
    let request = Request::get(format!("{LOGS_PATH}?after={after}"))
        .header(HOST, "guest")
        .header(SECRET_HEADER, guest.secret.expose())
        .body(Empty::<Bytes>::new())
        .map_err(|error| AgentError::Http(Box::new(error)))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_PIECE_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // It ends with the stream below. What went wrong is said there as well.
    let driver = AbortOnDropHandle::new(crate::task::spawn("agent-log", async move {
        drop(connection.await);
    }));
    let response = sender.send_request(request).await.map_err(broken)?;
    if !response.status().is_success() {
        return Err(AgentError::Refused {
            status: response.status().as_u16(),
        });
    }
    let state = (response.into_body(), sender, driver);
    Ok(Box::pin(stream::unfold(state, async |mut state| {
        let piece = next(&mut state.0).await?;
        Some((piece, state))
    })))
}

async fn next(body: &mut Incoming) -> Option<Result<Bytes, StepError>> {
    loop {
        match body.frame().await? {
            Ok(frame) => {
                // Trailers are nobody's business.
                if let Ok(bytes) = frame.into_data() {
                    return Some(Ok(bytes));
                }
            }
            Err(error) => return Some(Err(AgentError::Http(Box::new(error)).into())),
        }
    }
}
