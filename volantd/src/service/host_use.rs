//! How busy the host is: CPU and memory, from what the kernel says in /proc. Keeps the CPU times of the last look, nothing else.

use std::sync::{Mutex, PoisonError};

/// CPU times since the host booted, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    all: u64,
}

/// Looks at the host.
#[derive(Debug, Default)]
pub(super) struct HostUse {
    last: Mutex<CpuTimes>,
}

/// How busy the host is, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct HostPercent {
    pub(super) cpu: f64,
    pub(super) memory: f64,
}

impl HostUse {
    /// Looks now. The first look is at all the time since the host booted, each other one at the time since the look before.
    pub(super) fn look(&self) -> std::io::Result<HostPercent> {
        let now = cpu_times(&fs_err::read_to_string("/proc/stat")?);
        let memory = memory_percent(&fs_err::read_to_string("/proc/meminfo")?);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = percent(
            now.busy.saturating_sub(last.busy),
            now.all.saturating_sub(last.all),
        );
        *last = now;
        Ok(HostPercent { cpu, memory })
    }
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guest times are in user times already
/// (proc(5)).
fn cpu_times(stat: &str) -> CpuTimes {
    let line = stat.lines().next().unwrap_or_default();
    let mut times = CpuTimes::default();
    for (index, field) in line.split_whitespace().skip(1).take(8).enumerate() {
        let ticks: u64 = field.parse().unwrap_or(0);
        times.all += ticks;
        // Idle, and idle while something is read or written.
        if !matches!(index, 3 | 4) {
            times.busy += ticks;
        }
    }
    times
}

fn memory_percent(meminfo: &str) -> f64 {
    let kib = |key: &str| -> u64 {
        meminfo
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    };
    let total = kib("MemTotal:");
    percent(total.saturating_sub(kib("MemAvailable:")), total)
}

/// In tenths of a percent, which is all that anybody reads.
fn percent(part: u64, whole: u64) -> f64 {
    let permille = part
        .saturating_mul(1000)
        .checked_div(whole)
        .unwrap_or(0)
        .min(1000);
    f64::from(u32::try_from(permille).unwrap_or(0)) / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_are_read() {
        let times = cpu_times("cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 1 1 1 1\n");
        assert_eq!(times, CpuTimes { busy: 30, all: 100 });
        let memory = memory_percent("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n");
        assert!((memory - 75.0).abs() < 0.01);
    }

    #[test]
    fn nonsense_is_no_load() {
        assert_eq!(cpu_times("what"), CpuTimes::default());
        assert!(memory_percent("") < 0.01 && percent(5, 0) < 0.01);
        assert!((percent(9, 3) - 100.0).abs() < 0.01);
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let host = HostUse::default();
        for _ in 0..2 {
            let percent = host.look().unwrap();
            assert!((0.0..=100.0).contains(&percent.cpu), "{percent:?}");
            assert!(percent.memory > 0.0, "{percent:?}");
        }
    }
}
