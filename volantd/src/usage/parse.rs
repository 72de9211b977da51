//! The kernel's texts about processes and interfaces, read without looking at anything. Pure.

use super::NetworkUse;

/// Clock ticks a second in what Linux shows to programs: `USER_HZ` of include/asm-generic/param.h, the same on every x86-64 kernel.
const USER_HZ: u64 = 100;

/// Microseconds of one tick.
const TICK_US: u64 = 1_000_000 / USER_HZ;

/// From `/proc/PID/stat` (`proc_pid_stat(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessTimes {
    /// Fields 14 and 15, `utime` and `stime`, in microseconds.
    pub(super) cpu_us: u64,
    /// Field 22, `starttime`.
    pub(super) start_ticks: u64,
}

/// The times in a `stat`. The program's name may have blanks and brackets in it, so fields are counted from its end.
pub(super) fn process_times(stat: &str) -> Option<ProcessTimes> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    // The first one here is field 3.
    let field = |number: usize| -> Option<u64> {
        let index = number.checked_sub(3)?;
        after_name.split_ascii_whitespace().nth(index)?.parse().ok()
    };
    let ticks = field(14)?.checked_add(field(15)?)?;
    Some(ProcessTimes {
        cpu_us: ticks.checked_mul(TICK_US)?,
        start_ticks: field(22)?,
    })
}

/// A line such as `Pss:    1234 kB` of a `/proc/PID/smaps_rollup` or `status` (`proc_pid_smaps(5)`, `proc_pid_status(5)`), in bytes.
pub(super) fn bytes_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// The interfaces in a `/proc/PID/net/dev`.
pub(super) fn interfaces(table: &str) -> impl Iterator<Item = (String, NetworkUse)> {
    table.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        Some((name.trim().to_owned(), network_use(counters)?))
    })
}

/// One interface's counters, in the order of `dev_seq_printf_stats` in net/core/net-procs.c.
fn network_use(counters: &str) -> Option<NetworkUse> {
    let counter = |index: usize| -> Option<u64> {
        counters.split_ascii_whitespace().nth(index)?.parse().ok()
    };
    Some(NetworkUse {
        rx_bytes: counter(0)?,
        rx_packets: counter(1)?,
        rx_dropped: counter(3)?,
        tx_bytes: counter(8)?,
        tx_packets: counter(9)?,
        tx_dropped: counter(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_whatever_the_program_is_called() {
        let rest = "S 1 2 2 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 3 0 987654 1000 200 184467";
        for name in ["qemu-system-x86", "a b", ") R 1 (", ""] {
            let times = process_times(&format!("42 ({name}) {rest}")).unwrap();
            let expected = ProcessTimes {
                cpu_us: 3_000_000,
                start_ticks: 987_654,
            };
            assert_eq!(times, expected, "{name}");
        }
        for broken in ["", "42 (x)", "42 (x) S 1 2", &rest.replace("250", "x")] {
            assert_eq!(process_times(broken), None, "{broken}");
        }
        let huge = format!("1 (x) {}", rest.replace("250", "18446744073709551615"));
        assert_eq!(process_times(&huge), None);
    }

    #[test]
    fn the_share_of_memory_is_found() {
        let rollup = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:   9000 kB\nPss:      1234 kB\nPss_Dirty:  7 kB\n";
        assert_eq!(bytes_of(rollup, "Pss:"), Some(1234 * 1024));
        for broken in [
            "",
            "Pss: kB",
            "Pss: 12",
            "Pss: -1 kB",
            "Pss: 18446744073709551615 kB",
        ] {
            assert_eq!(bytes_of(broken, "Pss:"), None, "{broken}");
        }
    }

    #[test]
    fn interfaces_are_read_line_by_line() {
        let table = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
vttap-10: 1000 2 3 4 5 6 7 8 9000 10 11 12 13 14 15 16
vttap-1: 17 18\n";
        let expected = NetworkUse {
            rx_bytes: 1000,
            rx_packets: 2,
            rx_dropped: 4,
            tx_bytes: 9000,
            tx_packets: 10,
            tx_dropped: 12,
        };
        let found: Vec<_> = interfaces(table).collect();
        assert_eq!(found[1], ("vttap-10".to_owned(), expected));
        assert_eq!((found.len(), found[0].0.as_str()), (2, "lo"));
    }
}
