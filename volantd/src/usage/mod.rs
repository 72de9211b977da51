//! What a VM uses of its host: its VMM's CPU time and memory, and what went through its tap; and what this daemon itself uses. Asks no guest
//! and no VMM, and remembers nothing: who wants a rate reads twice.

mod parse;

use std::collections::HashMap;
use std::io;

use fs_err as fs;
use nix::sys::resource::{Resource, getrlimit};

use parse::{ProcessTimes, bytes_of, interfaces, process_times};

/// Where the kernel shows processes.
const PROC: &str = "/proc";

/// Where the kernel shows the interfaces of this process's network namespace (`proc_pid_net(5)`). What `/sys` shows is of the namespace
/// in which it was mounted, which may be another one.
const INTERFACES: &str = "/proc/self/net/dev";

/// The error of reading a file of a process that ended meanwhile (errno(3)).
const ESRCH: i32 = 3;

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The process is gone, or another one has its number by now.
    #[error("The process {pid} is not there any more")]
    Gone {
        /// Its number.
        pid: u32,
    },
    /// The kernel's file cannot be read.
    #[error("What the kernel says of process {pid} cannot be read")]
    Read {
        /// The process.
        pid: u32,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not what the kernel is known to write.
    #[error("What the kernel says of process {pid} is not understood")]
    NotUnderstood {
        /// The process.
        pid: u32,
    },
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessUse {
    /// CPU time in user and kernel mode since it began, in microseconds. With KVM it has the guest's own.
    pub cpu_us: u64,
    /// Its share of the memory that it uses (PSS), in bytes; none where this daemon may not know.
    pub memory_pss_bytes: Option<u64>,
}

/// What this daemon itself uses. None where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnUse {
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The most that it may open.
    pub max_fds: Option<u64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// CPU time in user and kernel mode, in microseconds.
    pub cpu_us: Option<u64>,
}

/// What went through an interface, as the guest behind it sees it: what the host's end sends, the guest receives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkUse {
    /// Bytes that the guest received.
    pub rx_bytes: u64,
    /// Bytes that it sent.
    pub tx_bytes: u64,
    /// Packets that it received.
    pub rx_packets: u64,
    /// Packets that it sent.
    pub tx_packets: u64,
    /// Packets for it that were dropped.
    pub rx_dropped: u64,
    /// Packets of it that were dropped.
    pub tx_dropped: u64,
}

/// Reads what a process uses, if it still is the one that began at `start_ticks`. Blocks: the memory of a large VM takes some milliseconds.
///
/// # Errors
/// [`UsageError`].
pub fn of_process(pid: u32, start_ticks: u64) -> Result<ProcessUse, UsageError> {
    let stat = read(pid, "stat")?;
    let times: ProcessTimes = process_times(&stat).ok_or(UsageError::NotUnderstood { pid })?;
    if times.start_ticks != start_ticks {
        return Err(UsageError::Gone { pid });
    }
    let memory = match read(pid, "smaps_rollup") {
        Ok(rollup) => bytes_of(&rollup, "Pss:"),
        Err(UsageError::Read { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(ProcessUse {
        cpu_us: times.cpu_us,
        memory_pss_bytes: memory,
    })
}

/// Reads what this process uses.
pub fn of_own() -> OwnUse {
    let pid = std::process::id();
    let open = fs::read_dir(format!("{PROC}/{pid}/fd")).ok();
    OwnUse {
        open_fds: open.and_then(|open| u64::try_from(open.count()).ok()),
        max_fds: getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(soft, _)| soft),
        resident_bytes: read(pid, "status")
            .ok()
            .and_then(|status| bytes_of(&status, "VmRSS:")),
        cpu_us: read(pid, "stat")
            .ok()
            .and_then(|stat| process_times(&stat))
            .map(|times| times.cpu_us),
    }
}

fn read(pid: u32, file: &str) -> Result<String, UsageError> {
    fs::read_to_string(format!("{PROC}/{pid}/{file}")).map_err(|source| {
        let is_gone =
            source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(ESRCH);
        if is_gone {
            UsageError::Gone { pid }
        } else {
            UsageError::Read { pid, source }
        }
    })
}

/// What went through all interfaces, read at once: the kernel writes the whole table for whoever wants one line of it.
#[derive(Debug, Default)]
pub struct Taps(HashMap<String, NetworkUse>);

impl Taps {
    /// Reads them; none where the kernel does not show them. Blocks, some milliseconds for a thousand.
    pub fn read() -> Self {
        let text = fs::read_to_string(INTERFACES).unwrap_or_default();
        Self(interfaces(&text).collect())
    }

    /// What went through the tap of a guest. None if there is no such interface.
    pub fn of(&self, tap: &str) -> Option<NetworkUse> {
        self.0.get(tap).copied().map(seen_from_guest)
    }
}

/// The other end of what the host counts.
const fn seen_from_guest(host: NetworkUse) -> NetworkUse {
    NetworkUse {
        rx_bytes: host.tx_bytes,
        tx_bytes: host.rx_bytes,
        rx_packets: host.tx_packets,
        tx_packets: host.rx_packets,
        rx_dropped: host.tx_dropped,
        tx_dropped: host.rx_dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured_and_another_one_with_its_number_is_not() {
        let pid = std::process::id();
        let stat = read(pid, "stat").unwrap();
        let began = process_times(&stat).unwrap().start_ticks;
        let used = of_process(pid, began).unwrap();
        assert!(used.memory_pss_bytes.is_none_or(|bytes| bytes > 4096));
        assert!(matches!(
            of_process(pid, began + 1),
            Err(UsageError::Gone { .. })
        ));
        // Above the kernel's largest (PID_MAX_LIMIT, 4194304).
        assert!(matches!(
            of_process(4_194_305, 1),
            Err(UsageError::Gone { .. })
        ));
    }

    #[test]
    fn this_daemon_is_measured() {
        let own = of_own();
        assert!(own.open_fds.unwrap() >= 3 && own.open_fds <= own.max_fds);
        assert!(own.resident_bytes.unwrap() > 4096 && own.cpu_us.is_some());
    }

    #[test]
    fn an_interface_is_measured() {
        let taps = Taps::read();
        assert!(taps.of("lo").is_some());
        assert_eq!(taps.of("no-such-tap"), None);
    }

    #[test]
    fn what_the_host_sends_the_guest_receives() {
        let host = NetworkUse {
            rx_bytes: 1,
            tx_bytes: 2,
            rx_packets: 3,
            tx_packets: 4,
            rx_dropped: 5,
            tx_dropped: 6,
        };
        let guest = seen_from_guest(host);
        assert_eq!(
            (guest.rx_bytes, guest.rx_packets, guest.rx_dropped),
            (2, 4, 6)
        );
        assert_eq!(seen_from_guest(guest), host);
    }
}
