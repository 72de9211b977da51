//! What goes on: events through broken connections, and logs in lines.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::fake::{Server, problem, program};

fn event(id: u64, kind: &str, minute: u64) -> String {
    let data = json!({"id": id, "type": kind, "name": "web", "timestamp": format!("2026-11-23T10:{minute:02}:00Z"),
        "message": format!("number {id}"), "from_the_future": 1});
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n")
}

/// Sends two events and ends; after that, what the reader does not have.
fn events() -> Router {
    let calls = Arc::new(AtomicUsize::new(0));
    let stream = move |headers: HeaderMap| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let last = headers
            .get("last-event-id")
            .map(|id| id.to_str().unwrap().to_owned());
        async move {
            let text = if call == 0 {
                [
                    ": hello\n\n",
                    &event(1, "VM_CREATED", 1),
                    &event(2, "VM_RUNNING", 2),
                ]
                .concat()
            } else {
                assert_eq!(last.as_deref(), Some("2"));
                let gap = "event: GAP\ndata: {\"after\":2}\n\n";
                [
                    gap,
                    &event(3, "VM_FROM_THE_FUTURE", 3),
                    &event(5, "VM_FAILED", 5),
                ]
                .concat()
            };
            ([(header::CONTENT_TYPE, "text/event-stream")], text)
        }
    };
    Router::new().route("/api/v1/events/vms", get(stream))
}

#[test]
fn events_go_on_after_a_broken_connection() {
    let server = Server::unix(events());
    let mut child = Command::new(program())
        .args([
            "--api",
            &server.url,
            "events",
            "--vm",
            "web",
            "--type",
            "vm_created,VM_FAILED",
            "--after",
            "0",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let shown: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.contains("it is made again\nConnected again\nSome events are not kept"),
        "{err}"
    );
    insta::assert_snapshot!(shown.join("\n"), @r"
    2026-11-23T10:01:00.000Z  VM_CREATED        web  number 1
    2026-11-23T10:02:00.000Z  VM_RUNNING        web  number 2
    2026-11-23T10:05:00.000Z  VM_FAILED         web  number 5
    ");
    let first = &server.seen.all()[0];
    assert_eq!(
        first,
        "GET /api/v1/events/vms?vm=web&type=VM_CREATED,VM_FAILED&after=0"
    );
}

#[test]
fn kept_events_come_as_lines_of_json() {
    let server = Server::unix(events());
    let ran = server
        .volar(&[
            "events",
            "--no-follow",
            "--since",
            "2026-11-23T10:02:00Z",
            "-o",
            "json",
        ])
        .exits(0);
    let line: Value = serde_json::from_str(ran.out().trim()).unwrap();
    assert_eq!(
        (line["id"].as_u64(), line["from_the_future"].as_u64()),
        (Some(2), Some(1))
    );
    server
        .volar(&["events", "--type", "VM_LOST"])
        .exits(2)
        .says("is not a type of event");
    let refuse = get(async || problem(503, "unavailable", "There are too many readers"));
    let server = Server::unix(Router::new().route("/api/v1/events/vms", refuse));
    server
        .volar(&["events"])
        .exits(5)
        .says("There are too many readers");
}

fn line(seq: u64, stream: &str, text: &str, partial: bool) -> String {
    json!({"time": "2026-11-23T10:00:00Z", "stream": stream, "line": text, "partial": partial, "seq": seq, "launch": "1", "id": seq})
        .to_string()
}

#[test]
fn a_log_in_lines_is_printed_as_text_or_json() {
    let body = [
        line(1, "stdout", "one", false),
        line(2, "stderr", "t", true),
        line(3, "stderr", "wo\u{1b}[2J", false),
    ];
    let body = body.join("\n");
    let lines = move || async move { ([(header::CONTENT_TYPE, "application/x-ndjson")], body) };
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}/logs", get(lines)));
    server
        .volar(&[
            "logs",
            "web",
            "--stream",
            "stdout,stderr",
            "--since",
            "2026-11-23T09:00:00Z",
        ])
        .exits(0)
        .prints("one\ntwo\u{1b}[2J\n");
    assert_eq!(
        server.seen.all(),
        [
            "GET /api/v1/vms/web/logs?follow=false&since=2026-11-23T09%3A00%3A00Z&stream=stdout,stderr&format=json"
        ]
    );
    let ran = server.volar(&["vms", "logs", "web", "-t"]).exits(0);
    assert!(
        ran.out().starts_with("2026-11-23T10:00:00Z one\n"),
        "{ran:?}"
    );
    let out = server.volar(&["logs", "web", "-o", "json"]).exits(0).out();
    assert_eq!(out.lines().count(), 3);
    assert!(out.contains(r#""stream":"stderr""#), "{out}");
    let out = server.volar(&["logs", "web", "-o", "yaml"]).exits(0).out();
    assert_eq!(out.matches("---\n").count(), 3, "{out}");
    assert!(out.contains("\nstream: stderr\n"), "{out}");
    for format in ["json", "yaml"] {
        server
            .volar(&["logs", "web", "--stream", "console", "-o", format])
            .exits(2)
            .says("The console is bytes without lines");
    }
}

#[test]
fn a_followed_log_goes_on_after_its_last_line() {
    let calls = Arc::new(AtomicUsize::new(0));
    let follow = move |headers: HeaderMap| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let last = headers
            .get("last-event-id")
            .map(|id| id.to_str().unwrap().to_owned());
        async move {
            let text = match call {
                0 => format!("id: 1-1\ndata: {}\n\n", line(1, "stdout", "before", false)),
                _ => format!(
                    "id: 1-2\ndata: {}\n\n",
                    line(2, "stdout", &format!("after {last:?}"), false)
                ),
            };
            // The first connection breaks once its line is on the way.
            let pieces = futures_util::stream::unfold(Some(text), move |text| async move {
                match text {
                    Some(text) => Some((Ok(text), None)),
                    None if call == 0 => {
                        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                        Some((Err(std::io::Error::other("cut")), None))
                    }
                    None => None,
                }
            });
            (
                [(header::CONTENT_TYPE, "text/event-stream")],
                axum::body::Body::from_stream(pieces),
            )
        }
    };
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}/logs", get(follow)));
    server
        .volar(&["logs", "-f", "web"])
        .exits(0)
        .prints("before\nafter Some(\"1-1\")\n");
}
