//! What requests ask for, and what each format looks like.

use axum::http::HeaderValue;

use super::super::testing::Client;
use super::*;
use crate::limits::{EventLimits, LogLimits};
use crate::log::{Logs, WORKLOAD_LOG};
use crate::machine::ports::LogSink as _;

fn asked(query: &str, accept: &'static str) -> Result<Asked, HttpError> {
    let pairs: Vec<(String, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
    Asked::of(&pairs, &headers)
}

#[test]
fn a_request_says_what_it_wants() {
    let plain = asked("", "*/*").unwrap();
    assert_eq!((plain.format, plain.is_console()), (Format::Text, false));
    assert_eq!(plain.filter.follow, Follow::No);
    let all = asked(
        "follow=true&tail=5&stream=stdout,agent&since=2026-01-02T03:04:05Z",
        "text/event-stream",
    )
    .unwrap();
    assert_eq!(all.format, Format::Events);
    assert_eq!(all.filter.streams, [LogStream::Stdout, LogStream::Agent]);
    assert_eq!(
        (all.filter.tail, all.filter.follow),
        (Some(5), Follow::Onwards)
    );
    let time = "2026-01-02T03:04:05Z".parse().unwrap();
    assert_eq!(all.filter.since, Since::Time(time));
    assert_eq!(
        asked("format=json", "text/event-stream").unwrap().format,
        Format::Json
    );
    assert_eq!(asked("", NDJSON_CONTENT_TYPE).unwrap().format, Format::Json);
    assert!(asked("stream=console&tail=3", "*/*").unwrap().is_console());
}

#[test]
fn what_makes_no_sense_is_refused() {
    for query in [
        "since=yesterday",
        "since=-5m",
        "tail=-1",
        "tail=x",
        "stream=stdin",
        "stream=console,stdout",
        "stream=console&since=5m",
        "stream=console&format=json",
        "format=xml",
        "follow=maybe",
    ] {
        let HttpError(problem) = asked(query, "*/*").unwrap_err();
        assert_eq!(
            (problem.status, problem.code.as_str()),
            (400, "invalid-request"),
            "{query}"
        );
    }
}

#[test]
fn a_duration_is_so_long_ago() {
    let now: Timestamp = "2026-01-02T03:00:00Z".parse().unwrap();
    for (text, expected) in [
        ("90s", "2026-01-02T02:58:30Z"),
        ("1h30m", "2026-01-02T01:30:00Z"),
        ("2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z"),
    ] {
        let moment: Moment = text.parse().unwrap();
        assert_eq!(moment.since(now), expected.parse().unwrap(), "{text}");
    }
}

/// The log of a VM in which a workload wrote two lines, the first in two pieces.
async fn logs(dir: &std::path::Path) -> Logs {
    use crate::machine::SystemClock;
    let mut text = String::new();
    for (id, stream, line, partial) in [
        (1, "stdout", "one, ", true),
        (2, "stdout", "and on", false),
        (3, "stderr", "t\u{1b}wo", false),
    ] {
        let entry = serde_json::json!({"id": id, "time": "2026-01-02T03:04:05Z", "stream": stream, "line": line,
            "partial": partial, "seq": id, "launch": "x"});
        text += &format!("{entry}\n");
    }
    fs_err::write(dir.join(WORKLOAD_LOG), text).unwrap();
    let store = crate::store::Store::open(&dir.join("state.db")).unwrap();
    let clock = Arc::new(SystemClock);
    let events = crate::event::Events::open(Arc::new(store), clock.clone(), EventLimits::default());
    let agents = Arc::new(crate::agent::AgentClient::default());
    Logs::new(
        agents,
        Arc::new(events.await.unwrap()),
        clock,
        LogLimits::default(),
    )
}

async fn reader(dir: &std::path::Path) -> Reader {
    let Asked { filter, .. } = asked("", "*/*").unwrap();
    let web = "web".parse().unwrap();
    logs(dir).await.read(&web, dir, filter).unwrap()
}

async fn body(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn each_format_has_its_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let plain = text("text/plain", pieces(reader(dir.path()).await, as_text));
    assert_eq!(body(plain).await, "one, and on\nt\u{1b}wo\n");
    let json = text(
        NDJSON_CONTENT_TYPE,
        pieces(reader(dir.path()).await, as_json),
    );
    assert_eq!(json.headers()[header::CONTENT_TYPE], NDJSON_CONTENT_TYPE);
    let entries: Vec<LogEntry> = body(json)
        .await
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(entries.len(), 3);
    assert_eq!((entries[2].stream, entries[2].id), (LogStream::Stderr, 3));
    let sent = server_sent(events(reader(dir.path()).await));
    assert_eq!(sent.headers()[header::CONTENT_TYPE], "text/event-stream");
    let sent = body(sent).await;
    assert_eq!(sent.matches("event: log\n").count(), 3, "{sent}");
    assert!(sent.contains("\nid: 3\n"), "{sent}");
    let name: Name = "web".parse().unwrap();
    let Message::Text(text) = message(&name, entries[2].clone()) else {
        panic!("not text")
    };
    let expected = serde_json::json!({"name": "web", "stream": "stderr", "line": "t\u{1b}wo", "timestamp": "2026-01-02T03:04:05Z"});
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap(),
        expected
    );
}

#[tokio::test]
async fn a_web_socket_gets_each_line_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let web: Name = "web".parse().unwrap();
    let logs = Arc::new(logs(dir.path()).await);
    let filter = Filter {
        follow: Follow::Onwards,
        tail: Some(1),
        ..asked("", "*/*").unwrap().filter
    };
    let (of, name, path) = (Arc::clone(&logs), web.clone(), dir.path().to_path_buf());
    let mut client = Client::of(move |socket| async move {
        let reader = of.read(&name, &path, filter).unwrap();
        serve(socket, name, reader).await;
    })
    .await;
    let (opcode, text) = client.next().await;
    let line: LogMessage = serde_json::from_slice(&text).unwrap();
    assert_eq!((opcode, line.line.as_str()), (1, "t\u{1b}wo"));
    // What a reader says is passed over.
    client.send(1, b"hello").await;
    logs.remove(&web);
    let (opcode, payload) = client.next().await;
    assert_eq!((opcode, &payload[..2]), (8, &1000_u16.to_be_bytes()[..]));
    assert_eq!(&payload[2..], b"the VM is deleted");
}
