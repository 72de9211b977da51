//! One request to the agent whose bodies are streams: copies, sessions, and what is passed on. Only beginnings are bounded in time; a
//! stream lasts as long as both ends and the guest do. Holds no body in memory and tries nothing twice.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::agent::SECRET_HEADER;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{ANSWER_LIMIT, AgentClient, AgentError, connect};
use crate::cause::Cause;
use crate::machine::ports::{BoxFuture, GuestEndpoint};
use crate::task;

/// How long a guest may take to accept a connection that a user waits for: a guest that was busy or swapped out gets its chance.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What one connection holds of a guest's bytes, which is also the largest head of an answer.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// An error of a body.
type BodyError = Box<dyn Error + Send + Sync>;

/// Whether a request carries the guest's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It is the daemon's own request.
    Secret,
    /// It is somebody else's, passed on.
    Open,
}

impl AgentClient {
    /// Sends `request`, whose URI is a path of the agent, and returns once the head of its answer is there. Both bodies stream.
    ///
    /// `limit` bounds every wait for the guest until then: to take the next piece of the request's body, and to answer after the last.
    /// How long the request's own body takes to come is not bounded here. The connection ends when the answer's body is dropped.
    ///
    /// # Errors
    /// [`AgentError::Connect`], [`AgentError::Vsock`], [`AgentError::TimedOut`], [`AgentError::Http`]. A refusal is an answer.
    pub async fn open<B>(
        &self,
        guest: &GuestEndpoint,
        trust: Trust,
        mut request: Request<B>,
        limit: Duration,
    ) -> Result<Response<GuestBody>, AgentError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let broken = |error: hyper::Error| AgentError::Http(Box::new(error));
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("guest"));
        headers.remove(SECRET_HEADER);
        Cause::current().mark(headers);
        if trust == Trust::Secret {
            let mut secret = HeaderValue::from_str(guest.secret.expose())
                .map_err(|error| AgentError::Http(Box::new(error)))?;
            secret.set_sensitive(true);
            headers.insert(SECRET_HEADER, secret);
        }
        let port = self.port.unwrap_or(guest.agent_port);
        let stream = connect::agent(guest, port, CONNECT_LIMIT).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = AbortOnDropHandle::new(task::spawn("guest-connection", async move {
            // How it ends is told to whoever reads or writes.
            drop(connection.with_upgrades().await);
        }));
        let (turns, turn) = watch::channel(Turn::Guest);
        let request = request.map(|body| Tracked {
            body: Box::pin(body),
            turns,
        });
        let response = answer(sender.send_request(request), turn, limit).await?;
        Ok(response.map(|body| GuestBody {
            body,
            gone: None,
            _connection: connection,
        }))
    }
}

/// The answer's head, unless the guest makes us wait for longer than `limit` at a time.
async fn answer(
    sent: impl Future<Output = hyper::Result<Response<Incoming>>>,
    mut turn: watch::Receiver<Turn>,
    limit: Duration,
) -> Result<Response<Incoming>, AgentError> {
    let mut sent = std::pin::pin!(sent);
    loop {
        let whose = *turn.borrow_and_update();
        tokio::select! {
            biased;
            answered = &mut sent => {
                return answered.map_err(|error| AgentError::Http(Box::new(error)));
            }
            Ok(()) = turn.changed() => {}
            () = tokio::time::sleep(limit), if whose == Turn::Guest => {
                return Err(AgentError::TimedOut { limit });
            }
        }
    }
}

/// The connection behind an answer of `101 Switching Protocols`.
///
/// # Errors
/// [`AgentError::Http`], [`AgentError::TimedOut`].
pub async fn upgraded(mut response: Response<GuestBody>) -> Result<TokioIo<Upgraded>, AgentError> {
    let upgrade = hyper::upgrade::on(&mut response);
    let connection = timeout(ANSWER_LIMIT, upgrade)
        .await
        .map_err(|_| AgentError::TimedOut {
            limit: ANSWER_LIMIT,
        })?
        .map_err(|error| AgentError::Http(Box::new(error)))?;
    // Only now: the task of the connection has handed it over.
    drop(response);
    Ok(TokioIo::new(connection))
}

/// Who is to act next on a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The guest has bytes to take, or has all of them.
    Guest,
    /// Whoever sends the body has to go on.
    Sender,
}

/// A request's body that tells whose turn it is.
struct Tracked<B> {
    body: Pin<Box<B>>,
    turns: watch::Sender<Turn>,
}

impl<B> Body for Tracked<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = self.body.as_mut().poll_frame(context);
        self.turns.send_replace(if polled.is_pending() {
            Turn::Sender
        } else {
            Turn::Guest
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a guest answers, as it comes. Dropping it ends the connection.
pub struct GuestBody {
    body: Incoming,
    gone: Option<BoxFuture<'static, ()>>,
    _connection: AbortOnDropHandle<()>,
}

impl GuestBody {
    /// The same, broken off when `gone` ends: a guest whose power is cut does not close its connections.
    #[must_use]
    pub fn until(self, gone: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            gone: Some(Box::pin(gone)),
            ..self
        }
    }
}

impl fmt::Debug for GuestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestBody").finish_non_exhaustive()
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let gone = self.gone.as_mut();
        if gone.is_some_and(|gone| gone.as_mut().poll(context).is_ready()) {
            self.gone = None;
            return Poll::Ready(Some(Err("The VM has stopped".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
