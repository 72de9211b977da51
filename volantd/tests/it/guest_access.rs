//! Sessions, copies, statistics and what is passed on, over HTTP, with agents that behave and agents that do not.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use common::agent::session::{Channel, PROTOCOL, header, parse_header};
use common::agent::{EXEC_PATH, FILES_PATH, SECRET_HEADER, STATS_PATH};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::guest_lab::{Lab, TOKEN, is_problem, json_of};

const EXEC: &str = "/ws/v1/vms/web/exec";

/// What an agent does with the connection of a session.
type Play = fn(TokioIo<Upgraded>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// An agent that begins sessions and plays them so.
fn sessions(play: Play) -> Router {
    Router::new().route(
        EXEC_PATH,
        post(async move |mut request: Request<Body>| {
            assert_eq!(request.headers()["upgrade"], PROTOCOL);
            assert!(request.headers().contains_key(SECRET_HEADER));
            assert!(request.headers().contains_key("x-request-id"));
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { play(TokioIo::new(upgrade.await.unwrap())).await });
            let headers = [("connection", "upgrade"), ("upgrade", PROTOCOL)];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }),
    )
}

async fn read(connection: &mut TokioIo<Upgraded>) -> Option<(Channel, Vec<u8>)> {
    let mut head = [0; 5];
    connection.read_exact(&mut head).await.ok()?;
    let (channel, length) = parse_header(head).unwrap();
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload).await.ok()?;
    Some((channel, payload))
}

async fn write(connection: &mut TokioIo<Upgraded>, channel: Channel, payload: &[u8]) {
    let mut message = header(channel, payload.len()).unwrap().to_vec();
    message.extend_from_slice(payload);
    connection.write_all(&message).await.unwrap();
}

/// The client's side of a WebSocket (RFC 6455), with small messages only.
struct Socket(TokioIo<Upgraded>);

