//! Followers of agents that misbehave, and readers of what they wrote.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use common::agent::log::{LogLine, LogStream};
use common::api::EventType;
use common::guest_config::Secret;
use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::event;
use crate::limits::{EventLimits, LogLimits};
use crate::machine::SystemClock;
use crate::store::Store;

/// Longer than anything takes.
const LONG: Duration = Duration::from_mins(1);

/// The limits, with files of so many bytes.
fn limits(max_file_bytes: u64) -> LogLimits {
    LogLimits {
        max_file_bytes,
        ..LogLimits::default()
    }
}

/// What one connection gives.
enum Script {
    Refuse,
    /// These bytes, and then an end.
    Send(Vec<Vec<u8>>),
    /// These bytes, and then nothing more.
    Stay(Vec<Vec<u8>>),
    /// The same bytes without end.
    Flood(Vec<u8>),
}

/// Agents that do what they are told, one connection after the other.
#[derive(Default)]
struct Agents {
    scripts: Mutex<VecDeque<Script>>,
    /// `after` of each connection.
    asked: Mutex<Vec<u64>>,
}

impl LogSource for Agents {
    fn open<'a>(
        &'a self,
        _guest: &'a GuestEndpoint,
        after: u64,
    ) -> BoxFuture<'a, Result<LogBytes, StepError>> {
        Box::pin(async move {
            let script = self.scripts.lock().unwrap().pop_front();
            self.asked.lock().unwrap().push(after);
            let pieces = |pieces: Vec<Vec<u8>>| {
                stream::iter(pieces.into_iter().map(|bytes| Ok(bytes.into())))
            };
            match script {
                None | Some(Script::Refuse) => Err(StepError::new("No answer")),
                Some(Script::Send(bytes)) => Ok(pieces(bytes).boxed()),
                Some(Script::Stay(bytes)) => Ok(pieces(bytes).chain(stream::pending()).boxed()),
                Some(Script::Flood(bytes)) => {
                    Ok(stream::repeat_with(move || Ok(bytes.clone().into())).boxed())
                }
            }
        })
    }
}

struct Lab {
    dir: TempDir,
    agents: Arc<Agents>,
    events: Arc<Events>,
    logs: Logs,
}

fn web() -> Name {
    "web".parse().unwrap()
}

fn endpoint() -> GuestEndpoint {
    GuestEndpoint {
        ip: Ipv4Addr::LOCALHOST,
        agent_port: 8080,
        vsock: None,
        secret: Secret::from_random([1; 32]),
    }
}

fn line(seq: u64, stream: LogStream, text: &str) -> Vec<u8> {
    let line = LogLine {
        seq,
        at_ms: u64::try_from(Timestamp::now().as_millisecond()).unwrap(),
        age_ms: Some(0),
        stream,
        line: text.to_owned(),
        partial: false,
    };
    [serde_json::to_vec(&line).unwrap(), b"\n".to_vec()].concat()
}

fn out(seq: u64) -> Vec<u8> {
    line(seq, LogStream::Stdout, &format!("line {seq}"))
}

fn all() -> Filter {
    Filter {
        streams: Vec::new(),
        since: Since::Begin,
        tail: None,
        follow: Follow::No,
    }
}

fn onwards() -> Filter {
    Filter {
        follow: Follow::Onwards,
        ..all()
    }
}

impl Lab {
    async fn new(scripts: Vec<Script>) -> Self {
        Self::with_files_of(1 << 20, scripts).await
    }

    async fn with_files_of(max_file_bytes: u64, scripts: Vec<Script>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agents = Arc::new(Agents::default());
        agents.scripts.lock().unwrap().extend(scripts);
        let store = Store::open(&dir.path().join("state.db")).unwrap();
        let clock = Arc::new(SystemClock);
        let events = Arc::new(
            Events::open(Arc::new(store), clock.clone(), EventLimits::default())
                .await
                .unwrap(),
        );
        let logs = Logs::new(
            agents.clone(),
            events.clone(),
            clock,
            limits(max_file_bytes),
        );
        Self {
            dir,
            agents,
            events,
            logs,
        }
    }

