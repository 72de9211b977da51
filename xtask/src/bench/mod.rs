//! `cargo xtask bench`: what our programs cost, beside what others use for the same, in one run. It prints numbers and judges none: a
//! busy machine must not fail anybody's checks.

mod initramfs;
mod rootfs;

use std::process::Command as Process;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use fs_err as fs;

use crate::tally::Tally;
use crate::{api, dist, packages, printer};

/// How often a running program's memory is looked at.
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare `fledge build` with the shell pipeline, and with umoci and mkfs.erofs, that do the same
    Fledge(Arguments),
    /// Compare volantd under many clients with a bare route, and check what is promised of it
    Api(api::bench::Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often each side runs; the two take turns, and the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// Runs the command.
pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Api(arguments) => api::bench::run(arguments),
        Command::Fledge(arguments) => measure(arguments.rounds, rootfs::MIB, &mut Tally::default()),
    }
}

/// Measures fledge and prints; skips where something cannot be had. `image_mib` is how large a container image is turned into EROFS.
pub(crate) fn measure(rounds: u32, image_mib: u32, tally: &mut Tally) -> Result<()> {
    packages::ensure(packages::BENCH)?;
    let dist = dist::build()?;
    initramfs::measure(&dist, rounds, tally)?;
    rootfs::measure(&dist, rounds, image_mib, tally)?;
    let kestrel = fs::metadata(dist.join("kestrel"))?.len();
    printer::result(&format!("kestrel: {kestrel} bytes, static and stripped"));
    Ok(())
}

/// What one run of one side took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    elapsed: Duration,
    /// The most memory of the program itself, as the kernel counts its resident set; other programs that it starts are not in it.
    peak_kib: u64,
}

/// Runs a program to its end.
fn timed(command: &mut Process) -> Result<Cost> {
    let shown = format!("{command:?}");
    let log = tempfile::tempfile().context("No file for what a program says")?;
    let started = Instant::now();
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("Could not start {shown}"))?;
    let mut peak_kib = 0;
    let status = loop {
        // Never decreases, so the last look counts; a program shorter than the pause is not seen.
        peak_kib = peak_kib.max(peak_memory_kib(child.id()));
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(POLL),
        }
    };
    anyhow::ensure!(status.success(), "{shown} failed with {status}");
    Ok(Cost {
        elapsed: started.elapsed(),
        peak_kib,
    })
}

/// `VmHWM` of /proc/pid/status; 0 for a process that has ended.
fn peak_memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Runs a script, of which any failing part fails the whole.
fn shell(script: &str, directory: &std::path::Path) -> Result<Cost> {
    let mut command = Process::new("bash");
    command
        .args(["-e", "-o", "pipefail", "-c", script])
        .current_dir(directory);
    timed(&mut command)
}

/// The cost in the middle, by time; the memory is the largest of all runs.
fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort();
    let elapsed = costs
        .get(costs.len() / 2)
        .copied()
        .unwrap_or_default()
        .elapsed;
    let peak_kib = costs.iter().map(|cost| cost.peak_kib).max().unwrap_or(0);
    Cost { elapsed, peak_kib }
}

/// How many times longer `other` took than `own`.
fn ratio(own: Cost, other: Cost) -> f64 {
    other.elapsed.as_secs_f64() / own.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let cost = |seconds, peak_kib| Cost {
            elapsed: Duration::from_secs(seconds),
            peak_kib,
        };
        assert_eq!(median(vec![cost(9, 1), cost(1, 5), cost(2, 3)]), cost(2, 5));
        assert_eq!(median(vec![cost(7, 7)]), cost(7, 7));
        assert_eq!(median(Vec::new()), Cost::default());
    }

    #[test]
    fn a_broken_script_is_an_error() {
        let root = std::path::Path::new("/");
        assert!(shell("false | true", root).is_err());
        assert!(shell("false; true", root).is_err());
        let cost = shell("sleep 0.1", root).unwrap();
        assert!(cost.elapsed >= Duration::from_millis(100), "{cost:?}");
        assert!(cost.peak_kib > 0, "{cost:?}");
    }

    #[test]
    fn ratios_are_of_the_others_time() {
        let cost = |ms| Cost {
            elapsed: Duration::from_millis(ms),
            peak_kib: 0,
        };
        let ratio = ratio(cost(500), cost(5000));
        assert!((ratio - 10.0).abs() < 1e-9, "{ratio}");
    }
}
