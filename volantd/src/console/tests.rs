//! Watchers that come, type, are slow or too many, over WebSocket-like handles and the unix socket.

use std::path::Path;

use tokio::net::UnixStream;

use super::*;
use crate::log::{Follow, Place};

fn name() -> Name {
    "web".parse().unwrap()
}

fn paths(dir: &Path) -> VmPaths {
    VmPaths {
        state_dir: dir.to_path_buf(),
        run_dir: dir.to_path_buf(),
    }
}

async fn next(watch: &mut Watch) -> String {
    match watch.next().await {
        Seen::Output(output) => String::from_utf8(output).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn watch(console: &Arc<Console>) -> Watch {
    console.watch(Access::Type).await.unwrap()
}

#[tokio::test]
async fn output_reaches_the_log_and_every_watcher() {
    let dir = tempfile::tempdir().unwrap();
    let consoles = Consoles::default();
    let (guest, host) = tokio::io::duplex(64);
    consoles.attach(&name(), &paths(dir.path()), Box::new(host));
    let console = consoles.open(&name(), dir.path());
    let (mut one, mut two) = (watch(&console).await, watch(&console).await);
    let (mut guest_in, mut guest_out) = tokio::io::split(guest);
    guest_out.write_all(b"hello\n").await.unwrap();
    assert_eq!(next(&mut one).await, "hello\n");
    assert_eq!(next(&mut two).await, "hello\n");
    assert_eq!(watch(&console).await.before, b"hello\n");
    assert_eq!(consoles.tail(&name(), dir.path(), 5), "hello\n");
    one.input(b"ls\n".to_vec()).unwrap();
    let mut typed = [0; 3];
    guest_in.read_exact(&mut typed).await.unwrap();
    assert_eq!(&typed, b"ls\n");
    // What was there before is there for a new daemon as well.
    let later = Consoles::default().open(&name(), dir.path());
    assert_eq!(watch(&later).await.before, b"hello\n");
}

#[tokio::test]
async fn one_watcher_types_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let consoles = Consoles::default();
    let (_guest, host) = tokio::io::duplex(64);
    consoles.attach(&name(), &paths(dir.path()), Box::new(host));
    let console = consoles.open(&name(), dir.path());
    let (one, two) = (watch(&console).await, watch(&console).await);
    let reader = console.watch(Access::Watch).await.unwrap();
    assert_eq!(reader.input(vec![1]), Err(InputError::Busy));
    one.input(vec![1]).unwrap();
    assert_eq!(two.input(vec![1]), Err(InputError::Busy));
    let forced = console.watch(Access::Force).await.unwrap();
    assert_eq!(one.input(vec![1]), Err(InputError::Busy));
    forced.input(vec![1]).unwrap();
    drop(forced);
    two.input(vec![1]).unwrap();
}

#[tokio::test]
async fn a_watcher_stays_over_a_restart_and_ends_with_the_vm() {
    let dir = tempfile::tempdir().unwrap();
    let consoles = Consoles::default();
    let mut seen = watch(&consoles.open(&name(), dir.path())).await;
    for text in ["first", "second"] {
        let (mut guest, host) = tokio::io::duplex(64);
        consoles.attach(&name(), &paths(dir.path()), Box::new(host));
        guest.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(next(&mut seen).await, text);
        consoles.detach(&name());
    }
    assert_eq!(seen.input(vec![1]), Err(InputError::NotRunning));
    consoles.remove(&name());
    assert!(matches!(seen.next().await, Seen::Gone));
}

#[tokio::test]
async fn a_guest_that_does_not_read_is_still_heard() {
    let dir = tempfile::tempdir().unwrap();
    let consoles = Consoles::default();
    let (guest, host) = tokio::io::duplex(8);
    consoles.attach(&name(), &paths(dir.path()), Box::new(host));
    let mut seen = watch(&consoles.open(&name(), dir.path())).await;
    seen.input(vec![b'x'; 64]).unwrap();
    let (_unread, mut guest_out) = tokio::io::split(guest);
    for _ in 0..10 {
        guest_out.write_all(b"alive!").await.unwrap();
    }
    let mut heard = String::new();
    while heard.len() < 60 {
        heard.push_str(&next(&mut seen).await);
    }
    assert_eq!(heard, "alive!".repeat(10));
    consoles.detach(&name());
}

#[tokio::test]
async fn a_guest_that_does_not_read_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let consoles = Consoles::default();
    let (_guest, host) = tokio::io::duplex(1);
    consoles.attach(&name(), &paths(dir.path()), Box::new(host));
    let seen = watch(&consoles.open(&name(), dir.path())).await;
    let refused = (0..10_000).find_map(|_| seen.input(vec![0; 16]).err());
    assert_eq!(refused, Some(InputError::Full));
}

#[tokio::test]
async fn a_slow_watcher_is_dropped_and_too_many_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let console = Consoles::default().open(&name(), dir.path());
    let mut slow = watch(&console).await;
    for _ in 0..=WATCHER_CHUNKS {
        console.publish(b"x").await;
    }
    assert!(matches!(slow.next().await, Seen::TooSlow));
    let mut others = Vec::new();
    for _ in 1..ConsoleLimits::default().max_watchers {
        others.push(watch(&console).await);
    }
    assert!(console.watch(Access::Watch).await.is_err());
    drop(slow);
    watch(&console).await;
}

