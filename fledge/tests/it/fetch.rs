//! Downloads that go on where they stopped, and servers that stand in for one another.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::digest::Digest;
use fledge::fetch::{Cache, Client, FetchError, Fetcher, Shipped};
use fledge::ui::{Ui, Verbosity};

use crate::workspace::Workspace;

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Request {
    path: String,
    range: Option<String>,
    if_range: Option<String>,
}

/// A server that answers as a function says, and remembers what it was asked.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                let mut request = Request {
                    path: first.split(' ').nth(1).unwrap().to_owned(),
                    ..Request::default()
                };
                for line in lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                {
                    let (name, value) = line.split_once(": ").unwrap();
                    match name.to_ascii_lowercase().as_str() {
                        "range" => request.range = Some(value.to_owned()),
                        "if-range" => request.if_range = Some(value.to_owned()),
                        _ => {}
                    }
                }
                let bytes = answer(&request);
                log.lock().unwrap().push(request);
                drop(stream.write_all(&bytes));
            }
        });
        Self { port, requests }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What was asked since the last time: path, `Range`, `If-Range`.
    fn asked(&self) -> Vec<String> {
        let text = |value: Option<String>| value.unwrap_or_default();
        self.requests
            .lock()
            .unwrap()
            .drain(..)
            .map(|request| {
                let path = request.path;
                format!("{path} {} {}", text(request.range), text(request.if_range))
            })
            .collect()
    }
}

/// An answer of which `sent` arrives, out of `length` bytes that are promised.
fn answer(status: &str, headers: &str, length: usize, sent: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    [head.as_bytes(), sent].concat()
}

fn whole(headers: &str, body: &[u8]) -> Vec<u8> {
    answer("200 OK", headers, body.len(), body)
}

fn rest(from: usize, body: &[u8]) -> Vec<u8> {
    let range = format!(
        "content-range: bytes {from}-{}/{}\r\n",
        body.len() - 1,
        body.len()
    );
    answer(
        "206 Partial Content",
        &range,
        body.len() - from,
        &body[from..],
    )
}

fn missing() -> Vec<u8> {
    answer("404 Not Found", "", 0, b"")
}

fn download(workspace: &Workspace, urls: &[String], content: &[u8]) -> Result<PathBuf, FetchError> {
    let (_stop, interrupted) = tokio::sync::watch::channel(false);
    let ui = Ui::new(Verbosity::Quiet);
    let fetcher = Fetcher {
        client: Client::new(interrupted),
        cache: Cache::new(workspace.path("cache")),
        releases_url: String::new(),
        shipped: Shipped {
            version: "0.0.0",
            path: None,
        },
        ui: &ui,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(fetcher.download("file", urls, Digest::of(content)))
}

const CONTENT: &[u8] = b"the whole content";

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let server = Server::start(|request| match request.range.as_deref() {
        None => answer("200 OK", "etag: \"v1\"\r\n", CONTENT.len(), &CONTENT[..4]),
        Some("bytes=4-") => {
            let range = format!("content-range: bytes 4-16/{}\r\n", CONTENT.len());
            answer(
                "206 Partial Content",
                &range,
                CONTENT.len() - 4,
                &CONTENT[4..9],
            )
        }
        Some(_) => rest(9, CONTENT),
    });
    let workspace = Workspace::new();
    let path = download(&workspace, &[server.url("/x")], CONTENT).unwrap();
    assert_eq!(fs_err::read(path).unwrap(), CONTENT);
    assert_eq!(
        server.asked(),
        ["/x  ", "/x bytes=4- \"v1\"", "/x bytes=9- \"v1\""]
    );
}

#[test]
fn the_next_run_goes_on_too_and_the_digest_decides() {
    let digest = Digest::of(CONTENT).to_hex();
    let workspace = Workspace::new();
    let begin = |content: &[u8]| {
        workspace.write(&format!("cache/partial/{digest}"), content);
    };
    let server = Server::start(|request| match request.path.as_str() {
        "/ranges" => match request.range.as_deref() {
            Some("bytes=9-") => rest(9, CONTENT),
            Some(_) => answer("416 Range Not Satisfiable", "", 0, b""),
            None => whole("", CONTENT),
        },
        "/elsewhere" if request.range.is_some() => rest(3, CONTENT),
        _ => whole("etag: W/\"weak\"\r\n", CONTENT),
    });
    let table: [(&str, &[u8], &[&str]); 6] = [
        ("/ranges", &CONTENT[..9], &["/ranges bytes=9- "]),
        // Nine other bytes: the sum is wrong, and it begins again.
        ("/ranges", b"something", &["/ranges bytes=9- ", "/ranges  "]),
        // More than there is.
        ("/ranges", &[b'x'; 40], &["/ranges bytes=40- ", "/ranges  "]),
        // All of it.
        ("/ranges", CONTENT, &[]),
        // A server that cannot, and one that sends another part.
        ("/plain", &CONTENT[..9], &["/plain bytes=9- "]),
        (
            "/elsewhere",
            &CONTENT[..9],
            &["/elsewhere bytes=9- ", "/elsewhere  "],
        ),
    ];
    for (path, begun, asked) in table {
        begin(begun);
        let found = download(&workspace, &[server.url(path)], CONTENT).unwrap();
        assert_eq!(fs_err::read(&found).unwrap(), CONTENT, "{path}");
        assert_eq!(server.asked(), asked, "{path} after {begun:?}");
        fs_err::remove_file(found).unwrap();
        assert_eq!(
            fs_err::read_dir(workspace.path("cache/partial"))
                .unwrap()
                .count(),
            0
        );
    }
}

#[test]
fn servers_stand_in_for_one_another() {
    let server = Server::start(|request| match request.path.as_str() {
        "/wrong" => whole("", b"something else"),
        "/broken" => answer("200 OK", "etag: \"b\"\r\n", CONTENT.len(), &CONTENT[..5]),
        "/huge" => answer("200 OK", "", 99_999_999_999, b""),
        "/right" => match request.range.as_deref() {
            Some("bytes=5-") => rest(5, CONTENT),
            _ => whole("", CONTENT),
        },
        _ => missing(),
    });
    let workspace = Workspace::new();
    let urls =
        |paths: &[&str]| -> Vec<String> { paths.iter().map(|path| server.url(path)).collect() };
    let all = urls(&["/gone", "/wrong", "/huge", "/broken", "/right"]);
    let path = download(&workspace, &all, CONTENT).unwrap();
    assert_eq!(fs_err::read(path).unwrap(), CONTENT);
    let asked = server.asked();
    // What the broken one gave is used, but its name of the version means nothing to the next.
    assert_eq!(asked.last().unwrap(), "/right bytes=5- ");
    assert_eq!(asked[..3], ["/gone  ", "/wrong  ", "/huge  "]);
    download(&workspace, &all, CONTENT).unwrap();
    assert_eq!(server.asked(), [""; 0], "it is in the cache");
    let error = download(&workspace, &urls(&["/gone", "/wrong"]), b"another").unwrap_err();
    let message = error.to_string();
    for part in [
        "None of 2 servers has the file: Cannot download `http://",
        "answered 404 Not Found; Checksum of `http://",
        "does not match: expected sha256:",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let error = download(&workspace, &urls(&["/gone"]), b"another").unwrap_err();
    assert!(matches!(error, FetchError::Status { .. }), "{error}");
    let cached = fs_err::read_dir(workspace.path("cache/sha256"))
        .unwrap()
        .count();
    assert_eq!(cached, 1, "what is wrong is not kept");
}
