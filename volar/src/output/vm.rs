//! VMs for people. Pure text.

use common::agent::HealthState;
use common::api::{BootTimeline, Vm, VmStatus};
use jiff::Timestamp;

use super::table;

/// The table of `vms list`.
pub fn vm_table(vms: &[Vm], now: Timestamp) -> String {
    if vms.is_empty() {
        return "No VMs".to_owned();
    }
    let header = [
        "NAME", "STATUS", "HEALTH", "PLUGIN", "IP", "CPU", "MEM", "RESTARTS", "AGE",
    ];
    let rows: Vec<Vec<String>> = vms
        .iter()
        .map(|vm| {
            vec![
                vm.name.to_string(),
                vm.status.as_str().to_owned(),
                health(vm).to_owned(),
                vm.plugin.to_string(),
                or_dash(&vm.ip_address),
                vm.cpu_cores.to_string(),
                format!("{} MiB", vm.memory_mb),
                restarts(vm),
                age(&vm.created_at, now),
            ]
        })
        .collect();
    table::render(&header, &rows)
}

/// The table of `vms list -o wide`.
pub fn vm_wide_table(vms: &[Vm], now: Timestamp) -> String {
    if vms.is_empty() {
        return "No VMs".to_owned();
    }
    let header = [
        "NAME", "STATUS", "HEALTH", "PLUGIN", "VERSION", "UPGRADE", "IP", "MAC", "CPU", "MEM",
        "RESTARTS", "CONFIG", "VMM", "PID", "AGE", "CHANGED",
    ];
    let rows: Vec<Vec<String>> = vms
        .iter()
        .map(|vm| {
            vec![
                vm.name.to_string(),
                vm.status.as_str().to_owned(),
                health(vm).to_owned(),
                vm.plugin.to_string(),
                or_dash(&vm.plugin_version),
                or_dash(vm.upgrade_available.as_deref().unwrap_or_default()),
                or_dash(&vm.ip_address),
                or_dash(&vm.mac_address),
                vm.cpu_cores.to_string(),
                format!("{} MiB", vm.memory_mb),
                restarts(vm),
                vm.config_version.to_string(),
                or_dash(vm.hypervisor.as_deref().unwrap_or_default()),
                vm.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                age(&vm.created_at, now),
                age(&vm.updated_at, now),
            ]
        })
        .collect();
    table::render(&header, &rows)
}

/// How often it was started again, and whether that goes on.
fn restarts(vm: &Vm) -> String {
    let sum = u64::from(vm.restarts.vm) + u64::from(vm.restarts.workload);
    if vm.restarts.crash_loop {
        format!("{sum} (crash loop)")
    } else {
        sum.to_string()
    }
}

/// When a VM that waits to be started again is, and how long that is.
fn next_start(vm: &Vm, now: Timestamp) -> String {
    let Some(at) = &vm.restarts.next_at else {
        return String::new();
    };
    let left_s = at
        .parse::<Timestamp>()
        .map_or(0, |at| at.as_second() - now.as_second());
    format!(", again at {at} (in {} s)", left_s.max(0))
}

/// All that is known of a VM.
pub fn vm_details(vm: &Vm, now: Timestamp) -> String {
    let mut rows = vec![
        ("Name", vm.name.to_string()),
        ("Status", status(vm)),
        ("Health", health_with_reason(vm)),
        ("Plugin", plugin(vm)),
        (
            "Address",
            format!("{} ({})", or_dash(&vm.ip_address), vm.mac_address),
        ),
        (
            "Size",
            format!("{} CPU, {} MiB", vm.cpu_cores, vm.memory_mb),
        ),
        ("VMM", vmm(vm)),
        (
            "Restarts",
            format!(
                "VM {}, workload {}{}{}",
                vm.restarts.vm,
                vm.restarts.workload,
                if vm.restarts.crash_loop {
                    ", in a crash loop"
                } else {
                    ""
                },
                next_start(vm, now)
            ),
        ),
    ];
    if vm.oom_kills > 0 {
        rows.push(("OOM kills", vm.oom_kills.to_string()));
    }
    if let Some(probed) = &vm.health.last_probe_at {
        rows.push(("Last probe", format!("{probed} ({} ago)", age(probed, now))));
    }
    if vm.config_version > 0 {
        rows.push(("Config", config(vm)));
    }
    if let Some(exit) = &vm.last_exit {
        let signal = exit
            .signal
            .map(|signal| format!(", by signal {signal}"))
            .unwrap_or_default();
        rows.push(("Last exit", format!("code {}{signal}", exit.code)));
    }
    if let Some(failure) = &vm.failure {
        rows.push((
            "Failure",
            format!("at step `{}`: {}", failure.step, failure.cause),
        ));
        if !failure.hints.is_empty() {
            rows.push(("Try", failure.hints.join("\n")));
        }
    }
    if let Some(boot) = &vm.boot {
        rows.push(("Boot", timeline(boot)));
    }
    rows.push(("Kernel line", vm.kernel_cmdline.clone()));
    rows.push(("Serial log", vm.serial_log.clone()));
    rows.push((
        "Created",
        format!("{} ({} ago)", vm.created_at, age(&vm.created_at, now)),
    ));
    rows.push(("Changed", vm.updated_at.clone()));
    table::details(&rows)
}