#[tokio::test]
async fn the_log_is_read_from_the_end_and_onwards() {
    use futures_util::StreamExt as _;
    let dir = tempfile::tempdir().unwrap();
    let consoles = Consoles::default();
    let console = consoles.open(&name(), dir.path());
    console.publish(b"one\ntwo\nthr").await;
    let part = |tail, follow| LogPart {
        tail,
        follow,
        after: None,
    };
    let last = console.read(part(Some(2), Follow::Onwards)).unwrap();
    let mut log = std::pin::pin!(last.bytes());
    assert_eq!(log.next().await.unwrap().unwrap(), "two\nthr");
    console.publish(b"ee\n").await;
    assert_eq!(log.next().await.unwrap().unwrap(), "ee\n");
    let all = console.read(part(None, Follow::No)).unwrap();
    let mut all = std::pin::pin!(all.bytes());
    assert_eq!(all.next().await.unwrap().unwrap(), "one\ntwo\nthree\n");
    assert!(all.next().await.is_none());
    consoles.remove(&name());
    assert!(log.next().await.is_none(), "it ends with the VM");
}

#[tokio::test]
async fn a_reader_comes_back_to_its_place_also_to_another_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let part = |tail, after| LogPart {
        tail,
        follow: Follow::Onwards,
        after,
    };
    let console = Consoles::default().open(&name(), dir.path());
    console.publish(b"one\n").await;
    let mut log = console.read(part(Some(0), None)).unwrap();
    let Some(Piece::Bytes(none, begin)) = log.next().await.unwrap() else {
        panic!("no place")
    };
    assert!(none.is_empty() && begin.is_some(), "{begin:?}");
    console.publish(b"two\n").await;
    let Some(Piece::Bytes(two, place)) = log.next().await.unwrap() else {
        panic!("no piece")
    };
    assert_eq!(two, "two\n");
    let place: Place = place.unwrap().to_string().parse().unwrap();
    // The daemon ends; the file that it wrote becomes the older one.
    drop((log, console));
    let console = Consoles::default().open(&name(), dir.path());
    let large = vec![b'x'; usize::try_from(ConsoleLimits::default().max_file_bytes).unwrap()];
    for (after, expected) in [(begin, "two\n"), (Some(place), "xxx")] {
        if expected == "xxx" {
            console.publish(&large).await;
        }
        let mut log = console.read(part(Some(0), after)).unwrap();
        let Some(Piece::Bytes(none, at)) = log.next().await.unwrap() else {
            panic!("no place")
        };
        assert_eq!((none.is_empty(), at), (true, after));
        let Some(Piece::Bytes(bytes, _)) = log.next().await.unwrap() else {
            panic!("no piece")
        };
        assert!(bytes.starts_with(expected.as_bytes()));
    }
    // Both files are newer than the place: what is kept comes, and that something is missing.
    console.publish(&large).await;
    let mut log = console.read(part(Some(0), Some(place))).unwrap();
    let Some(Piece::Bytes(note, _)) = log.next().await.unwrap() else {
        panic!("no note")
    };
    assert!(!note.is_empty());
}

#[tokio::test]
async fn the_socket_shows_what_was_there_and_takes_turns() {
    let dir = tempfile::tempdir().unwrap();
    let consoles = Consoles::default();
    let console = consoles.open(&name(), dir.path());
    console.publish(b"before\n").await;
    // An earlier daemon's.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(CONSOLE_SOCKET)).unwrap());
    let (mut guest, host) = tokio::io::duplex(64);
    consoles.attach(&name(), &paths(dir.path()), Box::new(host));
    let path = dir.path().join(CONSOLE_SOCKET);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs_err::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);
    let mut one = UnixStream::connect(&path).await.unwrap();
    let mut two = UnixStream::connect(&path).await.unwrap();
    for client in [&mut one, &mut two] {
        let mut before = [0; 7];
        client.read_exact(&mut before).await.unwrap();
        assert_eq!(&before, b"before\n");
    }
    one.write_all(b"ls").await.unwrap();
    let mut typed = [0; 2];
    guest.read_exact(&mut typed).await.unwrap();
    assert_eq!(&typed, b"ls");
    two.write_all(b"rm").await.unwrap();
    let mut told = vec![0; BUSY.len()];
    two.read_exact(&mut told).await.unwrap();
    assert_eq!(told, BUSY);
    drop(one);
    let mut answer = [0; 2];
    // The one that left is noticed in its own time.
    loop {
        two.write_all(b"ok").await.unwrap();
        let read = tokio::time::timeout(Duration::from_millis(20), guest.read_exact(&mut answer));
        if read.await.is_ok() {
            break;
        }
    }
    assert_eq!(&answer, b"ok");
    consoles.detach(&name());
    consoles.remove(&name());
    let mut rest = Vec::new();
    two.read_to_end(&mut rest).await.unwrap();
}
