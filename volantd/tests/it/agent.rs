//! The client against agents that misbehave in every way a guest can, over TCP and over a vsock as Cloud Hypervisor serves it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::agent::GuestPhase;
use common::guest_config::Secret;
use futures_util::StreamExt as _;
use volantd::agent::AgentClient;
use volantd::log::LogSource;
use volantd::machine::ports::{Guest as _, GuestEndpoint};

const STATUS: &str = r#"{"version":"0.1.0","generation":7,"now_us":5,"phase":"ready","phases":[{"phase":"boot","at_us":1}],
    "health":{"state":"healthy","probes":3},"workload":{"pid":42,"restarts":0}}"#;

const SECRET: &str = "0707070707070707070707070707070707070707070707070707070707070707";

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What an agent does once it has read a request's head.
#[derive(Clone)]
enum Behaviour {
    Send(Vec<u8>),
    SendForEver(Vec<u8>),
    Hang,
}

/// Reads one request and behaves. The head of the request goes to `heads`.
fn behave(
    mut stream: impl std::io::Read + std::io::Write,
    behaviour: &Behaviour,
    heads: &mpsc::Sender<String>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    drop(heads.send(String::from_utf8(head).unwrap()));
    match behaviour {
        Behaviour::Send(bytes) => drop(stream.write_all(bytes)),
        Behaviour::SendForEver(bytes) => while stream.write_all(bytes).is_ok() {},
        Behaviour::Hang => while stream.read(&mut byte).unwrap_or(0) > 0 {},
    }
}

/// An agent on loopback; answers its port and the heads of the requests that it got.
fn tcp_agent(behaviour: Behaviour) -> (AgentClient, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heads, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            behave(stream.unwrap(), &behaviour, &heads);
        }
    });
    (AgentClient::with_port(port), received)
}

fn endpoint(vsock: Option<PathBuf>) -> GuestEndpoint {
    GuestEndpoint {
        ip: Ipv4Addr::LOCALHOST,
        agent_port: common::agent::AGENT_PORT,
        vsock,
        secret: Secret::from_stored(SECRET.to_owned()),
    }
}

async fn failure(behaviour: Behaviour) -> String {
    let (client, _heads) = tcp_agent(behaviour);
    client
        .status(&endpoint(None), None, Duration::ZERO)
        .await
        .unwrap_err()
        .message
}

#[tokio::test]
async fn a_status_is_read_and_waited_for() {
    let (client, heads) = tcp_agent(Behaviour::Send(answer("200 OK", STATUS)));
    let status = client
        .status(&endpoint(None), None, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!((status.generation, status.phase), (7, GuestPhase::Ready));
    assert!(
        heads
            .recv()
            .unwrap()
            .starts_with("GET /agent/status HTTP/1.1\r\n")
    );
    client
        .status(&endpoint(None), Some(7), Duration::from_secs(90))
        .await
        .unwrap();
    let head = heads.recv().unwrap();
    assert!(
        head.starts_with("GET /agent/status?after=7&timeout_ms=30000 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        !head.contains(SECRET),
        "reading needs no secret, so none is sent"
    );
}

#[tokio::test]
async fn the_end_is_asked_for_with_the_secret() {
    let (client, heads) = tcp_agent(Behaviour::Send(answer("202 Accepted", "")));
    client.shutdown(&endpoint(None), None).await.unwrap();
    let head = heads.recv().unwrap();
    assert!(
        head.starts_with("POST /agent/shutdown HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("x-volant-secret: {SECRET}\r\n")),
        "{head}"
    );

    let (client, heads) = tcp_agent(Behaviour::Send(answer("202 Accepted", "")));
    let grace = Some(Duration::from_millis(1500));
    client.shutdown(&endpoint(None), grace).await.unwrap();
    let head = heads.recv().unwrap();
    assert!(
        head.starts_with("POST /agent/shutdown?grace_ms=1500 HTTP/1.1\r\n"),
        "{head}"
    );

    let (client, _heads) = tcp_agent(Behaviour::Send(answer("403 Forbidden", "")));
    let refused = client.shutdown(&endpoint(None), None).await.unwrap_err();
    assert!(
        refused.message.contains("HTTP status 403"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn bad_answers_are_errors_and_soon() {
    let begin = Instant::now();
    let table = [
        (Behaviour::Send(Vec::new()), "did not answer properly"),
        (
            Behaviour::Send(b"SSH-2.0-OpenSSH\r\n".to_vec()),
            "did not answer properly",
        ),
        (
            Behaviour::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec()),
            "did not answer properly",
        ),
        (Behaviour::Send(answer("200 OK", "<html>")), "not a status"),
        (Behaviour::Send(answer("200 OK", "{}")), "not a status"),
        (
            Behaviour::Send(answer("200 OK", &"[".repeat(100_000))),
            "not a status",
        ),
        (
            Behaviour::Send(answer("404 Not Found", "")),
            "HTTP status 404",
        ),
        (
            Behaviour::Send([&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'y'; 100_000]].concat()),
            "did not answer properly",
        ),
        (
            Behaviour::Send(answer("200 OK", &" ".repeat(300_000))),
            "more than 262144 bytes",
        ),
        (
            Behaviour::SendForEver(b"HTTP/1.1 200 OK\r\n\r\n ".repeat(100)),
            "more than 262144 bytes",
        ),
    ];
    for (behaviour, expected) in table {
        let message = failure(behaviour).await;
        assert!(message.contains(expected), "{message}, not {expected}");
    }
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "none of them had to be waited for"
    );
}

#[tokio::test]
async fn a_guest_that_hangs_costs_a_bounded_time() {
    let message = failure(Behaviour::Hang).await;
    assert!(
        message.contains("did not answer within 3000 ms"),
        "{message}"
    );
}

#[tokio::test]
async fn a_closed_port_is_told_from_an_open_one() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = AgentClient::default();
    client
        .reach(Ipv4Addr::LOCALHOST, port, Duration::from_secs(5))
        .await
        .unwrap();
    drop(listener);
    let refused = client
        .reach(Ipv4Addr::LOCALHOST, port, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(
        refused.message.contains("refuses the connection"),
        "{}",
        refused.message
    );
    let agent = AgentClient::with_port(port)
        .status(&endpoint(None), None, Duration::ZERO)
        .await
        .unwrap_err();
    assert!(
        agent
            .message
            .contains(&format!("cannot be reached at 127.0.0.1:{port}")),
        "{}",
        agent.message
    );
}

/// A vsock as the VMM serves it: `CONNECT <port>`, then `greeting`, then the agent.
fn vsock_agent(
    greeting: &'static [u8],
    behaviour: Behaviour,
) -> (tempfile::TempDir, PathBuf, mpsc::Receiver<String>) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("vsock");
    let listener = UnixListener::bind(&path).unwrap();
    let (heads, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = [0; 13];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"CONNECT 8080\n");
            // What follows the greeting in the same packet belongs to the agent.
            drop(stream.write_all(greeting));
            if greeting.ends_with(b"\n") {
                behave(stream, &behaviour, &heads);
            }
        }
    });
    (temp, path, received)
}