/// What is said when a VM is where it was wanted. `port` is the one that its workload serves.
pub fn ready_line(vm: &Vm, port: Option<u16>) -> String {
    if vm.status == VmStatus::Stopped {
        return format!("VM {} ran to its end and is stopped", vm.name);
    }
    let address = match port {
        Some(80) => format!("http://{}", vm.ip_address),
        Some(port) => format!("http://{}:{port}", vm.ip_address),
        None => vm.ip_address.clone(),
    };
    let boot = vm.boot.as_ref().map(timeline).unwrap_or_default();
    if boot.is_empty() {
        format!("VM {} is ready at {address}", vm.name)
    } else {
        format!("VM {} is ready at {address} ({boot})", vm.name)
    }
}

/// How long ago a time of RFC 3339 was, in its largest unit; `-` if it cannot be read.
pub fn age(time: &str, now: Timestamp) -> String {
    let Ok(then) = time.parse::<Timestamp>() else {
        return "-".to_owned();
    };
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn timeline(boot: &BootTimeline) -> String {
    let parts = [
        ("VMM", boot.vmm_ms),
        ("kernel", boot.kernel_ms),
        ("init", boot.pid1_ms),
        ("workload", boot.workload_ms),
        ("ready", boot.ready_ms),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter_map(|(name, ms)| Some(format!("{name} {:.0} ms", (*ms)?)))
        .collect();
    shown.join(", ")
}

fn plugin(vm: &Vm) -> String {
    let mut text = format!("{} {}", vm.plugin, vm.plugin_version);
    text.truncate(text.trim_end().len());
    text.push_str(&format!(" (runtime {})", vm.runtime));
    if let Some(version) = &vm.upgrade_available {
        let anew = if *version == vm.plugin_version {
            ", built anew,"
        } else {
            ""
        };
        text.push_str(&format!(
            "\n{version}{anew} is there: `volar vms upgrade {}`",
            vm.name
        ));
    }
    text
}

fn config(vm: &Vm) -> String {
    match vm.effective_config_version {
        Some(version) if version != vm.config_version => format!(
            "version {}, version {version} runs until the next start",
            vm.config_version
        ),
        Some(_) | None => format!("version {}", vm.config_version),
    }
}

fn status(vm: &Vm) -> String {
    match &vm.step {
        Some(step) => format!("{}, at step `{step}`", vm.status.as_str()),
        None => vm.status.as_str().to_owned(),
    }
}

fn health(vm: &Vm) -> &'static str {
    match (vm.status, vm.health.state) {
        (VmStatus::Running | VmStatus::Paused, HealthState::Unknown) => "unknown",
        (VmStatus::Running | VmStatus::Paused, HealthState::Healthy) => "healthy",
        (VmStatus::Running | VmStatus::Paused, HealthState::Unhealthy) => "unhealthy",
        _ => "-",
    }
}

fn health_with_reason(vm: &Vm) -> String {
    match &vm.health.reason {
        Some(reason) => format!("{}: {reason}", health(vm)),
        None => health(vm).to_owned(),
    }
}

fn vmm(vm: &Vm) -> String {
    let Some(hypervisor) = &vm.hypervisor else {
        return "-".to_owned();
    };
    let accelerator = match vm.accelerator.as_deref() {
        Some("tcg") => " with software emulation",
        Some("kvm") => " with KVM",
        Some(_) | None => "",
    };
    match vm.pid {
        Some(pid) => format!("{hypervisor}{accelerator}, process {pid}"),
        None => format!("{hypervisor}{accelerator}"),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use common::agent::WorkloadExit;
    use common::api::Failure;

    use super::*;
    use crate::test_data::vm;

    fn now() -> Timestamp {
        "2026-11-23T10:05:00Z".parse().unwrap()
    }

    #[test]
    fn a_list_is_a_table() {
        let mut second = vm("a-longer-name");
        second.status = VmStatus::Crashed;
        second.ip_address = String::new();
        insta::assert_snapshot!(vm_table(&[vm("web"), second], now()), @r"
        NAME            STATUS    HEALTH    PLUGIN   IP               CPU   MEM       RESTARTS   AGE
        web             running   healthy   caddy    192.168.127.10   1     512 MiB   3          5m
        a-longer-name   crashed   -         caddy    -                1     512 MiB   3          5m
        ");
        assert_eq!(vm_table(&[], now()), "No VMs");
    }

    #[test]
    fn details_have_it_all() {
        let mut vm = vm("web");
        vm.health.state = HealthState::Unhealthy;
        vm.health.reason = Some("status 500 \u{1b}[2J".to_owned());
        vm.last_exit = Some(WorkloadExit {
            code: 137,
            signal: Some(9),
            at_us: 1,
        });
        vm.failure = Some(Failure {
            step: "guest".to_owned(),
            cause: "The kernel panicked".to_owned(),
            hints: vec!["Try this".to_owned(), "Or that".to_owned()],
        });
        insta::assert_snapshot!(vm_details(&vm, now()), @r"
        Name          web
        Status        running
        Health        unhealthy: status 500 \u{1b}[2J
        Plugin        caddy 1.0.0 (runtime caddy)
        Address       192.168.127.10 (02:f9:e8:54:fb:c4)
        Size          1 CPU, 512 MiB
        VMM           qemu with software emulation, process 4711
        Restarts      VM 1, workload 2
        Config        version 1
        Last exit     code 137, by signal 9
        Failure       at step `guest`: The kernel panicked
        Try           Try this
                      Or that
        Boot          VMM 20 ms, kernel 25 ms, init 700 ms, workload 720 ms, ready 812 ms
        Kernel line   console=ttyS0
        Serial log    /var/lib/volant/vms/1/serial.log
        Created       2026-11-23T10:00:00Z (5m ago)
        Changed       2026-11-23T10:00:02Z
        ");
    }

    #[test]
    fn a_vm_in_back_off_says_when_it_starts_again() {
        let mut vm = vm("web");
        vm.status = VmStatus::Crashed;
        vm.restarts.next_at = Some("2026-11-23T10:05:08Z".to_owned());
        let details = vm_details(&vm, now());
        let line = "VM 1, workload 2, again at 2026-11-23T10:05:08Z (in 8 s)";
        assert!(details.contains(line), "{details}");
    }

    #[test]
    fn ready_is_one_line() {
        let mut vm = vm("web");
        assert_eq!(
            ready_line(&vm, Some(80)),
            "VM web is ready at http://192.168.127.10 (VMM 20 ms, kernel 25 ms, init 700 ms, workload 720 ms, ready 812 ms)"
        );
        vm.boot = None;
        assert_eq!(
            ready_line(&vm, Some(8080)),
            "VM web is ready at http://192.168.127.10:8080"
        );
        assert_eq!(ready_line(&vm, None), "VM web is ready at 192.168.127.10");
    }

    #[test]
    fn ages_have_one_unit() {
        let table = [
            ("2026-11-23T10:05:00Z", "0s"),
            ("2026-11-23T10:06:00Z", "0s"),
            ("2026-11-23T10:03:01Z", "119s"),
            ("2026-11-23T08:05:01Z", "119m"),
            ("2026-11-22T10:05:00Z", "24h"),
            ("2026-11-20T10:05:00Z", "3d"),
            ("yesterday", "-"),
        ];
        for (time, expected) in table {
            assert_eq!(age(time, now()), expected, "{time}");
        }
    }
}
