//! `cargo xtask soak`: VMs come up, run a command and go, again and again, several at once, on a real volantd whose VMMs are fakes.
//! Afterwards it must hold what it held before, and no more memory. Speed is not its business.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::held::Held;
use super::lab::{Lab, Programs};
use super::threads;
use crate::tally::Tally;
use crate::{packages, printer};

/// How many cycles the checks run.
const CHECK_CYCLES: u32 = 500;
/// VMs at once.
const AT_ONCE: usize = 8;
/// Cycles before anything is measured, at most: threads, pages of the database and the allocator's own have come by then.
const WARM_UP_CYCLES: u32 = 100;
/// What volantd keeps of a cycle in memory by design: its events, a dozen of less than a KiB each.
const EVENTS_KIB: u64 = 8;
/// Cycles after which it keeps no more of them: its ring has 4096 places.
const EVENT_CYCLES: u64 = 500;
/// What the allocator may keep of pages that were in use, in KiB.
const SLACK_KIB: u64 = 2 * 1024;
/// How long nothing may change until it counts as settled: longer than a thread waits for work.
const QUIET: Duration = Duration::from_secs(11);
/// How long it may take until what ended is gone: threads that wait for work leave after ten seconds.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked at meanwhile.
const SETTLE_POLL: Duration = Duration::from_millis(200);

/// How many cycles.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often a VM is created, waited for, used and deleted
    #[arg(long, default_value_t = CHECK_CYCLES, value_parser = clap::value_parser!(u32).range(2..))]
    cycles: u32,
}

/// Runs it.
///
/// # Errors
/// When a cycle failed, or something was left.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure(packages::API)?;
    let lab = Lab::start(&Programs::build(false)?, "agent")?;
    let outcome = soak(&lab, arguments.cycles);
    if outcome.is_err() {
        lab.show_log();
    }
    outcome?;
    lab.stop()
}

/// The soak as one check.
///
/// # Errors
/// As [`run`].
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    if !packages::is_root() {
        let why = "it makes a network namespace, which only root may";
        tally.skip("the soak", why);
        return Ok(());
    }
    run(&Arguments {
        cycles: CHECK_CYCLES,
    })?;
    tally.passed += 1;
    Ok(())
}

/// What is measured, before and after.
struct Moment {
    held: Held,
    memory_kib: u64,
}

fn soak(lab: &Lab, cycles: u32) -> Result<()> {
    let warm_up = WARM_UP_CYCLES.min(cycles / 2);
    let first_leases = leases(lab)?;
    turn(lab, 0, warm_up)?;
    let before = Moment {
        held: settled(lab, None)?,
        memory_kib: memory_kib(lab)?,
    };
    let started = Instant::now();
    turn(lab, warm_up, cycles)?;
    let elapsed = started.elapsed().as_secs_f64();
    let after = Moment {
        held: settled(lab, Some(&before.held))?,
        memory_kib: memory_kib(lab)?,
    };
    printer::result(&format!(
        "soak: {cycles} cycles, {AT_ONCE} at once, {:.1} a second; {} KiB of memory after {warm_up} of them, {} KiB at the end",
        f64::from(cycles - warm_up) / elapsed,
        before.memory_kib,
        after.memory_kib
    ));
    judge(&before, &after, cycles - warm_up)?;
    let leases = leases(lab)?;
    ensure!(
        leases == first_leases,
        "New VMs got {leases:?}, and {first_leases:?} before: leases are left"
    );
    Ok(())
}

/// # Errors
/// When there is more than before.
fn judge(before: &Moment, after: &Moment, cycles: u32) -> Result<()> {
    let left = after.held.beyond(&before.held);
    ensure!(left.is_empty(), "Something is left: {}", left.join("; "));
    let allowed = before.memory_kib + SLACK_KIB + u64::from(cycles).min(EVENT_CYCLES) * EVENTS_KIB;
    ensure!(
        after.memory_kib <= allowed,
        "volantd holds {} KiB, {} KiB before: {allowed} KiB would be its events and the allocator's ways",
        after.memory_kib,
        before.memory_kib
    );
    Ok(())
}

