//! What the guest uses, as its kernel says it in /proc. Parses and adds up; keeps nothing between two looks.

use std::io::Read as _;
use std::path::Path;

use common::agent::stats::GuestStats;

use crate::sys::{boot_time, root_usage};

/// The longest of the files that are read, in bytes: /proc/stat has a line for each CPU and interrupt.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Microseconds of one tick: the kernel tells CPU times in hundredths of a second on every machine (`USER_HZ`, `proc_stat(5)`).
const TICK_US: u64 = 10_000;

/// What the guest uses now. What its kernel does not tell is 0.
pub(crate) fn now() -> GuestStats {
    let memory = read("/proc/meminfo");
    let (disk_total_bytes, disk_used_bytes) = root_usage().unwrap_or_default();
    GuestStats {
        uptime_us: u64::try_from(boot_time().as_micros()).unwrap_or(u64::MAX),
        cpu_us: cpu_us(&read("/proc/stat")).unwrap_or_default(),
        memory_total_bytes: memory_bytes(&memory, "MemTotal").unwrap_or_default(),
        memory_available_bytes: memory_bytes(&memory, "MemAvailable").unwrap_or_default(),
        disk_total_bytes,
        disk_used_bytes,
        oom_kills: oom_kills().unwrap_or_default(),
        processes: processes(),
    }
}

/// How many processes the kernel has ended for lack of memory; nothing if it does not count them.
pub(crate) fn oom_kills() -> Option<u64> {
    counter(&read("/proc/vmstat"), "oom_kill")
}

/// CPU time that is not idle in /proc/stat: user, nice, system, irq and softirq of its first line. Guests of this guest are in user.
fn cpu_us(stat: &str) -> Option<u64> {
    let total = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = total
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
        return None;
    };
    let busy = [user, nice, system, irq, softirq].into_iter().sum::<u64>();
    busy.checked_mul(TICK_US)
}

/// A line of /proc/meminfo: `MemTotal:  123456 kB`.
fn memory_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let value = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// A line of /proc/vmstat: `oom_kill 0`.
fn counter(vmstat: &str, key: &str) -> Option<u64> {
    vmstat
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?
        .parse()
        .ok()
}

/// Folders of /proc whose name is a number.
fn processes() -> u32 {
    let Ok(entries) = fs_err::read_dir("/proc") else {
        return 0;
    };
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let count = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(is_process))
        .count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The text of a file of the kernel's; empty if there is none.
fn read(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = fs_err::File::open(Path::new(path)) {
        // What has come until a failure is no less true.
        drop(file.take(MAX_FILE_BYTES).read_to_string(&mut text));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_leaves_out_idle_and_stolen_time() {
        let table = [
            (
                "cpu  10 20 30 400 500 6 7 800 900 1000\ncpu0 1 1 1 1\n",
                Some(730_000),
            ),
            ("cpu  1 1 1 1 1 1 1\n", Some(50_000)),
            ("cpu  1 1 1 1\n", None),
            ("cpu0 1 1 1 1 1 1 1\n", None),
            ("cpu  18446744073709551615 0 0 0 0 0 0\n", None),
            ("cpu  a b\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(cpu_us(text), expected, "{text}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:         244120 kB\nMemFree: 9 kB\nMemAvailable:   198316 kB\nHugePages_Total:       3\n";
        let table = [
            ("MemTotal", Some(249_978_880)),
            ("MemAvailable", Some(203_075_584)),
            ("Mem", None),
            ("HugePages_Total", None),
            ("Swap", None),
        ];
        for (key, expected) in table {
            assert_eq!(memory_bytes(text, key), expected, "{key}");
        }
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "pgfault 7\noom_kill_other 8\noom_kill 2\nbad x\n";
        for (key, expected) in [("oom_kill", Some(2)), ("oom", None), ("bad", None)] {
            assert_eq!(counter(text, key), expected, "{key}");
        }
    }

    #[test]
    fn this_machine_has_figures() {
        let stats = now();
        assert!(stats.uptime_us > 0 && stats.cpu_us > 0, "{stats:?}");
        assert!(stats.memory_total_bytes > stats.memory_available_bytes);
        assert!(stats.memory_available_bytes > 0, "{stats:?}");
        assert!(stats.disk_total_bytes >= stats.disk_used_bytes);
        assert!(stats.processes >= 1, "{stats:?}");
    }
}
