//! An example workload: a static HTTP service on std alone, one thread for each connection. It is no web server: see the README.

mod websocket;

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Where it listens without an argument and without `PORT`.
const DEFAULT_PORT: u16 = 80;

/// Connections at a time; more are told to come again. Each costs a thread of [`STACK_BYTES`].
const MAX_CONNECTIONS: usize = 64;

/// What a thread needs here, with room.
const STACK_BYTES: usize = 128 * 1024;

/// The largest request head; nothing here needs more than a line.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// How long a whole request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The wait after a failed accept, such as "too many open files".
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What `GET /crash` ends the process with.
const CRASH_EXIT_CODE: i32 = 3;

/// How much `GET /stream` sends without `?bytes=`.
const STREAM_BYTES: u64 = 1024 * 1024;

/// What `GET /stream` sends at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// How long a WebSocket may be silent.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);

/// What a request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    body: &'static str,
    then: Then,
}

/// What happens after the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Crash,
    /// So many bytes are the body.
    Stream(u64),
}

impl Answer {
    const fn new(status: &'static str, body: &'static str) -> Self {
        Self {
            status,
            body,
            then: Then::Close,
        }
    }

    /// The answer to a request's first line.
    fn to(request_line: &str) -> Self {
        let mut words = request_line.split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        if !version.is_some_and(|version| version.starts_with("HTTP/1.")) || words.next().is_some()
        {
            return Self::new("400 Bad Request", "This is not HTTP/1.x\n");
        }
        if !matches!(method, Some("GET" | "HEAD")) {
            return Self::new("405 Method Not Allowed", "Only GET and HEAD\n");
        }
        let (path, query) = target
            .map(|target| target.split_once('?').unwrap_or((target, "")))
            .unzip();
        match path {
            Some("/") => Self::new("200 OK", "Hello from Volant!\n"),
            Some("/health") => Self::new("200 OK", "ok\n"),
            Some("/crash") => Self {
                then: Then::Crash,
                ..Self::new("200 OK", "Ending with exit code 3\n")
            },
            Some("/stream") => match stream_bytes(query.unwrap_or_default()) {
                Some(bytes) => Self {
                    then: Then::Stream(bytes),
                    ..Self::new("200 OK", "")
                },
                None => Self::new("400 Bad Request", "Say how many: /stream?bytes=1000000\n"),
            },
            // A request that is one for a WebSocket does not come here.
            Some("/ws") => Self::new("426 Upgrade Required", "This is a WebSocket\n"),
            _ => Self::new("404 Not Found", "Try /, /health, /crash, /stream or /ws\n"),
        }
    }

    /// The answer as it goes over the wire. `HEAD` gets no body, but its length.
    fn to_bytes(self, request_line: &str) -> Vec<u8> {
        let Self { status, body, .. } = self;
        let more = match status.split(' ').next() {
            Some("405") => "allow: GET, HEAD\r\n",
            Some("426") => "upgrade: websocket\r\n",
            _ => "",
        };
        let shown = if request_line.starts_with("HEAD ") {
            ""
        } else {
            body
        };
        let length = match self.then {
            Then::Stream(bytes) => bytes.to_string(),
            Then::Close | Then::Crash => body.len().to_string(),
        };
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n{shown}"
        )
        .into_bytes()
    }
}

/// A place among the connections, given back when it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn main() -> ExitCode {
    let port = match port(env::args().nth(1), env::var("PORT").ok()) {
        Ok(port) => port,
        Err(text) => {
            log(&format!("`{}` is not a port number", text.escape_debug()));
            return ExitCode::from(2);
        }
    };
    let listener = match TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))) {
        Ok(listener) => listener,
        Err(error) => {
            log(&format!("Cannot listen on port {port}: {error}"));
            return ExitCode::FAILURE;
        }
    };
    log(&format!("Listening on 0.0.0.0:{port}"));
    serve(&listener)
}

/// The port from the first argument, else from the environment, else the default.
fn port(argument: Option<String>, environment: Option<String>) -> Result<u16, String> {
    argument
        .or(environment)
        .filter(|text| !text.is_empty())
        .map_or(Ok(DEFAULT_PORT), |text| text.parse().map_err(|_| text))
}

