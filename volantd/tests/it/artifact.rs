//! Fetching against servers and disks that misbehave: what is stored, what is refused, and that nothing is left behind.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::digest::Digest;
use common::manifest::{ArtifactKind, Source};
use volantd::artifact::{
    ArtifactConfig, ArtifactError, ArtifactStore, ContentCheck, OnProgress, Progress, Rejection,
    Stored,
};

use super::netns::skip;

const CONTENT: &[u8] = b"the content of an artifact";

/// Takes everything, except files that say no.
struct Taster;

impl ContentCheck for Taster {
    fn check(&self, file: &Path, _digest: &Digest, _kind: ArtifactKind) -> Result<(), Rejection> {
        match fs_err::read(file)?.as_slice() {
            b"no" => Err(Rejection::Content("it says no".to_owned())),
            _ => Ok(()),
        }
    }
}

fn store(state_dir: &Path) -> ArtifactStore {
    let config = ArtifactConfig {
        state_dir: state_dir.to_path_buf(),
        max_bytes: 1_000_000,
    };
    ArtifactStore::open(&config, Arc::new(Taster)).unwrap()
}

fn quiet() -> OnProgress {
    Arc::new(|_| {})
}

/// Every file below `folder`, finished or not.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

/// A server whose n-th connection is handled by `serve(n, stream)`; answers its URL and the count of connections.
fn server(serve: impl Fn(usize, TcpStream) + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
                head.push(byte[0]);
            }
            serve(number, stream);
        }
    });
    (url, count)
}

fn send(mut stream: TcpStream, head: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
    drop(
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body)),
    );
}

fn ok(stream: TcpStream, body: &[u8]) {
    send(
        stream,
        &format!("200 OK\r\ncontent-length: {}", body.len()),
        body,
    );
}

async fn fetch(
    store: &ArtifactStore,
    url: &str,
    expected: Option<Digest>,
) -> Result<Stored, ArtifactError> {
    store
        .fetch(
            &Source::parse(url).unwrap(),
            expected,
            ArtifactKind::Initramfs,
            quiet(),
        )
        .await
}

#[tokio::test]
async fn an_artifact_is_fetched_once_and_kept() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (url, requests) = server(|_, stream| ok(stream, CONTENT));
    let digest = Digest::of(CONTENT);
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let progress: OnProgress = Arc::new(move |progress| sink.lock().unwrap().push(progress));
    let stored = store
        .fetch(
            &Source::parse(&url).unwrap(),
            Some(digest),
            ArtifactKind::Initramfs,
            progress,
        )
        .await
        .unwrap();
    assert_eq!(fs_err::read(&stored.path).unwrap(), CONTENT);
    assert_eq!(
        stored.path,
        volantd::artifact::path_of(temp.path(), &digest)
    );
    let last = Progress {
        received_bytes: 26,
        total_bytes: Some(26),
    };
    assert_eq!(seen.lock().unwrap().last(), Some(&last));

    assert_eq!(fetch(&store, &url, Some(digest)).await.unwrap(), stored);
    assert_eq!(
        requests.load(Ordering::SeqCst),
        1,
        "what is there is not fetched again"
    );
    assert_eq!(fetch(&store, &url, None).await.unwrap(), stored);
    assert_eq!(
        requests.load(Ordering::SeqCst),
        2,
        "an unpinned source is asked what it has now"
    );
    assert_eq!(files(temp.path()), [digest.to_hex()]);
}

#[tokio::test]
async fn five_at_once_fetch_one_digest_once() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (url, requests) = server(|_, stream| {
        thread::sleep(Duration::from_millis(100));
        ok(stream, CONTENT);
    });
    let digest = Digest::of(CONTENT);
    let all =
        futures_util::future::join_all((0..5).map(|_| fetch(&store, &url, Some(digest)))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_wrong_checksum_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (url, _) = server(|_, stream| ok(stream, CONTENT));
    let wanted = Digest::of(b"something else");
    let refused = fetch(&store, &url, Some(wanted)).await.unwrap_err();
    let ArtifactError::ChecksumMismatch { expected, got, .. } = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!((*expected, *got), (wanted, Digest::of(CONTENT)));
    assert!(files(temp.path()).is_empty());
}

#[tokio::test]
async fn what_the_check_refuses_is_not_stored() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let file = temp.path().join("plugin.cpio.gz");
    fs_err::write(&file, "no").unwrap();
    let refused = fetch(&store, &format!("file://{}", file.display()), None)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, ArtifactError::NotBootable { reason, .. } if reason == "it says no"),
        "{refused:?}"
    );
    assert_eq!(files(temp.path()), ["plugin.cpio.gz"]);
}

