//! `cargo xtask ci`: everything that must hold before a change lands, in order of how soon it can fail, ending with the
//! real boot. Here are the stages and the report; what a stage checks is in the module it calls.

mod suite;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::tally::Tally;
use crate::{api, bench, dist, e2e, packages, printer, repro, schemas, tidy, workspace};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Run these stages only
    #[arg(value_name = "STAGE", value_parser = PossibleValuesParser::new(STAGES.map(|stage| stage.name)))]
    stages: Vec<String>,
}

struct Stage {
    name: &'static str,
    /// Adds what it counted; one that counts nothing is one check.
    run: fn(&mut Tally) -> Result<()>,
}

/// Cheap and likely to fail before dear and likely to pass.
const STAGES: [Stage; 13] = [
    Stage {
        name: "fmt",
        run: fmt,
    },
    Stage {
        name: "clippy",
        run: clippy,
    },
    Stage {
        name: "test",
        run: suite::tests,
    },
    Stage {
        name: "doctest",
        run: suite::doctests,
    },
    Stage {
        name: "doc",
        run: doc,
    },
    Stage {
        name: "schemas",
        run: schemas::check,
    },
    Stage {
        name: "tidy",
        run: tidy,
    },
    Stage {
        name: "api",
        run: api::conformity::check,
    },
    Stage {
        name: "soak",
        run: api::soak::check,
    },
    Stage {
        name: "dist",
        run: |_| dist::run(),
    },
    Stage {
        name: "repro",
        run: repro::check,
    },
    Stage {
        name: "bench",
        run: bench,
    },
    Stage {
        name: "e2e",
        run: e2e,
    },
];

/// What became of a stage.
struct Outcome {
    name: &'static str,
    elapsed: Duration,
    tally: Tally,
}

/// Runs the stages until one fails. The last line of stdout is the plain sum.
///
/// # Errors
/// When a stage failed: what went wrong has been printed by then.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure(dist::BUILD)?;
    let mut outcomes = Vec::new();
    let mut failure = None;
    for stage in &STAGES {
        if !arguments.stages.is_empty() && !arguments.stages.iter().any(|name| name == stage.name) {
            continue;
        }
        printer::result(&format!("==> {}", stage.name));
        let started = Instant::now();
        let mut tally = Tally::default();
        let result = (stage.run)(&mut tally);
        settle(&mut tally, &result);
        let elapsed = started.elapsed();
        printer::result(&format!(
            "<== {}: {tally} in {}",
            stage.name,
            shown(elapsed)
        ));
        outcomes.push(Outcome {
            name: stage.name,
            elapsed,
            tally,
        });
        if let Err(error) = result {
            failure = Some(error.context(format!("The stage `{}` failed", stage.name)));
            break;
        }
    }
    if let Some(error) = &failure {
        printer::error(error);
    }
    printer::result(&report(&outcomes));
    match failure {
        // The error itself would be the last line otherwise, and has been said.
        Some(_) => bail!("The checks did not pass"),
        None => Ok(()),
    }
}

/// A stage that does not count is one check, passed or failed.
fn settle(tally: &mut Tally, result: &Result<()>) {
    if result.is_err() && tally.failed == 0 {
        tally.failed = 1;
    } else if tally.is_empty() {
        tally.passed = 1;
    }
}

fn report(outcomes: &[Outcome]) -> String {
    let mut sum = Tally::default();
    let mut lines = vec![String::new()];
    for outcome in outcomes {
        let elapsed = shown(outcome.elapsed);
        lines.push(format!(
            "{:<8} {elapsed:>9}  {}",
            outcome.name, outcome.tally
        ));
        sum.add(outcome.tally.clone());
    }
    lines.extend(sum.skipped.iter().map(|skip| format!("SKIPPED: {skip}")));
    lines.push(sum.to_string());
    lines.join("\n")
}

