//! The server on loopback with a workload of a few lines. Requests are written by hand: what is on the wire is what counts.

use common::agent::{AgentStatus, MAX_CLOCK_MS, MIN_CLOCK_MS, SECRET_HEADER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::reaper::Reaper;
use crate::signals::StopReason;

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// How long any step of these tests may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The times that clocks were set to, of all tests.
static SET_CLOCKS: std::sync::Mutex<Vec<Duration>> = std::sync::Mutex::new(Vec::new());

/// A time to which no clock is set.
const UNSETTABLE: Duration = Duration::from_millis(MIN_CLOCK_MS + 1);

struct Served {
    agent: Arc<Agent>,
    port: u16,
    server: TcpServer,
}

async fn serve_agent(base: Option<BaseUrl>, secret: Option<&str>) -> Served {
    serve_agent_with(Reaper::idle(), base, secret).await
}

async fn serve_agent_with(reaper: Reaper, base: Option<BaseUrl>, secret: Option<&str>) -> Served {
    let agent = Arc::new(Agent {
        board: Arc::new(StatusBoard::new(Duration::ZERO)),
        stop: Stop::new(),
        secret: secret.map(|secret| Secret::from_stored(secret.to_owned())),
        base: base.map(OnceLock::from).unwrap_or_default(),
        log: Arc::new(Log::new()),
        sessions: Sessions::new(reaper),
        copies: Arc::new(Semaphore::new(MAX_COPIES)),
        // Never this machine's own clock.
        set_clock: |time| {
            SET_CLOCKS.lock().unwrap().push(time);
            if time == UNSETTABLE {
                Err(io::ErrorKind::PermissionDenied.into())
            } else {
                Ok(())
            }
        },
        began: Duration::ZERO,
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let server = TcpServer::start(&agent, port).await.unwrap();
    Served {
        agent,
        port,
        server,
    }
}

async fn workload() -> (TcpListener, BaseUrl) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let base = BaseUrl {
        host: "127.0.0.1".to_owned(),
        port,
        path: String::new(),
    };
    (listener, base)
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap()
}

async fn exchange(port: u16, request: &str) -> String {
    let mut stream = connect(port).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .expect("an end")
        .unwrap();
    answer
}

async fn get(port: u16, path: &str) -> String {
    exchange(
        port,
        &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await
}

/// Reads until `end` has been read.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(end) {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "ended after {text:?}");
            text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("an answer");
    text
}

fn status_of(answer: &str) -> AgentStatus {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn it_says_that_it_lives() {
    let served = serve_agent(None, None).await;
    let answer = get(served.port, "/healthz").await;
    let body: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["status"], "ok");
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    assert!(body["uptime"].as_str().unwrap().ends_with('s'));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let served = serve_agent(None, None).await;
    let table = [
        ("GET /", "404 Not Found", "not-found"),
        ("GET /v10", "404 Not Found", "not-found"),
        (
            "POST /agent/status",
            "405 Method Not Allowed",
            "method-not-allowed",
        ),
        (
            "GET /agent/shutdown",
            "405 Method Not Allowed",
            "method-not-allowed",
        ),
        (
            "GET /agent/status?after=x",
            "400 Bad Request",
            "invalid-request",
        ),
    ];
    for (what, status, code) in table {
        let request = format!("{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = exchange(served.port, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(answer.contains(&format!(r#""code":"{code}""#)), "{answer}");
    }
}

#[tokio::test]
async fn the_status_is_awaited() {
    let served = serve_agent(None, None).await;
    let first = status_of(&get(served.port, "/agent/status").await);
    assert_eq!(first.generation, 1);

    let port = served.port;
    let waiting = tokio::spawn(async move { get(port, "/agent/status?after=1").await });
    while !served.agent.board.has_unanswered() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.agent.board.workload_started(42);
    let second = status_of(&waiting.await.unwrap());
    assert_eq!(second.workload.pid, Some(42));
    assert_eq!(second.generation, 2);

    let began = std::time::Instant::now();
    let third = status_of(&get(served.port, "/agent/status?after=2&timeout_ms=60").await);
    assert_eq!(third.generation, 2);
    assert!(began.elapsed() >= Duration::from_millis(60));

    // Once answers are written nothing holds up the end of the guest.
    let none_left = async {
        while served.agent.board.has_unanswered() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, none_left)
        .await
        .expect("all answered");
}

#[tokio::test]
async fn only_the_secret_stops_the_guest() {
    let served = serve_agent(None, Some(SECRET)).await;
    let ask = |secret: Option<&str>| {
        let header = secret
            .map(|secret| format!("{SECRET_HEADER}: {secret}\r\n"))
            .unwrap_or_default();
        format!(
            "POST /agent/shutdown HTTP/1.1\r\nhost: x\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    let wrong = SECRET.replace('0', "1");
    for (secret, status) in [
        (None, "401"),
        (Some(""), "403"),
        (Some(wrong.as_str()), "403"),
        (Some(&SECRET[1..]), "403"),
    ] {
        let answer = exchange(served.port, &ask(secret)).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(!answer.contains(SECRET));
    }
    let asked = tokio::time::timeout(Duration::from_millis(20), served.agent.stop.asked());
    assert!(asked.await.is_err());

    let answer = exchange(served.port, &ask(Some(SECRET))).await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    assert_eq!(served.agent.stop.asked().await.reason, StopReason::Request);

    let open = serve_agent(None, None).await;
    let answer = exchange(open.port, &ask(Some(SECRET))).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn whoever_stops_the_guest_says_how_long_it_may_take() {
    let table = [
        ("", None),
        ("?grace_ms=0", Some(Duration::ZERO)),
        ("?grace_ms=1500", Some(Duration::from_millis(1500))),
        ("?grace_ms=99999999999", Some(Duration::from_hours(1))),
    ];
    for (query, grace) in table {
        let served = serve_agent(None, Some(SECRET)).await;
        let ask = with_secret(&format!("POST /agent/shutdown{query}"));
        let answer = exchange(served.port, &ask).await;
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        assert_eq!(served.agent.stop.asked().await.grace, grace);
    }
    let served = serve_agent(None, Some(SECRET)).await;
    let ask = with_secret("POST /agent/shutdown?grace_ms=soon");
    let answer = exchange(served.port, &ask).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn requests_reach_the_workload_without_v1_and_connection_fields() {
    let (listener, mut base) = workload().await;
    base.path = "/api".to_owned();
    let served = serve_agent(Some(base.clone()), None).await;
    let request = "PATCH /v1/things/7?q=a%20b HTTP/1.1\r\nhost: outside\r\nconnection: close, x-mine\r\nx-mine: 1\r\nx-kept: 2\r\nte: trailers\r\ncontent-length: 4\r\n\r\nbody";
    let asking = tokio::spawn({
        let port = served.port;
        async move { exchange(port, request).await }
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    let seen = read_until(&mut stream, "body").await;
    assert!(
        seen.starts_with("PATCH /api/things/7?q=a%20b HTTP/1.1\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("host: 127.0.0.1:{}\r\n", base.port)),
        "{seen}"
    );
    assert!(seen.contains("x-kept: 2\r\n"), "{seen}");
    assert!(!seen.contains("x-mine") && !seen.contains("te:"), "{seen}");

    let answer = "HTTP/1.1 418 Teapot\r\nkeep-alive: timeout=9\r\nconnection: x-hop\r\nx-hop: 1\r\nx-own: 3\r\ncontent-length: 3\r\n\r\nhot";
    stream.write_all(answer.as_bytes()).await.unwrap();
    let answer = asking.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 418 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhot"), "{answer}");
    assert!(answer.contains("x-own: 3\r\n"), "{answer}");
    assert!(
        !answer.contains("x-hop") && !answer.contains("keep-alive"),
        "{answer}"
    );
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let (listener, base) = workload().await;
    let served = serve_agent(Some(base), None).await;
    let mut client = connect(served.port).await;
    let head =
        "POST /v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    client.write_all(head.as_bytes()).await.unwrap();

    // The workload sees the first piece before the second is sent, and answers before the request ends.
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "first").await;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut client, "one").await;

    client.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    read_until(&mut stream, "second").await;
    stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    let rest = read_until(&mut client, "0\r\n\r\n").await;
    assert!(rest.contains("two"), "{rest}");
}

#[tokio::test]
async fn an_upgrade_becomes_a_plain_pipe() {
    let (listener, base) = workload().await;
    let served = serve_agent(Some(base), None).await;
    let mut client = connect(served.port).await;
    let head = "GET /v1/socket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();

    let (mut stream, _) = listener.accept().await.unwrap();
    let seen = read_until(&mut stream, "\r\n\r\n").await;
    assert!(seen.contains("upgrade: websocket\r\n"), "{seen}");
    assert!(seen.contains("connection: upgrade\r\n"), "{seen}");
    assert!(seen.contains("sec-websocket-key: abc\r\n"), "{seen}");
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello";
    stream.write_all(head.as_bytes()).await.unwrap();

    let answer = read_until(&mut client, "hello").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("upgrade: websocket\r\n"), "{answer}");
    client.write_all(b"ping").await.unwrap();
    read_until(&mut stream, "ping").await;
    stream.write_all(b"pong").await.unwrap();
    read_until(&mut client, "pong").await;

    // The end of one side is the end of the other.
    drop(stream);
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest))
        .await
        .expect("an end")
        .unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_workload_that_refuses_is_a_bad_gateway_with_a_sentence() {
    let (listener, base) = workload().await;
    drop(listener);
    let place = authority_of(&base);
    let served = serve_agent(Some(base), None).await;
    let answer = get(served.port, "/v1/").await;
    assert!(
        answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{answer}"
    );
    let sentence = format!("The workload does not answer at {place}: connection refused");
    assert!(answer.contains(&sentence), "{answer}");

    let served = serve_agent(None, None).await;
    let answer = get(served.port, "/v1/").await;
    assert!(answer.contains("gives no base_url"), "{answer}");
}

fn authority_of(base: &BaseUrl) -> String {
    crate::http_client::authority(base)
}

#[tokio::test]
async fn a_workload_that_breaks_off_is_a_bad_gateway() {
    let (listener, base) = workload().await;
    let served = serve_agent(Some(base), None).await;
    let port = served.port;
    let asking = tokio::spawn(async move { get(port, "/v1/").await });
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    drop(stream);
    let answer = asking.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("closed without an HTTP answer"), "{answer}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let served = serve_agent(None, None).await;
    let long = "x".repeat(MAX_HEAD_BYTES + 1);
    let many = "x-y: 1\r\n".repeat(MAX_HEADERS + 1);
    for fields in [format!("x-long: {long}\r\n"), many] {
        let mut stream = connect(served.port).await;
        let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
        // The server may hang up before all is sent.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "no end");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    }
    assert!(
        get(served.port, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn a_closed_listener_frees_its_port() {
    let served = serve_agent(None, None).await;
    served.server.close().await;
    TcpServer::start(&served.agent, served.port).await.unwrap();
}

/// A request with the secret.
fn with_secret(what: &str) -> String {
    format!("{what} HTTP/1.1\r\nhost: x\r\n{SECRET_HEADER}: {SECRET}\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn what_shows_the_inside_needs_the_secret() {
    let served = serve_agent(None, Some(SECRET)).await;
    for path in ["/agent/logs", "/agent/stats"] {
        let answer = get(served.port, path).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
}

#[tokio::test]
async fn the_log_is_a_stream_of_json_lines_to_the_end_of_the_guest() {
    let served = serve_agent(None, Some(SECRET)).await;
    served.agent.log.say("first");
    served.agent.log.say("second");
    let mut stream = connect(served.port).await;
    let request = with_secret("GET /agent/logs?after=1");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "second").await;
    assert!(
        head.contains("content-type: application/x-ndjson\r\n"),
        "{head}"
    );
    assert!(!head.contains("first"), "{head}");
    served.agent.log.say("third");
    read_until(&mut stream, "\"line\":\"third\"}\n").await;

    // The guest's end waits for its last line, and the stream ends as a whole.
    served.agent.log.say("last");
    served.agent.log.finish();
    assert!(served.agent.board.has_unanswered());
    crate::power::last_answers(&served.agent.board, PATIENCE).await;
    let rest = read_until(&mut stream, "0\r\n\r\n").await;
    assert!(rest.contains("\"line\":\"last\"}"), "{rest}");
    assert!(!served.agent.board.has_unanswered());
}

#[tokio::test]
async fn readers_of_the_log_are_bounded() {
    let served = serve_agent(None, Some(SECRET)).await;
    let places: Vec<_> = std::iter::from_fn(|| served.agent.log.place()).collect();
    let answer = exchange(served.port, &with_secret("GET /agent/logs")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("too-many-readers"), "{answer}");
    drop(places);
    served.agent.log.say("here");
    served.agent.log.finish();
    let answer = exchange(served.port, &with_secret("GET /agent/logs")).await;
    assert!(answer.contains("here"), "{answer}");
}

#[tokio::test]
async fn the_clock_is_set_by_who_knows_the_secret_and_only_if_it_is_wrong() {
    let served = serve_agent(None, Some(SECRET)).await;
    let plain = "POST /agent/clock?unix_ms=1600000000001 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let right = u64::try_from(crate::sys::unix_time().as_millis()).unwrap();
    let post = |query: &str| with_secret(&format!("POST /agent/clock{query}"));
    let table = [
        (plain.to_owned(), "401"),
        (with_secret("GET /agent/clock"), "405"),
        (post(""), "400"),
        (post("?unix_ms=soon"), "400"),
        (post(&format!("?unix_ms={}", MIN_CLOCK_MS - 1)), "400"),
        (post(&format!("?unix_ms={}", MAX_CLOCK_MS + 1)), "400"),
        (post("?unix_ms=18446744073709551615"), "400"),
        (post(&format!("?unix_ms={right}")), "204"),
        (post(&format!("?unix_ms={}", UNSETTABLE.as_millis())), "500"),
        (post("?unix_ms=1600000000002"), "204"),
    ];
    for (request, expected) in table {
        let answer = exchange(served.port, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{request}{answer}"
        );
    }
    let set = SET_CLOCKS.lock().unwrap().clone();
    assert_eq!(set, [UNSETTABLE, Duration::from_millis(1_600_000_000_002)]);
}

#[tokio::test]
async fn the_stats_are_told() {
    let served = serve_agent(None, Some(SECRET)).await;
    let answer = exchange(served.port, &with_secret("GET /agent/stats")).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let stats: common::agent::stats::GuestStats = serde_json::from_str(body).unwrap();
    assert!(
        stats.memory_total_bytes > 0 && stats.uptime_us > 0,
        "{stats:?}"
    );
}

fn exec_request(fields: &str) -> String {
    format!(
        "POST /agent/exec HTTP/1.1\r\nhost: x\r\n{SECRET_HEADER}: {SECRET}\r\n{fields}content-length: 0\r\n\r\n"
    )
}

#[tokio::test]
async fn a_command_runs_over_an_upgraded_connection() {
    let _alone = crate::reaper::tests::alone().await;
    let served = serve_agent_with(Reaper::start().unwrap(), None, Some(SECRET)).await;
    let mut stream = connect(served.port).await;
    let upgrade = exec_request("connection: upgrade\r\nupgrade: volant-exec\r\n");
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: volant-exec\r\n"), "{head}");
    let start = br#"{"command":["/bin/sh","-c","echo hello; exit 7"]}"#;
    let mut message = vec![0, 0, 0, 0, u8::try_from(start.len()).unwrap()];
    message.extend(start);
    stream.write_all(&message).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("an end")
        .unwrap();
    let mut expected = b"\x10\0\0\0\x06hello\n\x12\0\0\0\x0a".to_vec();
    expected.extend(br#"{"code":7}"#);
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_command_needs_an_upgrade_and_a_place() {
    let served = serve_agent(None, Some(SECRET)).await;
    for fields in ["", "connection: upgrade\r\nupgrade: websocket\r\n"] {
        let request = exec_request(&format!("{fields}connection: close\r\n"));
        let answer = exchange(served.port, &request).await;
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        assert!(answer.contains("upgrade: volant-exec\r\n"), "{answer}");
    }
    let places: Vec<_> = std::iter::from_fn(|| served.agent.sessions.place()).collect();
    let fields = "connection: upgrade, close\r\nupgrade: volant-exec\r\n";
    let answer = exchange(served.port, &exec_request(fields)).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("too-many-sessions"), "{answer}");
    drop(places);
}

/// An answer whose body may be any bytes.
async fn exchange_bytes(port: u16, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = connect(port).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("an end")
        .unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap(), body)
}

/// The bytes of a chunked body; whether it has its end.
fn unchunked(mut body: &[u8]) -> (Vec<u8>, bool) {
    let mut whole = Vec::new();
    while let Some(at) = body.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&body[..at]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (whole, true);
        }
        let chunk = &body[at + 2..];
        if chunk.len() < length + 2 {
            break;
        }
        whole.extend(&chunk[..length]);
        body = &chunk[length + 2..];
    }
    (whole, false)
}

#[tokio::test]
async fn files_go_out_and_in() {
    let served = serve_agent(None, Some(SECRET)).await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let contents: Vec<u8> = (0_u32..700_000).flat_map(u32::to_le_bytes).collect();
    let file = from.path().join("a file");
    fs_err::write(&file, &contents).unwrap();

    let path = file.to_str().unwrap().replace(' ', "%20");
    let head = with_secret(&format!("HEAD /agent/files?path={path}"));
    let (answer, body) = exchange_bytes(served.port, &head, b"").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer
            .contains(r#"x-volant-file-stat: {"name":"a file","kind":"file","size_bytes":2800000"#),
        "{answer}"
    );
    assert!(body.is_empty());

    let get = with_secret(&format!("GET /agent/files?path={path}"));
    let (answer, body) = exchange_bytes(served.port, &get, b"").await;
    assert!(
        answer.contains("content-type: application/x-tar\r\n"),
        "{answer}"
    );
    let (archive, whole) = unchunked(&body);
    assert!(whole);

    let put = format!(
        "PUT /agent/files?path={} HTTP/1.1\r\nhost: x\r\n{SECRET_HEADER}: {SECRET}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        to.path().display(),
        archive.len()
    );
    let (answer, _) = exchange_bytes(served.port, &put, &archive).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert!(answer.contains(r#""kind":"directory""#), "{answer}");
    assert!(fs_err::read(to.path().join("a file")).unwrap() == contents);
}

#[tokio::test]
async fn files_that_cannot_be_copied_are_told() {
    let served = serve_agent(None, Some(SECRET)).await;
    let table = [
        ("GET /agent/files", "400", "invalid-request"),
        ("GET /agent/files?path=etc", "400", "invalid-request"),
        ("GET /agent/files?path=/no/such", "404", "not-found"),
        ("PUT /agent/files?path=/no/such", "404", "not-found"),
        (
            "PUT /agent/files?path=/etc/passwd",
            "422",
            "not-a-directory",
        ),
        ("GET /agent/files?path=/dev/null", "422", "not-copyable"),
        ("POST /agent/files?path=/etc", "405", "method-not-allowed"),
    ];
    for (what, status, code) in table {
        let answer = exchange(served.port, &with_secret(what)).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(&format!(r#""code":"{code}""#)), "{answer}");
    }
    let places = served.agent.copies.acquire_many(4).await.unwrap();
    let answer = exchange(served.port, &with_secret("GET /agent/files?path=/etc")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(places);
}

#[tokio::test]
async fn whoever_sends_too_much_learns_why_it_is_refused() {
    let served = serve_agent(None, Some(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"../x");
    header.set_size(100_000_000);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.resize(100_000_000, 0);
    let put = format!(
        "PUT /agent/files?path={} HTTP/1.1\r\nhost: x\r\n{SECRET_HEADER}: {SECRET}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        folder.path().display(),
        archive.len()
    );
    let (answer, body) = exchange_bytes(served.port, &put, &archive).await;
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    let body = String::from_utf8(body).unwrap();
    assert!(
        body.contains("invalid-archive") && body.contains("../x"),
        "{body}"
    );
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_copy_that_fails_has_no_end() {
    let served = serve_agent(None, Some(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    // A file that shrinks between its header and its contents is rare; directories without end are not, and fail the same way.
    let mut deep = folder.path().to_owned();
    for _ in 0..520 {
        deep.push("d");
    }
    fs_err::create_dir_all(&deep).unwrap();
    let get = with_secret(&format!(
        "GET /agent/files?path={}",
        folder.path().display()
    ));
    let (answer, body) = exchange_bytes(served.port, &get, b"").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!unchunked(&body).1);
    // Who asked for it knows; the agent goes on.
    assert!(get_ok(served.port).await);
}

async fn get_ok(port: u16) -> bool {
    get(port, "/healthz").await.starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn a_copy_that_nobody_takes_waits_and_ends_with_its_reader() {
    let served = serve_agent(None, Some(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs_err::write(&file, vec![1; 30_000_000]).unwrap();
    let mut stream = connect(served.port).await;
    let get = with_secret(&format!("GET /agent/files?path={}", file.display()));
    stream.write_all(get.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    assert!(get_ok(served.port).await);
    assert_eq!(served.agent.copies.available_permits(), MAX_COPIES - 1);
    drop(stream);
    let ended = async {
        while served.agent.copies.available_permits() < MAX_COPIES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("an end");
}
