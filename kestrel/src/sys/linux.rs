//! [`Sys`] on a real kernel. Decides nothing.

use std::fs::Permissions;
use std::io::{self, IsTerminal as _, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, pivot_root};

use super::{Mount, Sys, freeze, interface};
use crate::mounts::Deny;

/// Where the kernel's console is; opening it never makes it a controlling terminal, and a hang-up of ttyS0 spares it.
const CONSOLE: &str = "/dev/console";

/// The console's own device, where the kernel names no console.
const SERIAL: &str = "/dev/ttyS0";

/// How many files a process may allow itself: what systemd gives services.
const MAX_OPEN_FILES: u64 = 524_288;

/// The machine that this process runs on.
#[derive(Debug)]
pub(crate) struct Linux {
    /// The root directory of the writable disk's file system.
    layer: OnceLock<OwnedFd>,
}

impl Linux {
    /// The machine as it is found.
    pub(crate) const fn new() -> Self {
        Self {
            layer: OnceLock::new(),
        }
    }
}

/// Time since the kernel began (`CLOCK_BOOTTIME`), the clock of everything that the agent reports.
pub(crate) fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// Unix time (`CLOCK_REALTIME`), by which people read when something was written.
pub(crate) fn unix_time() -> Duration {
    clock_gettime(ClockId::CLOCK_REALTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// Sets the clock of the machine (`CLOCK_REALTIME`) to this Unix time.
pub(crate) fn set_unix_time(time: Duration) -> io::Result<()> {
    Ok(clock_settime(
        ClockId::CLOCK_REALTIME,
        TimeSpec::from(time),
    )?)
}

/// Size of the root file system and what of it is used, in bytes.
pub(crate) fn root_usage() -> io::Result<(u64, u64)> {
    let usage = statvfs("/")?;
    let bytes = |blocks: u64| blocks.saturating_mul(usage.fragment_size());
    let used = usage.blocks().saturating_sub(usage.blocks_free());
    Ok((bytes(usage.blocks()), bytes(used)))
}

impl Sys for Linux {
    fn mount(&self, spec: &Mount<'_>) -> io::Result<()> {
        let flags = spec.denies.iter().fold(MsFlags::empty(), |flags, denied| {
            flags
                | match denied {
                    Deny::SetUserId => MsFlags::MS_NOSUID,
                    Deny::Devices => MsFlags::MS_NODEV,
                    Deny::Programs => MsFlags::MS_NOEXEC,
                }
        });
        let data = (!spec.data.is_empty()).then_some(spec.data);
        mount(Some(spec.source), spec.target, Some(spec.kind), flags, data)?;
        Ok(())
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        Ok(umount(target)?)
    }

    fn change_root(&self, path: &Path) -> io::Result<()> {
        chdir(path)?;
        // Both the same: the old root is put over the new one, and is what `.` then is (pivot_root(2)).
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        Ok(chdir("/")?)
    }

    fn keep_layer(&self, path: &Path) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let layer = open(path, flags, Mode::empty())?;
        // Only booting calls it, once.
        drop(self.layer.set(layer));
        Ok(())
    }

    fn settle_layer(&self) -> io::Result<()> {
        self.layer.get().map_or(Ok(()), freeze::freeze)
    }

    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        fs_err::create_dir_all(path)?;
        fs_err::set_permissions(path, Permissions::from_mode(mode))
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        fs_err::os::unix::fs::symlink(target, path)
    }

    fn open_console(&self) -> io::Result<()> {
        if io::stdout().is_terminal() && io::stdin().is_terminal() && io::stderr().is_terminal() {
            return Ok(());
        }
        let open = |path| fs_err::OpenOptions::new().read(true).write(true).open(path);
        let console = open(CONSOLE).or_else(|_| open(SERIAL))?;
        dup2_stdin(&console)?;
        dup2_stdout(&console)?;
        dup2_stderr(&console)?;
        Ok(())
    }

    fn raise_limits(&self) -> io::Result<()> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard.max(MAX_OPEN_FILES))?;
        Ok(())
    }

    fn read(&self, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        let file = fs_err::File::open(path)?;
        let read = file.take(limit_bytes + 1).read_to_end(&mut contents)?;
        if u64::try_from(read).is_ok_and(|read| read <= limit_bytes) {
            Ok(contents)
        } else {
            Err(io::ErrorKind::FileTooLarge.into())
        }
    }

    fn write(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        fs_err::write(path, contents)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs_err::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs_err::remove_dir(path)
    }

    fn set_host_name(&self, name: &str) -> io::Result<()> {
        nix::unistd::sethostname(name)?;
        Ok(())
    }

    fn set_link_up(&self, device: &str) -> io::Result<()> {
        interface::set_up(device)
    }

    fn address(&self, device: &str) -> io::Result<Option<Ipv4Addr>> {
        interface::address(device)
    }

    fn set_address(&self, device: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
        interface::set_address(device, address, netmask)
    }

    fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        match interface::add_default_route(gateway) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn boot_time(&self) -> Duration {
        boot_time()
    }

    fn sync(&self) {
        nix::unistd::sync();
    }

    fn power_off(&self) -> io::Error {
        match reboot(RebootMode::RB_POWER_OFF) {
            Err(error) => error.into(),
            Ok(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beyond_its_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        Linux::new().write(&path, b"12345").unwrap();
        assert_eq!(Linux::new().read(&path, 5).unwrap(), b"12345");
        assert_eq!(
            Linux::new().read(&path, 4).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn a_directory_gets_its_mode_only_when_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let mode = || path.metadata().unwrap().permissions().mode() & 0o7777;
        Linux::new().make_dir(&path, 0o1777).unwrap();
        assert_eq!(mode(), 0o1777);
        Linux::new().make_dir(&path, 0o700).unwrap();
        assert_eq!(mode(), 0o1777);
    }

    #[test]
    fn the_boot_clock_runs() {
        let first = boot_time();
        assert!(first > Duration::ZERO);
        assert!(boot_time() >= first);
    }

    #[test]
    fn the_loopback_interface_is_readable() {
        // Reading needs no privilege; a sandbox without `lo` answers with an error, not with a wrong address.
        if let Ok(Some(address)) = Linux::new().address("lo") {
            assert!(address.is_loopback(), "{address}");
        }
        assert!(
            Linux::new()
                .address("an-interface-name-that-is-too-long")
                .is_err()
        );
    }
}
