//! One look at a workload: by HTTP, a connection or a command. When one is due, and what it means, is `probe`.

use std::net::Ipv4Addr;
use std::time::Duration;

use common::error_chain::Chain;
use common::manifest::BaseUrl;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, Uri};

use crate::command_probe::CommandProbe;
use crate::http_client::{HttpError, authority, connect, send};

/// What a workload is asked.
#[derive(Debug, Clone)]
pub(super) enum Check {
    /// Nothing: it runs.
    Runs,
    /// Whether the port of its URL accepts a connection.
    Accepts(BaseUrl),
    /// Whether a port accepts a connection, on the loopback interface or the guest's own address.
    Listens(u16, Option<Ipv4Addr>),
    /// Whether a GET of this path answers 2xx.
    Answers(BaseUrl, String),
    /// Whether a command in the guest ends with exit code 0.
    Succeeds(CommandProbe),
}

impl Check {
    /// The check that a manifest names; nothing if it names none.
    pub(super) fn named(
        endpoint: Option<&str>,
        tcp_port: Option<u16>,
        command: Option<CommandProbe>,
        (base, own): (Option<&BaseUrl>, Option<Ipv4Addr>),
    ) -> Option<Self> {
        match (command, tcp_port, endpoint.zip(base)) {
            (Some(command), ..) => Some(Self::Succeeds(command)),
            (None, Some(port), _) => Some(Self::Listens(port, own)),
            (None, None, Some((endpoint, base))) => {
                let path = format!("{}{endpoint}", base.path);
                Some(Self::Answers(base.clone(), path))
            }
            (None, None, None) => None,
        }
    }

    /// One probe, at most for `bound`, with its failure in one sentence.
    pub(super) async fn once(&self, bound: Duration) -> Result<(), String> {
        let (what, attempt) = match self {
            Self::Runs => return Ok(()),
            Self::Accepts(base) => {
                let what = format!("Connecting to {}", authority(base));
                (what, tokio::time::timeout(bound, accepts(base)).await)
            }
            Self::Listens(port, own) => {
                let what = format!("Connecting to port {port}");
                let attempt = tokio::time::timeout(bound, listens(*port, *own));
                (what, attempt.await)
            }
            Self::Answers(base, path) => {
                let what = format!("GET http://{}{path}", authority(base));
                (what, tokio::time::timeout(bound, answers(base, path)).await)
            }
            Self::Succeeds(command) => return command.once(bound).await,
        };
        match attempt {
            Ok(Ok(Verdict::Good)) => Ok(()),
            Ok(Ok(Verdict::Status(status))) => Err(format!("{what} answered {status}")),
            Ok(Err(error)) => Err(format!("{what}: {}", Chain(&error))),
            Err(_) => Err(format!("{what}: no answer within {} ms", bound.as_millis())),
        }
    }
}

enum Verdict {
    Good,
    Status(u16),
}

async fn accepts(base: &BaseUrl) -> Result<Verdict, HttpError> {
    connect(&base.host, base.port).await.map(|_| Verdict::Good)
}

async fn listens(port: u16, own: Option<Ipv4Addr>) -> Result<Verdict, HttpError> {
    let mut attempt = connect("localhost", port).await;
    if let (Err(_), Some(own)) = (&attempt, own) {
        attempt = connect(&own.to_string(), port).await;
    }
    attempt.map(|_| Verdict::Good)
}

async fn answers(base: &BaseUrl, path: &str) -> Result<Verdict, HttpError> {
    let stream = connect(&base.host, base.port).await?;
    // The manifest's checks leave only graphic ASCII; a path that is still no URI is asked for as `/`.
    let uri: Uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    if let Ok(host) = authority(base).parse() {
        headers.insert(HOST, host);
    }
    headers.insert(
        USER_AGENT,
        hyper::header::HeaderValue::from_static("kestrel"),
    );
    let status = send(stream, request).await?.status();
    Ok(if status.is_success() {
        Verdict::Good
    } else {
        Verdict::Status(status.as_u16())
    })
}
