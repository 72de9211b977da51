//! A request's id and trace, from the client through the log to the guest and to a collector that behaves, or does not.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::routing::any;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::guest_lab::{Lab, json_of};
use crate::netns::{self, Namespace};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A workload that tells what it was told.
fn echo() -> Router {
    let told = async |headers: HeaderMap| {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        let (id, parent, state) = (
            text("x-request-id"),
            text("traceparent"),
            text("tracestate"),
        );
        axum::Json(json!({"id": id, "parent": parent, "state": state}))
    };
    Router::new().route("/v1/{*path}", any(told))
}

#[tokio::test]
async fn a_guest_is_told_whose_request_it_answers() {
    let lab = Lab::new(echo()).await;
    for (method, path) in [
        ("GET", "/api/v1/vms/web/agent/v1/x"),
        ("POST", "/api/v1/vms/web/actions/web/go"),
    ] {
        let request = || Request::builder().method(method).uri(path);
        let known = request()
            .header("x-request-id", "deploy-7")
            .header("traceparent", PARENT)
            .header("tracestate", "a=b");
        let answer = lab.call(known.body(Body::from("{}")).unwrap()).await;
        assert_eq!(answer.headers()["x-request-id"], "deploy-7");
        let told = json_of(answer).await;
        let expected = json!({"id": "deploy-7", "parent": PARENT, "state": "a=b"});
        assert_eq!(told, expected, "{path}");

        let odd = request().header("x-request-id", "two words");
        let answer = lab.call(odd.body(Body::from("{}")).unwrap()).await;
        let id = answer.headers()["x-request-id"].clone();
        assert_ne!(id, "two words");
        assert_eq!(json_of(answer).await["id"], id.to_str().unwrap());
    }
}

/// A collector in `namespace` that answers with `answer`, or never if that is empty: its address, and what came.
fn collector(namespace: &Namespace, answer: &'static str) -> (String, Receiver<Vec<u8>>) {
    let listener = namespace.run(|| async { TcpListener::bind("127.0.0.1:0").unwrap() });
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, came) = mpsc::channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if sender.send(read_request(&mut stream)).is_err() {
                return;
            }
            if answer.is_empty() {
                open.push(stream);
            } else {
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (url, came)
}

fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).unwrap();
        read.extend_from_slice(&piece[..length]);
        let whole = position(&read, b"\r\n\r\n").is_some_and(|end| {
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            let head = head.to_lowercase();
            let mut lines = head.lines();
            let length = lines.find_map(|line| line.strip_prefix("content-length: "));
            read.len() >= end + 4 + length.unwrap().parse::<usize>().unwrap()
        });
        if whole || length == 0 {
            return read;
        }
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut windows = haystack.windows(needle.len());
    windows.position(|window| window == needle)
}

const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn a_request_is_in_the_log_and_at_the_collector_without_what_is_secret() {
    if !netns::can_run("the export of traces") {
        return;
    }
    let namespace = Namespace::new();
    let (url, came) = collector(&namespace, TAKEN);
    let environment = [
        ("VOLANT_OTLP_ENDPOINT", url.as_str()),
        ("VOLANT_LOG_FORMAT", "json"),
        ("VOLANT_LOG", "debug"),
    ];
    let daemon = Daemon::start_on_tcp(namespace, &environment);
    let token = daemon.token();
    let answer = daemon.send_over_tcp(&format!(
        "GET /api/v1/vms/unheard-of HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Volant-API-Key: {token}\r\n\
         X-Request-Id: deploy-7\r\nTraceparent: {PARENT}\r\n\r\n"
    ));
    answer.is_problem(404, "vm-not-found");
    assert_eq!(answer.json()["request_id"], "deploy-7");
    let trace = hex::decode(TRACE).unwrap();
    let sent = came.iter().find(|sent| position(sent, &trace).is_some());
    let sent = sent.unwrap();
    assert!(sent.starts_with(b"POST /v1/traces HTTP/1.1\r\n"));
    for part in [
        "GET /api/v1/vms/{name}",
        "deploy-7",
        "service.name",
        "volantd",
    ] {
        assert!(position(&sent, part.as_bytes()).is_some(), "{part}");
    }
    for secret in [token.as_str(), "unheard-of"] {
        assert_eq!(position(&sent, secret.as_bytes()), None, "{secret}");
    }

    let log = daemon.log();
    assert!(!log.contains(&token));
    let mut lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.find(|line| line["span"]["request_id"] == "deploy-7");
    let line = line.unwrap_or_else(|| panic!("no line of the request in {log}"));
    assert_eq!(line["span"]["trace_id"], TRACE, "{line}");
    daemon.end();
}

#[test]
fn a_collector_that_never_answers_holds_nobody_up() {
    if !netns::can_run("the export of traces") {
        return;
    }
    let namespace = Namespace::new();
    let (url, came) = collector(&namespace, "");
    let environment = [("VOLANT_OTLP_ENDPOINT", url.as_str())];
    let daemon = Daemon::start_on_tcp(namespace, &environment);
    let ask = || assert_eq!(daemon.call("GET", "/api/v1/vms", "").status, 200);
    ask();
    // From here on the export hangs.
    came.recv().unwrap();
    (0..200).for_each(|_| ask());
    daemon.end();
}
