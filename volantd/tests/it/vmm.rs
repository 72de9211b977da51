//! What the tests of VMM processes stand on: folders of one VM, a daemon's `Hypervisors`, and a daemon that dies.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::digest::Digest;
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use volantd::machine::ports::{
    BootMedia, Instance, InstanceRecord, Launch, SerialStream, VmPaths, Vmm, VmmExit, VmmKind,
};
use volantd::vmm::detect::{DevKvm, Facts, Program, Version, Wish};
use volantd::vmm::{Deadlines, Hypervisors, STATE_MARK, Settings};

use crate::stores::{INITRAMFS, launch};

/// Longer than anything takes on a busy machine; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// What a test that wants to see a deadline pass can afford.
pub(crate) const SHORT: Duration = Duration::from_millis(1500);

/// Environment of a second process of this test program: the folder of the VM that it launches before it dies.
const DYING_DAEMON: &str = "VOLANT_TEST_DYING_DAEMON";

/// Environment of that process: what it says to the guest just before, without waiting for an answer.
const LAST_WORD: &str = "VOLANT_TEST_LAST_WORD";

/// One VM's folders and the program that runs it.
pub(crate) struct Host {
    pub(crate) root: PathBuf,
    pub(crate) kind: VmmKind,
    program: PathBuf,
    folder: Option<TempDir>,
}

impl Host {
    /// A host whose VMM is a fake that follows a script.
    pub(crate) fn fake(kind: VmmKind, script: &str) -> Self {
        let fake = match kind {
            VmmKind::CloudHypervisor => env!("CARGO_BIN_EXE_fake-ch"),
            VmmKind::Qemu => env!("CARGO_BIN_EXE_fake-qemu"),
        };
        let mut host = Self::real(kind, Path::new(fake));
        host.program = host.root.join(kind.as_str());
        symlink(fake, &host.program).unwrap();
        fs_err::write(host.root.join(format!("{}.script", kind.as_str())), script).unwrap();
        host
    }

    /// A host with a real VMM.
    pub(crate) fn real(kind: VmmKind, program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        for name in ["run", "state"] {
            fs_err::create_dir(root.join(name)).unwrap();
        }
        fs_err::write(root.join("vmlinux"), "kernel").unwrap();
        fs_err::write(root.join("initramfs"), "initramfs").unwrap();
        Self {
            root,
            kind,
            program: program.to_owned(),
            folder: Some(folder),
        }
    }

    /// The host of another process of this program.
    fn of_folder(root: &Path) -> Self {
        let text = fs_err::read_to_string(root.join("host")).unwrap();
        let (kind, program) = text.split_once(' ').unwrap();
        let kind = if kind == "qemu" {
            VmmKind::Qemu
        } else {
            VmmKind::CloudHypervisor
        };
        Self {
            root: root.to_owned(),
            kind,
            program: program.into(),
            folder: None,
        }
    }

    /// A daemon on this host. KVM counts as usable for Cloud Hypervisor, and as missing for QEMU.
    pub(crate) fn hypervisors(&self, deadline: Duration) -> Hypervisors {
        let found = Program::Found {
            path: self.program.clone(),
            version: Version {
                major: 53,
                minor: 0,
            },
        };
        let missing = Program::Missing {
            looked: "nowhere".to_owned(),
        };
        let facts = match self.kind {
            VmmKind::CloudHypervisor => Facts {
                dev_kvm: DevKvm::Opens,
                cpu_virtualization: true,
                cloud_hypervisor: found,
                qemu: missing,
            },
            VmmKind::Qemu => Facts {
                dev_kvm: DevKvm::Missing,
                cpu_virtualization: false,
                cloud_hypervisor: missing,
                qemu: found,
            },
        };
        let settings = Settings {
            wish: Wish::Auto,
            cloud_hypervisor: None,
            qemu: None,
            search_path: "/usr/bin:/bin".into(),
            state_root: self.root.clone(),
            deadlines: Deadlines {
                call: deadline,
                boot: deadline,
            },
        };
        Hypervisors::with_facts(settings, move || facts.clone())
    }

