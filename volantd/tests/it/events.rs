//! The streams of the real daemon: events as they come and again, how far a download is, and what of a stream cannot be had.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{manifest, plugin};
use crate::daemon::Daemon;
use crate::netns::{self, Namespace};

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
        let begun = Instant::now();
        loop {
            // What keeps the connection alive is no event.
            assert!(begun.elapsed() < LIMIT, "no event came");
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

/// Serves one download: the head and some of the body at once, the rest when it is told to.
fn slow_server(listener: TcpListener, body: Vec<u8>, first: usize, go_on: Receiver<()>) -> String {
    let url = format!(
        "http://user:s3cret@{}/plugin.cpio?token=s3cret",
        listener.local_addr().unwrap()
    );
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body[..first]).unwrap();
        go_on.recv().unwrap();
        stream.write_all(&body[first..]).unwrap();
    });
    url
}

#[test]
fn a_download_tells_how_far_it_is() {
    if !netns::can_run("a download of the real daemon") {
        return;
    }
    let namespace = Namespace::new();
    let listener = namespace.run(async || TcpListener::bind("127.0.0.1:0").unwrap());
    let daemon = Daemon::start_on_tcp(namespace, &[]);
    let dir = tempfile::tempdir().unwrap();
    let body = fs_err::read(plugin(dir.path())).unwrap();
    let (total, first) = (body.len(), body.len() / 2);
    let (go_on, told) = channel();
    let url = slow_server(listener, body, first, told);
    let mut downloads = Stream::open(&daemon, "vm=x&type=DOWNLOAD", "");
    let mut kept = Stream::open(&daemon, "vm=x", "");
    let mut description = manifest(dir.path());
    description["name"] = json!("x");
    description["initramfs"] = json!({"url": url});
    std::thread::scope(|scope| {
        // Gone with a failed assertion, too: then the server ends.
        let go_on = go_on;
        let install =
            scope.spawn(|| daemon.call("POST", "/api/v1/plugins", &description.to_string()));
        let part = downloads.next();
        assert_eq!((part.event.as_str(), part.id), ("DOWNLOAD", None));
        assert_eq!(part.data["name"], "x");
        assert_eq!(part.data["download"]["total_bytes"], total);
        let received = part.data["download"]["received_bytes"].as_u64().unwrap();
        assert!(received > 0 && received <= u64::try_from(first).unwrap());
        let source = part.data["download"]["source"].as_str().unwrap();
        assert!(source.ends_with("/plugin.cpio") && !part.data.to_string().contains("s3cret"));
        go_on.send(()).unwrap();
        while downloads.next().data["download"]["received_bytes"] != total {}
        let installed = install.join().unwrap();
        assert_eq!(installed.status, 201, "{installed:?}");
    });
    // Whoever did not ask is not told, and nothing of it is kept.
    assert_eq!(kept.next().event, "PLUGIN_INSTALLED");
    let mut again = Stream::open(&daemon, "after=0&type=DOWNLOAD,PLUGIN_INSTALLED", "");
    assert_eq!(again.next().event, "PLUGIN_INSTALLED");
}
