//! Plain HTTP/1.1 to one address, one connection for one request. No names are resolved: a static program cannot load the system's resolver.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use common::manifest::BaseUrl;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a connection may take. Inside the guest it takes no time at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The host is neither an address nor `localhost`.
    #[error("`{host}` is neither an IP address nor `localhost`")]
    Host {
        /// The host as written.
        host: String,
    },
    /// Nothing accepts the connection.
    #[error("{}", in_words(.0))]
    Connect(io::Error),
    /// The connection broke, or what came is not HTTP.
    #[error("the connection was closed without an HTTP answer")]
    Exchange(#[source] hyper::Error),
}

/// The few failures that people meet, without the error number.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "the connection timed out".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

/// The addresses that a host stands for.
pub(crate) fn addresses(host: &str) -> Result<Vec<IpAddr>, HttpError> {
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse::<IpAddr>() {
        // Whoever listens everywhere is reached on the loopback interface.
        Ok(address) if address.is_unspecified() => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
        Ok(address) => Ok(vec![address]),
        Err(_) => Err(HttpError::Host {
            host: host.to_owned(),
        }),
    }
}

/// Connects to the first of the host's addresses that accepts.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, HttpError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses(host)? {
        let attempt = TcpStream::connect(SocketAddr::new(address, port));
        match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(stream)) => {
                // Answers in pieces should not wait for each other. Without it they are only slower.
                drop(stream.set_nodelay(true));
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(HttpError::Connect(last))
}

/// Sends one request. The connection lives until the response's body, or what it was upgraded to, ends.
pub(crate) async fn send<B>(
    stream: TcpStream,
    request: Request<B>,
) -> Result<Response<Incoming>, HttpError>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(HttpError::Exchange)?;
    tokio::spawn(async move {
        // What goes wrong here reaches the caller through the request or its body.
        drop(connection.with_upgrades().await);
    });
    sender
        .send_request(request)
        .await
        .map_err(HttpError::Exchange)
}

/// The value of `Host` for a base URL.
pub(crate) fn authority(base: &BaseUrl) -> String {
    format!("{}:{}", base.host, base.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_localhost() {
        let table: &[(&str, &[&str])] = &[
            ("127.0.0.1", &["127.0.0.1"]),
            ("0.0.0.0", &["127.0.0.1"]),
            ("localhost", &["127.0.0.1", "::1"]),
            ("LOCALHOST", &["127.0.0.1", "::1"]),
            ("[::1]", &["::1"]),
            ("10.0.0.2", &["10.0.0.2"]),
        ];
        for (host, expected) in table {
            let found: Vec<String> = addresses(host)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(&found, expected, "{host}");
        }
        let error = addresses("example.com").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`example.com` is neither an IP address nor `localhost`"
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_told_in_words() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let error = connect("127.0.0.1", port).await.unwrap_err();
        assert_eq!(error.to_string(), "connection refused");
    }
}
