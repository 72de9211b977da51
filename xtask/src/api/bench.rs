//! `cargo xtask bench api`: how fast volantd answers many clients beside a bare axum route that answers the same bytes, whether its events
//! reach every reader, and what memory that takes. The unix socket is what both listen on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use fs_err as fs;
use serde_json::Value;

use super::lab::{Lab, Programs};
use crate::printer;

/// VMs that are recorded, and do not run.
const VMS: usize = 1000;
/// Clients at once, each with one connection and the next request as soon as it has an answer.
const CLIENTS: usize = 200;
/// Readers of events at once.
const READERS: usize = 100;
/// VMs that come and go while they read.
const CHANGES: usize = 50;
/// How long each side is asked in one round, and how many rounds there are: the sides take turns, and all rounds count.
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
/// How long one answer or event may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most memory that volantd may hold, in KiB.
const MAX_KIB: u64 = 80 * 1024;

/// What is asked, and how many times slower than the bare route it may be.
const QUESTIONS: [(&str, &str, f64); 2] = [
    ("one VM", "/api/v1/vms/vm-500", 3.0),
    ("list of 50", "/api/v1/vms?limit=50", 6.0),
];

/// A server with one bare axum route. Run by `cargo xtask bench api`, not by hand
#[derive(Debug, Args)]
pub(crate) struct BareArguments {
    #[arg(long)]
    socket: PathBuf,
    /// The file with what it answers
    #[arg(long)]
    body: PathBuf,
}

/// Serves until it is killed.
pub(crate) fn serve_bare(arguments: &BareArguments) -> Result<()> {
    let body = axum::body::Bytes::from(fs::read(&arguments.body)?);
    let answer = move || {
        let body = body.clone();
        async move { ([("content-type", "application/json")], body) }
    };
    let router = axum::Router::new().fallback(axum::routing::get(answer));
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = tokio::net::UnixListener::bind(&arguments.socket)?;
        axum::serve(listener, router).await?;
        Ok(())
    })
}

/// Measures, prints, and judges.
///
/// # Errors
/// When a request failed, an event was lost, or a promise is broken.
pub(crate) fn run() -> Result<()> {
    // No VMM lives, so all VMs are records.
    let lab = Lab::start(&Programs::build(true)?, "die-at-once")?;
    printer::progress("bench", &format!("recording {VMS} VMs"));
    for number in 1..=VMS {
        record(&lab, &format!("vm-{number}"))?;
    }
    let mut broken = Vec::new();
    for (name, path, allowed) in QUESTIONS {
        let (ours, bare) = compare(&lab, path)?;
        let slower = bare / ours;
        printer::result(&format!(
            "{name:<12} {ours:>8.0} answers/s   bare route {bare:>8.0}/s   1/{slower:.2} of its rate; 1/{allowed} is promised"
        ));
        if slower > allowed {
            broken.push(format!(
                "{name} takes {slower:.2} times a bare route's time"
            ));
        }
    }
    let seen = events(&lab)?;
    printer::result(&format!(
        "events       {READERS} readers saw {seen} each, none was lost"
    ));
    let (now, peak) = (memory_kib(&lab, "VmRSS:")?, memory_kib(&lab, "VmHWM:")?);
    printer::result(&format!(
        "memory       {now} KiB resident, {peak} KiB at most; {MAX_KIB} are promised"
    ));
    if peak > MAX_KIB {
        broken.push(format!("volantd held {peak} KiB"));
    }
    lab.stop()?;
    ensure!(
        broken.is_empty(),
        "Promises are broken: {}",
        broken.join("; ")
    );
    Ok(())
}

/// A VM that does not run and shall not.
fn record(lab: &Lab, name: &str) -> Result<()> {
    lab.create(name)?;
    let stop = format!("/api/v1/vms/{name}/stop?wait=stopped&timeout=30s");
    lab.call("POST", &stop, &Value::Null).map(drop)
}

/// Answers per second, of volantd and of the bare route.
fn compare(lab: &Lab, path: &str) -> Result<(f64, f64)> {
    let body = ask(&mut connect(&lab.socket())?, path)?;
    let bare = Bare::start(lab.work.path(), &body)?;
    let (mut ours, mut theirs) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        ours += rate(&lab.socket(), path)?;
        theirs += rate(&bare.socket, path)?;
    }
    let rounds = f64::from(u32::try_from(ROUNDS)?);
    Ok((ours / rounds, theirs / rounds))
}

