//! Clients that misbehave on their connections: slow with a head, slow to read, and too many of them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use volantd::connections::Connections;
use volantd::limits::ConnectionLimits;

/// Short, for clients that use it up.
const SHORT: Duration = Duration::from_millis(50);

/// Longer than a test takes.
const LONG: Duration = Duration::from_hours(1);

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

const LAST_GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

struct Server {
    dir: tempfile::TempDir,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Server {
    fn new(routes: Router, limits: ConnectionLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let stop = CancellationToken::new();
        let connections = Connections {
            routes,
            limits,
            peer: |_| None,
        };
        let served = tokio::spawn(connections.serve(listener, stop.clone()));
        Self { dir, stop, served }
    }

    async fn connect(&self) -> UnixStream {
        let socket = self.dir.path().join("socket");
        UnixStream::connect(socket).await.unwrap()
    }
}

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        max_connections: 8,
        header_timeout: LONG,
        write_timeout: LONG,
    }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// All that comes until the connection ends.
async fn rest_of(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    // A reset is an end as well.
    drop(stream.read_to_end(&mut text).await);
    String::from_utf8(text).unwrap()
}

async fn asked(stream: &mut UnixStream) -> String {
    // One that is refused is closed before it has asked.
    drop(stream.write_all(LAST_GET).await);
    rest_of(stream).await
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let limits = ConnectionLimits {
        header_timeout: SHORT,
        ..limits()
    };
    let server = Server::new(hello(), limits);
    for begun in [&b""[..], b"GET / HTTP/1.1\r\nhost: local"] {
        let mut slow = server.connect().await;
        slow.write_all(begun).await.unwrap();
        let told = rest_of(&mut slow).await;
        assert!(!told.contains("200 OK"), "{told}");
    }
    let answer = asked(&mut server.connect().await).await;
    assert!(answer.ends_with("hello"), "{answer}");
}

/// Bytes without end; the permit is given back when nobody wants them any more.
fn endless(open: &Arc<Semaphore>) -> Body {
    let permit: OwnedSemaphorePermit = Arc::clone(open).try_acquire_owned().unwrap();
    Body::from_stream(stream::unfold(permit, async |permit| {
        let piece = Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 65_536]));
        Some((piece, permit))
    }))
}

#[tokio::test]
async fn a_reader_that_stops_is_dropped() {
    let open = Arc::new(Semaphore::new(1));
    let stream = Arc::clone(&open);
    let routes = Router::new().route("/", get(async move || endless(&stream)));
    let limits = ConnectionLimits {
        write_timeout: SHORT,
        max_connections: 1,
        ..limits()
    };
    let server = Server::new(routes, limits);
    let mut idle = server.connect().await;
    idle.write_all(GET).await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    drop(open.acquire().await.unwrap());
    // Its place among the connections is free again as well, as soon as the connection is closed.
    loop {
        let mut next = server.connect().await;
        next.write_all(GET).await.ok();
        let mut first = [0; 15];
        if next.read_exact(&mut first).await.is_ok() && &first == b"HTTP/1.1 200 OK" {
            break;
        }
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_places_come_back() {
    let limits = ConnectionLimits {
        max_connections: 1,
        ..limits()
    };
    let server = Server::new(hello(), limits);
    let mut first = server.connect().await;
    first.write_all(GET).await.unwrap();
    let mut begun = [0; 15];
    first.read_exact(&mut begun).await.unwrap();
    let refused = asked(&mut server.connect().await).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("max_connections"), "{refused}");
    drop(first);
    while !asked(&mut server.connect().await).await.ends_with("hello") {}
}

#[tokio::test]
async fn what_was_begun_is_answered_when_the_daemon_ends() {
    let (begun, goes_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&goes_on));
    let slow = async move || {
        tell.add_permits(1);
        wait.acquire().await.unwrap().forget();
        "slow"
    };
    let server = Server::new(Router::new().route("/", get(slow)), limits());
    let mut client = server.connect().await;
    let mut idle = server.connect().await;
    client.write_all(GET).await.unwrap();
    begun.acquire().await.unwrap().forget();
    server.stop.cancel();
    assert_eq!(rest_of(&mut idle).await, "", "nothing was begun on it");
    goes_on.add_permits(1);
    assert!(rest_of(&mut client).await.ends_with("slow"));
    server.served.await.unwrap();
}