#[tokio::test]
async fn servers_that_fail_now_and_then_are_asked_again() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (url, requests) = server(|number, stream| match number {
        0 => send(stream, "503 Service Unavailable", b""),
        1 => send(stream, "200 OK\r\ncontent-length: 26", &CONTENT[..10]),
        _ => ok(stream, CONTENT),
    });
    fetch(&store, &url, Some(Digest::of(CONTENT)))
        .await
        .unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    assert_eq!(files(temp.path()).len(), 1);
}

#[tokio::test]
async fn servers_that_say_no_are_believed() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (url, requests) = server(|_, stream| send(stream, "404 Not Found", b""));
    let refused = fetch(&store, &format!("{url}/x?token=secret"), None)
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("Fetching `{url}/x` failed: the server answers with HTTP status 404")
    );
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/x?token=secret", listener.local_addr().unwrap());
    drop(listener);
    let error = fetch(&store, &url, None).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Unreachable { .. }),
        "{error:?}"
    );
    let chain = common::error_chain::Chain(&error).to_string();
    assert!(
        !chain.contains("secret") && chain.contains("127.0.0.1"),
        "{chain}"
    );
}

#[tokio::test]
async fn a_server_without_tls_is_not_trusted_with_https() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            ok(stream.unwrap(), CONTENT);
        }
    });
    let error = fetch(&store, &url, None).await.unwrap_err();
    // A host without root certificates refuses before it connects.
    assert!(
        matches!(
            error,
            ArtifactError::Unreachable { .. } | ArtifactError::Client(_)
        ),
        "{error:?}"
    );
    assert!(files(temp.path()).is_empty());
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (target, _) = server(|_, stream| ok(stream, CONTENT));
    let (url, _) = server(move |_, stream| {
        send(
            stream,
            &format!("302 Found\r\nlocation: {target}/file\r\ncontent-length: 0"),
            b"",
        );
    });
    fetch(&store, &url, None).await.unwrap();

    let (url, requests) = server(|_, stream| {
        send(
            stream,
            "302 Found\r\nlocation: /again\r\ncontent-length: 0",
            b"",
        );
    });
    let refused = fetch(&store, &url, None).await.unwrap_err();
    assert!(
        refused.to_string().contains("redirects more than 5 times"),
        "{refused}"
    );
    assert_eq!(requests.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn too_large_is_refused_announced_or_not() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (announced, _) = server(|_, stream| send(stream, "200 OK\r\ncontent-length: 1000001", b""));
    // Without a length the body ends with the connection.
    let (endless, _) = server(|_, mut stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"));
        while stream.write_all(&[0; 4096]).is_ok() {}
    });
    for url in [announced, endless] {
        let refused = fetch(&store, &url, None).await.unwrap_err();
        assert!(
            matches!(
                refused,
                ArtifactError::TooLarge {
                    limit_bytes: 1_000_000,
                    ..
                }
            ),
            "{refused:?}"
        );
    }
    assert!(files(temp.path()).is_empty());
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = store(temp.path());
    let (url, _) = server(|_, mut stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome of it"));
        // Silent until the client leaves.
        drop(stream.read(&mut [0]));
    });
    let given_up =
        tokio::time::timeout(Duration::from_millis(500), fetch(&store, &url, None)).await;
    assert!(given_up.is_err());
    for _ in 0..100 {
        if files(temp.path()).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?} is left", files(temp.path()));
}

/// On a disk of one MiB, mounted where only this thread and its children see it.
#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    let tested = thread::spawn(|| {
        if !nix::unistd::geteuid().is_root() || unshare(CloneFlags::CLONE_NEWNS).is_err() {
            skip(
                "a_full_disk_is_said_and_leaves_nothing",
                "it needs root and the right to mount",
            );
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(
            Some("tmpfs"),
            temp.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=512k"),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = store(temp.path());
            let large = vec![7; 900_000];
            let body = large.clone();
            let (url, requests) = server(move |_, stream| ok(stream, &body));
            let full = fetch(&store, &url, Some(Digest::of(&large)))
                .await
                .unwrap_err();
            assert!(matches!(full, ArtifactError::NoSpace { .. }), "{full:?}");
            assert!(
                full.to_string().starts_with("There is no space left in `"),
                "{full}"
            );
            assert_eq!(
                requests.load(Ordering::SeqCst),
                1,
                "the same again would not fit either"
            );
            assert!(files(temp.path()).is_empty());
            // The disk works again at once.
            let (url, _) = server(|_, stream| ok(stream, CONTENT));
            fetch(&store, &url, None).await.unwrap();
        });
        nix::mount::umount(temp.path()).unwrap();
    });
    tested.join().unwrap();
}