impl Socket {
    async fn open(lab: &Lab, path: &str) -> Self {
        let request = Request::get(path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = lab.call(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        Self(TokioIo::new(hyper::upgrade::on(answer).await.unwrap()))
    }

    /// Sends a frame; its mask is 0, so the payload stays as it is.
    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&u64::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next frame's opcode and payload.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        let first = self.0.read_u8().await.unwrap();
        let length = match self.0.read_u8().await.unwrap() {
            126 => usize::from(self.0.read_u16().await.unwrap()),
            127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.unwrap();
        (first & 0x0f, payload)
    }

    /// Checks that the session ends with this problem and close code.
    async fn fails(&mut self, code: &str, close: u16) {
        let (opcode, message) = self.next().await;
        assert_eq!((opcode, message[0]), (2, Channel::Failed.byte()));
        let problem: Value = serde_json::from_slice(&message[1..]).unwrap();
        assert_eq!(problem["code"], code, "{problem}");
        self.closes(close).await;
    }

    async fn closes(&mut self, code: u16) {
        let (opcode, reason) = self.next().await;
        assert_eq!((opcode, &reason[..2]), (8, &code.to_be_bytes()[..]));
    }
}

#[tokio::test]
async fn a_session_goes_both_ways_and_ends_with_the_guests_last_word() {
    let lab = Lab::new(sessions(|mut guest| {
        Box::pin(async move {
            assert_eq!(read(&mut guest).await.unwrap().0, Channel::Start);
            let (channel, input) = read(&mut guest).await.unwrap();
            assert_eq!(channel, Channel::Stdin);
            write(&mut guest, Channel::Stdout, &input).await;
            write(&mut guest, Channel::Exit, br#"{"code":7}"#).await;
        })
    }))
    .await;
    let mut socket = Socket::open(&lab, EXEC).await;
    socket.send(2, b"\x00{\"command\":[\"cat\"]}").await;
    let mut input = vec![1];
    input.resize(65537, b'x');
    socket.send(2, &input).await;
    let (_, output) = socket.next().await;
    assert_eq!((output[0], output.len()), (16, 65537));
    assert_eq!(socket.next().await, (2, b"\x12{\"code\":7}".to_vec()));
    socket.closes(1000).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_guests_session() {
    let (told, mut ended) = mpsc::channel(1);
    let told = std::sync::Arc::new(told);
    let agent = Router::new().route(
        EXEC_PATH,
        post(async move |mut request: Request<Body>| {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut guest = TokioIo::new(upgrade.await.unwrap());
                while read(&mut guest).await.is_some() {}
                told.send(()).await.unwrap();
            });
            let headers = [("connection", "upgrade"), ("upgrade", PROTOCOL)];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }),
    );
    let lab = Lab::new(agent).await;
    let mut socket = Socket::open(&lab, EXEC).await;
    socket.send(2, b"\x00{}").await;
    drop(socket);
    ended.recv().await.unwrap();
}

#[tokio::test]
async fn a_guest_that_breaks_off_or_lies_is_told_of() {
    let plays: [Play; 4] = [
        |guest| Box::pin(async move { drop(guest) }),
        |mut guest| {
            Box::pin(async move { guest.write_all(&[16, 0, 0, 0, 9, b'x']).await.unwrap() })
        },
        |mut guest| Box::pin(async move { guest.write_all(&[16, 255, 0, 0, 0]).await.unwrap() }),
        |mut guest| Box::pin(async move { guest.write_all(&[1, 0, 0, 0, 0]).await.unwrap() }),
    ];
    for play in plays {
        let lab = Lab::new(sessions(play)).await;
        let mut socket = Socket::open(&lab, EXEC).await;
        socket.fails("guest-unreachable", 1011).await;
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told() {
    let lab = Lab::new(sessions(|mut guest| {
        Box::pin(async move { while read(&mut guest).await.is_some() {} })
    }))
    .await;
    let long = vec![1; 65538];
    let table = [
        (1, &b"text"[..], 1003),
        (2, &[][..], 1008),
        (2, &[16, 1][..], 1008),
        (2, &[99][..], 1008),
        (2, &long, 1009),
    ];
    for (opcode, message, close) in table {
        let mut socket = Socket::open(&lab, EXEC).await;
        socket.send(opcode, message).await;
        socket.fails("invalid-request", close).await;
    }
}

#[tokio::test]
async fn a_session_ends_with_its_vm() {
    let lab = Lab::new(sessions(|guest| {
        Box::pin(async move {
            let _open = guest;
            std::future::pending::<()>().await;
        })
    }))
    .await;
    let mut socket = Socket::open(&lab, EXEC).await;
    lab.cut_power();
    socket.fails("guest-unreachable", 1011).await;
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let lab = Lab::with_agent_at(1).await;
    for path in [EXEC, "/api/v1/vms/web/stats", "/api/v1/vms/web/agent/v1/x"] {
        let request = Request::get(path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = lab.call(request.body(Body::empty()).unwrap()).await;
        is_problem(answer, 404, "vm-not-found").await;
    }
    lab.create("web").await;
    let files = "/api/v1/vms/web/files?path=/x";
    is_problem(lab.get(files).await, 502, "guest-unreachable").await;
    let proxied = lab.get("/api/v1/vms/web/agent/v1/x").await;
    is_problem(proxied, 502, "guest-unreachable").await;
    lab.post("/api/v1/vms/web/stop", json!({})).await;
    lab.until("web", "stopped").await;
    for path in [
        files,
        "/api/v1/vms/web/agent/healthz",
        "/api/v1/vms/web/stats",
    ] {
        is_problem(lab.get(path).await, 409, "wrong-phase").await;
    }
    assert_eq!(lab.get_json("/api/v1/stats").await, json!([]));
}

const STAT: &str = r#"{"name":"x","kind":"file","size_bytes":3,"mode":420}"#;

/// Makes the broken copy break, once its beginning has arrived.
static BREAK: Notify = Notify::const_new();

/// An agent that gives endless, short, broken and missing files, and counts what it is sent.
fn copies() -> Router {
    Router::new().route(
        FILES_PATH,
        any(async |request: Request<Body>| -> Response {
            let endless =
                stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 65536])));
            let path = request.uri().query().unwrap_or_default().to_owned();
            let stat = [("x-volant-file-stat", STAT), ("set-cookie", "a=b")];
            match path.as_str() {
                "path=/endless" => (stat, Body::from_stream(endless)).into_response(),
                "path=/short" => (stat, "tar").into_response(),
                "path=%2Fbytes%ff" => ([("x-volant-file-stat", "no json")], "tar").into_response(),
                "path=/broken" => {
                    let first = stream::iter([Ok(Bytes::from("tar"))]);
                    let error = stream::once(async {
                        BREAK.notified().await;
                        Err(std::io::Error::other("disk"))
                    });
                    Body::from_stream(first.chain(error)).into_response()
                }
                "path=/into" => {
                    let mut body = request.into_body();
                    let mut bytes = 0;
                    while let Some(frame) = body.frame().await {
                        bytes += frame.unwrap().into_data().unwrap().len();
                    }
                    assert_eq!(bytes, 8 * 1024 * 1024);
                    (StatusCode::NO_CONTENT, stat).into_response()
                }
                _ => {
                    let problem =
                        common::api::Problem::new(404, "x", "not-found", "Nothing is there");
                    (StatusCode::NOT_FOUND, axum::Json(problem)).into_response()
                }
            }
        }),
    )
}

#[tokio::test]
async fn copies_stream_through_and_break_where_they_break() {
    let lab = Lab::new(copies()).await;
    let files = |path: &str| format!("/api/v1/vms/web/files?path={path}");
    let short = lab.get(&files("/short")).await;
    assert_eq!(short.headers()["x-volant-file-stat"], STAT);
    assert_eq!(short.headers()["content-type"], "application/x-tar");
    assert!(!short.headers().contains_key("set-cookie"));
    assert_eq!(short.into_body().collect().await.unwrap().to_bytes(), "tar");

    let bytes = lab.get(&files("%2Fbytes%ff")).await;
    assert_eq!(bytes.status(), StatusCode::OK);
    assert!(!bytes.headers().contains_key("x-volant-file-stat"));

    let mut broken = lab.get(&files("/broken")).await.into_body();
    let first = broken.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "tar");
    BREAK.notify_one();
    assert!(broken.frame().await.unwrap().is_err());