fn shown(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    if seconds < 60 {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

/// Runs a program whose output is the point.
fn run_shown(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command
        .status()
        .with_context(|| format!("Could not start {shown}"))?;
    if !status.success() {
        bail!("It ended with {status}");
    }
    Ok(())
}

fn fmt(_: &mut Tally) -> Result<()> {
    run_shown(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(_: &mut Tally) -> Result<()> {
    run_shown(
        workspace::cargo()
            .args(["clippy", "--workspace", "--all-targets", "--all-features"])
            .args(["--locked", "--quiet", "--", "--deny", "warnings"]),
    )
}

fn doc(_: &mut Tally) -> Result<()> {
    run_shown(
        workspace::cargo()
            .args(["doc", "--workspace", "--no-deps", "--all-features"])
            .args(["--document-private-items", "--locked", "--quiet"])
            // Links to private items are fine in documentation that shows them; none is made without.
            .env(
                "RUSTDOCFLAGS",
                "--deny warnings --allow rustdoc::private-intra-doc-links",
            ),
    )
}

fn bench(tally: &mut Tally) -> Result<()> {
    // One round: for the record of this run, not for a verdict.
    // A tenth of the image that the bench takes: enough to see that both sides still do the same.
    bench::measure(1, 100, tally)?;
    api::bench::check(tally)
}

fn e2e(tally: &mut Tally) -> Result<()> {
    if !packages::is_root() {
        tally.skip(
            "the end-to-end test",
            "it makes taps and rules in a network namespace, which only root may",
        );
        return Ok(());
    }
    let outcome = e2e::run(&e2e::Arguments::default())?;
    tally.passed = u64::try_from(outcome.passed.len())?;
    tally.skipped = outcome.skipped;
    Ok(())
}

fn tidy(tally: &mut Tally) -> Result<()> {
    tally.passed = u64::try_from(tidy::run()?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn stages_can_be_named() {
        let parsed = Command::try_parse_from(["ci", "tidy"]).unwrap();
        assert_eq!(parsed.arguments.stages, ["tidy"]);
        assert!(Command::try_parse_from(["ci", "tide"]).is_err());
        let all = Command::try_parse_from(["ci"]).unwrap();
        assert!(all.arguments.stages.is_empty());
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let outcomes = [
            Outcome {
                name: "test",
                elapsed: Duration::from_millis(61_500),
                tally: Tally {
                    passed: 40,
                    failed: 0,
                    skipped: vec!["a test, because of root".to_owned()],
                },
            },
            Outcome {
                name: "e2e",
                elapsed: Duration::from_millis(1_250),
                tally: Tally {
                    passed: 1,
                    failed: 1,
                    skipped: Vec::new(),
                },
            },
        ];
        let report = report(&outcomes);
        let lines: Vec<&str> = report.lines().collect();
        assert_eq!(
            lines[1..],
            [
                "test     1 min 01 s  40 passed, 0 failed, 1 skipped",
                "e2e          1.2 s  1 passed, 1 failed",
                "SKIPPED: a test, because of root",
                "41 passed, 1 failed, 1 skipped",
            ]
        );
    }

    #[test]
    fn a_stage_that_counts_nothing_is_one_check() {
        let mut tally = Tally::default();
        settle(&mut tally, &Ok(()));
        assert_eq!((tally.passed, tally.failed), (1, 0));
        let mut tally = Tally::default();
        settle(&mut tally, &Err(anyhow::anyhow!("broken")));
        assert_eq!((tally.passed, tally.failed), (0, 1));
        let mut tally = Tally {
            passed: 5,
            failed: 2,
            ..Tally::default()
        };
        settle(&mut tally, &Err(anyhow::anyhow!("two tests")));
        assert_eq!((tally.passed, tally.failed), (5, 2));
        let mut tally = Tally {
            skipped: vec!["all of it".to_owned()],
            ..Tally::default()
        };
        settle(&mut tally, &Ok(()));
        assert_eq!((tally.passed, tally.failed), (0, 0));
    }
}
