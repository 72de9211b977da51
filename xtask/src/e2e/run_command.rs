//! `volar run` of an artifact without a manifest: it serves, is followed, and is gone after Ctrl-C.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use common::exit_code::ExitCode;
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::http;
use super::scenario::GUEST_LIMIT;
use super::workbench::Workbench;
use crate::printer;

/// Runs it, asks it, and interrupts it.
pub(super) fn run(bench: &Workbench<'_>) -> Result<()> {
    let volar = bench.volar;
    let plugins = volar.ok(&["plugins", "list", "-o", "name"])?;
    // Under another name, so that no manifest lies beside it.
    let artifact = bench.path("bare.img");
    fs::copy(bench.path("plugin.cpio.gz"), &artifact)?;
    let artifact = artifact.to_string_lossy();
    let words = ["run", &artifact, "--memory", "128", "--port", "80"];
    let words = [&words[..], &["--", "/usr/bin/hello"]].concat();
    printer::progress("$ volar", &words.join(" "));
    let mut child = volar
        .command(&words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("No stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let first = lines.next().context("It ended without a line")??;
    ensure!(first.contains("Listening on"), "`volar run` shows {first}");
    let vm = volar.vms()?.pop().context("There is no VM")?;
    let address = format!("{}:80", vm.ip_address).parse()?;
    http::wait_for_body(address, "/", "Hello from Volant", GUEST_LIMIT)?;
    let second = lines.next().context("The log ended")??;
    ensure!(second.contains("GET /"), "`volar run` shows {second}");
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    drop(lines);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.code() == Some(i32::from(ExitCode::Interrupted.number())),
        "After Ctrl-C it ended with {output:?}"
    );
    let left = volar.vms()?;
    ensure!(left.is_empty(), "After Ctrl-C there is {left:?}");
    let after = volar.ok(&["plugins", "list", "-o", "name"])?;
    ensure!(after == plugins, "Plugins were {plugins} and are {after}");
    printer::progress(
        "e2e",
        "volar run: an artifact serves, is followed, and is gone after Ctrl-C",
    );
    Ok(())
}