/// Cycles from number `from` to before `to`.
fn turn(lab: &Lab, from: u32, to: u32) -> Result<()> {
    let next = AtomicU32::new(from);
    threads::all(AT_ONCE, || {
        let mut client = Client::connect(&lab.socket())?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= to {
                return Ok(());
            }
            cycle(lab, &mut client, &format!("soak-{number}"))
                .with_context(|| format!("Cycle {number} failed"))?;
        }
    })
    .map(drop)
}

/// A VM from its creation to its end.
fn cycle(lab: &Lab, client: &mut Client, name: &str) -> Result<()> {
    let create = "/api/v1/vms?wait=ready&timeout=30s";
    let vm = client.call("POST", create, &Lab::vm(name))?;
    ensure!(vm["status"] == "running", "It is {vm}");
    let (output, exit) = Client::connect(&lab.socket())?.exec(name, &["true"])?;
    ensure!(
        (output.as_str(), exit.code) == ("done\n", 0),
        "The command wrote {output:?} and ended with {exit:?}"
    );
    let path = format!("/api/v1/vms/{name}");
    client.call("DELETE", &path, &Value::Null)?;
    let gone = client.ask("GET", &path, &Value::Null)?;
    ensure!(
        gone.status == 404,
        "After its deletion it is {}",
        gone.status
    );
    Ok(())
}

/// The leases of as many new VMs as there are at once: each gets the lowest that is free, so that one that is left of any VM shows here.
fn leases(lab: &Lab) -> Result<BTreeSet<(String, u64)>> {
    let mut client = Client::connect(&lab.socket())?;
    let names: Vec<String> = (0..AT_ONCE)
        .map(|number| format!("lease-{number}"))
        .collect();
    let mut leases = BTreeSet::new();
    for name in &names {
        let vm = client.call("POST", "/api/v1/vms", &Lab::vm(name))?;
        let address = vm["ip_address"].as_str().context("A VM without address")?;
        let cid = vm["vsock_cid"].as_u64().context("A VM without CID")?;
        leases.insert((address.to_owned(), cid));
    }
    for name in &names {
        client.call("DELETE", &format!("/api/v1/vms/{name}"), &Value::Null)?;
    }
    Ok(leases)
}

/// What is held when nothing goes any more: nothing beyond `known`, or without that the same twice; at last whatever there is.
fn settled(lab: &Lab, known: Option<&Held>) -> Result<Held> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut last = Held::by(lab)?;
    let mut since = Instant::now();
    loop {
        std::thread::sleep(SETTLE_POLL);
        let now = Held::by(lab)?;
        if now != last {
            since = Instant::now();
        }
        let is_done = match known {
            Some(known) => now.beyond(known).is_empty(),
            None => since.elapsed() >= QUIET,
        };
        if is_done || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

/// What volantd has for itself: pages of its program and of files come and go as the kernel likes.
fn memory_kib(lab: &Lab) -> Result<u64> {
    lab.status_kib("RssAnon:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(memory_kib: u64) -> Moment {
        Moment {
            held: Held::default(),
            memory_kib,
        }
    }

    #[test]
    fn memory_may_grow_by_what_is_known_and_not_more() {
        let before = moment(10_000);
        let most = 10_000 + SLACK_KIB + 400 * EVENTS_KIB;
        judge(&before, &moment(most), 400).unwrap();
        let error = judge(&before, &moment(most + 1), 400).unwrap_err();
        assert!(error.to_string().contains("10000 KiB before"), "{error}");
        // The ring of events is full by then.
        let most = 10_000 + SLACK_KIB + EVENT_CYCLES * EVENTS_KIB;
        judge(&before, &moment(most), 100_000).unwrap();
        judge(&before, &moment(most + 1), 100_000).unwrap_err();
    }
}
