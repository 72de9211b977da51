//! SIGKILL of volantd at random moments of create, start, stop and delete: no VM record is lost, and nothing is left in the end.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::api::VmStatus;

use super::checks;
use super::daemon::Daemon;
use super::scenario::wait_for;
use super::volar::Volar;
use crate::printer;

/// How many moments are tried.
const KILLS: u32 = 50;
/// The latest moment after a request; a launch up to the guest's first instruction takes less than this.
const LATEST_MS: u64 = 700;
/// VMs that the requests go to.
const NAMES: [&str; 3] = ["chaos-0", "chaos-1", "chaos-2"];

/// Kills the daemon again and again, while a request is on its way.
pub(super) fn run(daemon: &mut Daemon, volar: &Volar) -> Result<()> {
    let mut random = Random(u64::from(std::process::id()) | 1);
    printer::progress(
        "e2e",
        &format!(
            "{KILLS} times: a request, then kill -9 of volantd within {LATEST_MS} ms (seed {})",
            random.0
        ),
    );
    let mut acknowledged: BTreeSet<&str> = BTreeSet::new();
    for _ in 0..KILLS {
        let name = NAMES[random.below(NAMES.len())];
        let words: Vec<&str> = match random.below(5) {
            0 | 1 => vec![
                "vms",
                "create",
                name,
                "--plugin",
                "hello",
                "--memory",
                "128",
                "--no-wait",
            ],
            2 => vec!["vms", "stop", name, "--no-wait"],
            3 => vec!["vms", "start", name, "--no-wait"],
            _ => vec!["vms", "delete", name, "--yes"],
        };
        let mut request = volar.command(&words);
        let mut child = request
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .context("volar could not be started")?;
        std::thread::sleep(Duration::from_millis(random.next() % LATEST_MS));
        daemon.kill()?;
        let accepted = child.wait()?.success();
        daemon.start()?;
        let recorded = volar.vms()?;
        let kept = recorded
            .iter()
            .any(|vm| vm.name.as_str() == name && vm.status != VmStatus::Deleting);
        // An interrupted create or delete may have taken effect or not, and an interrupted delete goes on by itself.
        if words[1] != "delete" && (kept || (words[1] == "create" && accepted)) {
            acknowledged.insert(name);
        } else if words[1] == "delete" && (accepted || !kept) {
            acknowledged.remove(name);
        }
        let recorded: BTreeSet<&str> = recorded.iter().map(|vm| vm.name.as_str()).collect();
        for name in &acknowledged {
            ensure!(
                recorded.contains(*name),
                "The record of `{name}` is lost after `volar {}`",
                words.join(" ")
            );
        }
        at_most_one_vmm_each(daemon)?;
    }
    for name in &acknowledged {
        wait_for(volar, name, "to rest", |vm| {
            matches!(
                vm.status,
                VmStatus::Running | VmStatus::Stopped | VmStatus::Failed
            )
        })?;
        volar.ok(&["vms", "delete", name, "--yes"])?;
    }
    // A delete that was interrupted goes on by itself after the start.
    for vm in volar.vms()? {
        drop(volar.call(&["vms", "delete", vm.name.as_str(), "--yes"])?);
    }
    printer::progress("e2e", "no record was lost");
    Ok(())
}

/// Two VMM processes of one VM would fight for its address.
fn at_most_one_vmm_each(daemon: &Daemon) -> Result<()> {
    let marker = daemon.state_dir.to_string_lossy().into_owned();
    let processes = checks::processes_with(&marker)?;
    for name in NAMES {
        let tap = common::net::tap_name(name);
        let of_name = processes
            .iter()
            .filter(|(_, arguments)| arguments.contains(&tap))
            .count();
        ensure!(
            of_name <= 1,
            "`{name}` has {of_name} VMM processes: {processes:?}"
        );
    }
    Ok(())
}

/// A small generator (xorshift64, Marsaglia 2003): moments need no better one, and the seed is printed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap_or(1)).unwrap_or(0)
    }
}