fn serve(listener: &TcpListener) -> ! {
    let taken = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            thread::sleep(ACCEPT_RETRY);
            continue;
        };
        let Some(place) = Place::take(&taken) else {
            refuse(stream);
            continue;
        };
        let connection = thread::Builder::new().stack_size(STACK_BYTES);
        // Without a thread the connection is closed: the client may try again.
        drop(connection.spawn(move || {
            handle(stream, peer);
            drop(place);
        }));
    }
}

fn refuse(mut stream: TcpStream) {
    let busy = Answer::new("503 Service Unavailable", "Too many connections\n");
    // A client that does not read must not hold up the others.
    if stream.set_nonblocking(true).is_ok() {
        drop(stream.write_all(&busy.to_bytes("")));
    }
}

fn handle(mut stream: TcpStream, peer: SocketAddr) {
    let (line, answer) = match read_head(&mut stream) {
        Ok(head) => {
            let line = head.lines().next().unwrap_or_default().to_owned();
            if line.starts_with("GET /ws ")
                && let Some(welcome) = websocket::welcome(&head)
            {
                log(&format!("{peer} \"{}\" 101", line.escape_debug()));
                // However it ends, there is nobody left to tell.
                drop(echo(stream, &welcome));
                return;
            }
            let answer = Answer::to(&line);
            (line, answer)
        }
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            let too_large = "431 Request Header Fields Too Large";
            (String::new(), Answer::new(too_large, "Too large\n"))
        }
        // It went away, or was too slow.
        Err(_) => return,
    };
    log(&format!(
        "{peer} \"{}\" {}",
        line.escape_debug(),
        answer.status.split(' ').next().unwrap_or_default()
    ));
    let sent = stream
        .set_write_timeout(Some(WRITE_TIMEOUT))
        .and_then(|()| stream.write_all(&answer.to_bytes(&line)))
        .and_then(|()| match answer.then {
            Then::Stream(bytes) if !line.starts_with("HEAD ") => send_zeroes(&mut stream, bytes),
            Then::Stream(_) | Then::Close | Then::Crash => Ok(()),
        })
        .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    if answer.then == Then::Crash {
        log("Crashing, as asked");
        crash();
    }
    drop(sent);
}

/// How many bytes a query such as `bytes=1000` asks for.
fn stream_bytes(query: &str) -> Option<u64> {
    match query.strip_prefix("bytes=") {
        Some(number) => number.parse().ok(),
        None => query.is_empty().then_some(STREAM_BYTES),
    }
}

fn send_zeroes(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let piece = [0; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        stream.write_all(&piece[..count])?;
        left -= u64::try_from(count).unwrap_or(left);
    }
    Ok(())
}

/// Goes on as a WebSocket.
fn echo(mut stream: TcpStream, welcome: &str) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    stream.set_read_timeout(Some(SILENCE_TIMEOUT))?;
    stream.write_all(welcome.as_bytes())?;
    websocket::echo(&mut stream)
}

#[expect(clippy::exit, reason = "this is what /crash is for")]
fn crash() -> ! {
    std::process::exit(CRASH_EXIT_CODE)
}

/// Reads a whole request head.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !ends(&head) {
        if head.len() >= MAX_HEAD_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // A bound for the whole: a byte now and then does not keep a thread for ever.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend(piece.iter().take(read));
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Whether a head is complete: an empty line, with or without carriage return (RFC 9112 §2.2).
fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|window| window == b"\r\n\r\n")
        || head.windows(2).any(|window| window == b"\n\n")
}