    let mut endless = lab.get(&files("/endless")).await.into_body();
    let mut bytes = 0;
    while bytes < 8 * 1024 * 1024 {
        bytes += endless
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            .len();
    }
    drop(endless);

    let piece = Bytes::from(vec![0; 65536]);
    let upload = stream::iter((0..128).map(move |_| Ok::<_, Infallible>(piece.clone())));
    let request = Request::put(files("/into")).body(Body::from_stream(upload));
    let done = lab.call(request.unwrap()).await;
    assert_eq!(done.status(), StatusCode::NO_CONTENT);

    let look = Request::head(files("/short")).body(Body::empty()).unwrap();
    assert_eq!(lab.call(look).await.headers()["x-volant-file-stat"], STAT);
    is_problem(lab.get(&files("/nothing")).await, 404, "not-found").await;
    is_problem(lab.get(&files("x")).await, 400, "invalid-request").await;
    is_problem(
        lab.get("/api/v1/vms/web/files").await,
        400,
        "invalid-request",
    )
    .await;
}

#[tokio::test]
async fn a_copy_breaks_off_when_its_vm_ends() {
    let agent = Router::new().route(
        FILES_PATH,
        get(async || {
            let first = stream::iter([Ok::<_, Infallible>(Bytes::from("tar"))]);
            Body::from_stream(first.chain(stream::pending()))
        }),
    );
    let lab = Lab::new(agent).await;
    let mut body = lab.get("/api/v1/vms/web/files?path=/x").await.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "tar"
    );
    lab.cut_power();
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn copies_of_one_vm_are_bounded_and_places_come_back() {
    let agent = Router::new().route(
        FILES_PATH,
        get(async || Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())),
    );
    let lab = Lab::new(agent).await;
    let path = "/api/v1/vms/web/files?path=/x";
    let mut open = Vec::new();
    for _ in 0..8 {
        let copy = lab.get(path).await;
        assert_eq!(copy.status(), StatusCode::OK);
        open.push(copy);
    }
    let refused = is_problem(lab.get(path).await, 503, "unavailable").await;
    assert!(refused["detail"].as_str().unwrap().contains("8 at a time"));
    drop(open);
    // The daemon learns of it when it next looks at its connections.
    while lab.get(path).await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn statistics_have_both_sides_and_wait_for_no_guest() {
    let stats = json!({"uptime_us": 1, "cpu_us": 2, "memory_total_bytes": 3, "memory_available_bytes": 4,
        "disk_total_bytes": 5, "disk_used_bytes": 6, "oom_kills": 7, "processes": 8});
    let answer = stats.clone();
    let agent = Router::new().route(STATS_PATH, get(async move || axum::Json(answer)));
    let lab = Lab::new(agent).await;
    // Its agent is not there: the list has the host's side of it.
    lab.create("other").await;
    let found = lab.get_json("/api/v1/vms/web/stats").await;
    assert_eq!((&found["name"], &found["guest"]), (&json!("web"), &stats));
    assert_eq!(found["disks"][0]["read_bytes"], 1);
    assert!(found["host"]["cpu_us"].is_u64() && found.get("network").is_none());
    let all = lab.get_json("/api/v1/stats").await;
    let names: Vec<&Value> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| &vm["name"])
        .collect();
    assert_eq!(names, ["web", "other"]);
    assert!(all[0].get("guest").is_some() && all[1].get("guest").is_none());
}

