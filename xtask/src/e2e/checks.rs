//! What is on the machine: processes, interfaces, rules, files. For comparing before and after; nothing is changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fs_err as fs;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;

/// How long a process that was ended may take to disappear.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// Whether KVM can run an ordinary guest kernel: the device opens and the CPU has the extensions. (A paravirtual KVM has only the first.)
pub(super) fn kvm_is_usable() -> bool {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let extension = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        });
    extension
        && fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}

/// Names of the network interfaces of this namespace.
pub(super) fn interfaces() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for line in fs::read_to_string("/proc/net/dev")?.lines().skip(2) {
        if let Some((name, _)) = line.split_once(':') {
            names.insert(name.trim().to_owned());
        }
    }
    Ok(names)
}

/// Taps of Volant in this namespace.
pub(super) fn taps() -> Result<BTreeSet<String>> {
    Ok(interfaces()?
        .into_iter()
        .filter(|name| name.starts_with("vttap-"))
        .collect())
}

/// All packet filter rules of this namespace, without counters.
pub(super) fn rules() -> Result<String> {
    process::captured(Command::new("nft").args(["--stateless", "list", "ruleset"]))
}

/// Processes that carry `marker` in their environment or arguments, other than this one and its parents.
pub(super) fn processes_with(marker: &str) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process that ends while it is looked at has no files any more.
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let environment = String::from_utf8_lossy(&read("environ")).into_owned();
        let own = pid == std::process::id()
            || arguments.contains("e2e-scenario")
            || arguments.contains("xtask");
        if !own
            && (arguments.contains(marker) || environment.contains(marker))
            && !is_zombie(&entry.path())
        {
            found.push((pid, arguments));
        }
    }
    Ok(found)
}

fn is_zombie(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Waits until no process names this folder.
pub(super) fn no_process_of(folder: &Path) -> Result<()> {
    let marker = folder.to_string_lossy();
    let deadline = Instant::now() + EXIT_LIMIT;
    loop {
        let left = processes_with(&marker)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("Processes are left: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// After a failure: ends what the scenario started below this folder. VMMs outlive their daemon by design.
pub(super) fn end_processes_of(folder: &Path) -> Result<()> {
    for (pid, _) in processes_with(&folder.to_string_lossy())? {
        match kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL) {
            // One that has ended meanwhile is fine.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    no_process_of(folder)
}

/// Files below `folder`, relative to it.
pub(super) fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
            found.insert(entry.path().strip_prefix(folder)?.to_path_buf());
        }
    }
    Ok(found)
}

/// Resident memory of a process in KiB (`VmRSS`).
pub(super) fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    match line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
    {
        Some(kib) => Ok(kib),
        None => bail!("Process {pid} has no resident memory"),
    }
}
