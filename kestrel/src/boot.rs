//! The first part of a guest's life, before anything waits: a list of phases in order, each timed. Starts no process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use common::cmdline::{IpConfig, KEY_CONFIG, KEY_WRITABLE};
use common::guest_config::GuestConfig;

use crate::sys::Sys;
use crate::{cmdline, console, guest_config, mounts, network, rootfs};

/// Why a guest cannot boot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A file system that nothing works without.
    #[error("Cannot mount {kind} on {target}")]
    Mount {
        /// The kind of file system.
        kind: &'static str,
        /// Where it was to go.
        target: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The root and its writable layer.
    #[error("{what}")]
    Root {
        /// What failed, as a sentence.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The command line asks for a layer that there is not.
    #[error("The command line's `{KEY_WRITABLE}={value}` is neither a device nor `tmpfs`")]
    BadWritable {
        /// The value.
        value: String,
    },
    /// No command line to read.
    #[error("Cannot read the kernel command line")]
    Cmdline(#[source] io::Error),
    /// The guest config is there and cannot be read.
    #[error("Cannot read the guest config")]
    GuestConfigRead(#[source] io::Error),
    /// The guest config holds something else.
    #[error("The guest config is refused")]
    GuestConfigJson(#[source] serde_json::Error),
    /// The command line names something else as its disk.
    #[error("The command line's `{KEY_CONFIG}={device}` is no device")]
    BadConfigDevice {
        /// The value.
        device: String,
    },
    /// The guest config would stay for the workload to read.
    #[error("Cannot remove the guest config, which holds the guest's secret")]
    GuestConfigRemoval(#[source] io::Error),
}

/// What the phases find out.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The words of the command line.
    pub(crate) words: BTreeMap<String, String>,
    /// The guest's address, once it is set.
    pub(crate) ip: Option<IpConfig>,
    /// What volantd tells this guest only.
    pub(crate) config: Option<GuestConfig>,
}

/// What one phase does.
#[derive(Clone, Copy)]
enum Phase {
    /// The guest cannot go on without it.
    Must(fn(&dyn Sys, &mut Facts) -> Result<(), BootError>),
    /// What fails in it is a line on the console.
    Should(fn(&dyn Sys, &mut Facts)),
}

/// All phases in their order. The root comes first, because mounts go into it; then they, because the console is in /dev and the
/// command line in /proc.
const PHASES: &[(&str, Phase)] = &[
    ("root", Phase::Must(rootfs::assemble)),
    ("mounts", Phase::Must(mounts::mount_all)),
    ("console", Phase::Should(open_console)),
    ("cmdline", Phase::Must(cmdline::read)),
    ("guest config", Phase::Must(guest_config::take)),
    ("loopback", Phase::Should(network::loopback)),
    ("address", Phase::Should(network::address)),
    ("names", Phase::Should(network::names)),
    ("home", Phase::Should(make_home)),
    ("limits", Phase::Should(raise_limits)),
];

/// The workload's home directory; images made of single files have none.
pub(crate) const HOME: &str = "/root";

/// Runs all phases, and shows on one line how long each took.
pub(crate) fn run(sys: &dyn Sys) -> Result<Facts, BootError> {
    let mut facts = Facts::default();
    let mut timing = String::new();
    for (name, phase) in PHASES {
        let began = sys.boot_time();
        match phase {
            Phase::Must(run) => run(sys, &mut facts)?,
            Phase::Should(run) => run(sys, &mut facts),
        }
        append_timing(&mut timing, name, sys.boot_time().saturating_sub(began));
    }
    let version = env!("CARGO_PKG_VERSION");
    console::line(&format!("Agent {version} booted: {timing}"));
    Ok(facts)
}

fn append_timing(timing: &mut String, name: &str, took: Duration) {
    let separator = if timing.is_empty() { "" } else { ", " };
    let (ms, tenth) = (took.as_millis(), took.subsec_micros() % 1000 / 100);
    // Writing to a `String` cannot fail.
    let _ = write!(timing, "{separator}{name} {ms}.{tenth} ms");
}

fn open_console(sys: &dyn Sys, _facts: &mut Facts) {
    // A guest without a console can serve all the same; there is nowhere to say so.
    drop(sys.open_console());
}

fn make_home(sys: &dyn Sys, _facts: &mut Facts) {
    if let Err(error) = sys.make_dir(Path::new(HOME), 0o700) {
        console::line(&format!("No {HOME}: {error}"));
    }
}

fn raise_limits(sys: &dyn Sys, _facts: &mut Facts) {
    if let Err(error) = sys.raise_limits() {
        console::line(&format!("The limit of open files stays: {error}"));
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A machine that records what it is asked, and fails where a test says so.

    use std::collections::BTreeMap;
    use std::io;
    use std::net::Ipv4Addr;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;
    use std::time::Duration;

    use crate::sys::{Mount, Sys};

    #[derive(Debug, Default)]
    pub(crate) struct FakeSys {
        acts: Mutex<Vec<String>>,
        files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
        addresses: BTreeMap<String, Ipv4Addr>,
        failing: Option<(String, io::ErrorKind)>,
    }

    impl FakeSys {
        pub(crate) fn with_file(self, path: &str, contents: &str) -> Self {
            self.files
                .lock()
                .unwrap()
                .insert(path.into(), contents.as_bytes().to_vec());
            self
        }

        pub(crate) fn with_address(mut self, device: &str, address: Ipv4Addr) -> Self {
            self.addresses.insert(device.to_owned(), address);
            self
        }

        pub(crate) fn failing(mut self, act: &str, kind: io::ErrorKind) -> Self {
            self.failing = Some((act.to_owned(), kind));
            self
        }

        pub(crate) fn acts(&self) -> Vec<String> {
            self.acts.lock().unwrap().clone()
        }

        pub(crate) fn file(&self, path: &str) -> String {
            let files = self.files.lock().unwrap();
            String::from_utf8(files[Path::new(path)].clone()).unwrap()
        }

        fn act(&self, act: String) -> io::Result<()> {
            let fails = self
                .failing
                .as_ref()
                .filter(|(failing, _)| *failing == act)
                .map(|(_, kind)| *kind);
            self.acts.lock().unwrap().push(act);
            fails.map_or(Ok(()), |kind| Err(kind.into()))
        }
    }

    impl Sys for FakeSys {
        fn mount(&self, mount: &Mount<'_>) -> io::Result<()> {
            let Mount {
                source,
                kind,
                target,
                ..
            } = mount;
            // The options matter where the root is put together only.
            let data = match mount.data {
                data if target.starts_with("/bin") && !data.is_empty() => format!(" {data}"),
                _ => String::new(),
            };
            let from = if source == kind {
                String::new()
            } else {
                format!(" from {source}")
            };
            self.act(format!("mount {kind} {target}{data}{from}"))
        }

        fn unmount(&self, target: &Path) -> io::Result<()> {
            self.act(format!("unmount {}", target.display()))
        }

        fn change_root(&self, path: &Path) -> io::Result<()> {
            self.act(format!("change_root {}", path.display()))
        }

        fn keep_layer(&self, path: &Path) -> io::Result<()> {
            self.act(format!("keep_layer {}", path.display()))
        }

        fn settle_layer(&self) -> io::Result<()> {
            self.act("settle_layer".to_owned())
        }

        fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
            self.act(format!("make_dir {} {mode:o}", path.display()))
        }

        fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
            self.act(format!("link {} {}", path.display(), target.display()))
        }

        fn open_console(&self) -> io::Result<()> {
            self.act("open_console".to_owned())
        }

        fn raise_limits(&self) -> io::Result<()> {
            self.act("raise_limits".to_owned())
        }

        fn read(&self, path: &Path, _limit_bytes: u64) -> io::Result<Vec<u8>> {
            self.act(format!("read {}", path.display()))?;
            let files = self.files.lock().unwrap();
            files
                .get(path)
                .cloned()
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn write(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
            self.act(format!("write {}", path.display()))?;
            let mut files = self.files.lock().unwrap();
            files.insert(path.to_owned(), contents.to_vec());
            Ok(())
        }

        fn remove_file(&self, path: &Path) -> io::Result<()> {
            self.act(format!("remove_file {}", path.display()))?;
            self.files.lock().unwrap().remove(path);
            Ok(())
        }

        fn remove_dir(&self, path: &Path) -> io::Result<()> {
            self.act(format!("remove_dir {}", path.display()))
        }

        fn set_host_name(&self, name: &str) -> io::Result<()> {
            self.act(format!("set_host_name {name}"))
        }

        fn set_link_up(&self, device: &str) -> io::Result<()> {
            self.act(format!("set_link_up {device}"))
        }

        fn address(&self, device: &str) -> io::Result<Option<Ipv4Addr>> {
            self.act(format!("address {device}"))?;
            Ok(self.addresses.get(device).copied())
        }

        fn set_address(&self, device: &str, ip: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
            self.act(format!("set_address {device} {ip} {netmask}"))
        }

        fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
            self.act(format!("add_default_route {gateway}"))
        }

        fn boot_time(&self) -> Duration {
            Duration::from_millis(5)
        }

        fn sync(&self) {
            drop(self.act("sync".to_owned()));
        }

        fn power_off(&self) -> io::Error {
            drop(self.act("power_off".to_owned()));
            io::ErrorKind::PermissionDenied.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeSys;
    use super::*;

    const LINE: &str = "ip=10.0.2.15::10.0.2.2:255.255.255.0:web:eth0:off volant.plugin=hello";

    fn guest() -> FakeSys {
        FakeSys::default()
            .with_file("/bin/cmdline", LINE)
            .with_file("/proc/cmdline", LINE)
    }

    #[test]
    fn a_root_with_a_layer_comes_before_everything() {
        let line = format!("{LINE} volant.config=/dev/vdb volant.writable=/dev/vdc");
        let sys = FakeSys::default()
            .with_file("/bin/cmdline", &line)
            .with_file("/proc/cmdline", &line)
            .with_file("/dev/vdb", "{\"secret\":\"abc\"}\0\0\0");
        let facts = run(&sys).unwrap();
        assert!(facts.config.unwrap().secret.matches("abc"));
        let acts = sys.acts();
        let place = |act: &str| acts.iter().position(|found| found == act).expect(act);
        assert!(place("change_root /bin/root") < place("make_dir /proc 755"));
        assert!(place("mount devtmpfs /dev") < place("read /dev/vdb"));
    }

    #[test]
    fn the_phases_come_in_their_order() {
        let sys = guest();
        let facts = run(&sys).unwrap();
        assert_eq!(facts.ip.unwrap().host_name, "web");
        let acts = sys.acts();
        let order = [
            "unmount /bin",
            "mount proc /proc",
            "mount cgroup2 /sys/fs/cgroup",
            "open_console",
            "read /proc/cmdline",
            "read /.volant/config.json",
            "set_link_up lo",
            "set_address eth0 10.0.2.15 255.255.255.0",
            "set_host_name web",
            "write /etc/hosts",
            "make_dir /root 700",
            "raise_limits",
        ];
        let places: Vec<usize> = order
            .iter()
            .map(|act| acts.iter().position(|found| found == act).expect(act))
            .collect();
        assert!(places.is_sorted(), "{acts:#?}");
    }

    #[test]
    fn a_failed_phase_ends_the_boot() {
        let sys = guest().with_file("/.volant/config.json", "no json");
        let error = run(&sys).unwrap_err();
        assert!(matches!(error, BootError::GuestConfigJson(_)));
        assert!(!sys.acts().contains(&"set_link_up lo".to_owned()));
    }

    #[test]
    fn timing_has_a_tenth_of_a_millisecond() {
        let mut timing = String::new();
        append_timing(&mut timing, "a", Duration::from_micros(1_260));
        append_timing(&mut timing, "b", Duration::from_millis(3));
        assert_eq!(timing, "a 1.2 ms, b 3.0 ms");
    }
}