#[tokio::test]
async fn a_guest_that_hangs_is_left_out_of_the_statistics() {
    let agent = Router::new().route(STATS_PATH, get(std::future::pending::<()>));
    let lab = Lab::new(agent).await;
    let found = lab.get_json("/api/v1/vms/web/stats").await;
    assert!(found.get("guest").is_none(), "{found}");
}

/// Tells what of a request arrived.
async fn mirror(headers: HeaderMap, request: Request<Body>) -> Response {
    let names: Vec<&str> = headers.keys().map(axum::http::HeaderName::as_str).collect();
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let seen = json!({"method": method, "uri": uri, "headers": names, "host": headers["host"].to_str().unwrap()});
    (
        [
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("set-cookie", "a=b"),
        ],
        axum::Json(seen),
    )
        .into_response()
}

#[tokio::test]
async fn requests_are_passed_on_without_what_is_ours() {
    let agent = Router::new().fallback(mirror);
    let lab = Lab::new(agent).await;
    let request = Request::delete("/api/v1/vms/web/agent/v1/a%2Fb/../c?x=%20")
        .header("x-volant-secret", "guess")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("cookie", "a=b");
    let answer = lab.call(request.body(Body::empty()).unwrap()).await;
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(policy.starts_with("sandbox"));
    for name in ["x-mine", "set-cookie"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let seen = json_of(answer).await;
    assert_eq!(
        (&seen["method"], &seen["uri"]),
        (&json!("DELETE"), &json!("/v1/a%2Fb/../c?x=%20"))
    );
    assert_eq!(seen["headers"], json!(["host", "x-request-id"]));
    assert_eq!(seen["host"], "guest");
    for (method, path, uri) in [
        ("OPTIONS", "v1/x", "/v1/x"),
        ("OPTIONS", "", "/"),
        ("GET", "?a=b", "/?a=b"),
        ("POST", "", "/"),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/vms/web/agent/{path}"));
        let seen = json_of(lab.call(request.body(Body::empty()).unwrap()).await).await;
        assert_eq!(
            (&seen["method"], &seen["uri"]),
            (&json!(method), &json!(uri))
        );
    }
    for path in [
        "agent/status",
        "agent%2fstatus",
        "%2e/agent/exec",
        "/agent/exec",
        "x",
    ] {
        let answer = lab.get(&format!("/api/v1/vms/web/agent/{path}")).await;
        is_problem(answer, 404, "not-found").await;
    }
}

#[tokio::test]
async fn a_workload_sends_no_client_to_the_api() {
    let agent = Router::new().fallback(async |request: Request<Body>| {
        let to = request.headers()["x-to"].clone();
        (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response()
    });
    let lab = Lab::new(agent).await;
    let prefix = "/api/v1/vms/web/agent/v1";
    for (to, seen) in [
        ("/api/v1/vms/other", Some("/api/v1/vms/other")),
        ("../../../other", Some("/other")),
        (
            "http://localhost:7777/api/v1/vms/other",
            Some("/api/v1/vms/other"),
        ),
        ("https://example.org/", None),
    ] {
        let request = Request::delete(format!("{prefix}/x")).header("x-to", to);
        let answer = lab.call_on_unix(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
        let found = answer.headers().get("location");
        let seen = seen.map(|path| format!("{prefix}{path}"));
        assert_eq!(
            found.map(|found| found.to_str().unwrap().to_owned()),
            seen,
            "{to}"
        );
    }
}

#[tokio::test]
async fn the_token_reaches_no_guest_on_the_unix_socket_either() {
    let lab = Lab::new(Router::new().fallback(mirror)).await;
    let bearer = format!("Bearer {TOKEN}");
    let cookie = format!("theme=dark; token={TOKEN}");
    let table = [
        ("authorization", bearer.as_str(), false),
        ("authorization", "Bearer of-the-workload", true),
        ("x-volant-api-key", "whatever it is", false),
        ("cookie", cookie.as_str(), false),
        ("cookie", "session=of-the-workload", false),
    ];
    for (name, value, arrives) in table {
        let request = Request::get("/api/v1/vms/web/agent/v1/x").header(name, value);
        let answer = lab.call_on_unix(request.body(Body::empty()).unwrap());
        let seen = json_of(answer.await).await;
        let names = seen["headers"].as_array().unwrap();
        assert_eq!(names.contains(&json!(name)), arrives, "{name}: {value}");
    }
}

#[tokio::test]
async fn bodies_stream_through_piece_by_piece() {
    let agent = Router::new().route(
        "/v1/echo",
        any(async |request: Request<Body>| (StatusCode::IM_A_TEAPOT, request.into_body())),
    );
    let lab = Lab::new(agent).await;
    let (pieces, body) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let body = stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    let request = Request::patch("/api/v1/vms/web/agent/v1/echo").body(Body::from_stream(body));
    let answer = lab.call(request.unwrap()).await;
    assert_eq!(answer.status(), StatusCode::IM_A_TEAPOT);
    let mut echoed = answer.into_body();
    for _ in 0..4 {
        pieces
            .send(Ok(Bytes::from(vec![b'x'; 1000])))
            .await
            .unwrap();
        let frame = echoed.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().len(), 1000);
    }
    drop(pieces);
    assert!(echoed.frame().await.is_none());
}

#[tokio::test]
async fn other_protocols_go_through_until_either_end_leaves() {
    let (told, ended) = oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    let told = std::sync::Arc::new(told);
    let agent = Router::new().route(
        "/v1/ws",
        get(async move |mut request: Request<Body>| {
            assert_eq!(request.headers()["upgrade"], "chat");
            let upgrade = hyper::upgrade::on(&mut request);
            let told = told.lock().unwrap().take().unwrap();
            tokio::spawn(async move {
                let mut guest = TokioIo::new(upgrade.await.unwrap());
                let mut said = [0; 4];
                guest.read_exact(&mut said).await.unwrap();
                guest.write_all(&said).await.unwrap();
                assert_eq!(guest.read(&mut said).await.unwrap(), 0);
                told.send(()).unwrap();
            });
            let headers = [
                ("connection", "upgrade"),
                ("upgrade", "chat"),
                ("x-extra", "1"),
            ];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }),
    );
    let lab = Lab::new(agent).await;
    let request = Request::get("/api/v1/vms/web/agent/v1/ws")
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "chat");
    let answer = lab.call(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["x-extra"], "1");
    let mut client = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    client.write_all(b"ping").await.unwrap();
    let mut said = [0; 4];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ping");
    drop(client);
    ended.await.unwrap();
}

#[tokio::test]
async fn silent_workloads_hold_bounded_places() {
    let agent = Router::new().route(
        "/v1/x",
        get(async || Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())),
    );
    let lab = Lab::new(agent).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let answer = lab.get("/api/v1/vms/web/agent/v1/x").await;
        assert_eq!(answer.status(), StatusCode::OK);
        open.push(answer);
    }
    let refused = lab.get("/api/v1/vms/web/agent/v1/x").await;
    is_problem(refused, 503, "unavailable").await;
    // Other ways into the same guest are not concerned.
    let files = lab.get("/api/v1/vms/web/files?path=/x").await;
    assert_ne!(files.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// A workload with actions, behind an agent.
fn workload() -> Router {
    Router::new()
        .route(
            "/v1/go",
            post(async |body: String| ([("content-type", "text/plain")], format!("got {body}"))),
        )
        .route("/v1/hang", post(std::future::pending::<()>))
}

#[tokio::test]
async fn actions_reach_the_workload() {
    let lab = Lab::new(workload()).await;
    let go = "/api/v1/vms/web/actions/web/go";
    let answer = lab.post(go, json!({"a": 1})).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/plain");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, r#"got {"a":1}"#);
    is_problem(lab.post(go, json!([1])).await, 400, "invalid-request").await;
    let late = lab
        .post("/api/v1/vms/web/actions/web/hang", json!({}))
        .await;
    is_problem(late, 504, "guest-timeout").await;
    for (path, code) in [
        ("/api/v1/vms/web/actions/web/other", "action-not-found"),
        ("/api/v1/vms/web/actions/other/go", "plugin-not-found"),
        ("/api/v1/vms/other/actions/web/go", "vm-not-found"),
        ("/api/v1/plugins/other/actions/go", "plugin-not-found"),
    ] {
        is_problem(lab.post(path, json!({})).await, 404, code).await;
    }
}

#[tokio::test]
async fn what_a_workload_refuses_is_told_and_nothing_is_accepted() {
    let agent = Router::new().route(
        "/v1/go",
        post(async |body: String| match body.as_str() {
            "{}" => StatusCode::OK.into_response(),
            r#"{"to":1}"# => (StatusCode::FOUND, [("location", "/x")]).into_response(),
            _ => (StatusCode::CONFLICT, "no\u{1b}[2J\n").into_response(),
        }),
    );
    let lab = Lab::new(agent).await;
    let go = "/api/v1/vms/web/actions/web/go";
    assert_eq!(lab.post(go, json!({})).await.status(), StatusCode::ACCEPTED);
    let refused = is_problem(lab.post(go, json!({"x": 1})).await, 409, "action-failed").await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.ends_with("HTTP status 409: no [2J"), "{detail}");
    is_problem(lab.post(go, json!({"to": 1})).await, 502, "action-failed").await;
}