    /// Another daemon on the same files.
    fn restart(&mut self, scripts: Vec<Script>) {
        self.logs.end(&web());
        self.agents = Arc::new(Agents::default());
        self.agents.scripts.lock().unwrap().extend(scripts);
        self.logs = Logs::new(
            self.agents.clone(),
            self.events.clone(),
            Arc::new(SystemClock),
            limits(1 << 20),
        );
    }

    fn begin(&self, launch: &str) {
        self.logs.begin(&web(), self.dir.path(), launch, endpoint());
    }

    fn read(&self, filter: Filter) -> Reader {
        self.logs.read(&web(), self.dir.path(), filter).unwrap()
    }

    async fn texts(&self, filter: Filter) -> Vec<String> {
        let mut reader = self.read(filter);
        let mut texts = Vec::new();
        while let Some(Item::Line(entry)) = reader.next().await.unwrap() {
            texts.push(entry.line);
        }
        texts
    }
}

async fn next(reader: &mut Reader) -> LogEntry {
    match tokio::time::timeout(LONG, reader.next()).await.unwrap() {
        Ok(Some(Item::Line(entry))) => entry,
        other => panic!("{other:?}"),
    }
}

async fn next_texts(reader: &mut Reader, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        texts.push(next(reader).await.line);
    }
    texts
}

#[tokio::test]
async fn lines_are_fetched_over_connections_that_end() {
    let lab = Lab::new(vec![
        Script::Refuse,
        Script::Send(vec![out(1), out(2)]),
        Script::Send(vec![out(2), out(3)]),
        Script::Refuse,
        Script::Stay(vec![out(4)]),
    ])
    .await;
    let mut reader = lab.read(onwards());
    lab.begin("one");
    // Again is fine.
    lab.begin("one");
    let seen = next_texts(&mut reader, 4).await;
    assert_eq!(seen, ["line 1", "line 2", "line 3", "line 4"]);
    assert_eq!(*lab.agents.asked.lock().unwrap(), [0, 0, 2, 3, 3]);
    lab.logs.end(&web());
}

#[tokio::test]
async fn a_log_stays_over_launches_and_daemons() {
    let mut lab = Lab::new(vec![Script::Stay(vec![out(1), out(2)])]).await;
    lab.begin("one");
    next_texts(&mut lab.read(onwards()), 2).await;
    lab.restart(vec![Script::Stay(vec![out(3)])]);
    lab.begin("one");
    let mut reader = lab.read(onwards());
    next_texts(&mut reader, 3).await;
    assert_eq!(
        *lab.agents.asked.lock().unwrap(),
        [2],
        "it goes on where it was"
    );
    lab.agents
        .scripts
        .lock()
        .unwrap()
        .push_back(Script::Stay(vec![out(1)]));
    lab.logs.end(&web());
    lab.begin("two");
    let entry = next(&mut reader).await;
    assert_eq!((entry.id, entry.seq, entry.launch.as_str()), (4, 1, "two"));
    assert_eq!(lab.agents.asked.lock().unwrap()[1], 0);
}

#[tokio::test]
async fn garbage_endless_lines_and_gaps_harm_nobody() {
    let endless = vec![vec![b'x'; 60_000]; 10];
    let mut pieces = vec![out(1), b"SSH-2.0\n{\"seq\":1}\n\n\xff\xfe\n".to_vec()];
    pieces.extend(endless);
    pieces.extend([b"\n".to_vec(), out(9), out(3)]);
    let lab = Lab::new(vec![Script::Stay(pieces)]).await;
    lab.begin("one");
    let seen = next_texts(&mut lab.read(onwards()), 3).await;
    let lost = "7 lines are lost: they came faster than they were fetched";
    assert_eq!(seen, ["line 1", lost, "line 9"]);
}

