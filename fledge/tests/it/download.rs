//! Downloads from a server on loopback that misbehaves as told.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::digest::Digest;
use fledge::fetch::{Cache, Client, FetchError, Fetcher, Shipped};
use fledge::plan::FileSource;
use fledge::ui::{Ui, Verbosity};

use crate::workspace::{SPEC, Workspace, elf};

/// A server that answers each path with bytes as they are, and counts.
struct Server {
    port: u16,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(pages: Vec<(&'static str, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                while lines
                    .next()
                    .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
                {}
                counter.fetch_add(1, Ordering::SeqCst);
                let path = request.split(' ').nth(1).unwrap_or_default();
                let page = pages.iter().find(|(name, _)| *name == path);
                let missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec();
                drop(stream.write_all(page.map_or(&missing, |(_, bytes)| bytes)));
            }
        });
        Self { port, requests }
    }

    fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn with_busybox(workspace: &Workspace, port: u16, path: &str, checksum: &str) {
    let source = format!(
        "[source]\nbusybox_url = \"http://127.0.0.1:{port}{path}\"\nbusybox_sha256 = \"{checksum}\""
    );
    workspace.write("fledge.toml", format!("{SPEC}{source}").as_bytes());
}

#[test]
fn a_download_is_checked_and_kept() {
    let server = Server::start(vec![("/busybox", ok(&elf(None)))]);
    let workspace = Workspace::new();
    let digest = Digest::of(&elf(None)).to_hex();
    with_busybox(&workspace, server.port, "/busybox", &digest);
    for _ in 0..2 {
        workspace.fledge(&["build"]).assert().success();
        assert_eq!(workspace.entry("bin/busybox").1, elf(None));
    }
    assert_eq!(server.count(), 1, "the second build uses the cache");
    workspace.write(&format!("cache/fledge/sha256/{digest}"), b"tampered with");
    workspace.fledge(&["build"]).assert().success();
    assert_eq!(workspace.entry("bin/busybox").1, elf(None));
    assert_eq!(server.count(), 2, "a damaged cache is not used");
}

#[test]
fn what_is_wrong_with_a_download_is_said() {
    let truncated =
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\nshort".to_vec();
    let huge =
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\nconnection: close\r\n\r\n".to_vec();
    let broken =
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            .to_vec();
    let server = Server::start(vec![
        ("/other", ok(b"other")),
        ("/truncated", truncated),
        ("/huge", huge),
        ("/broken", broken),
    ]);
    let workspace = Workspace::new();
    let table = [
        ("/other", 6, "does not match: expected sha256:"),
        ("/truncated", 5, "Cannot download"),
        ("/huge", 1, "has more than 536870912 bytes"),
        ("/missing", 3, "the server answered 404 Not Found"),
        ("/broken", 5, "the server answered 503"),
    ];
    for (path, code, expected) in table {
        with_busybox(
            &workspace,
            server.port,
            path,
            &Digest::of(&elf(None)).to_hex(),
        );
        workspace.refused(&[], code, expected);
        let partial = workspace.path(&format!(
            "cache/fledge/partial/{}",
            Digest::of(&elf(None)).to_hex()
        ));
        if path == "/truncated" {
            assert_eq!(fs_err::read(&partial).unwrap(), b"short");
            fs_err::remove_file(partial).unwrap();
        }
    }
    assert!(!workspace.path("cache/fledge/sha256").exists());
    assert_eq!(
        fs_err::read_dir(workspace.path("cache/fledge/partial"))
            .unwrap()
            .count(),
        0
    );
}

/// Fetches the agent of a release through the library: the program itself knows one address only.
fn agent(
    workspace: &Workspace,
    server: &Server,
    version: common::build_spec::ReleaseVersion,
) -> Result<Vec<u8>, FetchError> {
    let (_stop, interrupted) = tokio::sync::watch::channel(false);
    let ui = Ui::new(Verbosity::Quiet);
    let fetcher = Fetcher {
        client: Client::new(interrupted),
        cache: Cache::new(workspace.path("cache")),
        releases_url: format!("http://127.0.0.1:{}/releases", server.port),
        shipped: Shipped {
            version: "0.0.0",
            path: None,
        },
        ui: &ui,
    };
    let source = FileSource::Release {
        version,
        checksum: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let path = runtime.block_on(fetcher.fetch("kestrel", &source))?;
    Ok(fs_err::read(path).unwrap())
}

#[test]
fn a_released_agent_must_be_vouched_for() {
    use common::build_spec::ReleaseVersion::{Latest, Tag};
    let list = format!(
        "{}  fledge\n{}  kestrel\n",
        Digest::of(b"f").to_hex(),
        Digest::of(b"agent").to_hex()
    );
    let server = Server::start(vec![
        (
            "/releases/latest/download/checksums.txt",
            ok(list.as_bytes()),
        ),
        ("/releases/latest/download/kestrel", ok(b"agent")),
        ("/releases/download/v1/checksums.txt", ok(list.as_bytes())),
        ("/releases/download/v1/kestrel", ok(b"another")),
        ("/releases/download/v2/checksums.txt", ok(b"")),
        ("/releases/download/v2/kestrel", ok(b"agent")),
    ]);
    let workspace = Workspace::new();
    let tag = |tag: &str| Tag(tag.to_owned());
    assert!(matches!(
        agent(&workspace, &server, tag("v1")),
        Err(FetchError::Checksum { .. })
    ));
    assert!(matches!(
        agent(&workspace, &server, tag("v2")),
        Err(FetchError::NoChecksum { .. })
    ));
    assert!(matches!(
        agent(&workspace, &server, tag("v3")),
        Err(FetchError::Status { .. })
    ));
    assert_eq!(agent(&workspace, &server, Latest).unwrap(), b"agent");
}

#[test]
fn a_download_can_be_interrupted() {
    // A server that accepts and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let workspace = Workspace::new();
    with_busybox(
        &workspace,
        listener.local_addr().unwrap().port(),
        "/b",
        &"0".repeat(64),
    );
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_fledge"))
        .arg("build")
        .env("XDG_CACHE_HOME", workspace.path("cache"))
        .current_dir(workspace.path(""))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (_stream, _) = listener.accept().unwrap();
    let pid = child.id().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status()
        .unwrap();
    assert!(killed.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(workspace.names(), ["app", "conf", "fledge.toml", "kestrel"]);
    assert!(!workspace.path("cache/fledge/sha256").exists());
    assert_eq!(
        fs_err::read_dir(workspace.path("cache/fledge/partial"))
            .unwrap()
            .count(),
        0
    );
}
