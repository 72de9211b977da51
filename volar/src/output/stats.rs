//! What VMs use, for people. Pure text.

use common::api::{Vm, VmStats, VmStatus};
use jiff::Timestamp;

use super::{size, table};

/// What the VMs use at one time.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// The VMs.
    pub vms: Vec<Vm>,
    /// Of those that run.
    pub stats: Vec<VmStats>,
}

impl Sample {
    fn of(&self, name: &str) -> Option<&VmStats> {
        self.stats.iter().find(|stats| stats.name.as_str() == name)
    }
}

/// Use between two samples of one VM.
struct Rates {
    cpu_permille: Option<u64>,
    network: Option<[u64; 2]>,
    disk: Option<[u64; 2]>,
}

impl Rates {
    fn between(before: Option<&VmStats>, now: &VmStats) -> Self {
        let none = Self {
            cpu_permille: None,
            network: None,
            disk: None,
        };
        let Some(before) = before else {
            return none;
        };
        let times = (before.at.parse::<Timestamp>(), now.at.parse::<Timestamp>());
        let (Ok(from), Ok(to)) = times else {
            return none;
        };
        let elapsed_us = to.as_microsecond().saturating_sub(from.as_microsecond());
        let Ok(elapsed_us @ 1..) = u64::try_from(elapsed_us) else {
            return none;
        };
        // A counter that is smaller than before began anew with another launch.
        let rate = |before: u64, now: u64| {
            let per_second =
                u128::from(now.saturating_sub(before)) * 1_000_000 / u128::from(elapsed_us);
            u64::try_from(per_second).unwrap_or(u64::MAX)
        };
        let (old_disk, new_disk) = (disk_bytes(before), disk_bytes(now));
        Self {
            cpu_permille: Some(rate(before.host.cpu_us, now.host.cpu_us) / 1000),
            network: before.network.zip(now.network).map(|(old, new)| {
                [
                    rate(old.rx_bytes, new.rx_bytes),
                    rate(old.tx_bytes, new.tx_bytes),
                ]
            }),
            disk: Some([
                rate(old_disk[0], new_disk[0]),
                rate(old_disk[1], new_disk[1]),
            ]),
        }
    }
}

fn disk_bytes(stats: &VmStats) -> [u64; 2] {
    let sum = |bytes: fn(&common::api::DiskStats) -> u64| {
        stats.disks.iter().map(bytes).fold(0, u64::saturating_add)
    };
    [sum(|disk| disk.read_bytes), sum(|disk| disk.write_bytes)]
}

/// The table of `top`: use since the sample before, or what is known without one.
pub fn top_table(before: Option<&Sample>, now: &Sample) -> String {
    if now.vms.is_empty() {
        return "No VMs".to_owned();
    }
    let header = [
        "NAME",
        "STATUS",
        "CPU",
        "MEM HOST",
        "MEM GUEST",
        "NET RX/S",
        "NET TX/S",
        "READ/S",
        "WRITE/S",
    ];
    let rows: Vec<Vec<String>> = now
        .vms
        .iter()
        .map(|vm| {
            let mut row = vec![vm.name.to_string(), vm.status.as_str().to_owned()];
            match now.of(vm.name.as_str()) {
                Some(stats) => {
                    row.extend(cells(before.and_then(|s| s.of(vm.name.as_str())), stats));
                }
                None => row.extend(std::iter::repeat_n("-".to_owned(), header.len() - 2)),
            }
            row
        })
        .collect();
    let running = now.vms.iter().filter(|vm| vm.status == VmStatus::Running);
    format!(
        "{} VM{}, {} running\n\n{}",
        now.vms.len(),
        if now.vms.len() == 1 { "" } else { "s" },
        running.count(),
        table::render(&header, &rows)
    )
}

fn cells(before: Option<&VmStats>, now: &VmStats) -> Vec<String> {
    let rates = Rates::between(before, now);
    let dash = || "-".to_owned();
    let pair = |pair: Option<[u64; 2]>| match pair {
        Some([a, b]) => [size(a), size(b)],
        None => [dash(), dash()],
    };
    let guest = now.guest.as_ref().map_or_else(dash, |guest| {
        let used = guest
            .memory_total_bytes
            .saturating_sub(guest.memory_available_bytes);
        format!("{} / {}", size(used), size(guest.memory_total_bytes))
    });
    let cpu = rates.cpu_permille.map_or_else(dash, percent);
    let [rx, tx] = pair(rates.network);
    let [read, write] = pair(rates.disk);
    let host = now.host.memory_pss_bytes.map_or_else(dash, size);
    vec![cpu, host, guest, rx, tx, read, write]
}

fn percent(permille: u64) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

/// The JSON of `top --once`: what the API says of all VMs.
pub fn top_json(stats: &[VmStats]) -> String {
    serde_json::to_string(stats).unwrap_or_default()
}

