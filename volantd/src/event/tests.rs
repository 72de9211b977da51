//! Readers that come, come back, are slow or too many, over restarts of the daemon and failures of the archive.

use std::sync::Arc;
use std::time::Duration;

use common::agent::HealthState;
use common::agent::log::LogStream;
use common::api::{Download, EventType, KEPT_EVENTS, LogEntry, Vm, VmEvent, VmStatus};
use tempfile::TempDir;

use super::testing::{event, vm};
use super::{Archive, ArchiveError, Events, Filter, Item, Reader};
use crate::limits::EventLimits;
use crate::machine::SystemClock;
use crate::machine::ports::{BoxFuture, EventSink};
use crate::store::Store;

struct Lab {
    dir: TempDir,
    events: Events,
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let events = open(&dir).await;
        Self { dir, events }
    }

    async fn restart(&mut self) {
        self.events.flush(Duration::from_mins(1)).await;
        self.events = open(&self.dir).await;
    }

    fn run(&self, name: &str) {
        let before = vm(name);
        let after = Vm {
            status: VmStatus::Running,
            ..before.clone()
        };
        self.events.changed(Some(&before), Some(&after));
    }

    async fn running(&self, after: Option<u64>) -> Reader {
        let filter = Filter {
            kinds: vec![EventType::VmRunning],
            ..Filter::default()
        };
        self.events.read(after, filter).await.unwrap()
    }
}

async fn open(dir: &TempDir) -> Events {
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    Events::open(
        Arc::new(store),
        Arc::new(SystemClock),
        EventLimits::default(),
    )
    .await
    .unwrap()
}

async fn next(reader: &mut Reader) -> Arc<VmEvent> {
    match reader.next().await {
        Some(Item::Event(event)) => event,
        other => panic!("{other:?}"),
    }
}

/// All there is now.
async fn rest(reader: &mut Reader) -> Vec<Item> {
    let mut items = Vec::new();
    while let Ok(Some(item)) = tokio::time::timeout(Duration::from_millis(200), reader.next()).await
    {
        items.push(item);
    }
    items
}

