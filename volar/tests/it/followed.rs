//! Followed logs while the daemon is killed and starts again: nothing is missing, and nothing comes twice.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use axum::Router;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use common::api::ConsolePiece;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};

use crate::fake::{Server, problem, program};

/// How the daemon that is asked ends its answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is killed before.
    Never,
    /// The VM is deleted.
    Deleted,
}

fn entry(id: usize) -> Value {
    json!({"id": id, "time": "2026-11-23T10:00:00Z", "stream": "stdout", "line": format!("line {id}"), "seq": id, "launch": "1"})
}

/// A daemon whose log has so many lines, which answers as volantd does: what the query says wins over the header.
fn daemon(lines: usize, end: End) -> Router {
    let logs = move |RawQuery(query): RawQuery, headers: HeaderMap| async move {
        let query = query.unwrap_or_default();
        let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
        let last: Option<usize> = header("last-event-id").map(|id| id.parse().unwrap());
        let tail = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("tail="))
            .map(|tail| tail.parse::<usize>().unwrap());
        let kept: Vec<usize> = (last.unwrap_or(0) + 1..=lines).collect();
        let first = kept.len() - tail.unwrap_or(kept.len()).min(kept.len());
        let shown = &kept[first..];
        let is_console = query.contains("stream=console");
        if query.contains("format=json") || header("accept") != Some("text/event-stream") {
            let lines = shown.iter().map(|id| format!("{}\n", entry(*id)));
            let text = lines.collect::<Vec<_>>().concat();
            return answer("application/x-ndjson", text, end);
        }
        let mut text = format!("id: {}\n\n", shown.first().map_or(lines, |id| id - 1));
        for id in shown {
            let (name, data) = if is_console {
                let piece = ConsolePiece::new(format!("line {id}\n").as_bytes());
                ("console", serde_json::to_string(&piece).unwrap())
            } else {
                ("log", entry(*id).to_string())
            };
            text += &format!("event: {name}\ndata: {data}\nid: {id}\n\n");
        }
        answer("text/event-stream", text, end)
    };
    Router::new().route("/api/v1/vms/{name}/logs", get(logs))
}

fn answer(kind: &'static str, text: String, end: End) -> Response {
    let begin = stream::iter([Ok::<_, Infallible>(text)]);
    let body = match end {
        End::Never => Body::from_stream(begin.chain(stream::pending())),
        End::Deleted => Body::from_stream(begin),
    };
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

fn follow(server: &Server, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(program())
        .args(["--api", &server.url, "logs", "-f", "web"])
        .args(arguments)
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn next(out: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Follows a log of five lines with these arguments over a restart, with three more written meanwhile.
fn over_a_restart(arguments: &[&str], before: usize) -> Vec<String> {
    let mut server = Server::unix(daemon(5, End::Never));
    let (child, mut out) = follow(&server, arguments);
    let mut lines: Vec<String> = (0..before).map(|_| next(&mut out)).collect();
    while server.seen.all().is_empty() {
        std::thread::yield_now();
    }
    if before == 0 {
        // Nothing tells that volar has read where it begins.
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    server.restart(daemon(8, End::Deleted));
    loop {
        let line = next(&mut out);
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    lines
}

fn lines(ids: std::ops::RangeInclusive<usize>) -> Vec<String> {
    ids.map(|id| format!("line {id}")).collect()
}

#[test]
fn a_followed_log_survives_the_daemon() {
    for (arguments, before, first) in [
        (&[][..], 5, 1),
        (&["--tail", "2"], 2, 4),
        (&["--tail", "0"], 0, 6),
        (&["--since", "10m"], 5, 1),
        (&["--stream", "stdout"], 5, 1),
        (&["--stream", "console"], 5, 1),
        (&["--stream", "console", "--tail", "2"], 2, 4),
        (&["--stream", "console", "--tail", "0"], 0, 6),
    ] {
        let shown = over_a_restart(arguments, before);
        assert_eq!(shown, lines(first..=8), "{arguments:?}");
    }
}

#[test]
fn a_followed_log_in_json_survives_the_daemon() {
    let shown = over_a_restart(&["-o", "json"], 5);
    let ids: Vec<u64> = shown
        .iter()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["id"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_vm_that_is_deleted_while_the_daemon_is_away_ends_its_log() {
    let mut server = Server::unix(daemon(1, End::Never));
    let (child, mut out) = follow(&server, &[]);
    assert_eq!(next(&mut out), "line 1");
    let gone = get(async || problem(404, "vm-not-found", "There is no VM `web`"));
    server.restart(Router::new().route("/api/v1/vms/{name}/logs", gone));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_proxy_whose_daemon_is_away_is_asked_again() {
    let mut server = Server::unix(daemon(1, End::Never));
    let (mut child, mut out) = follow(&server, &[]);
    assert_eq!(next(&mut out), "line 1");
    server.restart(Router::new().route(
        "/api/v1/vms/{name}/logs",
        get(async || StatusCode::BAD_GATEWAY),
    ));
    let asked = server.seen.all().len();
    while server.seen.all().len() == asked {
        assert!(child.try_wait().unwrap().is_none(), "it went on");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    server.restart(daemon(2, End::Deleted));
    assert_eq!(next(&mut out), "line 2");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