#[tokio::test]
async fn an_action_of_a_plugin_needs_one_vm() {
    let lab = Lab::new(workload()).await;
    let go = "/api/v1/plugins/web/actions/go";
    assert_eq!(lab.post(go, json!({})).await.status(), StatusCode::OK);
    lab.create("other").await;
    let refused = is_problem(lab.post(go, json!({})).await, 409, "ambiguous-vm").await;
    assert!(refused["detail"].as_str().unwrap().starts_with("2 VMs"));
}

#[tokio::test]
async fn a_vm_is_described_by_its_workload_first() {
    let description = r#"{"openapi":"3.1.0"}"#;
    let agent = Router::new().route("/v1/openapi", get(async move || description));
    let lab = Lab::new(agent).await;
    let found = lab.get("/api/v1/vms/web/openapi").await;
    assert_eq!(found.headers()["content-type"], "application/json");
    assert_eq!(json_of(found).await, json!({"openapi": "3.1.0"}));
}

#[tokio::test]
async fn a_manifest_cannot_make_the_daemon_look_inside() {
    // Every path is a page, as with many applications in browsers; the manifest names a place on loopback.
    let agent = Router::new().fallback(async || "<!doctype html>");
    let lab = Lab::new(agent).await;
    let found = lab.get("/api/v1/vms/web/openapi").await;
    let refused = is_problem(found, 502, "openapi-unavailable").await;
    let hint = refused["hints"][0].as_str().unwrap();
    assert!(
        hint.contains("`127.0.0.1` is not on the public Internet"),
        "{hint}"
    );
}