#[tokio::test]
async fn the_vsock_is_preferred() {
    let (_temp, path, heads) = vsock_agent(
        b"OK 1073741824\n",
        Behaviour::Send(answer("200 OK", STATUS)),
    );
    let status = AgentClient::default()
        .status(&endpoint(Some(path)), None, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(status.workload.pid, Some(42));
    assert!(heads.recv().unwrap().starts_with("GET /agent/status"));
}

#[tokio::test]
async fn a_vsock_that_is_not_ready_is_an_error() {
    let greetings: [(&[u8], &str); 4] = [
        (b"", "does not listen on its vsock"),
        (b"NO\n", "did not answer with `OK`"),
        (b"OK 12", "does not listen on its vsock"),
        (&[b'x'; 4096], "has no end"),
    ];
    for (greeting, expected) in greetings {
        let (_temp, path, _heads) = vsock_agent(greeting, Behaviour::Hang);
        let error = AgentClient::default()
            .status(&endpoint(Some(path)), None, Duration::ZERO)
            .await
            .unwrap_err();
        assert!(
            error.message.contains(expected),
            "{}, not {expected}",
            error.message
        );
    }
}

#[tokio::test]
async fn without_its_socket_the_address_is_used() {
    let (client, _heads) = tcp_agent(Behaviour::Send(answer("200 OK", STATUS)));
    let missing = PathBuf::from("/nonexistent/vsock");
    client
        .status(&endpoint(Some(missing)), None, Duration::ZERO)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_log_is_asked_for_with_the_secret_and_comes_in_pieces() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n";
    let (client, heads) = tcp_agent(Behaviour::Send(chunked.to_vec()));
    let pieces = LogSource::open(&client, &endpoint(None), 17).await.unwrap();
    let bytes: Vec<u8> = pieces
        .map(|piece| piece.unwrap().to_vec())
        .collect::<Vec<_>>()
        .await
        .concat();
    assert_eq!(bytes, b"one\ntwo\n");
    let head = heads.recv().unwrap();
    assert!(
        head.starts_with("GET /agent/logs?after=17 HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("x-volant-secret: {SECRET}\r\n")),
        "{head}"
    );
}

#[tokio::test]
async fn a_log_of_a_bad_agent_is_an_error_and_never_collected() {
    let table = [
        (
            Behaviour::Send(answer("403 Forbidden", "")),
            "HTTP status 403",
        ),
        (
            Behaviour::Send(b"SSH-2.0\r\n".to_vec()),
            "did not answer properly",
        ),
        (Behaviour::Hang, "did not answer within 3000 ms"),
    ];
    for (behaviour, expected) in table {
        let (client, _heads) = tcp_agent(behaviour);
        let opened = LogSource::open(&client, &endpoint(None), 0).await;
        let message = opened.map(drop).unwrap_err().message;
        assert!(message.contains(expected), "{message}, not {expected}");
    }
    // It breaks off in the middle.
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec();
    let (client, _heads) = tcp_agent(Behaviour::Send(cut));
    let mut pieces = LogSource::open(&client, &endpoint(None), 0).await.unwrap();
    let mut last = pieces.next().await.unwrap();
    while let Ok(_piece) = last {
        last = pieces.next().await.unwrap();
    }
    // It sends without end, and is read no further than it is asked for.
    let endless = b"HTTP/1.1 200 OK\r\n\r\n".repeat(100);
    let (client, _heads) = tcp_agent(Behaviour::SendForEver(endless));
    let mut pieces = LogSource::open(&client, &endpoint(None), 0).await.unwrap();
    for _ in 0..50 {
        assert!(pieces.next().await.unwrap().unwrap().len() <= 64 * 1024);
    }
}
