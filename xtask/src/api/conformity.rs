//! schemathesis over the running daemon: requests that the description allows, and such that it forbids. Each answer must be one that the
//! description has, and none may be a 500. What is upgraded or never ends is left out: `schemathesis` knows neither.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use fs_err as fs;

use super::lab::{ADDRESS, Lab, PLUGIN, Programs};
use super::unlucky;
use crate::tally::Tally;
use crate::{generated, packages, printer, python};

/// Requests of each phase to each operation. With [`SEED`] the requests are the same in each run.
const EXAMPLES: &str = "20";
const SEED: &str = "1";
/// The longest that one round may take, in seconds: both together must be done within five minutes.
const ROUND_S: &str = "140";
/// How long volantd may take for one answer, in seconds.
const ANSWER_S: &str = "20";

/// What is held against the description.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
     response_headers_conformance,response_schema_conformance";

/// Operations that are left out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("open_vm_console", "a WebSocket"),
    ("open_vm_logs", "a WebSocket"),
    ("exec_in_vm", "a WebSocket"),
    ("stream_vm_events", "its answer never ends"),
    ("put_vm_files", "schemathesis makes no tar archives"),
];

/// A way through the API.
struct Round {
    name: &'static str,
    /// Whether the names in paths are those of what is there.
    known: bool,
}

/// First what is there is used, then whatever comes to mind, which also removes it.
const ROUNDS: [Round; 2] = [
    Round {
        name: "with what is there",
        known: true,
    },
    Round {
        name: "with any names",
        known: false,
    },
];

/// Runs both rounds; skips where schemathesis cannot be had.
///
/// # Errors
/// When an answer is not as described: all of them have been printed, each with the request.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    const WHAT: &str = "the check of the API by schemathesis";
    if !packages::is_root() {
        tally.skip(WHAT, "it makes a network namespace, which only root may");
        return Ok(());
    }
    packages::ensure(packages::API)?;
    let Some(programs) = python::programs(python::SCHEMATHESIS)? else {
        tally.skip(WHAT, "the Python package registry is out of reach");
        return Ok(());
    };
    let lab = Lab::start(&Programs::build(false)?, "agent")?;
    let create = "/api/v1/vms?wait=ready&timeout=30s";
    let web = lab.call("POST", create, &Lab::vm("web"))?;
    ensure!(web["status"] == "running", "The VM `web` is {web}");
    by_a_generated_client(&lab, tally)?;
    for round in &ROUNDS {
        let summary = run(&lab, &programs.join("schemathesis"), round);
        if summary.is_err() {
            lab.show_log();
        }
        printer::result(&format!("{}: {}", round.name, summary?));
        tally.passed += 1;
    }
    lab.stop()
}

/// Lets a script use the API by a generated client; skips where the generator cannot be had.
fn by_a_generated_client(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let Some(programs) = generated::programs()? else {
        tally.skip(
            "the generated client",
            "the Python package registry is out of reach",
        );
        return Ok(());
    };
    let task = generated::Task {
        folder: &lab.work.path().join("generated"),
        address: ADDRESS,
        token: &lab.token()?,
        plugin: PLUGIN,
    };
    fs::create_dir_all(task.folder)?;
    generated::run(&programs, &task, |program| lab.inside(program))?;
    tally.passed += 1;
    Ok(())
}

/// Runs one round; answers how many requests there were.
fn run(lab: &Lab, program: &Path, round: &Round) -> Result<String> {
    let config = lab.work.path().join("schemathesis.toml");
    let known = if round.known { known() } else { String::new() };
    // Tables before arrays of tables: what follows those would be in the last of them.
    fs::write(&config, known + &unlucky::config())?;
    let url = format!("http://{ADDRESS}");
    let mut command = limited(lab);
    command
        .arg(program)
        .arg("--config-file")
        .arg(&config)
        .args(["run", &format!("{url}/openapi"), "--url", &url])
        .args(["--header", &format!("X-Volant-API-Key: {}", lab.token()?)])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", EXAMPLES, "--seed", SEED])
        .args(["--checks", CHECKS, "--continue-on-failure"])
        // What it says about its own ways is not about volantd.
        .args(["--warnings", "off", "--no-color"])
        // With two workers CPython before 3.11.8 and 3.12.2 may fail in its own parser (gh-106905): hypothesis parses source in each.
        .args(["--request-timeout", ANSWER_S, "--workers", "1"])
        .current_dir(lab.work.path())
        .stdin(Stdio::null());
    for (operation, _) in LEFT_OUT {
        command.args(["--exclude-operation-id", operation]);
    }
    if round.known {
        command.args(["--exclude-method", "DELETE"]);
    }
    let output = command.output().context("schemathesis did not start")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        printer::quote(&said);
        printer::quote(&String::from_utf8_lossy(&output.stderr));
        bail!("{}: schemathesis ended with {}", round.name, output.status);
    }
    Ok(summary(&said).to_owned())
}

/// A command that is ended when a round has taken too long.
fn limited(lab: &Lab) -> Command {
    let mut command = lab.inside(Path::new("timeout"));
    command.arg(ROUND_S);
    command
}

/// Values of parameters for the round with what is there.
fn known() -> String {
    let plugin = format!("\"{PLUGIN}\"");
    let values = [
        ("path.name", "\"web\""),
        ("path.plugin", plugin.as_str()),
        ("path.action", "\"go\""),
        // Answers that come when they come are waited for elsewhere.
        ("query.follow", "false"),
        ("query.timeout", "\"100ms\""),
        ("query.timeout_ms", "100"),
    ];
    let lines = values.map(|(name, value)| format!("\"{name}\" = {value}\n"));
    format!("\n[parameters]\n{}", lines.concat())
}

/// The line that says how many requests were made.
fn summary(said: &str) -> &str {
    said.lines()
        .map(str::trim)
        .find(|line| line.contains("generated"))
        .unwrap_or("no requests were counted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_in_the_description() {
        let file = crate::workspace::root().join("docs/openapi.json");
        let text = fs::read_to_string(file).unwrap();
        for (operation, why) in LEFT_OUT {
            let named = format!("\"operationId\": \"{operation}\"");
            assert!(text.contains(&named) && !why.is_empty(), "{operation}");
        }
    }

    #[test]
    fn the_number_of_requests_is_found() {
        let said = "SUMMARY\n\nTest cases:\n  3863 generated, 3863 passed\n\nSeed: 1\n";
        assert_eq!(summary(said), "3863 generated, 3863 passed");
        assert_eq!(summary(""), "no requests were counted");
    }
}