fn names(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .map(|item| match item {
            Item::Event(event) => event.name.to_string(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn events_come_to_everybody_that_wants_them() {
    let lab = Lab::new().await;
    let mut all = lab.events.read(None, Filter::default()).await.unwrap();
    let filter = Filter {
        names: vec!["b".parse().unwrap()],
        kinds: vec![EventType::VmRunning, EventType::VmStopped],
    };
    let mut some = lab.events.read(None, filter).await.unwrap();
    lab.run("a");
    lab.run("b");
    let kinds = [
        next(&mut all).await,
        next(&mut all).await,
        next(&mut all).await,
    ]
    .map(|event| (event.kind, event.name.to_string()));
    assert_eq!(
        kinds,
        [
            (EventType::VmPhase, "a".to_owned()),
            (EventType::VmRunning, "a".to_owned()),
            (EventType::VmPhase, "b".to_owned())
        ]
    );
    let event = next(&mut some).await;
    assert_eq!(
        (event.kind, event.name.as_str()),
        (EventType::VmRunning, "b")
    );
    assert_eq!(event.id, 4);
    lab.events
        .plugin(EventType::PluginInstalled, &"b".parse().unwrap(), "There");
    assert_eq!(names(&rest(&mut some).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_reader_that_comes_back_gets_what_it_missed_also_over_restarts() {
    let mut lab = Lab::new().await;
    let mut reader = lab.running(None).await;
    lab.run("a");
    let seen = next(&mut reader).await.id;
    drop(reader);
    lab.run("b");
    lab.restart().await;
    lab.run("c");
    let mut back = lab.running(Some(seen)).await;
    let missed = rest(&mut back).await;
    assert_eq!(names(&missed), ["b", "c"]);
    let Some(Item::Event(last)) = missed.last() else {
        panic!("{missed:?}")
    };
    assert!(last.id > seen + 1000, "numbers leap over a restart");
    let mut again = lab.running(Some(last.id)).await;
    assert_eq!(names(&rest(&mut again).await), Vec::<String>::new());
    let mut from_the_start = lab.running(Some(0)).await;
    assert_eq!(names(&rest(&mut from_the_start).await), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_number_that_nobody_knows_is_a_gap() {
    let mut lab = Lab::new().await;
    lab.run("a");
    let mut future = lab.running(Some(999)).await;
    assert_eq!(
        names(&rest(&mut future).await),
        ["Gap { after: 999 }", "a"],
        "it may be of another database: all there is comes"
    );
    lab.restart().await;
    lab.run("b");
    let mut hole = lab.running(Some(50)).await;
    assert_eq!(
        names(&rest(&mut hole).await),
        ["Gap { after: 50 }", "b"],
        "told before a crash, and not kept"
    );
}

#[tokio::test]
async fn the_archive_is_bounded_and_read_behind_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("state.db")).unwrap());
    let kept = u64::try_from(KEPT_EVENTS).unwrap();
    for first in (0..kept + 512).step_by(512) {
        let batch = (first + 1..=first + 512).map(|id| event("a", id)).collect();
        store.append(batch).await.unwrap();
    }
    assert_eq!(
        store.last(usize::MAX >> 1).await.unwrap().len(),
        KEPT_EVENTS
    );
    let events = Events::open(store, Arc::new(SystemClock), EventLimits::default())
        .await
        .unwrap();
    let mut all = events.read(Some(0), Filter::default()).await.unwrap();
    let items = rest(&mut all).await;
    assert_eq!(items.len(), KEPT_EVENTS, "none twice, none missing");
    let mut old = events.read(Some(3), Filter::default()).await.unwrap();
    assert_eq!(old.next().await, Some(Item::Gap { after: 3 }));
    let mut within = events.read(Some(4000), Filter::default()).await.unwrap();
    assert_eq!(next(&mut within).await.id, 4001);
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_dropped_and_told() {
    let lab = Lab::new().await;
    let mut slow = lab.running(None).await;
    lab.run("first");
    let id = next(&mut slow).await.id;
    // Only what it has pulled already is still its own.
    for number in 0..EventLimits::default().ring_events {
        lab.run(&format!("vm-{number}"));
    }
    assert_eq!(slow.next().await, Some(Item::Lagged { after: id }));
    assert_eq!(slow.next().await, None);
}

#[tokio::test]
async fn a_hundred_readers_lose_nothing() {
    let lab = Lab::new().await;
    let mut readers = Vec::new();
    for _ in 0..100 {
        let mut reader = lab.running(None).await;
        readers.push(tokio::spawn(async move {
            let mut names = Vec::new();
            while names.len() < 1000 {
                names.push(next(&mut reader).await.name.to_string());
            }
            names
        }));
    }
    let mut told = Vec::new();
    for number in 0..1000 {
        told.push(format!("vm-{number}"));
        lab.run(&format!("vm-{number}"));
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), told);
    }
}

#[tokio::test]
async fn readers_are_bounded() {
    let lab = Lab::new().await;
    let mut readers = Vec::new();
    for _ in 0..EventLimits::default().max_readers {
        readers.push(lab.running(None).await);
    }
    let refused = lab.events.read(None, Filter::default()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "There are 1024 readers of events already"
    );
    readers.pop();
    lab.running(None).await;
}

#[tokio::test]
async fn a_guest_that_flaps_does_not_push_out_the_others() {
    let lab = Lab::new().await;
    let mut all = lab.events.read(None, Filter::default()).await.unwrap();
    let mut now = vm("flapping");
    for round in 0..10_000 {
        let before = now.clone();
        now.health.state = HealthState::Unhealthy;
        now.health.reason = Some(format!("{round}"));
        lab.events.changed(Some(&before), Some(&now));
    }
    lab.run("calm");
    let seen = rest(&mut all).await;
    assert!((100..=200).contains(&seen.len()), "{}", seen.len());
    assert_eq!(names(&seen).last().map(String::as_str), Some("calm"));
}

/// An archive that is broken.
struct Broken;

impl Archive for Broken {
    fn append(&self, _events: Vec<VmEvent>) -> BoxFuture<'_, Result<(), ArchiveError>> {
        Box::pin(async { Err(broken()) })
    }

    fn last(&self, _count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn after(&self, _id: u64, _count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>> {
        Box::pin(async { Err(broken()) })
    }
}

fn broken() -> ArchiveError {
    ArchiveError(Box::new(std::io::Error::other("The disk is full")))
}

#[tokio::test]
async fn a_broken_archive_keeps_nobody_from_listening() {
    let events = Events::open(
        Arc::new(Broken),
        Arc::new(SystemClock),
        EventLimits::default(),
    )
    .await
    .unwrap();
    let lab = Lab {
        dir: tempfile::tempdir().unwrap(),
        events,
    };
    for number in 0..EventLimits::default().ring_events {
        lab.run(&format!("vm-{number}"));
    }
    let mut reader = lab.running(Some(0)).await;
    assert_eq!(reader.next().await, Some(Item::Gap { after: 0 }));
    assert_eq!(next(&mut reader).await.name.as_str(), "vm-2048");
    lab.run("new");
    let seen = rest(&mut reader).await;
    assert_eq!(names(&seen).last().map(String::as_str), Some("new"));
}

fn entry(text: &str) -> LogEntry {
    LogEntry {
        id: 1,
        time: jiff::Timestamp::UNIX_EPOCH,
        stream: LogStream::Stderr,
        line: text.to_owned(),
        partial: false,
        seq: 1,
        launch: "x".to_owned(),
    }
}

#[tokio::test]
async fn lines_come_to_those_that_ask_and_are_not_kept() {
    let lab = Lab::new().await;
    let web: common::name::Name = "web".parse().unwrap();
    lab.events.line(&web, &entry("nobody asks"));
    let mut all = lab.events.read(None, Filter::default()).await.unwrap();
    let filter = Filter {
        names: vec![web.clone()],
        kinds: vec![EventType::VmLog, EventType::VmRunning],
    };
    let mut lines = lab.events.read(None, filter.clone()).await.unwrap();
    lab.events
        .line(&"other".parse().unwrap(), &entry("of another"));
    lab.events.line(&web, &entry("hello"));
    let line = next(&mut lines).await;
    assert_eq!(
        (line.id, line.kind, line.line.as_deref(), line.stream),
        (0, EventType::VmLog, Some("hello"), Some(LogStream::Stderr))
    );
    lab.run("web");
    assert_eq!(next(&mut lines).await.kind, EventType::VmRunning);
    assert_eq!(next(&mut all).await.kind, EventType::VmPhase);
    let mut later = lab.events.read(Some(0), filter).await.unwrap();
    assert_eq!(rest(&mut later).await.len(), 1, "VM_RUNNING alone");
    for _ in 0..1000 {
        lab.events.line(&web, &entry("flood"));
    }
    assert!(matches!(lines.next().await, Some(Item::Lagged { .. })));
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn downloads_are_told_to_those_that_ask_and_cost_no_reader_its_place() {
    let lab = Lab::new().await;
    let (caddy, other) = ("caddy".parse().unwrap(), "other".parse().unwrap());
    let download = |received_bytes| Download {
        source: "https://example.org/caddy".to_owned(),
        received_bytes,
        total_bytes: Some(1000),
    };
    lab.events.download(&caddy, download(1));
    let filter = Filter {
        names: vec![caddy],
        kinds: vec![EventType::Download],
    };
    let caddy = &filter.names[0];
    let mut all = lab.events.read(None, Filter::default()).await.unwrap();
    let mut reader = lab.events.read(Some(0), filter.clone()).await.unwrap();
    lab.events.download(&other, download(2));
    lab.events.line(caddy, &entry("no business of it"));
    lab.events.download(caddy, download(3));
    let event = next(&mut reader).await;
    assert_eq!(
        (event.id, event.kind, event.download.clone()),
        (0, EventType::Download, Some(download(3)))
    );
    // Whoever is slow misses some, and nothing else.
    for received_bytes in 1..=1000 {
        lab.events.download(caddy, download(received_bytes));
    }
    let left = rest(&mut reader).await;
    assert!(left.len() < 1000);
    let Some(Item::Event(last)) = left.last() else {
        panic!("{left:?}")
    };
    assert_eq!(last.download, Some(download(1000)));
    lab.run("caddy");
    assert_eq!(next(&mut all).await.kind, EventType::VmPhase);
}

/// An archive that takes everything and has only what it began with.
struct Forgetful(Vec<VmEvent>);

impl Archive for Forgetful {
    fn append(&self, _events: Vec<VmEvent>) -> BoxFuture<'_, Result<(), ArchiveError>> {
        Box::pin(async { Ok(()) })
    }

    fn last(&self, count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>> {
        let skipped = self.0.len().saturating_sub(count);
        Box::pin(async move { Ok(self.0.iter().skip(skipped).cloned().collect()) })
    }

    fn after(&self, id: u64, count: usize) -> BoxFuture<'_, Result<Vec<VmEvent>, ArchiveError>> {
        let found = self.0.iter().filter(move |event| event.id > id);
        Box::pin(async move { Ok(found.take(count).cloned().collect()) })
    }
}

/// With the last events in memory only as far as `ring_events`.
async fn forgetful(kept: &[u64], ring_events: usize) -> Lab {
    let kept = kept.iter().map(|id| event("kept", *id)).collect();
    let limits = EventLimits {
        ring_events,
        ..EventLimits::default()
    };
    let events = Events::open(Arc::new(Forgetful(kept)), Arc::new(SystemClock), limits);
    Lab {
        dir: tempfile::tempdir().unwrap(),
        events: events.await.unwrap(),
    }
}

#[tokio::test]
async fn what_is_missing_is_said_wherever_it_is_missing() {
    let read = async |kept: &[u64], after: u64| {
        let lab = forgetful(kept, 2).await;
        let every = Filter {
            kinds: vec![event("kept", 1).kind],
            ..Filter::default()
        };
        let mut reader = lab.events.read(Some(after), every).await.unwrap();
        let items = rest(&mut reader).await.into_iter();
        let words = items.map(|item| match item {
            Item::Event(event) => event.id.to_string(),
            other => format!("{other:?}"),
        });
        words.collect::<Vec<String>>().join(" ")
    };
    assert_eq!(read(&[1, 2, 3, 4, 5], 0).await, "1 2 3 4 5");
    assert_eq!(
        read(&[1, 2, 5, 6, 7], 0).await,
        "1 2 Gap { after: 2 } 5 6 7"
    );
    assert_eq!(read(&[5, 6, 7, 8], 2).await, "Gap { after: 2 } 5 6 7 8");
    assert_eq!(read(&[5, 6, 7, 8], 4).await, "5 6 7 8");
    assert_eq!(
        read(&[1, 2, 100_002, 100_003], 1).await,
        "2 100002 100003",
        "a restart"
    );
    // The archive took what the ring has lost, and does not have it.
    let lab = forgetful(&[1, 2, 3], 2).await;
    let mut reader = lab.events.read(Some(3), Filter::default()).await.unwrap();
    for name in ["a", "b", "c"] {
        lab.run(name);
    }
    assert_eq!(reader.next().await, Some(Item::Gap { after: 3 }));
    assert_eq!(next(&mut reader).await.name.as_str(), "c");
}

#[tokio::test(start_paused = true)]
async fn the_last_word_of_a_guest_that_flapped_is_told() {
    let lab = forgetful(&[], 512).await;
    let mut all = lab.events.read(None, Filter::default()).await.unwrap();
    let mut now = vm("flapping");
    now.status = VmStatus::Running;
    for state in [HealthState::Unhealthy, HealthState::Healthy].repeat(500) {
        let before = now.clone();
        now.health.state = state;
        lab.events.changed(Some(&before), Some(&now));
    }
    let at_once = rest(&mut all).await;
    assert!(at_once.len() <= 200, "{}", at_once.len());
    let last = loop {
        let event = next(&mut all).await;
        if event.kind == EventType::VmHealth {
            break event;
        }
    };
    assert_eq!(last.health.as_ref().unwrap().state, HealthState::Healthy);
    assert!(rest(&mut all).await.is_empty());
}
