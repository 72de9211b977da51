//! Runs the tests and counts them: by cargo-nextest where it is installed, else by cargo itself. What passing tests print
//! is left out, except that they skipped something; such a test counts as skipped, not as passed.

use std::io::{BufRead as _, BufReader, pipe};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::tally::Tally;
use crate::{packages, printer, process, workspace};

/// What a test prints that cannot run on this machine, with the reason behind it.
const SKIP_MARK: &str = "SKIPPED";

/// Runs every test of the workspace but those in documentation.
pub(super) fn tests(tally: &mut Tally) -> Result<()> {
    // Nobody else is asked for them: each test that misses one says so and is counted as skipped.
    if packages::is_root() {
        packages::ensure(packages::READERS)?;
    }
    if process::find("cargo-nextest").is_some() {
        nextest(tally)
    } else {
        printer::progress(
            "test",
            "cargo-nextest is not installed: `cargo test` runs the tests, which takes longer",
        );
        cargo_test(tally, &["--all-targets", "--no-fail-fast"])
    }
}

/// Runs the examples in documentation.
pub(super) fn doctests(tally: &mut Tally) -> Result<()> {
    cargo_test(tally, &["--doc"])
}

fn nextest(tally: &mut Tally) -> Result<()> {
    let mut reading = NextestReading::default();
    let success = echoed(
        workspace::cargo()
            .args([
                "nextest",
                "run",
                "--workspace",
                "--all-features",
                "--locked",
            ])
            .args(["--no-fail-fast", "--cargo-quiet", "--no-tests", "pass"])
            .args(["--status-level", "all", "--final-status-level", "slow"])
            .args(["--success-output", "immediate", "--failure-output", "final"])
            .env("NEXTEST_SHOW_PROGRESS", "none"),
        |line| reading.shows(line),
    )?;
    tally.add(reading.tally);
    if !success {
        bail!("{} tests failed", tally.failed);
    }
    Ok(())
}

fn cargo_test(tally: &mut Tally, arguments: &[&str]) -> Result<()> {
    let mut sum = Tally::default();
    let success = echoed(
        workspace::cargo()
            .args([
                "test",
                "--workspace",
                "--all-features",
                "--locked",
                "--quiet",
            ])
            .args(arguments)
            .args(["--", "--show-output"]),
        |line| {
            sum.add(cargo_test_line(line));
            true
        },
    )?;
    // A test that skipped itself has been counted as passed.
    let skipped = u64::try_from(sum.skipped.len())?;
    sum.passed = sum.passed.saturating_sub(skipped);
    tally.add(sum);
    if !success {
        bail!("{} tests failed", tally.failed);
    }
    Ok(())
}

/// Runs a program and prints those of its lines that `shows` wants shown; returns whether it succeeded.
fn echoed(command: &mut Command, mut shows: impl FnMut(&str) -> bool) -> Result<bool> {
    let (reader, writer) = pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .context("Could not start cargo")?;
    // The command keeps its ends of the pipe open, so that the reader would wait for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if shows(&line) {
            printer::result(&line);
        }
    }
    Ok(child.wait()?.success())
}

/// What has been understood of nextest's report so far.
#[derive(Debug, Default)]
struct NextestReading {
    tally: Tally,
    /// The test whose status came last; its output follows.
    test: String,
    in_output: bool,
    /// Behind the summary come the failures with what they printed.
    at_end: bool,
}

impl NextestReading {
    /// Takes one line in, and says whether it is worth showing.
    fn shows(&mut self, line: &str) -> bool {
        if self.at_end {
            return true;
        }
        if let Some(counts) = summary(line) {
            self.at_end = true;
            self.tally.passed = counts
                .passed
                .saturating_sub(u64::try_from(self.tally.skipped.len()).unwrap_or(u64::MAX));
            self.tally.failed = counts.failed;
            return true;
        }
        if line.starts_with("  stdout ─") || line.starts_with("  stderr ─") {
            self.in_output = true;
            return false;
        }
        if self.in_output && (line.is_empty() || line.starts_with("    ")) && !is_status(line) {
            if let Some((_, reason)) = line.split_once(SKIP_MARK) {
                self.skip(reason);
                return true;
            }
            return false;
        }
        self.in_output = false;
        if is_status(line) {
            test_name(line).clone_into(&mut self.test);
        }
        !line.trim_start().starts_with("PASS ")
    }

    /// A test may give several reasons; it is still one test.
    fn skip(&mut self, reason: &str) {
        let reason = reason.trim_start_matches(':').trim();
        let skip = format!("{}: {reason}", self.test);
        let known = self
            .tally
            .skipped
            .iter()
            .any(|other| other.starts_with(&format!("{}:", self.test)));
        if !known {
            self.tally.skipped.push(skip);
        }
    }
}

/// A status line has its word right-aligned in twelve columns, then the time in brackets.
fn is_status(line: &str) -> bool {
    let word = line.trim_start();
    let known = [
        "ABORT", "FAIL", "LEAK", "PASS", "SIG", "SKIP", "SLOW", "TERMINAT", "TIMEOUT", "TRY",
    ];
    line.starts_with("     ")
        && known.iter().any(|status| word.starts_with(status))
        && word.contains('[')
}

