//! `cargo xtask bench api`: how fast volantd answers many clients beside a bare axum route that answers the same bytes, whether its events
//! reach every reader, and what memory that takes. The unix socket is what both listen on.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use fs_err as fs;
use serde_json::Value;

use super::client::Client;
use super::lab::{Lab, Programs};
use super::threads;
use crate::tally::Tally;
use crate::{packages, printer};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// VMs that are recorded, and do not run.
    vms: usize,
    /// Clients at once, each with one connection and the next request as soon as it has an answer.
    clients: usize,
    /// Readers of events at once.
    readers: usize,
    /// VMs that come and go while they read.
    changes: usize,
    /// How long each side is asked in one round, and how many rounds there are: the sides take turns, and all rounds count.
    round: Duration,
    rounds: u32,
}

/// What the promises are about.
const WHOLE: Size = Size {
    vms: 1000,
    clients: 200,
    readers: 100,
    changes: 50,
    round: Duration::from_secs(3),
    rounds: 3,
};

/// Enough to see that all of it works. It says nothing about speed.
const SHORT: Size = Size {
    vms: 60,
    clients: 50,
    readers: 20,
    changes: 10,
    round: Duration::from_millis(300),
    rounds: 1,
};

/// How many record VMs at once. Each waits for the disk more than for anything else.
const RECORDERS: usize = 16;
/// How many let VMs come and go at once.
const CHANGERS: usize = 4;
/// How long the bare route may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most memory that volantd may hold, in KiB.
const MAX_KIB: u64 = 80 * 1024;

/// What is asked, and how many times slower than the bare route it may be.
const QUESTIONS: [(&str, &str, f64); 2] = [
    ("one VM", "/api/v1/vms/vm-50", 3.0),
    ("list of 50", "/api/v1/vms?limit=50", 6.0),
];

/// How much of `cargo xtask bench api`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A small part of it with a volantd for debugging: whether all of it works, and nothing about speed
    #[arg(long)]
    short: bool,
}

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

/// Measures and prints.
///
/// # Errors
/// When a request failed, an event was lost, or, of the whole bench, a promise about speed or memory is broken.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.short {
        return measure(&SHORT, false).map(drop);
    }
    let broken = measure(&WHOLE, true)?;
    ensure!(
        broken.is_empty(),
        "Promises are broken: {}",
        broken.join("; ")
    );
    Ok(())
}

/// The short bench, as one check.
///
/// # Errors
/// When a request failed or an event was lost.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    if !packages::is_root() {
        let why = "it makes a network namespace, which only root may";
        tally.skip("the bench of the API", why);
        return Ok(());
    }
    // Speed is not judged: a busy machine must not fail anybody's checks.
    measure(&SHORT, false)?;
    tally.passed += 1;
    Ok(())
}

