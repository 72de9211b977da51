//! The agent's HTTP interface, on TCP and vsock: its own few paths, and `/v1/*` for the workload. Paths and types are [`common::agent`].

mod body;
mod exec;
mod files;
mod own;
mod passthrough;
mod query;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::agent::{
    CLOCK_PATH, EXEC_PATH, FILES_PATH, HEALTHZ_PATH, LOGS_PATH, SHUTDOWN_PATH, STATS_PATH,
    STATUS_PATH,
};
use common::guest_config::Secret;
use common::manifest::BaseUrl;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::log::Log;
use crate::session::Sessions;
use crate::signals::Stop;
use crate::status::StatusBoard;
use body::{AgentBody, problem};

pub(crate) use files::MAX_COPIES;

/// Connections at a time on each listener. More wait in the kernel's queue; each may hold [`MAX_BUFFER_BYTES`] of memory.
const MAX_CONNECTIONS: usize = 128;

/// The largest request head: four times what most servers take.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The largest piece in which bodies are passed on.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Header lines of a request.
const MAX_HEADERS: usize = 100;

/// How long a request head may take, from the first wait for it: idle connections end with it too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The wait after a failed accept: out of file descriptors or memory, an immediate retry would only burn the CPU.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What requests are answered from.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The guest's state.
    pub(crate) board: Arc<StatusBoard>,
    /// The request to stop.
    pub(crate) stop: Stop,
    /// What a caller must know to change anything; without it nobody may.
    pub(crate) secret: Option<Secret>,
    /// Where the workload answers, once its manifest is known.
    pub(crate) base: OnceLock<BaseUrl>,
    /// What the workload says.
    pub(crate) log: Arc<Log>,
    /// The commands that the host runs.
    pub(crate) sessions: Sessions,
    /// Places for copies of files.
    pub(crate) copies: Arc<Semaphore>,
    /// Sets the clock of the machine to a Unix time.
    pub(crate) set_clock: fn(Duration) -> io::Result<()>,
    /// When the agent began, on the boot-time clock.
    pub(crate) began: Duration,
}

/// A listener that can be given up.
#[derive(Debug)]
pub(crate) struct TcpServer(JoinHandle<()>);

impl TcpServer {
    /// Serves on all addresses of the guest.
    pub(crate) async fn start(agent: &Arc<Agent>, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        let agent = Arc::clone(agent);
        Ok(Self(tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                let place = Arc::clone(&places).acquire_owned().await;
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // Without it answers are only slower.
                        drop(stream.set_nodelay(true));
                        let agent = Arc::clone(&agent);
                        tokio::spawn(async move {
                            serve(&agent, stream).await;
                            drop(place);
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
                }
            }
        })))
    }

    /// Closes the listener. Connections that exist go on.
    pub(crate) async fn close(self) {
        self.0.abort();
        drop(self.0.await);
    }
}

/// Serves on vsock. A kernel or VMM without it answers with an error, which is no reason for concern.
pub(crate) fn start_vsock(agent: &Arc<Agent>, port: u16) -> io::Result<()> {
    let address = VsockAddr::new(VMADDR_CID_ANY, u32::from(port));
    let listener = VsockListener::bind(address)?;
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    let agent = Arc::clone(&agent);
                    tokio::spawn(async move {
                        serve(&agent, stream).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            }
        }
    });
    Ok(())
}

/// Serves one connection until it ends.
async fn serve<S>(agent: &Arc<Agent>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let agent = Arc::clone(agent);
        async move { Ok::<_, Infallible>(answer(&agent, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that breaks off is its own affair.
    drop(connection.await);
}

async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Response<AgentBody> {
    let path = request.uri().path();
    if path == passthrough::PREFIX || path.starts_with("/v1/") {
        return passthrough::forward(agent.base.get(), request).await;
    }
    let Some(allowed) = allowed_methods(path) else {
        let detail = "The agent answers /healthz, /agent/… and, for the workload, /v1/…";
        return problem(StatusCode::NOT_FOUND, "not-found", detail);
    };
    if !allowed.contains(request.method()) {
        return body::method_not_allowed(allowed);
    }
    let query = request.uri().query().unwrap_or_default();
    match path {
        HEALTHZ_PATH => return own::healthz(agent),
        STATUS_PATH => return own::status(agent, query).await,
        _ => {}
    }
    if let Some(refused) = own::check_secret(agent, request.headers()) {
        return refused;
    }
    match path {
        LOGS_PATH => own::logs(agent, query),
        STATS_PATH => own::stats(agent),
        CLOCK_PATH => own::clock(agent, query),
        EXEC_PATH => exec::exec(agent, request),
        FILES_PATH => files::files(agent, request).await,
        _ => own::shutdown(agent, query),
    }
}

/// The methods of the agent's own paths.
fn allowed_methods(path: &str) -> Option<&'static [Method]> {
    match path {
        HEALTHZ_PATH | STATUS_PATH => Some(&[Method::GET, Method::HEAD]),
        LOGS_PATH | STATS_PATH => Some(&[Method::GET]),
        FILES_PATH => Some(&[Method::HEAD, Method::GET, Method::PUT]),
        SHUTDOWN_PATH | EXEC_PATH | CLOCK_PATH => Some(&[Method::POST]),
        _ => None,
    }
}
