//! `cargo xtask bench`: what building examples/caddy costs, beside the shell pipeline that does the same, and what the
//! guest's agent weighs. It prints numbers and judges none: a busy machine must not fail anybody's checks.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use fs_err as fs;

use crate::examples::{Example, Ingredients};
use crate::packages::{self, Package, Probe};
use crate::tally::Tally;
use crate::{dist, printer, process};

/// What fledge is compared with, as everybody would write it.
const PIPELINE: &str =
    "find . | LC_ALL=C sort | cpio --quiet -o -H newc | gzip -n -9 > ../pipeline.cpio.gz";
const UNPACK: &str = "gzip -dc ../example/plugin.cpio.gz | cpio --quiet -idm";

const TOOLS: &[Package] = &[Package {
    name: "cpio",
    why: "the pipeline that fledge is compared with",
    probe: Probe::Command("cpio"),
}];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often each side runs; the two take turns, and the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    measure(arguments.rounds, &mut Tally::default())
}

/// Measures and prints; skips where Caddy cannot be had.
pub(crate) fn measure(rounds: u32, tally: &mut Tally) -> Result<()> {
    packages::ensure(TOOLS)?;
    let dist = dist::build()?;
    match Example::Caddy.ingredients(&dist) {
        Ok(ingredients) => {
            printer::result(&compare(&ingredients, rounds)?);
            tally.passed += 1;
        }
        Err(error) => tally.skip(
            "the comparison of `fledge build`",
            &format!("what examples/caddy is built from cannot be had: {error:#}"),
        ),
    }
    let kestrel = size(&dist.join("kestrel"))?;
    printer::result(&format!("kestrel: {kestrel} bytes, static and stripped"));
    Ok(())
}

/// Lets both sides take turns.
fn compare(ingredients: &Ingredients, rounds: u32) -> Result<String> {
    let work = tempfile::Builder::new()
        .prefix("volant-bench-")
        .tempdir()
        .context("No working directory")?;
    let example = work.path().join("example");
    let tree = work.path().join("tree");
    fs::create_dir(&tree)?;
    ingredients.lay_out(&example)?;
    // The first build fills the page cache and makes the tree that the pipeline packs.
    build(ingredients, &example)?;
    shell(UNPACK, &tree)?;
    let mut builds = Vec::new();
    let mut pipelines = Vec::new();
    for round in 1..=rounds {
        builds.push(build(ingredients, &example)?);
        pipelines.push(shell(PIPELINE, &tree)?);
        printer::progress("bench", &format!("round {round} of {rounds}"));
    }
    let ours = Side {
        elapsed: median(builds),
        bytes: size(&example.join("plugin.cpio.gz"))?,
    };
    let theirs = Side {
        elapsed: median(pipelines),
        bytes: size(&work.path().join("pipeline.cpio.gz"))?,
    };
    // Time depends on the machine and is not judged here; size does not.
    if ours.bytes > theirs.bytes {
        bail!(
            "fledge's artifact has {} bytes, gzip -9 makes {}",
            ours.bytes,
            theirs.bytes
        );
    }
    Ok(comparison(&ours, &theirs))
}

struct Side {
    elapsed: Duration,
    bytes: u64,
}

fn comparison(ours: &Side, theirs: &Side) -> String {
    let ratio = theirs.elapsed.as_secs_f64() / ours.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let line = |name: &str, side: &Side| {
        format!(
            "{name:<32} {:>8.3} s  {:>10} bytes",
            side.elapsed.as_secs_f64(),
            side.bytes
        )
    };
    [
        line("fledge build", ours),
        line("find | sort | cpio | gzip -9", theirs),
        format!("fledge takes 1/{ratio:.1} of the time"),
    ]
    .join("\n")
}

fn build(ingredients: &Ingredients, example: &Path) -> Result<Duration> {
    let mut command = Command::new(ingredients.dist.join("fledge"));
    command
        .args(ingredients.build_arguments())
        .current_dir(example);
    timed(&mut command)
}

fn shell(script: &str, directory: &Path) -> Result<Duration> {
    let mut command = Command::new("bash");
    command
        .args(["-o", "pipefail", "-c", script])
        .current_dir(directory);
    timed(&mut command)
}

fn timed(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    process::captured(command)?;
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn size(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let times = |seconds: &[u64]| seconds.iter().copied().map(Duration::from_secs).collect();
        assert_eq!(median(times(&[9, 1, 2])), Duration::from_secs(2));
        assert_eq!(median(times(&[7])), Duration::from_secs(7));
        assert_eq!(median(Vec::new()), Duration::ZERO);
    }

    #[test]
    fn the_comparison_names_both_sides() {
        let text = comparison(
            &Side {
                elapsed: Duration::from_millis(500),
                bytes: 20,
            },
            &Side {
                elapsed: Duration::from_secs(5),
                bytes: 21,
            },
        );
        assert!(
            text.contains("0.500 s") && text.contains("5.000 s"),
            "{text}"
        );
        assert!(text.contains("1/10.0"), "{text}");
    }

    #[test]
    fn a_broken_pipeline_is_an_error() {
        assert!(shell("false | true", Path::new("/")).is_err());
        assert!(shell("true | true", Path::new("/")).is_ok());
    }
}