    pub(crate) fn launch(&self) -> Launch {
        let state_dir = self.root.join("state");
        let launch = launch(state_dir.clone(), Digest::of(b"artifact"), INITRAMFS);
        Launch {
            instance: uuid::Uuid::now_v7().to_string(),
            memory_mib: 256,
            paths: VmPaths {
                state_dir,
                run_dir: self.root.join("run"),
            },
            ..launch
        }
    }

    pub(crate) fn media(&self) -> BootMedia {
        BootMedia {
            kernel: self.root.join("vmlinux"),
            initramfs: Some(self.root.join("initramfs")),
            disks: Vec::new(),
            cmdline: common::cmdline::BASE.to_owned(),
        }
    }

    /// Fails the test if anything of a failed launch is left.
    pub(crate) async fn assert_nothing_left(&self, what: &str) {
        let files: Vec<_> = fs_err::read_dir(self.root.join("run")).unwrap().collect();
        assert!(files.is_empty(), "{what}: {files:?}");
        let living = self.hypervisors(LONG).living().await.unwrap();
        assert!(living.is_empty(), "{what}: {living:?}");
    }

    /// Boots a VM in a daemon that is then killed, and takes what that daemon had recorded.
    pub(crate) fn boot_in_a_dying_daemon(&self, last_word: &str) -> InstanceRecord {
        let text = format!("{} {}", self.kind.as_str(), self.program.display());
        fs_err::write(self.root.join("host"), text).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "vmm::a_dying_daemon", "--ignored", "--nocapture"])
            .env(DYING_DAEMON, &self.root)
            .env(LAST_WORD, last_word)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "it was to be killed");
        serde_json::from_str(&fs_err::read_to_string(self.root.join("record")).unwrap()).unwrap()
    }
}

impl Drop for Host {
    /// A failed test leaves its VMM, which outlives everything else.
    fn drop(&mut self) {
        if self.folder.is_some() {
            end_vmms_of(&self.root);
        }
    }
}

/// Ends the VMMs that daemons with this state folder have left.
pub(crate) fn end_vmms_of(state_root: &Path) {
    let mark = format!("{STATE_MARK}={}", state_root.display());
    for entry in fs_err::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
        else {
            continue;
        };
        let environ = fs_err::read(path.join("environ")).unwrap_or_default();
        if environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == mark.as_bytes())
        {
            let _ignored = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Not a test of its own: what [`Host::boot_in_a_dying_daemon`] runs.
#[tokio::test]
#[ignore = "the other half of a test"]
async fn a_dying_daemon() {
    let Some(root) = std::env::var_os(DYING_DAEMON) else {
        return;
    };
    let host = Host::of_folder(Path::new(&root));
    let hypervisors = host.hypervisors(LONG);
    let instance = hypervisors
        .spawn(&host.launch(), &host.media())
        .await
        .unwrap();
    let mut serial = instance.boot().await.unwrap();
    assert_eq!(read_some(&mut serial, 2).await, b"H\n");
    let last_word = std::env::var(LAST_WORD).unwrap();
    serial.write_all(last_word.as_bytes()).await.unwrap();
    let record = serde_json::to_string(&instance.record()).unwrap();
    fs_err::write(host.root.join("record"), record).unwrap();
    raise(Signal::SIGKILL).unwrap();
}

/// Reads `count` bytes, or fewer if the line ends.
pub(crate) async fn read_some(serial: &mut Box<dyn SerialStream>, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let wanted = u64::try_from(count).unwrap();
    timeout(LONG, serial.take(wanted).read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    bytes
}

/// Sends a byte to the guest and waits for its echo.
pub(crate) async fn echo(serial: &mut Box<dyn SerialStream>, byte: u8) {
    serial.write_all(&[byte]).await.unwrap();
    assert_eq!(read_some(serial, 1).await, [byte]);
}

pub(crate) async fn exit_of(instance: &dyn Instance) -> VmmExit {
    timeout(LONG, instance.exited()).await.unwrap()
}

/// A program in `PATH`, or named by a variable.
pub(crate) fn find(name: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    named.or_else(|| {
        std::env::split_paths(OsStr::new(&path))
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    })
}
