//! An agent without a guest: it listens where the guest's would, says at once that its workload is ready, runs any command by doing
//! nothing, and ends its VMM when it is told to shut down. It asks nobody for a secret. Where the workload would listen it answers too.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::agent::session::{Channel, Exit, HEADER_BYTES, PROTOCOL, header, parse_header};
use common::agent::stats::GuestStats;
use common::agent::{
    AGENT_PORT, AgentStatus, CLOCK_PATH, EXEC_PATH, GuestHealth, GuestPhase, HealthState,
    LOGS_PATH, SHUTDOWN_PATH, STATS_PATH, STATUS_PATH, WorkloadStatus,
};

/// How long it waits before it repeats what it has said; volantd asks for more.
const WAIT: Duration = Duration::from_secs(5);

/// Where a workload would listen, for manifests that name no port or this one.
const WORKLOAD_PORT: u16 = 80;

/// Serves until it is told to shut down; `end` ends the fake.
pub(crate) fn serve(end: &Arc<impl Fn() + Send + Sync + 'static>) {
    let Some(ip) = own_address() else { return };
    let listener = TcpListener::bind((ip.as_str(), AGENT_PORT)).unwrap();
    // Only root may listen there, and only tests of the whole daemon look.
    if let Ok(workload) = TcpListener::bind((ip.as_str(), WORKLOAD_PORT)) {
        let end = Arc::clone(end);
        thread::spawn(move || accept(&workload, &end));
    }
    accept(&listener, end);
}

fn accept(listener: &TcpListener, end: &Arc<impl Fn() + Send + Sync + 'static>) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        let end = Arc::clone(end);
        thread::spawn(move || connection(&stream, &*end));
    }
}

/// The address that the kernel would be given by `ip=<address>:…` in its command line.
fn own_address() -> Option<String> {
    std::env::args()
        .flat_map(|argument| {
            let words: Vec<String> = argument.split(' ').map(str::to_owned).collect();
            words
        })
        .find_map(|word| Some(word.strip_prefix("ip=")?.split(':').next()?.to_owned()))
}

fn connection(stream: &TcpStream, end: &impl Fn()) {
    let mut reader = BufReader::new(stream);
    while let Some((line, length)) = head(&mut reader) {
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            STATUS_PATH => {
                if query.contains("after=") {
                    thread::sleep(WAIT);
                }
                answer(stream, "200 OK", &serde_json::to_string(&status()).unwrap());
            }
            STATS_PATH => {
                let stats = serde_json::to_string(&GuestStats::default()).unwrap();
                answer(stream, "200 OK", &stats);
            }
            CLOCK_PATH => answer(stream, "204 No Content", ""),
            SHUTDOWN_PATH => {
                answer(stream, "202 Accepted", "{}");
                end();
            }
            EXEC_PATH => return session(stream, &mut reader),
            LOGS_PATH => return logs(stream),
            _ => answer(stream, "404 Not Found", "{}"),
        }
    }
}

/// A request's first line, and how long its body is.
fn head(reader: &mut BufReader<&TcpStream>) -> Option<(String, usize)> {
    let (mut first, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Some((first?, length));
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        first.get_or_insert_with(|| line.to_owned());
    }
}

fn answer(mut stream: &TcpStream, status: &str, body: &str) {
    let length = body.len();
    let _ignored = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
}

/// A log without lines, open until the host has seen enough.
fn logs(mut stream: &TcpStream) {
    let _ignored = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n"
    );
    let mut nothing = [0];
    let _ignored = stream.read(&mut nothing);
}

/// Takes the command, writes a word, and has ended well.
fn session(mut stream: &TcpStream, reader: &mut BufReader<&TcpStream>) {
    let _ignored = write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
    );
    let mut bytes = [0; HEADER_BYTES];
    if reader.read_exact(&mut bytes).is_err() {
        return;
    }
    let (_, length) = parse_header(bytes).unwrap();
    let mut start = vec![0; length];
    if reader.read_exact(&mut start).is_err() {
        return;
    }
    let exit = serde_json::to_vec(&Exit {
        code: 0,
        signal: None,
    })
    .unwrap();
    for (channel, payload) in [(Channel::Stdout, b"done\n".to_vec()), (Channel::Exit, exit)] {
        let _ignored = stream.write_all(&header(channel, payload.len()).unwrap());
        let _ignored = stream.write_all(&payload);
    }
    // The host closes when it has read it all.
    let mut rest = Vec::new();
    let _ignored = reader.read_to_end(&mut rest);
}

fn status() -> AgentStatus {
    AgentStatus {
        version: "0".to_owned(),
        generation: 1,
        now_us: 1,
        phase: GuestPhase::Ready,
        phases: Vec::new(),
        health: GuestHealth {
            state: HealthState::Healthy,
            reason: None,
            probes: 1,
            last_probe_us: None,
            reachable_from_outside: None,
        },
        workload: WorkloadStatus::default(),
        failure: None,
    }
}
