//! Accepts connections and gives each its limits, so that slow or silent clients cannot hold what others need. Knows no routes.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections at once; more wait in the kernel's queue. Each job has a few readers at most.
const MAX_CONNECTIONS: usize = 64;

/// Time for a client to send a request's head, also while a connection is idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What is kept of a connection in memory, in bytes: a head must fit.
const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// Headers of a request; browsers send some twenty.
const MAX_HEADERS: usize = 64;

/// How long a client may leave what it was sent without acknowledgement, in milliseconds: one that does not read, or is gone.
const SEND_TIMEOUT_MS: u32 = 30_000;

/// How often the kernel asks a silent client whether it is there, in seconds: one that is gone must not keep its build running.
const KEEPALIVE_S: u32 = 30;

/// After a failed `accept`, most often for want of file descriptors, the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for answers that are under way when the program ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(32);

/// Serves `router` until `ending` becomes true, and then what is under way.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    mut ending: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = end(&mut ending) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_one(stream, router.clone(), ending.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // Who still does not read is cut off with the set.
    drop(tokio::time::timeout(DRAIN_TIMEOUT, drained).await);
}

async fn serve_one(stream: TcpStream, router: Router, mut ending: watch::Receiver<bool>) {
    // Without these a dead client is noticed later; that is no reason to refuse a living one.
    drop(watch_over(&stream));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // What goes wrong on a connection is the client's to notice.
        _ = connection.as_mut() => {}
        () = end(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }
}

/// Has the kernel end the connection when the client is gone.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &SEND_TIMEOUT_MS)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_S)?;
    Ok(setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_S)?)
}

/// Waits until `ending` becomes true. Its sender going away is the end, too.
pub(super) async fn end(ending: &mut watch::Receiver<bool>) {
    drop(ending.wait_for(|ending| *ending).await);
}