/// Does all of it; answers which promises are broken. `release` is the volantd that users get.
fn measure(size: &Size, release: bool) -> Result<Vec<String>> {
    // No VMM lives, so all VMs are records.
    let lab = Lab::start(&Programs::build(release)?, "die-at-once")?;
    printer::progress("bench", &format!("recording {} VMs", size.vms));
    let started = Instant::now();
    each(size.vms, RECORDERS, &lab, |client, number| {
        record(client, &format!("vm-{number}"))
    })?;
    printer::result(&format!(
        "recording    {} VMs created and stopped in {:.1} s",
        size.vms,
        started.elapsed().as_secs_f64()
    ));
    let mut broken = Vec::new();
    for (name, path, allowed) in QUESTIONS {
        let (ours, bare) = compare(&lab, size, path)?;
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
    let seen = events(&lab, size)?;
    printer::result(&format!(
        "events       {} readers saw the same {} of {} types, none was lost",
        size.readers, seen.events, seen.types
    ));
    let (now, peak) = (lab.status_kib("VmRSS:")?, lab.status_kib("VmHWM:")?);
    printer::result(&format!(
        "memory       {now} KiB resident, {peak} KiB at most; {MAX_KIB} are promised"
    ));
    if peak > MAX_KIB {
        broken.push(format!("volantd held {peak} KiB"));
    }
    lab.stop()?;
    Ok(broken)
}

/// Does something `count` times, by some at once, each with a connection of its own; numbers begin at 1.
fn each(
    count: usize,
    at_once: usize,
    lab: &Lab,
    act: impl Fn(&mut Client, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(1);
    threads::all(at_once, || {
        let mut client = Client::connect(&lab.socket())?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number > count {
                return Ok(());
            }
            act(&mut client, number)?;
        }
    })
    .map(drop)
}

/// A VM that does not run and shall not.
fn record(client: &mut Client, name: &str) -> Result<()> {
    client.call("POST", "/api/v1/vms", &Lab::vm(name))?;
    let stop = format!("/api/v1/vms/{name}/stop?wait=stopped&timeout=30s");
    client.call("POST", &stop, &Value::Null).map(drop)
}

/// Answers per second, of volantd and of the bare route.
fn compare(lab: &Lab, size: &Size, path: &str) -> Result<(f64, f64)> {
    let body = Client::connect(&lab.socket())?.get(path)?;
    let bare = Bare::start(lab.work.path(), &body)?;
    let (mut ours, mut theirs) = (0.0, 0.0);
    for _ in 0..size.rounds {
        ours += rate(&lab.socket(), size, path)?;
        theirs += rate(&bare.socket, size, path)?;
    }
    let rounds = f64::from(size.rounds);
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
fn rate(socket: &Path, size: &Size, path: &str) -> Result<f64> {
    let (answers, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let begin = Barrier::new(size.clients + 1);
    let ask = || {
        let connected = Client::connect(socket);
        begin.wait();
        let mut client = connected?;
        while !over.load(Ordering::Relaxed) {
            client.get(path)?;
            answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let (elapsed, _) = threads::beside(size.clients, ask, || {
        begin.wait();
        let started = Instant::now();
        std::thread::sleep(size.round);
        over.store(true, Ordering::Relaxed);
        Ok(started.elapsed())
    })?;
    let answers = u32::try_from(answers.load(Ordering::Relaxed))?;
    Ok(f64::from(answers) / elapsed.as_secs_f64())
}

/// What every reader saw.
struct Seen {
    events: usize,
    types: usize,
}

/// Lets VMs boot and go while readers read all types of events. Each reader must see what the daemon itself has in its records afterwards.
fn events(lab: &Lab, size: &Size) -> Result<Seen> {
    // So that there is more to tell: these guests come up and answer.
    lab.script("agent")?;
    let begin = Barrier::new(size.readers + 1);
    let read = || {
        let opened = Client::connect(&lab.socket())?.open("/api/v1/events/vms");
        // From here on nothing may be missed.
        begin.wait();
        read_events(opened?, size.changes)
    };
    let (first, all) = threads::beside(size.readers, read, || {
        begin.wait();
        each(size.changes, CHANGERS, lab, |client, number| {
            let name = format!("passing-{number}");
            let create = "/api/v1/vms?wait=ready&timeout=30s";
            client.call("POST", create, &Lab::vm(&name))?;
            let delete = format!("/api/v1/vms/{name}");
            client.call("DELETE", &delete, &Value::Null).map(drop)
        })?;
        Ok(())
    })
    .map(|((), all)| (all.first().cloned().unwrap_or_default(), all))?;
    let before = first.first().map_or(0, |(id, _)| id.saturating_sub(1));
    let kept =
        Client::connect(&lab.socket())?.open(&format!("/api/v1/events/vms?after={before}"))?;
    let kept = read_events(kept, size.changes)?;
    for (number, seen) in all.iter().enumerate() {
        ensure!(
            *seen == kept,
            "Reader {number} saw {} events of {}",
            seen.len(),
            kept.len()
        );
    }
    let types: BTreeSet<&str> = kept.iter().map(|(_, kind)| kind.as_str()).collect();
    Ok(Seen {
        events: kept.len(),
        types: types.len(),
    })
}

/// Numbers and types of events, up to the last one that there will be: when so many VMs are gone, nothing happens any more. Numbers that
/// leave one out are an error, because the daemon leaves out none.
fn read_events(stream: impl std::io::BufRead, changes: usize) -> Result<Vec<(u64, String)>> {
    let (mut seen, mut gone) = (Vec::new(), 0);
    let mut kind = String::new();
    for line in stream.lines() {
        match line?.split_once(": ") {
            Some(("event", word)) => word.clone_into(&mut kind),
            Some(("id", number)) => {
                let id: u64 = number.parse()?;
                let last = seen.last().map(|(last, _)| *last);
                ensure!(
                    last.is_none_or(|last| last + 1 == id),
                    "Event {id} came after {last:?}"
                );
                gone += usize::from(kind == "VM_DELETED");
                seen.push((id, std::mem::take(&mut kind)));
            }
            // What says that events are missing has no number.
            Some(("data", data)) => ensure!(
                !matches!(kind.as_str(), "GAP" | "LAGGED"),
                "A reader got `{kind}`: {data}"
            ),
            _ => {}
        }
        if gone == changes {
            return Ok(seen);
        }
    }
    anyhow::bail!("The events ended after {} of them", seen.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, kind: &str) -> String {
        format!("event: {kind}\ndata: {{}}\nid: {id}\n\n")
    }

    #[test]
    fn events_are_read_up_to_the_last() {
        let stream = [
            ":keep-alive\n\n".to_owned(),
            event(7, "VM_CREATED"),
            event(8, "VM_DELETED"),
            event(9, "VM_CREATED"),
        ]
        .concat();
        let seen = read_events(stream.as_bytes(), 1).unwrap();
        let expected = [(7, "VM_CREATED"), (8, "VM_DELETED")];
        assert_eq!(seen, expected.map(|(id, kind)| (id, kind.to_owned())));
    }

    #[test]
    fn a_lost_event_is_seen() {
        let end = event(9, "VM_DELETED");
        let lost = event(7, "VM_CREATED") + &end;
        let error = read_events(lost.as_bytes(), 1).unwrap_err().to_string();
        assert!(error.contains("Event 9"), "{error}");
        let lagged = "event: LAGGED\ndata: {\"after\":7}\n\n".to_owned() + &end;
        assert!(read_events(lagged.as_bytes(), 1).is_err());
        let cut = event(8, "VM_CREATED");
        assert!(read_events(cut.as_bytes(), 1).is_err());
    }
}