/// The other side, a process of its own as volantd is.
struct Bare {
    child: Child,
    socket: PathBuf,
}

impl Bare {
    fn start(work: &Path, body: &[u8]) -> Result<Self> {
        let dir = work.join("bare");
        fs::create_dir_all(&dir)?;
        let (socket, file) = (dir.join("socket"), dir.join("body"));
        fs::write(&file, body)?;
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench-api-bare").arg("--socket").arg(&socket);
        let child = command
            .arg("--body")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()?;
        let bare = Self { child, socket };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&bare.socket).is_err() {
            ensure!(Instant::now() < deadline, "The bare route does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(bare)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Answers per second to all clients together.
fn rate(socket: &Path, path: &str) -> Result<f64> {
    let (answers, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let begin = Barrier::new(CLIENTS + 1);
    let elapsed = std::thread::scope(|scope| -> Result<Duration> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let connected = connect(socket);
                    begin.wait();
                    let mut stream = connected?;
                    while !over.load(Ordering::Relaxed) {
                        ask(&mut stream, path)?;
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        begin.wait();
        let started = Instant::now();
        std::thread::sleep(ROUND);
        over.store(true, Ordering::Relaxed);
        for client in clients {
            joined(client.join())?;
        }
        Ok(started.elapsed())
    })?;
    let answers = u32::try_from(answers.load(Ordering::Relaxed))?;
    Ok(f64::from(answers) / elapsed.as_secs_f64())
}

fn joined<T>(outcome: std::thread::Result<Result<T>>) -> Result<T> {
    outcome.unwrap_or_else(|_| bail!("A client panicked"))
}

fn connect(socket: &Path) -> Result<BufReader<UnixStream>> {
    let stream = UnixStream::connect(socket).context("No connection")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn send(stream: &mut BufReader<UnixStream>, path: &str) -> Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    Ok(stream.get_mut().write_all(request.as_bytes())?)
}

/// Asks on a connection that is kept; anything but 200 with a length is an error.
fn ask(stream: &mut BufReader<UnixStream>, path: &str) -> Result<Vec<u8>> {
    send(stream, path)?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200 "), "GET {path}: {line:?}");
    let mut length = None;
    while line.trim_end() != "" {
        line.clear();
        stream.read_line(&mut line)?;
        if let Some(("content-length", value)) = line.trim_end().split_once(": ") {
            length = Some(value.parse()?);
        }
    }
    let mut body = vec![0; length.context("An answer without a length")?];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Lets VMs come and go while readers read; answers how many events each saw, which is how many there were.
fn events(lab: &Lab) -> Result<usize> {
    let begin = Barrier::new(READERS + 1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(|| -> Result<usize> {
                    let stream = subscribe(lab);
                    begin.wait();
                    read_events(stream?)
                })
            })
            .collect();
        begin.wait();
        for number in 1..=CHANGES {
            let name = format!("passing-{number}");
            record(lab, &name)?;
            lab.call("DELETE", &format!("/api/v1/vms/{name}"), &Value::Null)?;
        }
        for reader in readers {
            let seen = joined(reader.join())?;
            ensure!(
                seen == 2 * CHANGES,
                "A reader saw {seen} events of {}",
                2 * CHANGES
            );
        }
        Ok(2 * CHANGES)
    })
}

/// A stream whose head has come: from then on nothing may be missed.
fn subscribe(lab: &Lab) -> Result<BufReader<UnixStream>> {
    let mut stream = connect(&lab.socket())?;
    send(&mut stream, "/api/v1/events/vms?type=VM_CREATED,VM_DELETED")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200 "), "The events: {line:?}");
    while line.trim_end() != "" {
        line.clear();
        stream.read_line(&mut line)?;
    }
    Ok(stream)
}

/// Counts events up to the last one that there will be.
fn read_events(stream: BufReader<UnixStream>) -> Result<usize> {
    let (mut seen, mut gone) = (0, 0);
    for line in stream.lines() {
        match line?.trim().split_once("event: ").map(|(_, kind)| kind) {
            Some("VM_CREATED") => seen += 1,
            Some("VM_DELETED") => {
                seen += 1;
                gone += 1;
            }
            Some(other) => bail!("A reader got `{other}`"),
            None => {}
        }
        if gone == CHANGES {
            break;
        }
    }
    Ok(seen)
}

/// A figure of volantd's /proc/pid/status.
fn memory_kib(lab: &Lab, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.pid()))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("No {field} in /proc"))
}