/// One line on standard output, at once: it is the VM's log.
fn log(text: &str) {
    let mut out = io::stdout().lock();
    // A log that nobody takes is no reason to stop serving.
    drop(out.write_all(format!("hello: {text}\n").as_bytes()));
    drop(out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_answered() {
        let table = [
            ("GET / HTTP/1.1", "200", "Hello from Volant!\n"),
            ("GET /?x=1 HTTP/1.0", "200", "Hello from Volant!\n"),
            ("GET /health HTTP/1.1", "200", "ok\n"),
            ("GET /crash HTTP/1.1", "200", "Ending with exit code 3\n"),
            (
                "GET /crash/ HTTP/1.1",
                "404",
                "Try /, /health, /crash, /stream or /ws\n",
            ),
            (
                "GET /stream?bytes=x HTTP/1.1",
                "400",
                "Say how many: /stream?bytes=1000000\n",
            ),
            ("GET /ws HTTP/1.1", "426", "This is a WebSocket\n"),
            ("POST /crash HTTP/1.1", "405", "Only GET and HEAD\n"),
            ("GET / HTTP/2", "400", "This is not HTTP/1.x\n"),
            ("GET / HTTP/1.1 x", "400", "This is not HTTP/1.x\n"),
            ("GET /", "400", "This is not HTTP/1.x\n"),
            ("", "400", "This is not HTTP/1.x\n"),
        ];
        for (line, status, body) in table {
            let answer = Answer::to(line);
            assert_eq!(answer.status.split(' ').next(), Some(status), "{line}");
            assert_eq!(answer.body, body, "{line}");
            let crashes = body.starts_with("Ending");
            assert_eq!(answer.then == Then::Crash, crashes, "{line}");
        }
    }

    #[test]
    fn a_head_has_the_length_but_not_the_body() {
        let line = "HEAD / HTTP/1.1";
        let text = String::from_utf8(Answer::to(line).to_bytes(line)).unwrap();
        assert!(text.contains("content-length: 19\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn the_port_is_from_argument_environment_or_default() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(port(some("81"), some("82")), Ok(81));
        assert_eq!(port(None, some("82")), Ok(82));
        assert_eq!(port(None, some("")), Ok(DEFAULT_PORT));
        assert_eq!(port(None, None), Ok(DEFAULT_PORT));
        assert_eq!(port(some("http"), None), Err("http".to_owned()));
        assert_eq!(port(some("65536"), None), Err("65536".to_owned()));
    }

    /// A server on a free port of its own, for the rest of the test's process.
    fn served() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        address
    }

    fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // The server may have answered and closed before all is sent.
        drop(stream.write_all(request));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn a_request_in_pieces_is_answered() {
        let address = served();
        let mut stream = TcpStream::connect(address).unwrap();
        for piece in ["GET /hea", "lth HTTP/1.1\r\nhost: x\r", "\n\r", "\n"] {
            stream.write_all(piece.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }

    #[test]
    fn a_stream_has_the_length_that_was_asked_for() {
        let address = served();
        let answer = exchange(address, b"GET /stream?bytes=70000 HTTP/1.1\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 70000"), "{head}");
        assert_eq!(body.len(), 70_000);
        let head = exchange(address, b"HEAD /stream HTTP/1.1\r\n\r\n");
        assert!(head.ends_with("connection: close\r\n\r\n"), "{head}");
    }

    #[test]
    fn a_websocket_echoes() {
        let address = served();
        let mut request = b"GET /ws HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_vec();
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(&request).unwrap();
        let mut answer = Vec::new();
        while !ends(&answer) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        // A message and a close, each masked with nothing.
        request = b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0".to_vec();
        stream.write_all(&request).unwrap();
        let mut echoed = Vec::new();
        stream.read_to_end(&mut echoed).unwrap();
        assert_eq!(echoed, b"\x81\x02hi\x88\x00");
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let address = served();
        let mut request = b"GET / HTTP/1.1\r\nx: ".to_vec();
        request.resize(MAX_HEAD_BYTES, b'y');
        let answer = exchange(address, &request);
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn more_connections_than_places_are_refused_and_places_come_back() {
        let address = served();
        let held: Vec<TcpStream> = (0..MAX_CONNECTIONS)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let request = b"GET / HTTP/1.1\r\n\r\n";
        let answer = exchange(address, request);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        drop(held);
        for _ in 0..100 {
            if exchange(address, request).starts_with("HTTP/1.1 200 ") {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("no place came back");
    }
}
