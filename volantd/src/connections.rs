//! The connections of one listener: so many at a time, each with limits for what its client may take. What clients ask is the router's.
//!
//! A client that is slow with a request's head is cut off, and so is one that stops taking what it asked for: what is cut off is the
//! connection, so that the limits hold for answers, streams, `WebSocket`s and whatever else a connection changes to. One connection too many
//! is told so at once, with the status 503: a client that waited in the backlog would not know why.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::limits::ConnectionLimits;

/// How long the refusal of a connection may take. A new connection has room for it, so that it takes none.
const REFUSAL_LIMIT: Duration = Duration::from_millis(100);

/// What one connection too many is told; there is no request that could be looked at.
const REFUSAL: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\n",
    "content-type: application/problem+json\r\n",
    "retry-after: 1\r\n",
    "connection: close\r\n",
    "content-length: 217\r\n",
    "\r\n",
    r#"{"type":"about:blank","title":"Service Unavailable","status":503,"code":"unavailable","#,
    r#""detail":"As many connections are open as the daemon serves","#,
    r#""hints":["`max_connections` in volantd's configuration is the limit"]}"#,
);

/// What is served on one listener.
#[derive(Debug)]
pub struct Connections<A> {
    /// What answers requests.
    pub routes: Router,
    /// How many there may be, and how slow.
    pub limits: ConnectionLimits,
    /// The peer that the routes are told of.
    pub peer: fn(&A) -> Option<SocketAddr>,
}

impl<A: Send + 'static> Connections<A> {
    /// Serves until `stop`, and then whatever was begun to its end.
    pub async fn serve<L>(self, mut listener: L, stop: CancellationToken)
    where
        L: Listener<Addr = A>,
        L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let places = self.limits.max_connections.min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(places));
        let open = TaskTracker::new();
        loop {
            let (stream, address) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::debug!("a connection too many");
                refuse(stream).await;
                continue;
            };
            let connection = Connection {
                stream: Limited {
                    stream,
                    limit: self.limits.write_timeout,
                    stuck: None,
                    _place: place,
                },
                routes: self.routes.clone(),
                peer: (self.peer)(&address),
                header_timeout: self.limits.header_timeout,
            };
            open.spawn(connection.run(stop.clone()));
        }
        drop(listener);
        open.close();
        open.wait().await;
    }
}

async fn refuse(mut stream: impl AsyncWrite + Unpin) {
    let told = timeout(REFUSAL_LIMIT, stream.write_all(REFUSAL.as_bytes()));
    // Whoever is gone already need not be told.
    drop(told.await);
}

/// One connection.
struct Connection<S> {
    stream: Limited<S>,
    routes: Router,
    peer: Option<SocketAddr>,
    header_timeout: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<S> {
    async fn run(self, stop: CancellationToken) {
        let Self { routes, peer, .. } = self;
        let answer = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            if let Some(peer) = peer {
                request.extensions_mut().insert(ConnectInfo(peer));
            }
            let answered = routes.clone().oneshot(request);
            async move {
                Ok::<Response, Infallible>(answered.await.unwrap_or_else(|never| match never {}))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .serve_connection(TokioIo::new(self.stream), answer)
            .with_upgrades();
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection broken off");
        }
    }
}

/// A stream whose peer may only stop taking what is written for so long, and which keeps its place until it is closed.
struct Limited<S> {
    stream: S,
    limit: Duration,
    /// Since the peer takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Limited<S> {
    /// What became of a write, or that its time is over.
    fn watched<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let limit = self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(limit)));
        stuck.as_mut().poll(context).map(|()| {
            let reason = "The client does not take what it asked for";
            Err(io::Error::new(io::ErrorKind::TimedOut, reason))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.watched(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watched(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watched(shut, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_whole_answer() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["code"], "unavailable");
    }
}
