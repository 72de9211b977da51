//! Seeing what happens in and around a guest: its log across a crash, its console for many, events that are told again, and figures.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use common::api::{VmEvent, VmStats};

use super::daemon::Daemon;
use super::workbench::{NAME, Workbench};
use super::{api, http};
use crate::printer;

/// How long a watcher may take to show what was written.
const WATCH_LIMIT: Duration = Duration::from_mins(1);

/// All of it.
pub(super) fn run(bench: &Workbench<'_>, daemon: &mut Daemon) -> Result<()> {
    log_across_a_crash(bench)?;
    two_watchers(bench)?;
    figures(bench)?;
    events_again(bench, daemon)
}

fn log_across_a_crash(bench: &Workbench<'_>) -> Result<()> {
    let before = bench.volar.vm(NAME)?.restarts.workload;
    let address = bench.address()?;
    let mut following = bench.volar.follow_log(NAME)?;
    // Asked again until it is seen: when the follower has begun cannot be told from outside.
    following.wait_for("GET /before", || drop(http::get(address, "/before")))?;
    drop(http::get(address, "/crash"));
    following.wait_for("Crashing, as asked", || ())?;
    following.wait_for("Listening on", || ())?;
    following.wait_for("GET /after", || drop(http::get(address, "/after")))?;
    following.end()?;
    bench.wait_for("to have its workload restarted", |vm| {
        vm.restarts.workload > before
    })?;
    let kept = bench.volar.ok(&["logs", NAME, "-t"])?;
    let at = |text: &str| {
        kept.find(text)
            .with_context(|| format!("No `{text}` in {kept}"))
    };
    ensure!(
        at("GET /before")? < at("Crashing")? && at("Crashing")? < at("GET /after")?,
        "The log is not in order: {kept}"
    );
    printer::progress(
        "e2e",
        "logs -f goes on over a crash of the workload, and all is kept",
    );
    Ok(())
}

/// A `volar vms console --watch` that runs.
struct Watcher {
    child: Child,
    pieces: Receiver<Vec<u8>>,
}

impl Watcher {
    fn begin(bench: &Workbench<'_>) -> Result<Self> {
        let mut child = bench
            .volar
            .command(&["vms", "console", NAME, "--watch"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdout = child.stdout.take().context("No stdout")?;
        let (sender, pieces) = channel();
        // It ends with the program, whose output closes then.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut watcher = Self { child, pieces };
        // What was written before shows that it watches.
        watcher.wait_for("kestrel: ")?;
        Ok(watcher)
    }

    fn wait_for(&mut self, expected: &str) -> Result<()> {
        let deadline = Instant::now() + WATCH_LIMIT;
        let mut seen = String::new();
        while !seen.contains(expected) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(piece) = self.pieces.recv_timeout(left) else {
                bail!("A watcher of the console did not see `{expected}`: {seen}");
            };
            seen.push_str(&String::from_utf8_lossy(&piece));
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        let early = self.child.try_wait()?;
        self.child.kill()?;
        self.child.wait()?;
        ensure!(
            early.is_none(),
            "`volar vms console` ended by itself with {early:?}"
        );
        Ok(())
    }
}

fn two_watchers(bench: &Workbench<'_>) -> Result<()> {
    let mut watchers = [Watcher::begin(bench)?, Watcher::begin(bench)?];
    bench
        .volar
        .type_on_console(NAME, &["echo seen-$((40+2))"], "seen-42")?;
    for watcher in &mut watchers {
        watcher.wait_for("seen-42")?;
    }
    for watcher in watchers {
        watcher.end()?;
    }
    printer::progress("e2e", "console: one types, and two watch");
    Ok(())
}

fn figures(bench: &Workbench<'_>) -> Result<()> {
    let top = bench.volar.ok(&["top", "--once"])?;
    let row = top.lines().find(|line| line.starts_with(NAME));
    let row = row.with_context(|| format!("`volar top` does not show {NAME}: {top}"))?;
    printer::quote(row);
    let text = bench.volar.ok(&["vms", "stats", NAME, "-o", "json"])?;
    let stats: VmStats = serde_json::from_str(&text).context("The figures are no VmStats")?;
    let guest = stats.guest.clone().context("The guest says nothing")?;
    let network = stats.network.context("There is no network")?;
    ensure!(
        stats.host.cpu_us > 0
            && stats.host.memory_pss_bytes.is_some_and(|bytes| bytes > 0)
            && network.rx_bytes > 0
            && network.tx_bytes > 0,
        "Of the host: {stats:?}"
    );
    ensure!(
        guest.memory_total_bytes > guest.memory_available_bytes && guest.cpu_us > 0,
        "Of the guest: {guest:?}"
    );
    Ok(())
}

/// A reader that comes back after the daemon was killed is told what it has missed, once and in order.
fn events_again(bench: &Workbench<'_>, daemon: &mut Daemon) -> Result<()> {
    let kept = events(bench)?;
    let middle = kept.get(kept.len() / 2).context("There are no events")?.id;
    let expected: Vec<u64> = kept
        .iter()
        .map(|event| event.id)
        .filter(|id| *id > middle)
        .collect();
    ensure!(!expected.is_empty(), "There are too few events: {kept:?}");
    let written = bench.volar.ok(&["logs", NAME])?;
    let address = bench.address()?;
    daemon.kill()?;
    drop(http::get(address, "/meanwhile"));
    daemon.start()?;
    log_goes_on(bench, &written)?;
    let headers = format!("Last-Event-ID: {middle}\r\n");
    let mut answer = api::get(daemon, "/api/v1/events/vms", &headers)?;
    ensure!(answer.status == 200, "The events: {}", answer.status);
    let mut told = Vec::new();
    while told.len() < expected.len() {
        let line = api::line(&mut answer.body)?;
        if let Some(id) = line.strip_prefix("id:") {
            told.push(id.trim().parse::<u64>()?);
        }
    }
    ensure!(
        told == expected,
        "After {middle} it told {told:?}, not {expected:?}"
    );
    bench.wait_for("to be adopted", |_| true)?;
    printer::progress(
        "e2e",
        &format!(
            "events: after a crash of volantd {} are told again from where a reader was",
            told.len()
        ),
    );
    Ok(())
}

/// What was written before, while and after volantd was dead is there, once.
fn log_goes_on(bench: &Workbench<'_>, before: &str) -> Result<()> {
    let deadline = Instant::now() + WATCH_LIMIT;
    loop {
        let log = bench.volar.call(&["logs", NAME])?.stdout;
        let new = log.strip_prefix(before);
        let new = new.with_context(|| format!("The log was {before} and is {log}"))?;
        match new.matches("GET /meanwhile").count() {
            1 => return Ok(()),
            0 if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            count => bail!("What was written meanwhile is there {count} times: {log}"),
        }
    }
}

/// All events that are kept.
pub(super) fn events(bench: &Workbench<'_>) -> Result<Vec<VmEvent>> {
    let said = bench
        .volar
        .ok(&["events", "--after", "0", "--no-follow", "-o", "json"])?;
    said.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("No event: {line}")))
        .collect()
}
