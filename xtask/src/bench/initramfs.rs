//! Building examples/caddy, beside the shell pipeline that packs the same tree.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use super::{Cost, median, ratio, shell, timed};
use crate::examples::{Example, Ingredients};
use crate::printer;
use crate::tally::Tally;

/// What fledge is compared with, as everybody would write it.
const PIPELINE: &str =
    "find . | LC_ALL=C sort | cpio --quiet -o -H newc | gzip -n -9 > ../pipeline.cpio.gz";
const UNPACK: &str = "gzip -dc ../example/plugin.cpio.gz | cpio --quiet -idm";

/// Measures and prints; skips where Caddy cannot be had.
pub(super) fn measure(dist: &Path, rounds: u32, tally: &mut Tally) -> Result<()> {
    match Example::Caddy.ingredients(dist) {
        Ok(ingredients) => {
            printer::result(&compare(&ingredients, rounds)?);
            tally.passed += 1;
        }
        Err(error) => tally.skip(
            "the comparison of `fledge build`",
            &format!("what examples/caddy is built from cannot be had: {error:#}"),
        ),
    }
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
        printer::progress("bench", &format!("caddy, round {round} of {rounds}"));
    }
    let size = |path| fs::metadata(path).map(|file| file.len());
    let ours = (median(builds), size(example.join("plugin.cpio.gz"))?);
    let theirs = (
        median(pipelines),
        size(work.path().join("pipeline.cpio.gz"))?,
    );
    // Time depends on the machine and is not judged here; size does not.
    if ours.1 > theirs.1 {
        bail!(
            "fledge's artifact has {} bytes, gzip -9 makes {}",
            ours.1,
            theirs.1
        );
    }
    Ok(comparison(ours, theirs))
}

fn comparison(ours: (Cost, u64), theirs: (Cost, u64)) -> String {
    let line = |name: &str, (cost, bytes): (Cost, u64)| {
        let seconds = cost.elapsed.as_secs_f64();
        format!("{name:<32} {seconds:>8.3} s  {bytes:>10} bytes")
    };
    let ratio = ratio(ours.0, theirs.0);
    [
        line("fledge build", ours),
        line("find | sort | cpio | gzip -9", theirs),
        format!("fledge takes 1/{ratio:.1} of the time"),
    ]
    .join("\n")
}

fn build(ingredients: &Ingredients, example: &Path) -> Result<Cost> {
    let mut command = Command::new(ingredients.dist.join("fledge"));
    command
        .args(ingredients.build_arguments())
        .current_dir(example);
    timed(&mut command)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_comparison_names_both_sides() {
        let cost = |ms| Cost {
            elapsed: Duration::from_millis(ms),
            peak_kib: 0,
        };
        let text = comparison((cost(500), 20), (cost(5000), 21));
        assert!(
            text.contains("0.500 s") && text.contains("5.000 s"),
            "{text}"
        );
        assert!(text.contains("1/10.0"), "{text}");
    }
}
