//! The streams of the real daemon: events as they come and again, and what of a stream cannot be had.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{manifest, plugin};
use crate::daemon::Daemon;

/// How long an event may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// One server-sent event.
#[derive(Debug, PartialEq)]
struct Sent {
    event: String,
    id: Option<u64>,
    data: Value,
}

struct Stream(BufReader<UnixStream>);

impl Stream {
    fn open(daemon: &Daemon, query: &str, header: &str) -> Self {
        let mut stream = UnixStream::connect(&daemon.socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let request =
            format!("GET /api/v1/events/vms?{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        Self(reader)
    }

    /// The next event; the sizes of chunks between them are passed over.
    fn next(&mut self) -> Sent {
        let mut sent = Sent {
            event: String::new(),
            id: None,
            data: Value::Null,
        };
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            match line.trim_end_matches(['\r', '\n']).split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut sent.event),
                Some(("id", number)) => sent.id = Some(number.parse().unwrap()),
                Some(("data", data)) => sent.data = serde_json::from_str(data).unwrap(),
                // A line without anything ends it; sizes and ends of chunks stand before and after a whole one.
                None if line == "\n" && !sent.data.is_null() => return sent,
                Some(_) | None => {}
            }
        }
    }
}

#[test]
fn events_come_and_come_again() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let mut all = Stream::open(&daemon, "", "");
    let mut others = Stream::open(&daemon, "vm=y&type=PLUGIN_REMOVED,VM_RUNNING", "");
    let dir = tempfile::tempdir().unwrap();
    let mut description = manifest(&plugin(dir.path()));
    for name in ["x", "y"] {
        description["name"] = json!(name);
        let installed = daemon.call("POST", "/api/v1/plugins", &description.to_string());
        assert_eq!(installed.status, 201, "{installed:?}");
    }
    let first = all.next();
    assert_eq!(
        (first.event.as_str(), first.id, &first.data["name"]),
        ("PLUGIN_INSTALLED", Some(1), &json!("x"))
    );
    assert_eq!(first.data["type"], "PLUGIN_INSTALLED");
    assert_eq!(all.next().data["name"], "y");
    for name in ["x", "y"] {
        let removed = daemon.call("DELETE", &format!("/api/v1/plugins/{name}"), "");
        assert_eq!(removed.status, 204, "{removed:?}");
    }
    assert_eq!(all.next().id, Some(3));
    let removed = others.next();
    assert_eq!(
        (removed.event.as_str(), removed.id),
        ("PLUGIN_REMOVED", Some(4)),
        "neither the installation nor the other plugin"
    );
    drop((all, others));
    let mut again = Stream::open(&daemon, "after=1", "Last-Event-ID: 2\r\n");
    assert_eq!([again.next().id, again.next().id], [Some(3), Some(4)]);
    let mut unknown = Stream::open(&daemon, "after=99", "");
    assert_eq!(
        unknown.next(),
        Sent {
            event: "GAP".to_owned(),
            id: None,
            data: json!({"after": 99})
        }
    );
    assert_eq!(unknown.next().id, Some(1));
}

#[test]
fn what_cannot_be_streamed_is_a_problem() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    for query in ["type=VM_LOST", "vm=No", "after=x"] {
        daemon
            .call("GET", &format!("/api/v1/events/vms?{query}"), "")
            .is_problem(400, "invalid-request");
    }
    for (path, status, code) in [
        ("/api/v1/vms/nobody/logs", 404, "vm-not-found"),
        (
            "/api/v1/vms/nobody/logs?stream=console",
            404,
            "vm-not-found",
        ),
        ("/api/v1/vms/nobody/logs?since=soon", 400, "invalid-request"),
        (
            "/api/v1/vms/nobody/logs?stream=stdin",
            400,
            "invalid-request",
        ),
    ] {
        daemon.call("GET", path, "").is_problem(status, code);
    }
}