/// Reads the name off `PASS [   0.009s] (1/3) volantd net::a`; the counter is not always there.
fn test_name(status: &str) -> &str {
    let rest = status
        .split_once(']')
        .map_or(status, |(_, rest)| rest)
        .trim();
    let uncounted = rest
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .map(|(_, name)| name.trim());
    uncounted.unwrap_or(rest)
}

#[derive(Debug, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Reads `Summary [ 1.2s] 4 tests run: 2 passed (1 slow), 1 failed, 1 timed out, 7 skipped`.
fn summary(line: &str) -> Option<Counts> {
    let (_, counts) = line
        .trim_start()
        .strip_prefix("Summary [")?
        .split_once(" run: ")?;
    let mut found = Counts {
        passed: 0,
        failed: 0,
    };
    for part in counts.split(", ") {
        let (number, what) = part.split_once(' ')?;
        // Inside of brackets there are numbers as well; they detail the one before.
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match what.split([' ', ')']).next() {
            Some("passed") => found.passed += number,
            Some("failed" | "timed" | "exec") => found.failed += number,
            _ => (),
        }
    }
    Some(found)
}

/// Reads `test result: ok. 3 passed; 0 failed; …`, and a test's word that it skipped itself.
fn cargo_test_line(line: &str) -> Tally {
    let mut tally = Tally::default();
    if let Some((_, counts)) = line
        .strip_prefix("test result: ")
        .and_then(|rest| rest.split_once(". "))
    {
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => tally.passed = number,
                "failed" => tally.failed = number,
                _ => (),
            }
        }
    } else if let Some((_, reason)) = line.split_once(SKIP_MARK) {
        tally
            .skipped
            .push(reason.trim_start_matches(':').trim().to_owned());
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
────────────
 Nextest run ID 9cd002da with nextest profile: default
    Starting 3 tests across 1 binary (1 test skipped)
        PASS [   0.009s] (1/3) volantd net::a
  stdout ───

    running 1 test
    chatter

  stderr ───
    SKIPPED a: `nft --check` needs root
    SKIPPED a: and more

        PASS [   0.009s] (2/3) volantd net::b
        FAIL [   0.149s] (3/3) volantd net::c
────────────
     Summary [   0.150s] 3 tests run: 2 passed, 1 failed, 1 skipped
        FAIL [   0.149s] (3/3) volantd net::c
  stdout ───
    the reason";

    #[test]
    fn a_report_is_read_and_thinned() {
        let mut reading = NextestReading::default();
        let shown: Vec<&str> = REPORT.lines().filter(|line| reading.shows(line)).collect();
        assert_eq!(
            reading.tally,
            Tally {
                passed: 1,
                failed: 1,
                skipped: vec!["volantd net::a: a: `nft --check` needs root".to_owned()],
            }
        );
        let shown = shown.join("\n");
        assert!(
            !shown.contains("chatter") && !shown.contains("PASS"),
            "{shown}"
        );
        for there in ["SKIPPED a: `nft", "Summary", "the reason"] {
            assert!(shown.contains(there), "{shown}");
        }
    }

    #[test]
    fn names_with_and_without_a_counter() {
        for line in [
            "        PASS [   0.009s] (1/3) volantd net::a",
            "        PASS [   0.009s] (  1/123) volantd net::a",
            "        PASS [   0.009s] volantd net::a",
        ] {
            assert_eq!(test_name(line), "volantd net::a");
        }
    }

    #[test]
    fn summaries() {
        let cases = [
            (
                "     Summary [   0.1s] 1 test run: 1 passed, 0 skipped",
                1,
                0,
            ),
            (
                "     Summary [   9.9s] 9 tests run: 7 passed (2 slow, 1 leaky), 1 failed, 1 timed out, 4 skipped",
                7,
                2,
            ),
            (
                "     Summary [   0.1s] 3/9 tests run: 1 passed, 1 failed, 1 exec failed, 0 skipped",
                1,
                2,
            ),
        ];
        for (line, passed, failed) in cases {
            assert_eq!(summary(line), Some(Counts { passed, failed }), "{line}");
        }
        assert_eq!(summary("    Starting 3 tests"), None);
    }

    #[test]
    fn cargos_own_lines() {
        let tally = cargo_test_line(
            "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert_eq!((tally.passed, tally.failed), (3, 1));
        assert!(cargo_test_line("running 3 tests").is_empty());
        assert_eq!(
            cargo_test_line("SKIPPED: taps: not root").skipped,
            ["taps: not root"]
        );
    }

    #[test]
    fn output_is_passed_on_line_by_line() {
        let mut lines = Vec::new();
        let success = echoed(
            Command::new("sh").args(["-c", "echo one; echo two >&2; printf three; exit 1"]),
            |line| {
                lines.push(line.to_owned());
                false
            },
        )
        .unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
        assert!(!success);
    }
}
