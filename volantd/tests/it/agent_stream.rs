//! Streaming calls against agents that serve, stall, lie and break off, over TCP and over a vsock as Cloud Hypervisor serves it.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::{any, get};
use common::agent::session::PROTOCOL;
use common::agent::{AGENT_PORT, SECRET_HEADER};
use common::guest_config::Secret;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use volantd::agent::{AgentClient, Trust, upgraded};
use volantd::machine::ports::GuestEndpoint;

const SECRET: &str = "secret-of-the-vm";

/// Far more than any test needs, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn endpoint(vsock: Option<PathBuf>) -> GuestEndpoint {
    GuestEndpoint {
        ip: Ipv4Addr::LOCALHOST,
        agent_port: AGENT_PORT,
        vsock,
        secret: Secret::from_stored(SECRET.to_owned()),
    }
}

/// An agent that serves `router` on loopback.
async fn serve(router: Router) -> AgentClient {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    AgentClient::with_port(port)
}

/// An agent that answers every connection with `answer`, and then does nothing more.
async fn say(answer: &'static [u8]) -> AgentClient {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(answer).await.unwrap();
                let mut rest = Vec::new();
                drop(stream.read_to_end(&mut rest).await);
            });
        }
    });
    AgentClient::with_port(port)
}

fn request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// Says which secret came with a request.
async fn presented(headers: HeaderMap) -> String {
    let secret = headers.get(SECRET_HEADER);
    secret
        .map_or("none", |value| value.to_str().unwrap())
        .to_owned()
}

#[tokio::test]
async fn the_secret_goes_only_with_requests_of_the_daemon() {
    let client = serve(Router::new().route("/x", get(presented))).await;
    for (trust, expected) in [(Trust::Secret, SECRET), (Trust::Open, "none")] {
        let mut asked = request("/x");
        asked
            .headers_mut()
            .insert(SECRET_HEADER, "foreign".parse().unwrap());
        let answer = client
            .open(&endpoint(None), trust, asked, PATIENCE)
            .await
            .unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, expected, "{trust:?}");
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_over_a_vsock() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("vsock");
    let listener = UnixListener::bind(&path).unwrap();
    let echo = Router::new().route(
        "/echo",
        any(async |request: Request<Body>| request.into_body()),
    );
    let (done, served) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut line = [0; 13];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"CONNECT 8080\n");
        stream.write_all(b"OK 1073741824\n").await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(echo);
        let io = hyper_util::rt::TokioIo::new(stream);
        drop(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .await,
        );
        done.send(()).unwrap();
    });
    let (pieces, body) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let body = Body::from_stream(futures_util::stream::unfold(body, async |mut body| {
        Some((body.recv().await?, body))
    }));
    let asked = Request::put("/echo").body(body).unwrap();
    let answer = AgentClient::default()
        .open(&endpoint(Some(path)), Trust::Open, asked, PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut echoed = answer.into_body();
    for text in ["one", "two"] {
        pieces.send(Ok(Bytes::from(text))).await.unwrap();
        // Each comes back before the next is sent.
        let frame = echoed.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(echoed);
    // Who drops the answer ends the connection.
    served.await.unwrap();
}

#[tokio::test]
async fn a_guest_that_does_not_answer_is_given_up() {
    let client = say(b"").await;
    let limit = Duration::from_millis(50);
    let begin = Instant::now();
    let late = client
        .open(&endpoint(None), Trust::Open, request("/"), limit)
        .await
        .unwrap_err();
    assert!(late.to_string().contains("within 50 ms"), "{late}");
    assert!(begin.elapsed() >= limit);
}

#[tokio::test]
async fn a_guest_that_does_not_take_the_body_is_given_up_and_a_slow_sender_is_not() {
    let client = say(b"").await;
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![0; 65536])));
    let asked = Request::put("/").body(Body::from_stream(endless)).unwrap();
    // What it takes of it is in sockets' buffers only when the agent reads nothing.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let deaf = AgentClient::with_port(listener.local_addr().unwrap().port());
    let late = deaf
        .open(
            &endpoint(None),
            Trust::Open,
            asked,
            Duration::from_millis(100),
        )
        .await
        .unwrap_err();
    assert!(late.to_string().contains("within 100 ms"), "{late}");

    let (pieces, body) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let body =
        futures_util::stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    let asked = Request::put("/").body(Body::from_stream(body)).unwrap();
    let limit = Duration::from_millis(20);
    let guest = endpoint(None);
    let sending = client.open(&guest, Trust::Open, asked, limit);
    let outcome = tokio::time::timeout(limit * 10, sending).await;
    assert!(
        outcome.is_err(),
        "it is the sender who is slow: {outcome:?}"
    );
    drop(pieces);
}

#[tokio::test]
async fn answers_that_are_none_are_errors() {
    let endless_head = Box::leak(
        [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'y'; 200_000]]
            .concat()
            .into_boxed_slice(),
    );
    for lie in [
        b"SSH-2.0-OpenSSH\r\n",
        &b"HTTP/1.1 99 x\r\n\r\n"[..],
        endless_head,
    ] {
        let client = say(lie).await;
        let error = client
            .open(&endpoint(None), Trust::Open, request("/"), PATIENCE)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("did not answer properly"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_breaks_in_its_middle_is_an_error() {
    let client =
        say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzzz\r\n").await;
    let answer = client
        .open(&endpoint(None), Trust::Open, request("/"), PATIENCE)
        .await
        .unwrap();
    assert!(answer.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_stream_ends_with_its_guest() {
    let client = say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    let answer = client
        .open(&endpoint(None), Trust::Open, request("/"), PATIENCE)
        .await
        .unwrap();
    let (cut, power) = oneshot::channel::<()>();
    let mut body = answer.into_body().until(async {
        drop(power.await);
    });
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "abc"
    );
    drop(cut);
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "The VM has stopped");
}

#[tokio::test]
async fn a_connection_is_handed_over() {
    let client = say(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: volant-exec\r\n\r\nhello").await;
    let asked = Request::post("/agent/exec")
        .header("connection", "upgrade")
        .header("upgrade", PROTOCOL)
        .body(Body::empty())
        .unwrap();
    let answer = client
        .open(&endpoint(None), Trust::Secret, asked, PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut connection = upgraded(answer).await.unwrap();
    let mut said = [0; 5];
    connection.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
}
