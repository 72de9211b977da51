//! Reads from the host what `detect` decides on: /dev/kvm, the CPU's flags, and which programs there are. Decides nothing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fs_err as fs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::detect::{DevKvm, Facts, Program, Version, has_virtualization, parse_version};
use crate::machine::ports::VmmKind;

/// How long a program may take to say its version; it takes some 10 ms.
const VERSION_WAIT: Duration = Duration::from_secs(5);
/// The most that is read of what it says, in bytes.
const VERSION_BYTES: usize = 4096;

const CLOUD_HYPERVISOR: &str = "cloud-hypervisor";
const QEMU: &str = "qemu-system-x86_64";

/// Where programs are looked for.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// The `cloud-hypervisor` program, if it was named.
    pub cloud_hypervisor: Option<PathBuf>,
    /// The `qemu-system-x86_64` program, if it was named.
    pub qemu: Option<PathBuf>,
    /// Folders to search else, in the form of `PATH`.
    pub search_path: std::ffi::OsString,
}

/// Reads the host again and again, and asks a program for its version only when its file has changed.
#[derive(Debug, Default)]
pub struct Host {
    programs: Programs,
    cpu_virtualization: OnceLock<bool>,
    versions: Mutex<HashMap<FileIdentity, Result<Version, String>>>,
}

/// What changes whenever a program is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    size_bytes: u64,
    changed: (i64, i64),
}

impl Host {
    /// A host with its programs.
    pub fn new(programs: Programs) -> Self {
        Self {
            programs,
            ..Self::default()
        }
    }

    /// The facts as they are now.
    pub fn facts(&self) -> Facts {
        let virtualization = self.cpu_virtualization.get_or_init(|| {
            fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_virtualization(&text))
        });
        Facts {
            dev_kvm: dev_kvm(),
            cpu_virtualization: *virtualization,
            cloud_hypervisor: self.program(
                VmmKind::CloudHypervisor,
                self.programs.cloud_hypervisor.as_deref(),
            ),
            qemu: self.program(VmmKind::Qemu, self.programs.qemu.as_deref()),
        }
    }

    fn program(&self, kind: VmmKind, named: Option<&Path>) -> Program {
        let name = match kind {
            VmmKind::CloudHypervisor => CLOUD_HYPERVISOR,
            VmmKind::Qemu => QEMU,
        };
        let path = match named {
            Some(path) => match std::path::absolute(path) {
                Ok(path) if path.exists() => path,
                _ => {
                    return Program::Missing {
                        looked: format!("there is no `{}`", path.display()),
                    };
                }
            },
            None => match search(name, &self.programs.search_path) {
                Some(path) => path,
                None => {
                    return Program::Missing {
                        looked: format!("no `{name}` in PATH"),
                    };
                }
            },
        };
        match self.version(kind, &path) {
            Ok(version) => Program::Found { path, version },
            Err(why) => Program::Broken { path, why },
        }
    }

    fn version(&self, kind: VmmKind, path: &Path) -> Result<Version, String> {
        let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
        let identity = FileIdentity {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = versions.get(&identity) {
            return known.clone();
        }
        let version = ask_version(kind, path);
        // At most one entry a program: the others are of files that were replaced.
        versions.retain(|known, _| known.path != identity.path);
        versions.insert(identity, version.clone());
        version
    }
}

fn dev_kvm() -> DevKvm {
    match fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        Ok(_) => DevKvm::Opens,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => DevKvm::Missing,
            io::ErrorKind::PermissionDenied => DevKvm::Denied,
            _ => DevKvm::Fails(error.to_string()),
        },
    }
}

fn search(name: &str, search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

fn ask_version(kind: VmmKind, path: &Path) -> Result<Version, String> {
    let output =
        version_output(path).map_err(|error| format!("it does not say its version ({error})"))?;
    parse_version(kind, &output).ok_or_else(|| {
        let said: String = output
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(80)
            .collect();
        format!("its version is not understood (`{}`)", said.escape_debug())
    })
}

fn version_output(path: &Path) -> io::Result<String> {
    let mut child = Command::new(path)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = read_until_end(&mut child);
    // Harmless to a program that has ended; one that has not is not waited for longer.
    let _ignored = child.kill();
    child.wait()?;
    output
}

fn read_until_end(child: &mut Child) -> io::Result<String> {
    let Some(mut stdout) = child.stdout.take() else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let deadline = Instant::now() + VERSION_WAIT;
    let mut output = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let ready = poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], wait)?;
        if ready == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut chunk = [0; 1024];
        let count = stdout.read(&mut chunk)?;
        output.extend_from_slice(&chunk[..count]);
        if count == 0 || output.len() >= VERSION_BYTES {
            return Ok(String::from_utf8_lossy(&output).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn programs_are_found_in_the_path_and_asked_again_only_when_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let asked = folder.path().join("asked");
        let body = format!("echo x >> {}; echo cloud-hypervisor v53.0", asked.display());
        let path = script(folder.path(), CLOUD_HYPERVISOR, &body);
        let host = Host::new(Programs {
            search_path: folder.path().into(),
            ..Programs::default()
        });
        let expected = Program::Found {
            path: path.clone(),
            version: Version {
                major: 53,
                minor: 0,
            },
        };
        assert_eq!(host.facts().cloud_hypervisor, expected);
        assert_eq!(host.facts().cloud_hypervisor, expected);
        assert_eq!(fs::read_to_string(&asked).unwrap(), "x\n");
        assert!(matches!(host.facts().qemu, Program::Missing { .. }));
        fs::remove_file(&path).unwrap();
        script(
            folder.path(),
            CLOUD_HYPERVISOR,
            "echo cloud-hypervisor v60.1",
        );
        assert!(matches!(
            host.facts().cloud_hypervisor,
            Program::Found {
                version: Version {
                    major: 60,
                    minor: 1
                },
                ..
            }
        ));
    }

    #[test]
    fn a_named_program_is_not_searched_and_a_strange_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let strange = script(folder.path(), "strange", "echo 'hello\tworld'");
        let host = Host::new(Programs {
            cloud_hypervisor: Some(strange),
            qemu: Some(folder.path().join("none")),
            search_path: "/usr/bin".into(),
        });
        let facts = host.facts();
        let Program::Broken { why, .. } = facts.cloud_hypervisor else {
            panic!("{facts:?}")
        };
        assert_eq!(why, "its version is not understood (`hello\\tworld`)");
        let Program::Missing { looked } = facts.qemu else {
            panic!("{:?}", facts.qemu)
        };
        assert!(looked.ends_with("/none`"), "{looked}");
    }
}
