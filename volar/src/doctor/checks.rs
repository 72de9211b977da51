//! What the facts about a host mean. Pure: each function looks at facts and says a verdict, a sentence and what to do.

use super::{
    Check, Daemon, Device, Host, Kernel, MIN_CLOUD_HYPERVISOR, Membership, Program, Verdict,
};
use crate::output::size;

/// The version of this program, which the daemon's should be.
const VOLAR: &str = env!("CARGO_PKG_VERSION");

/// All checks, in the order of a VM's way: hardware, VMM, kernel, network, daemon.
pub fn check(host: &Host) -> Vec<Check> {
    vec![
        kvm(host),
        cloud_hypervisor(host),
        qemu(host),
        kernel(host),
        tun(host),
        nft(host),
        bridge(host),
        ip_forward(host),
        cgroup(host),
        group(host),
        volantd(host),
    ]
}

fn found(check: &'static str, verdict: Verdict, says: impl Into<String>) -> Check {
    Check {
        check,
        verdict,
        says: says.into(),
        hint: None,
    }
}

impl Check {
    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Whether VMs can run on the hardware. A user who may not open /dev/kvm does not keep volantd from it.
fn has_usable_kvm(host: &Host) -> bool {
    host.virtualization_flag.is_some() && matches!(host.kvm, Device::Opens | Device::Denied)
}

fn kvm(host: &Host) -> Check {
    const NAME: &str = "kvm";
    let where_to_turn_it_on = if host.is_virtual {
        "This host is a virtual machine: turn on nested virtualization for it at its provider or hypervisor; until then VMs run in software emulation"
    } else {
        "Turn on VT-x or AMD-V (SVM) in the firmware; until then VMs run in software emulation"
    };
    match (&host.kvm, host.virtualization_flag) {
        (Device::Opens, Some(flag)) => {
            found(NAME, Verdict::Ok, format!("/dev/kvm opens and the CPU has {flag}"))
        }
        (Device::Opens, None) => found(
            NAME,
            Verdict::Warn,
            "/dev/kvm opens, but the CPU shows neither vmx nor svm: this is a paravirtual KVM (kvm-pvm), which cannot run an ordinary guest kernel",
        )
        .with_hint(where_to_turn_it_on),
        (Device::Denied, Some(flag)) => found(
            NAME,
            Verdict::Ok,
            format!("/dev/kvm is there and the CPU has {flag}; you may not open it, volantd may"),
        )
        .with_hint("To check it, run `sudo volar doctor`, or join its group: `sudo usermod -aG kvm $USER`"),
        (Device::Denied, None) => found(
            NAME,
            Verdict::Warn,
            "/dev/kvm is there, but the CPU shows neither vmx nor svm",
        )
        .with_hint(where_to_turn_it_on),
        (Device::Absent, None) => found(
            NAME,
            Verdict::Warn,
            "This host has no hardware virtualization: no /dev/kvm, and the CPU shows neither vmx nor svm",
        )
        .with_hint(where_to_turn_it_on),
        (Device::Absent, Some(flag)) => found(
            NAME,
            Verdict::Warn,
            format!("The CPU has {flag}, but there is no /dev/kvm"),
        )
        .with_hint("Load the module: `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`; in a container, pass /dev/kvm in"),
        (Device::Fails(error), _) => found(
            NAME,
            Verdict::Warn,
            format!("/dev/kvm cannot be opened: {error}"),
        )
        .with_hint(where_to_turn_it_on),
    }
}

fn cloud_hypervisor(host: &Host) -> Check {
    const NAME: &str = "cloud-hypervisor";
    const GET: &str = "Put a static release binary of cloud-hypervisor 51 or newer into PATH, or name it in VOLANT_CLOUD_HYPERVISOR";
    let alone = has_usable_kvm(host) && matches!(host.qemu, Program::Runs { .. });
    let bad = if alone || !has_usable_kvm(host) {
        Verdict::Warn
    } else {
        Verdict::Fail
    };
    match &host.cloud_hypervisor {
        Program::Missing if !has_usable_kvm(host) => found(
            NAME,
            Verdict::Ok,
            "cloud-hypervisor is not installed, and without KVM it could not be used",
        ),
        Program::Missing => found(NAME, bad, "cloud-hypervisor is not installed").with_hint(GET),
        Program::Fails { path, error } => found(
            NAME,
            bad,
            format!("{} does not run: {error}", path.display()),
        )
        .with_hint(GET),
        Program::Runs { path, version } => match major(version) {
            Some(number) if number >= MIN_CLOUD_HYPERVISOR => found(
                NAME,
                Verdict::Ok,
                format!("{version} at {}", path.display()),
            ),
            _ => found(
                NAME,
                bad,
                format!(
                    "{version} at {} is older than {MIN_CLOUD_HYPERVISOR}",
                    path.display()
                ),
            )
            .with_hint(GET),
        },
    }
}

fn qemu(host: &Host) -> Check {
    const NAME: &str = "qemu";
    const GET: &str = "Install it: `sudo apt-get install qemu-system-x86`";
    let has_other = has_usable_kvm(host)
        && matches!(&host.cloud_hypervisor, Program::Runs { version, .. }
            if major(version).is_some_and(|number| number >= MIN_CLOUD_HYPERVISOR));
    let bad = if has_other {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    match &host.qemu {
        Program::Runs { path, version } => found(
            NAME,
            Verdict::Ok,
            format!("{version} at {}", path.display()),
        ),
        Program::Fails { path, error } => found(
            NAME,
            bad,
            format!("{} does not run: {error}", path.display()),
        )
        .with_hint(GET),
        Program::Missing if has_other => found(
            NAME,
            Verdict::Ok,
            "qemu-system-x86_64 is not installed, and not needed beside cloud-hypervisor",
        ),
        Program::Missing => found(
            NAME,
            Verdict::Fail,
            "qemu-system-x86_64 is not installed, and nothing else here can run VMs",
        )
        .with_hint(GET),
    }
}

fn kernel(host: &Host) -> Check {
    const NAME: &str = "kernel";
    const GET: &str = "Build it with `cargo xtask kernel` or take it from a release, and put it there, or name it in VOLANT_KERNEL_VMLINUX";
    let path = host.kernel_path.display();
    match &host.kernel {
        Kernel::Elf(bytes) => found(
            NAME,
            Verdict::Ok,
            format!("The guest kernel is {path} ({})", size(*bytes)),
        ),
        Kernel::Missing => found(
            NAME,
            Verdict::Fail,
            format!("There is no guest kernel at {path}"),
        )
        .with_hint(GET),
        Kernel::NotElf => found(
            NAME,
            Verdict::Fail,
            format!("{path} is not an uncompressed kernel (vmlinux, an ELF file)"),
        )
        .with_hint(GET),
        Kernel::Hidden => found(NAME, Verdict::Warn, format!("You may not look at {path}"))
            .with_hint("Run `sudo volar doctor` to check it"),
    }
}

fn tun(host: &Host) -> Check {
    const NAME: &str = "tun";
    match &host.tun {
        Device::Opens => found(NAME, Verdict::Ok, "/dev/net/tun opens"),
        Device::Denied if !host.is_root => found(
            NAME,
            Verdict::Ok,
            "/dev/net/tun is there; you may not open it, volantd may",
        ),
        Device::Denied => found(NAME, Verdict::Fail, "/dev/net/tun may not be opened")
            .with_hint("In a container, allow the device and the capability CAP_NET_ADMIN"),
        Device::Absent => found(NAME, Verdict::Fail, "There is no /dev/net/tun")
            .with_hint("Load the module: `sudo modprobe tun`; in a container, pass the device in"),
        Device::Fails(error) => found(
            NAME,
            Verdict::Fail,
            format!("/dev/net/tun cannot be opened: {error}"),
        )
        .with_hint("Load the module: `sudo modprobe tun`"),
    }
}

fn nft(host: &Host) -> Check {
    const NAME: &str = "nft";
    const GET: &str = "Install it: `sudo apt-get install nftables`";
    match &host.nft {
        Program::Runs { path, version } => found(
            NAME,
            Verdict::Ok,
            format!("{version} at {}", path.display()),
        ),
        Program::Fails { path, error } => found(
            NAME,
            Verdict::Fail,
            format!("{} does not run: {error}", path.display()),
        )
        .with_hint(GET),
        Program::Missing => found(
            NAME,
            Verdict::Fail,
            "nft is not installed; volantd keeps guests apart with it",
        )
        .with_hint(GET),
    }
}

/// Bridge and forwarding are volantd's own work at its start, so they are missing only while it runs.
fn made_by_daemon(
    host: &Host,
    name: &'static str,
    is_there: bool,
    good: String,
    bad: &str,
) -> Check {
    match (is_there, &host.daemon) {
        (true, _) => found(name, Verdict::Ok, good),
        (false, Daemon::Answers { .. }) => found(name, Verdict::Warn, bad)
            .with_hint("Start volantd again, it makes this: `sudo systemctl restart volantd`"),
        (false, Daemon::Silent { .. }) => found(
            name,
            Verdict::Ok,
            format!("{bad}; volantd makes this when it starts"),
        ),
    }
}

fn bridge(host: &Host) -> Check {
    let good = format!("Bridge {} is there", host.bridge);
    let bad = format!("There is no bridge {}", host.bridge);
    made_by_daemon(host, "bridge", host.has_bridge, good, &bad)
}

fn ip_forward(host: &Host) -> Check {
    let good = "The host forwards packets for VMs".to_owned();
    let forwards = host.forwards == Some(true);
    made_by_daemon(
        host,
        "ip-forward",
        forwards,
        good,
        "The host does not forward packets",
    )
}

fn cgroup(host: &Host) -> Check {
    if host.has_cgroup_v2 {
        found("cgroup", Verdict::Ok, "cgroup v2 is mounted")
    } else {
        found(
            "cgroup",
            Verdict::Warn,
            "cgroup v2 is not mounted: VMs run, and their CPU and memory are bounded by the VMM alone",
        )
        .with_hint("Boot with `systemd.unified_cgroup_hierarchy=1`")
    }
}

fn group(host: &Host) -> Check {
    match (host.group, host.is_root) {
        (_, true) => found("group", Verdict::Ok, "You are root"),
        (Membership::Member, false) => found("group", Verdict::Ok, "You are in group `volant`"),
        (Membership::Outside, false) => found(
            "group",
            Verdict::Warn,
            "You are not in group `volant`, which may use volantd without sudo",
        )
        .with_hint("`sudo usermod -aG volant $USER`, then log in again"),
        (Membership::NoGroup, false) => found("group", Verdict::Warn, "There is no group `volant`")
            .with_hint("`sudo volar setup` makes it"),
    }
}

fn volantd(host: &Host) -> Check {
    const NAME: &str = "volantd";
    match &host.daemon {
        Daemon::Answers { endpoint, info } => {
            let says = format!(
                "volantd {} answers at {endpoint}; VMs run with {} and {}: {}",
                info.version, info.hypervisor, info.accelerator, info.hypervisor_reason
            );
            if info.version == VOLAR {
                found(NAME, Verdict::Ok, says)
            } else {
                found(NAME, Verdict::Warn, says)
                    .with_hint(format!("volar has version {VOLAR}: install both from one release"))
            }
        }
        Daemon::Silent { error, is_denied: true } => found(NAME, Verdict::Fail, error.as_str())
            .with_hint("`sudo usermod -aG volant $USER`, then log in again; or use sudo"),
        Daemon::Silent { error, is_denied: false } => found(NAME, Verdict::Fail, error.as_str())
            .with_hint("`sudo systemctl start volantd`, or `sudo volar setup` if it was never set up; its log: `journalctl -u volantd -e`"),
    }
}

/// The first number in a version such as `cloud-hypervisor v51.0` or `QEMU emulator version 7.2.15`.
fn major(version: &str) -> Option<u32> {
    version.split_whitespace().find_map(|word| {
        let word = word.strip_prefix('v').unwrap_or(word);
        word.split(['.', '-']).next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use common::api::SystemInfo;

    use super::*;

    fn runs(name: &str, version: &str) -> Program {
        Program::Runs {
            path: format!("/usr/bin/{name}").into(),
            version: version.to_owned(),
        }
    }

    fn answers(version: &str) -> Daemon {
        Daemon::Answers {
            endpoint: "unix:///run/volant/volantd.sock".to_owned(),
            info: SystemInfo {
                status: "ok".to_owned(),
                version: version.to_owned(),
                api_listen_addr: String::new(),
                api_advertise_addr: String::new(),
                host_ip: "192.168.127.1".to_owned(),
                hypervisor: "cloud-hypervisor".to_owned(),
                accelerator: "kvm".to_owned(),
                hypervisor_reason: "KVM is usable".to_owned(),
            },
        }
    }

    /// A host on which all is well.
    fn host() -> Host {
        Host {
            is_root: false,
            group: Membership::Member,
            virtualization_flag: Some("vmx"),
            is_virtual: false,
            kvm: Device::Opens,
            tun: Device::Opens,
            cloud_hypervisor: runs("cloud-hypervisor", "cloud-hypervisor v51.0"),
            qemu: runs("qemu-system-x86_64", "QEMU emulator version 7.2.15"),
            nft: runs("nft", "nftables v1.0.6"),
            kernel_path: "/var/lib/volant/kernel/vmlinux".into(),
            kernel: Kernel::Elf(16 * 1024 * 1024),
            bridge: "vbr0".to_owned(),
            has_bridge: true,
            forwards: Some(true),
            has_cgroup_v2: true,
            daemon: answers(VOLAR),
        }
    }

    fn silent(is_denied: bool) -> Daemon {
        Daemon::Silent {
            error: "volantd is not running".to_owned(),
            is_denied,
        }
    }

    #[test]
    fn a_good_host_has_no_hints() {
        for check in check(&host()) {
            assert_eq!(check.verdict, Verdict::Ok, "{check:?}");
            assert_eq!(check.hint, None, "{check:?}");
        }
    }

    /// Changes a good host in one way and looks at one check.
    fn after(name: &str, change: impl FnOnce(&mut Host)) -> Check {
        let mut host = host();
        change(&mut host);
        check(&host)
            .into_iter()
            .find(|check| check.check == name)
            .unwrap()
    }

    type Row = (&'static str, fn(&mut Host), Verdict, &'static str);

    fn assert_rows(rows: &[Row]) {
        for (name, change, verdict, words) in rows {
            let check = after(name, change);
            assert_eq!(check.verdict, *verdict, "{check:?}");
            let all = format!("{} {}", check.says, check.hint.clone().unwrap_or_default());
            assert!(all.contains(words), "`{words}` in {check:?}");
            assert!(
                check.verdict == Verdict::Ok || check.hint.is_some(),
                "{check:?}"
            );
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn hardware_and_vmms_are_judged() {
        use Verdict::{Fail, Ok, Warn};
        assert_rows(&[
            ("kvm", |h| h.virtualization_flag = None, Warn, "kvm-pvm"),
            ("kvm", |h| h.kvm = Device::Absent, Warn, "modprobe kvm"),
            ("kvm", |h| h.kvm = Device::Denied, Ok, "usermod -aG kvm"),
            (
                "kvm",
                |h| h.kvm = Device::Fails("busy".to_owned()),
                Warn,
                "busy",
            ),
            (
                "kvm",
                |h| {
                    h.kvm = Device::Absent;
                    h.virtualization_flag = None;
                    h.is_virtual = true;
                },
                Warn,
                "nested virtualization",
            ),
            (
                "kvm",
                |h| {
                    h.kvm = Device::Absent;
                    h.virtualization_flag = None;
                },
                Warn,
                "firmware",
            ),
            (
                "cloud-hypervisor",
                |h| h.cloud_hypervisor = Program::Missing,
                Warn,
                "VOLANT_CLOUD_HYPERVISOR",
            ),
            (
                "cloud-hypervisor",
                |h| h.cloud_hypervisor = runs("cloud-hypervisor", "cloud-hypervisor v50.2"),
                Warn,
                "older than 51",
            ),
            (
                "cloud-hypervisor",
                |h| {
                    h.cloud_hypervisor = Program::Missing;
                    h.qemu = Program::Missing;
                },
                Fail,
                "not installed",
            ),
            (
                "cloud-hypervisor",
                |h| {
                    h.cloud_hypervisor = Program::Missing;
                    h.virtualization_flag = None;
                },
                Ok,
                "could not be used",
            ),
            ("qemu", |h| h.qemu = Program::Missing, Ok, "not needed"),
            (
                "qemu",
                |h| {
                    h.qemu = Program::Missing;
                    h.virtualization_flag = None;
                },
                Fail,
                "apt-get install qemu-system-x86",
            ),
        ]);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn files_network_and_daemon_are_judged() {
        use Verdict::{Fail, Ok, Warn};
        assert_rows(&[
            (
                "kernel",
                |h| h.kernel = Kernel::Missing,
                Fail,
                "VOLANT_KERNEL_VMLINUX",
            ),
            ("kernel", |h| h.kernel = Kernel::NotElf, Fail, "vmlinux"),
            (
                "kernel",
                |h| h.kernel = Kernel::Hidden,
                Warn,
                "sudo volar doctor",
            ),
            ("tun", |h| h.tun = Device::Absent, Fail, "modprobe tun"),
            ("tun", |h| h.tun = Device::Denied, Ok, "volantd may"),
            (
                "tun",
                |h| {
                    h.tun = Device::Denied;
                    h.is_root = true;
                },
                Fail,
                "CAP_NET_ADMIN",
            ),
            (
                "nft",
                |h| h.nft = Program::Missing,
                Fail,
                "apt-get install nftables",
            ),
            ("bridge", |h| h.has_bridge = false, Warn, "restart volantd"),
            (
                "bridge",
                |h| {
                    h.has_bridge = false;
                    h.daemon = silent(false);
                },
                Ok,
                "when it starts",
            ),
            (
                "ip-forward",
                |h| h.forwards = Some(false),
                Warn,
                "restart volantd",
            ),
            ("ip-forward", |h| h.forwards = None, Warn, "restart volantd"),
            (
                "cgroup",
                |h| h.has_cgroup_v2 = false,
                Warn,
                "systemd.unified_cgroup_hierarchy",
            ),
            (
                "group",
                |h| h.group = Membership::Outside,
                Warn,
                "usermod -aG volant",
            ),
            (
                "group",
                |h| h.group = Membership::NoGroup,
                Warn,
                "volar setup",
            ),
            (
                "volantd",
                |h| h.daemon = silent(false),
                Fail,
                "systemctl start volantd",
            ),
            (
                "volantd",
                |h| h.daemon = silent(true),
                Fail,
                "usermod -aG volant",
            ),
            (
                "volantd",
                |h| h.daemon = answers("9.9.9"),
                Warn,
                "one release",
            ),
        ]);
    }

    #[test]
    fn versions_are_read() {
        let table = [
            ("cloud-hypervisor v51.0", Some(51)),
            ("cloud-hypervisor v54.0.0-dev", Some(54)),
            ("cloud-hypervisor v51.0-12-gabc", Some(51)),
            ("QEMU emulator version 7.2.15 (Debian 1:7.2)", Some(7)),
            ("unknown", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(major(text), expected, "{text}");
        }
    }
}
