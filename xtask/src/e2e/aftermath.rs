//! What must hold once VMs are gone, and what the daemon holds while they are only recorded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::checks;
use super::daemon::Daemon;
use super::volar::Volar;
use crate::{printer, process};

/// The most memory that volantd may hold with ten VMs recorded, in KiB.
const MAX_DAEMON_KIB: u64 = 40 * 1024;

/// Ten VMs are recorded, none runs: what the daemon then holds.
pub(super) fn ten_recorded(daemon: &Daemon, volar: &Volar) -> Result<()> {
    let names: Vec<String> = (0..10).map(|number| format!("ten-{number}")).collect();
    for name in &names {
        volar.ok(&[
            "vms",
            "create",
            name,
            "--plugin",
            "hello",
            "--memory",
            "128",
            "--no-wait",
        ])?;
        volar.ok(&["vms", "stop", name])?;
    }
    let addresses: BTreeSet<String> = volar.vms()?.into_iter().map(|vm| vm.ip_address).collect();
    let expected: BTreeSet<String> = (10..20).map(|host| format!("192.168.127.{host}")).collect();
    ensure!(addresses == expected, "Ten VMs got {addresses:?}");
    let kib = checks::resident_kib(daemon.pid().context("volantd does not run")?)?;
    ensure!(
        kib <= MAX_DAEMON_KIB,
        "volantd holds {kib} KiB; {MAX_DAEMON_KIB} are allowed"
    );
    printer::progress(
        "e2e",
        &format!("volantd holds {kib} KiB with ten VMs recorded"),
    );
    for name in &names {
        volar.ok(&["vms", "delete", name, "--yes"])?;
    }
    Ok(())
}

/// After every VM is deleted: no VM, process, tap, rule, lease or file is left.
pub(super) fn nothing_left(
    daemon: &Daemon,
    volar: &Volar,
    files: &BTreeSet<PathBuf>,
    rules: &str,
) -> Result<()> {
    let vms = volar.vms()?;
    ensure!(vms.is_empty(), "VMs are left: {vms:?}");
    let taps = checks::taps()?;
    ensure!(taps.is_empty(), "Taps are left: {taps:?}");
    let marker = daemon.state_dir.to_string_lossy().into_owned();
    let left: Vec<(u32, String)> = checks::processes_with(&marker)?
        .into_iter()
        .filter(|(pid, _)| Some(*pid) != daemon.pid())
        .collect();
    ensure!(left.is_empty(), "Processes are left: {left:?}");
    ensure!(
        checks::rules()? == rules,
        "The packet filter changed from\n{rules}\nto\n{}",
        checks::rules()?
    );
    let neighbours =
        process::captured(Command::new("ip").args(["neigh", "show", "nud", "permanent"]))?;
    ensure!(
        !neighbours.contains("192.168.127."),
        "Neighbour entries are left: {neighbours}"
    );
    // The database's write-ahead log comes and goes, and the VMs' common folder stays once there was one.
    let significant = |files: &BTreeSet<PathBuf>| -> BTreeSet<PathBuf> {
        files
            .iter()
            .filter(|path| !path.to_string_lossy().contains(".db") && *path != Path::new("vms"))
            .cloned()
            .collect()
    };
    let (now, before) = (
        significant(&checks::files(&daemon.state_dir)?),
        significant(files),
    );
    ensure!(
        now == before,
        "Files are left: {:?}",
        now.difference(&before).collect::<Vec<_>>()
    );
    let sockets: Vec<PathBuf> = checks::files(&daemon.runtime_dir.join("vm"))?
        .into_iter()
        .collect();
    ensure!(sockets.is_empty(), "Run files are left: {sockets:?}");
    printer::progress(
        "e2e",
        "nothing is left: no VM, process, tap, rule, neighbour or file",
    );
    Ok(())
}
