//! Looks at this host for `doctor`. Changes nothing and judges nothing.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::error_chain::Chain;

use super::{Daemon, Device, Host, Kernel, Membership, Program};
use crate::client::{Client, ClientError};
use crate::settings::Surroundings;

/// How long a program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Where system programs are that the PATH of an ordinary user leaves out on Debian.
const SYSTEM_PATHS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// The group whose members may use volantd.
const GROUP: &str = "volant";

/// Where volantd expects the guest kernel unless told otherwise.
const DEFAULT_KERNEL: &str = "/var/lib/volant/kernel/vmlinux";

/// The bridge unless told otherwise.
const DEFAULT_BRIDGE: &str = "vbr0";

/// What an ELF file begins with (System V ABI, chapter 4).
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Looks at this host.
pub async fn gather(surroundings: &Surroundings, client: &Client) -> Host {
    let cpu = read("/proc/cpuinfo").unwrap_or_default();
    let variable = |name| surroundings.variable(name);
    let path = variable("PATH").unwrap_or_default();
    let find = |explicit: Option<&str>, name| find_program(explicit, name, path);
    let cloud_hypervisor = find(variable("VOLANT_CLOUD_HYPERVISOR"), "cloud-hypervisor");
    let kernel_path = PathBuf::from(variable("VOLANT_KERNEL_VMLINUX").unwrap_or(DEFAULT_KERNEL));
    let bridge = variable("VOLANT_BRIDGE")
        .unwrap_or(DEFAULT_BRIDGE)
        .to_owned();
    Host {
        is_root: nix::unistd::geteuid().is_root(),
        group: membership(),
        virtualization_flag: virtualization_flag(&cpu),
        is_virtual: has_cpu_flag(&cpu, "hypervisor"),
        kvm: open_device("/dev/kvm"),
        tun: open_device("/dev/net/tun"),
        cloud_hypervisor: ask_version(cloud_hypervisor).await,
        qemu: ask_version(find(variable("VOLANT_QEMU"), "qemu-system-x86_64")).await,
        nft: ask_version(find(None, "nft")).await,
        kernel: look_at_kernel(&kernel_path),
        kernel_path,
        has_bridge: Path::new("/sys/class/net")
            .join(&bridge)
            .join("bridge")
            .exists(),
        bridge,
        forwards: read("/proc/sys/net/ipv4/ip_forward").map(|text| text.trim() == "1"),
        has_cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        daemon: ask_daemon(client).await,
    }
}

async fn ask_daemon(client: &Client) -> Daemon {
    match client.system_info().await {
        Ok(answer) => Daemon::Answers {
            endpoint: client.endpoint().to_string(),
            info: answer.value,
        },
        Err(error) => Daemon::Silent {
            is_denied: matches!(error, ClientError::Denied { .. })
                || error.problem().is_some_and(|problem| problem.status == 401),
            error: Chain(&error).to_string(),
        },
    }
}

fn read(path: &str) -> Option<String> {
    fs_err::read_to_string(path).ok()
}

fn has_cpu_flag(cpuinfo: &str, flag: &str) -> bool {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .is_some_and(|flags| flags.split_whitespace().any(|word| word == flag))
}

fn virtualization_flag(cpuinfo: &str) -> Option<&'static str> {
    ["vmx", "svm"]
        .into_iter()
        .find(|flag| has_cpu_flag(cpuinfo, flag))
}

fn membership() -> Membership {
    let Ok(Some(group)) = nix::unistd::Group::from_name(GROUP) else {
        return Membership::NoGroup;
    };
    let groups = nix::unistd::getgroups().unwrap_or_default();
    if groups.contains(&group.gid) || nix::unistd::getegid() == group.gid {
        Membership::Member
    } else {
        Membership::Outside
    }
}

fn open_device(path: &str) -> Device {
    let opened = fs_err::OpenOptions::new().read(true).write(true).open(path);
    match opened {
        Ok(_) => Device::Opens,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Device::Absent,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Device::Denied,
        Err(error) => Device::Fails(error.to_string()),
    }
}

fn look_at_kernel(path: &Path) -> Kernel {
    let mut magic = [0; ELF_MAGIC.len()];
    let mut file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Kernel::Hidden,
        Err(_) => return Kernel::Missing,
    };
    match (file.read_exact(&mut magic), file.metadata()) {
        (Ok(()), Ok(metadata)) if magic == ELF_MAGIC => Kernel::Elf(metadata.len()),
        _ => Kernel::NotElf,
    }
}

/// The first executable file of that name, or the one that was named explicitly.
fn find_program(explicit: Option<&str>, name: &str, path: &str) -> Option<PathBuf> {
    if let Some(explicit) = explicit
        && explicit.contains('/')
    {
        return Some(PathBuf::from(explicit));
    }
    let name = explicit.unwrap_or(name);
    std::env::split_paths(path)
        .chain(std::env::split_paths(SYSTEM_PATHS))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| {
            nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
        })
}

async fn ask_version(path: Option<PathBuf>) -> Program {
    let Some(path) = path else {
        return Program::Missing;
    };
    let output = tokio::process::Command::new(&path)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let error = match tokio::time::timeout(VERSION_TIMEOUT, output).await {
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let version = text.lines().next().unwrap_or_default().trim().to_owned();
            return Program::Runs { path, version };
        }
        Ok(Ok(output)) => format!("`--version` ended with {}", output.status),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("`--version` took more than {} s", VERSION_TIMEOUT.as_secs()),
    };
    Program::Fails { path, error }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn cpu_flags_are_words() {
        let intel = "processor\t: 0\nflags\t\t: fpu vmx hypervisor\nvmx flags\t: x\n";
        assert_eq!(virtualization_flag(intel), Some("vmx"));
        assert!(has_cpu_flag(intel, "hypervisor"));
        assert_eq!(virtualization_flag("flags\t\t: fpu svm\n"), Some("svm"));
        assert_eq!(
            virtualization_flag("flags\t\t: fpu svm_lock\nvmx flags : vmx\n"),
            None
        );
        assert_eq!(virtualization_flag(""), None);
    }

    #[test]
    fn a_kernel_is_an_elf_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinux");
        assert_eq!(look_at_kernel(&path), Kernel::Missing);
        fs_err::write(&path, "MZ").unwrap();
        assert_eq!(look_at_kernel(&path), Kernel::NotElf);
        fs_err::write(&path, b"\x7fELF....").unwrap();
        assert_eq!(look_at_kernel(&path), Kernel::Elf(8));
    }

    #[tokio::test]
    async fn programs_are_found_and_asked() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, body: &str| {
            let path = dir.path().join(name);
            fs_err::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs_err::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            path
        };
        let good = script("volar-test-good", "echo 'thing v1.2'; echo more");
        let bad = script("volar-test-bad", "exit 3");
        let path = dir.path().to_str().unwrap();
        assert_eq!(
            find_program(None, "volar-test-good", path),
            Some(good.clone())
        );
        assert_eq!(find_program(None, "volar-test-none", path), None);
        assert_eq!(find_program(Some("/x/y"), "z", path), Some("/x/y".into()));
        assert_eq!(
            ask_version(Some(good.clone())).await,
            Program::Runs {
                path: good,
                version: "thing v1.2".to_owned()
            }
        );
        assert!(
            matches!(ask_version(Some(bad)).await, Program::Fails { error, .. } if error.contains('3'))
        );
        assert!(matches!(
            ask_version(Some("/nonexistent/x".into())).await,
            Program::Fails { .. }
        ));
        assert_eq!(ask_version(None).await, Program::Missing);
    }
}