#[tokio::test]
async fn a_flood_is_slowed_and_bounded_on_disk() {
    let text = "y".repeat(10_000);
    let flood = (1..=20)
        .flat_map(|seq| line(seq, LogStream::Stdout, &text))
        .collect();
    let mut more: Vec<u8> = Vec::new();
    for seq in 21..400 {
        more.extend(line(seq, LogStream::Stdout, &text));
    }
    let lab = Lab::with_files_of(
        100_000,
        vec![
            Script::Send(vec![flood, more]),
            Script::Flood(b"\n".repeat(16_384)),
        ],
    )
    .await;
    lab.begin("one");
    let mut reader = lab.read(onwards());
    let mut last = 0;
    while last < 399 {
        match reader.next().await.unwrap() {
            Some(Item::Line(entry)) => last = entry.seq,
            // It was too slow: a new one begins with what there is.
            Some(Item::Lagged) => reader = lab.read(onwards()),
            None => panic!("ended"),
        }
    }
    while lab.agents.asked.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The endless one is read at its rate: it ends as soon as it is told to.
    lab.logs.end(&web());
    let log = lab.logs.log(&web(), lab.dir.path());
    drop(
        tokio::time::timeout(LONG, log.journal.lock())
            .await
            .unwrap(),
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_connects_anew_gets_no_other_rate() {
    let rest = "\n".repeat(1 << 20).into_bytes();
    let scripts = (1..=12).map(|seq| Script::Send(vec![out(seq), rest.clone()]));
    let lab = Lab::new(scripts.collect()).await;
    let began = tokio::time::Instant::now();
    lab.begin("one");
    let mut reader = lab.read(onwards());
    assert_eq!(next_texts(&mut reader, 12).await.len(), 12);
    // Eleven connections before the last, 1 MiB each at 4 MiB/s, but for half a second.
    assert!(began.elapsed() >= Duration::from_millis(2200));
    lab.logs.end(&web());
}

#[tokio::test]
async fn the_last_lines_of_a_guest_are_taken_when_it_ends() {
    let lab = Lab::new(vec![Script::Send((1..=500).map(out).collect())]).await;
    lab.begin("one");
    // The connection is made, and nothing may have been read yet.
    while lab.agents.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    lab.logs.end(&web());
    let mut reader = lab.read(onwards());
    assert_eq!(next_texts(&mut reader, 500).await.len(), 500);
}

#[tokio::test]
async fn readers_get_what_they_ask_for() {
    let lines = (1..=30).map(|seq| {
        let stream = if seq % 3 == 0 {
            LogStream::Stderr
        } else {
            LogStream::Stdout
        };
        line(seq, stream, &format!("line {seq}"))
    });
    let lab = Lab::new(vec![Script::Stay(lines.collect())]).await;
    lab.begin("one");
    let mut follower = lab.read(onwards());
    let mut times = Vec::new();
    for _ in 0..30 {
        times.push(next(&mut follower).await.time);
    }
    let stderr = Filter {
        streams: vec![LogStream::Stderr],
        tail: Some(2),
        ..all()
    };
    assert_eq!(lab.texts(stderr).await, ["line 27", "line 30"]);
    assert_eq!(lab.texts(all()).await.len(), 30);
    let tail = |count| Filter {
        tail: Some(count),
        ..all()
    };
    assert_eq!(lab.texts(tail(0)).await, Vec::<String>::new());
    assert_eq!(lab.texts(tail(1)).await, ["line 30"]);
    assert_eq!(lab.texts(tail(usize::MAX)).await.len(), 30);
    let since = |since| Filter { since, ..all() };
    assert_eq!(
        lab.texts(since(Since::Id(28))).await,
        ["line 29", "line 30"]
    );
    assert_eq!(lab.texts(since(Since::Id(30))).await, Vec::<String>::new());
    let late = times.iter().filter(|time| **time >= times[20]).count();
    assert_eq!(lab.texts(since(Since::Time(times[20]))).await.len(), late);
    let both = Filter {
        since: Since::Id(20),
        tail: Some(20),
        ..all()
    };
    assert_eq!(lab.texts(both).await.len(), 10);
}

#[tokio::test]
async fn a_reader_knows_where_it_begins() {
    let lines = (1..=20).map(|seq| {
        let stream = if seq > 10 {
            LogStream::Stdout
        } else {
            LogStream::Stderr
        };
        line(seq, stream, &"x".repeat(16_000))
    });
    let lab = Lab::new(vec![Script::Stay(lines.collect())]).await;
    assert_eq!(
        lab.read(onwards()).begin().await.unwrap(),
        0,
        "nothing is there"
    );
    lab.begin("one");
    next_texts(&mut lab.read(onwards()), 20).await;
    let tail = |tail| Filter { tail, ..onwards() };
    let stdout = Filter {
        streams: vec![LogStream::Stdout],
        ..onwards()
    };
    for (filter, expected, first) in [
        (tail(None), 0, Some(1)),
        (tail(Some(3)), 17, Some(18)),
        (stdout, 10, Some(11)),
        (tail(Some(0)), 20, None),
    ] {
        let mut reader = lab.read(filter.clone());
        assert_eq!(reader.begin().await.unwrap(), expected, "{filter:?}");
        if let Some(first) = first {
            assert_eq!(next(&mut reader).await.id, first, "{filter:?}");
        }
    }
}

#[tokio::test]
async fn a_follower_of_the_tail_goes_on_without_loss_or_doubling() {
    let lab = Lab::new(vec![
        Script::Send((1..=50).map(out).collect()),
        Script::Stay((51..=100).map(out).collect()),
    ])
    .await;
    lab.begin("one");
    let filter = Filter {
        tail: Some(1),
        ..onwards()
    };
    next_texts(&mut lab.read(onwards()), 10).await;
    let mut reader = lab.read(filter);
    let first = next(&mut reader).await.seq;
    let mut seen = first;
    while seen < 100 {
        let entry = next(&mut reader).await;
        assert_eq!(entry.seq, seen + 1);
        seen = entry.seq;
    }
}

#[tokio::test]
async fn a_removed_vm_ends_its_readers_and_writes_nothing_more() {
    let lab = Lab::new(vec![Script::Stay(vec![out(1)])]).await;
    lab.begin("one");
    let mut reader = lab.read(onwards());
    next(&mut reader).await;
    lab.logs.remove(&web());
    assert_eq!(reader.next().await.unwrap(), None);
    fs_err::remove_file(lab.dir.path().join(WORKLOAD_LOG)).unwrap();
    // The name is free for another VM.
    lab.agents
        .scripts
        .lock()
        .unwrap()
        .push_back(Script::Stay(vec![out(1)]));
    lab.begin("two");
    let entry = next(&mut lab.read(onwards())).await;
    assert_eq!((entry.id, entry.launch.as_str()), (1, "two"));
}

#[tokio::test]
async fn lines_are_events_and_the_last_ones_are_quoted() {
    let lab = Lab::new(vec![Script::Stay(vec![
        line(1, LogStream::Stderr, "oh no"),
        line(2, LogStream::Agent, "the workload ended"),
    ])])
    .await;
    let filter = event::Filter {
        names: Vec::new(),
        kinds: vec![EventType::VmLog],
    };
    let mut events = lab.events.read(None, filter).await.unwrap();
    lab.begin("one");
    let Some(event::Item::Event(told)) = events.next().await else {
        panic!("no event")
    };
    assert_eq!(
        (told.name.as_str(), told.line.as_deref(), told.stream),
        ("web", Some("oh no"), Some(LogStream::Stderr))
    );
    next_texts(&mut lab.read(onwards()), 2).await;
    assert_eq!(lab.logs.tail(&web(), lab.dir.path(), 5), "oh no");
    lab.begin("two");
    let of_another = lab.logs.tail(&web(), lab.dir.path(), 5);
    assert_eq!(
        of_another, "",
        "what an earlier guest said explains nothing"
    );
    assert_eq!(
        lab.logs
            .tail(&"other".parse().unwrap(), &lab.dir.path().join("x"), 5),
        ""
    );
}

#[tokio::test]
async fn readers_are_bounded() {
    let lab = Lab::new(Vec::new()).await;
    let mut readers = Vec::new();
    for _ in 0..LogLimits::default().max_readers {
        readers.push(lab.read(onwards()));
    }
    let refused = lab.logs.read(&web(), lab.dir.path(), all());
    assert!(refused.is_err());
    readers.pop();
    assert_eq!(lab.texts(all()).await, Vec::<String>::new());
}
