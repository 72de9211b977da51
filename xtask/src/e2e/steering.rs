//! Steering a VM: it stands still and goes on, is helped up when it hangs, and changes its configuration and its plugin, and back.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::api::{EventType, VmStatus};

use super::http;
use super::observing::events;
use super::workbench::{NAME, SICK, VARIABLE, Workbench};
use crate::printer;

/// How long a page may take. The guest is up then.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// How long a paused VM must be silent.
const SILENCE: Duration = Duration::from_secs(1);

/// What the example's page holds.
const PAGE: &str = "Hello from Volant";

/// All of it.
pub(super) fn run(bench: &Workbench<'_>) -> Result<()> {
    pause(bench)?;
    liveness(bench)?;
    configurations(bench)?;
    upgrade(bench)?;
    let kinds: Vec<EventType> = events(bench)?.iter().map(|event| event.kind).collect();
    for kind in [
        EventType::VmCreated,
        EventType::VmRunning,
        EventType::VmPaused,
        EventType::VmResumed,
        EventType::VmRestart,
        EventType::VmConfig,
    ] {
        ensure!(kinds.contains(&kind), "No event {kind:?} among {kinds:?}");
    }
    Ok(())
}

fn pause(bench: &Workbench<'_>) -> Result<()> {
    let address = bench.address()?;
    bench.volar.ok(&["vms", "pause", NAME])?;
    let vm = bench.volar.vm(NAME)?;
    ensure!(vm.status == VmStatus::Paused, "After pause it is {vm:?}");
    let pid = vm.pid.context("It has no VMM")?;
    ensure!(
        TcpStream::connect_timeout(&address, SILENCE).is_err(),
        "A VM that stands still takes connections"
    );
    bench.volar.ok(&["vms", "resume", NAME])?;
    let vm = bench.wait_for("to go on", |_| true)?;
    ensure!(vm.pid == Some(pid), "Another VMM goes on: {vm:?}");
    http::wait_for_body(address, "/", PAGE, PAGE_LIMIT)?;
    printer::progress("e2e", "paused: silent; resumed: answers");
    Ok(())
}

fn liveness(bench: &Workbench<'_>) -> Result<()> {
    let before = bench.volar.vm(NAME)?.restarts.workload;
    bench.shell(&format!("touch {SICK}"))?;
    let vm = bench.wait_for("to be restarted because it hung", |vm| {
        vm.restarts.workload > before
    })?;
    http::wait_for_body(bench.address()?, "/", PAGE, PAGE_LIMIT)?;
    printer::progress(
        "e2e",
        &format!(
            "liveness: failed, restarted, healthy; last exit {:?}",
            vm.last_exit
        ),
    );
    Ok(())
}

/// The variable as the running workload has it.
fn variable(bench: &Workbench<'_>) -> Result<String> {
    let line = "tr '\\0' '\\n' < /proc/$(pidof hello)/environ";
    let environment = bench.shell(line)?;
    let value = environment
        .lines()
        .find_map(|line| line.strip_prefix(VARIABLE)?.strip_prefix('='));
    Ok(value.unwrap_or_default().to_owned())
}

fn configurations(bench: &Workbench<'_>) -> Result<()> {
    let first = bench.volar.vm(NAME)?;
    ensure!(
        first.config_version == 1 && first.effective_config_version == Some(1),
        "Before any change: {first:?}"
    );
    ensure!(variable(bench)? == "1", "The manifest's variable");
    let patch = format!(r#"{{"env":{{"{VARIABLE}":"patched"}}}}"#);
    bench
        .volar
        .ok(&["vms", "config", "patch", NAME, &patch, "--restart"])?;
    bench.wait_for("to run its second configuration", |vm| {
        vm.effective_config_version == Some(2)
    })?;
    ensure!(variable(bench)? == "patched", "The patch is not in effect");
    bench.volar.refused(
        &["vms", "config", "patch", NAME, &patch, "--if-version", "1"],
        4,
        "version",
    )?;
    bench.volar.ok(&["vms", "config", "rollback", NAME, "1"])?;
    let vm = bench.volar.vm(NAME)?;
    ensure!(
        vm.config_version == 3 && vm.effective_config_version == Some(2),
        "After the rollback: {vm:?}"
    );
    let history = bench
        .volar
        .ok(&["vms", "config", "history", NAME, "-o", "json"])?;
    let history: Vec<serde_json::Value> = serde_json::from_str(&history)?;
    ensure!(history.len() == 3, "The history is {history:?}");
    printer::progress(
        "e2e",
        "config: patched, in effect after a restart, rolled back",
    );
    Ok(())
}

/// To a newer version of the plugin, and back to the configuration before.
fn upgrade(bench: &Workbench<'_>) -> Result<()> {
    bench.install("2")?;
    let vm = bench.volar.vm(NAME)?;
    ensure!(
        vm.upgrade_available.as_deref() == Some("2") && vm.plugin_version == "1",
        "With a newer plugin: {vm:?}"
    );
    bench.volar.ok(&["vms", "upgrade", NAME])?;
    let vm = bench.wait_for("to run the newer plugin", |vm| {
        vm.effective_config_version == Some(4)
    })?;
    ensure!(
        vm.upgrade_available.is_none() && vm.plugin_version == "2",
        "After the upgrade: {vm:?}"
    );
    ensure!(variable(bench)? == "2", "The newer plugin is not in effect");
    bench.volar.ok(&["vms", "config", "rollback", NAME, "3"])?;
    bench
        .volar
        .ok(&["vms", "restart", NAME, "--timeout", "300s"])?;
    let vm = bench.wait_for("to run the older plugin", |vm| {
        vm.effective_config_version == Some(5)
    })?;
    ensure!(
        vm.upgrade_available.as_deref() == Some("2") && vm.plugin_version == "1",
        "Back again: {vm:?}"
    );
    ensure!(variable(bench)? == "1", "The older plugin is not in effect");
    printer::progress(
        "e2e",
        "plugin: upgraded to version 2, and back to version 1",
    );
    Ok(())
}