/// All that is known of what one VM uses.
pub fn stats_details(stats: &VmStats) -> String {
    let mut rows = vec![
        ("Name", stats.name.to_string()),
        ("CPU time", seconds(stats.host.cpu_us)),
        (
            "Memory on the host",
            stats.host.memory_pss_bytes.map(size).unwrap_or_default(),
        ),
    ];
    if let Some(guest) = &stats.guest {
        let used = guest
            .memory_total_bytes
            .saturating_sub(guest.memory_available_bytes);
        rows.extend([
            ("Up for", seconds(guest.uptime_us)),
            ("CPU time in the guest", seconds(guest.cpu_us)),
            (
                "Memory in the guest",
                format!("{} of {}", size(used), size(guest.memory_total_bytes)),
            ),
            (
                "Root file system",
                format!(
                    "{} of {}",
                    size(guest.disk_used_bytes),
                    size(guest.disk_total_bytes)
                ),
            ),
            ("Processes", guest.processes.to_string()),
            ("Ended for lack of memory", guest.oom_kills.to_string()),
        ]);
    }
    if let Some(network) = &stats.network {
        rows.push((
            "Network",
            format!(
                "{} in {} packets received, {} in {} packets sent",
                size(network.rx_bytes),
                network.rx_packets,
                size(network.tx_bytes),
                network.tx_packets
            ),
        ));
    }
    let disks = stats.disks.iter().map(|disk| {
        format!(
            "{}: {} read, {} written",
            disk.name,
            size(disk.read_bytes),
            size(disk.write_bytes)
        )
    });
    let disks: Vec<String> = disks.collect();
    rows.push(("Disks", disks.join("\n")));
    rows.push(("At", stats.at.clone()));
    table::details(&rows)
}

fn seconds(us: u64) -> String {
    format!("{}.{} s", us / 1_000_000, us / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use common::agent::stats::GuestStats;
    use common::api::{DiskStats, HostStats, NetworkStats};

    use super::*;
    use crate::test_data::vm;

    fn stats(at: &str, cpu_us: u64, bytes: u64) -> VmStats {
        VmStats {
            name: "web".parse().unwrap(),
            host: HostStats {
                cpu_us,
                memory_pss_bytes: Some(100 * 1024 * 1024),
            },
            guest: Some(GuestStats {
                uptime_us: 61_500_000,
                memory_total_bytes: 512 * 1024 * 1024,
                memory_available_bytes: 412 * 1024 * 1024,
                ..GuestStats::default()
            }),
            network: Some(NetworkStats {
                rx_bytes: bytes,
                tx_bytes: 2 * bytes,
                ..NetworkStats::default()
            }),
            disks: vec![DiskStats {
                name: "vda".to_owned(),
                read_bytes: bytes,
                ..DiskStats::default()
            }],
            at: at.to_owned(),
        }
    }

    #[test]
    fn rates_are_between_two_samples() {
        let mut stopped = vm("db");
        stopped.status = VmStatus::Stopped;
        let sample = |stats| Sample {
            vms: vec![vm("web"), stopped.clone()],
            stats: vec![stats],
        };
        let before = sample(stats("2026-11-23T10:00:00Z", 1_000_000, 0));
        let now = sample(stats("2026-11-23T10:00:02Z", 1_500_000, 4096));
        insta::assert_snapshot!(top_table(Some(&before), &now), @r"
        2 VMs, 1 running

        NAME   STATUS    CPU     MEM HOST    MEM GUEST               NET RX/S   NET TX/S   READ/S    WRITE/S
        web    running   25.0%   100.0 MiB   100.0 MiB / 512.0 MiB   2.0 KiB    4.0 KiB    2.0 KiB   0 B
        db     stopped   -       -           -                       -          -          -         -
        ");
        let first = top_table(None, &now);
        assert!(
            first.contains("web    running   -     100.0 MiB"),
            "{first}"
        );
        // A counter that began anew.
        let again = top_table(Some(&now), &before);
        assert!(!again.contains('%') || again.contains("0.0%"), "{again}");
        assert_eq!(top_table(None, &Sample::default()), "No VMs");
    }

    #[test]
    fn details_have_it_all() {
        insta::assert_snapshot!(stats_details(&stats("2026-11-23T10:00:00Z", 1_250_000, 2048)), @r"
        Name                       web
        CPU time                   1.2 s
        Memory on the host         100.0 MiB
        Up for                     61.5 s
        CPU time in the guest      0.0 s
        Memory in the guest        100.0 MiB of 512.0 MiB
        Root file system           0 B of 0 B
        Processes                  0
        Ended for lack of memory   0
        Network                    2.0 KiB in 0 packets received, 4.0 KiB in 0 packets sent
        Disks                      vda: 2.0 KiB read, 0 B written
        At                         2026-11-23T10:00:00Z
        ");
    }
}
