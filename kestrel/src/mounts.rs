//! What is mounted in a guest, as a table. Disks and overlays are not: the guest's root is there already, see `rootfs`.

use std::io;
use std::path::Path;

use crate::boot::{BootError, Facts};
use crate::console;
use crate::sys::{Mount, Sys};

/// One line of the mount table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MountSpec {
    /// The kind of file system, also used as its source.
    pub(crate) kind: &'static str,
    /// Where it goes.
    pub(crate) target: &'static str,
    /// What it denies.
    pub(crate) denies: &'static [Deny],
    /// The file system's own options.
    pub(crate) data: &'static str,
    /// Whether the guest can go on without it.
    pub(crate) need: Need,
}

/// What a mount denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deny {
    /// Set-user-id programs.
    SetUserId,
    /// Device files.
    Devices,
    /// Programs at all.
    Programs,
}

/// Whether the guest can go on without a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It cannot.
    Required,
    /// A line on the console is enough.
    Optional,
}

use Deny::{Devices, Programs, SetUserId};

/// Mode of a mount point that has to be made; what is mounted on it brings its own.
const MOUNT_POINT_MODE: u32 = 0o755;

/// In the order of mounting. devpts: gid 5 is `tty` on every distribution, and 0620 keeps others from writing to a terminal.
pub(crate) const TABLE: &[MountSpec] = &[
    spec(
        "proc",
        "/proc",
        &[SetUserId, Devices, Programs],
        "",
        Need::Required,
    ),
    spec(
        "sysfs",
        "/sys",
        &[SetUserId, Devices, Programs],
        "",
        Need::Required,
    ),
    spec(
        "devtmpfs",
        "/dev",
        &[SetUserId],
        "mode=0755",
        Need::Required,
    ),
    spec(
        "devpts",
        "/dev/pts",
        &[SetUserId, Programs],
        "gid=5,mode=0620,ptmxmode=0666",
        Need::Optional,
    ),
    spec(
        "tmpfs",
        "/dev/shm",
        &[SetUserId, Devices],
        "mode=1777",
        Need::Required,
    ),
    spec(
        "tmpfs",
        "/run",
        &[SetUserId, Devices],
        "mode=0755",
        Need::Required,
    ),
    spec(
        "tmpfs",
        "/tmp",
        &[SetUserId, Devices],
        "mode=1777",
        Need::Required,
    ),
    spec(
        "cgroup2",
        "/sys/fs/cgroup",
        &[SetUserId, Devices, Programs],
        "",
        Need::Optional,
    ),
];

/// Links that programs expect in /dev and that the kernel does not make, such as nginx's log to /dev/stdout.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

const fn spec(
    kind: &'static str,
    target: &'static str,
    denies: &'static [Deny],
    data: &'static str,
    need: Need,
) -> MountSpec {
    MountSpec {
        kind,
        target,
        denies,
        data,
        need,
    }
}

/// Mounts the whole table.
pub(crate) fn mount_all(sys: &dyn Sys, _facts: &mut Facts) -> Result<(), BootError> {
    for spec in TABLE {
        let result = mount_one(sys, spec);
        match (result, spec.need) {
            (Ok(()), _) => {}
            (Err(source), Need::Required) => {
                return Err(BootError::Mount {
                    kind: spec.kind,
                    target: spec.target,
                    source,
                });
            }
            (Err(error), Need::Optional) => {
                console::line(&format!("No {} on {}: {error}", spec.kind, spec.target));
            }
        }
    }
    for (target, path) in DEVICE_LINKS {
        match sys.link(Path::new(target), Path::new(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                console::line(&format!("No {path}: {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn mount_one(sys: &dyn Sys, spec: &MountSpec) -> io::Result<()> {
    sys.make_dir(Path::new(spec.target), MOUNT_POINT_MODE)?;
    let mount = Mount {
        source: spec.kind,
        kind: spec.kind,
        target: spec.target,
        denies: spec.denies,
        data: spec.data,
    };
    match sys.mount(&mount) {
        // Somebody mounted it already: the kernel (devtmpfs) or the image's own init.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::fake::FakeSys;

    #[test]
    fn a_directory_is_made_before_it_is_mounted_on() {
        let sys = FakeSys::default();
        mount_all(&sys, &mut Facts::default()).unwrap();
        let acts = sys.acts();
        assert_eq!(acts[0], "make_dir /proc 755");
        assert_eq!(acts[1], "mount proc /proc");
        let place = |act: &str| acts.iter().position(|found| found == act).unwrap();
        assert!(place("mount devtmpfs /dev") < place("make_dir /dev/pts 755"));
        assert!(place("mount sysfs /sys") < place("mount cgroup2 /sys/fs/cgroup"));
        assert!(acts.contains(&"link /dev/stdout /proc/self/fd/1".to_owned()));
    }

    #[test]
    fn what_is_mounted_already_is_fine() {
        for spec in TABLE {
            let sys = FakeSys::default().failing(
                &format!("mount {} {}", spec.kind, spec.target),
                io::ErrorKind::ResourceBusy,
            );
            mount_all(&sys, &mut Facts::default()).unwrap();
        }
    }

    #[test]
    fn only_what_is_required_stops_the_boot() {
        for spec in TABLE {
            let sys = FakeSys::default().failing(
                &format!("mount {} {}", spec.kind, spec.target),
                io::ErrorKind::PermissionDenied,
            );
            let result = mount_all(&sys, &mut Facts::default());
            assert_eq!(result.is_err(), spec.need == Need::Required, "{spec:?}");
            // Whatever comes after an optional one is still mounted.
            let all = sys.acts().contains(&"mount tmpfs /tmp".to_owned());
            assert_eq!(
                all,
                spec.need == Need::Optional || spec.target == "/tmp",
                "{spec:?}"
            );
        }
    }
}
