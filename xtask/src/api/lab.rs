//! A real volantd for others to use hard: in a network namespace of its own, with a fake QEMU that runs no guest. Everything of it is in
//! one folder, and all of it ends with the lab. What is done to it is in the modules beside.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::client::Client;
use crate::{dist, printer, process, workspace};

/// How long volantd may take to answer, or to end.
const LIMIT: Duration = Duration::from_secs(30);
/// Room for more VMs than anything here makes.
const SUBNET: &str = "10.77.0.0/16";
/// volantd's own address among them.
const HOST_IP: &str = "10.77.0.1";
/// Where volantd listens in the namespace.
pub(super) const ADDRESS: &str = "127.0.0.1:7777";
/// The name of the plugin that the lab installs.
pub(super) const PLUGIN: &str = "web";

/// The programs that a lab runs.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) volantd: PathBuf,
    pub(super) fake_qemu: PathBuf,
}

impl Programs {
    /// Builds them: volantd as users get it, or for debugging, and the fake.
    pub(super) fn build(release: bool) -> Result<Self> {
        let target = workspace::metadata()?.target_directory;
        printer::progress("api", "building volantd and its fake QEMU");
        let log = target.join("api.log");
        let mut fakes = workspace::cargo();
        fakes
            .args(["build", "--locked", "--package", "volantd"])
            .args(["--features", "test-fakes", "--bins"]);
        fs::create_dir_all(&target)?;
        process::logged(&mut fakes, &log, |_| ())?;
        let mut folder = target.join("debug");
        let fake_qemu = folder.join("fake-qemu");
        if release {
            dist::build_host(target.as_ref())?;
            folder = target.join("release");
        }
        Ok(Self {
            volantd: folder.join("volantd"),
            fake_qemu,
        })
    }
}

/// The running daemon.
#[derive(Debug)]
pub(super) struct Lab {
    child: Child,
    pub(super) work: tempfile::TempDir,
}

impl Lab {
    /// Starts volantd, and installs a plugin. `fake` is what the fake QEMU is told to do.
    ///
    /// # Errors
    /// When volantd does not come up: the end of its log has been printed.
    pub(super) fn start(programs: &Programs, fake: &str) -> Result<Self> {
        let work = tempfile::Builder::new()
            .prefix("volant-api-")
            .tempdir()
            .context("No working directory")?;
        let dir = work.path();
        let qemu = dir.join("fake-qemu");
        fs::copy(&programs.fake_qemu, &qemu)?;
        write_script(dir, fake)?;
        fs::write(dir.join("vmlinux"), kernel())?;
        // All of the guests' addresses are this machine's: what the fakes listen on is where guests would be.
        let script =
            format!("ip link set lo up && ip route add local {SUBNET} dev lo && exec \"$0\"");
        let log = fs::File::create(dir.join("volantd.log"))?;
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--", "sh", "-c", &script])
            .arg(&programs.volantd)
            .envs(std::env::vars_os().filter(|(key, _)| key == "PATH"))
            .env("VOLANT_STATE_DIR", dir.join("state"))
            .env("VOLANT_RUNTIME_DIR", dir.join("run"))
            .env("VOLANT_API_SOCKET", dir.join("run/volantd.sock"))
            .env("VOLANT_TOKEN_FILE", dir.join("run/token"))
            .env("VOLANT_API_LISTEN", ADDRESS)
            .env("VOLANT_HYPERVISOR", "qemu")
            .env("VOLANT_QEMU", &qemu)
            .env("VOLANT_KERNEL_VMLINUX", dir.join("vmlinux"))
            .env("VOLANT_SUBNET", SUBNET)
            .env("VOLANT_HOST_IP", HOST_IP)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.into_file());
        let child = command.spawn().context("`unshare` could not be started")?;
        let mut lab = Self { child, work };
        lab.wait_until_it_answers()?;
        lab.install()?;
        Ok(lab)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                self.show_log();
                bail!("volantd does not answer; it ended: {ended:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn install(&self) -> Result<()> {
        let artifact = self.work.path().join("plugin.cpio");
        fs::write(&artifact, empty_archive())?;
        let manifest = json!({
            "name": PLUGIN, "version": "1", "initramfs": {"url": artifact},
            "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1:80"},
            "actions": {"go": {"method": "POST", "path": "/go", "timeout_ms": 1000}},
        });
        self.call("POST", "/api/v1/plugins", &manifest).map(drop)
    }

    /// What a request for a VM of the lab's plugin says.
    pub(super) fn vm(name: &str) -> Value {
        json!({"name": name, "plugin": PLUGIN})
    }

    /// What the fake QEMU is told to do from now on.
    pub(super) fn script(&self, fake: &str) -> Result<()> {
        write_script(self.work.path(), fake)
    }

    /// Its unix socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.work.path().join("run/volantd.sock")
    }

    /// What TCP clients must present.
    pub(super) fn token(&self) -> Result<String> {
        let text = fs::read_to_string(self.work.path().join("run/token"))?;
        Ok(text.trim().to_owned())
    }

    /// Its process; `unshare` and the shell have become it.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A figure of its /proc/pid/status.
    pub(super) fn status_kib(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix(field)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("No {field} in /proc"))
    }

    /// A program to be run in its network namespace.
    pub(super) fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", &self.pid().to_string(), "--"])
            .arg(program);
        command
    }

    /// Sends a request, which must succeed; JSON both ways.
    pub(super) fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        Client::connect(&self.socket())?.call(method, path, body)
    }

    /// Ends volantd as systemd would.
    ///
    /// # Errors
    /// When it does not end well.
    pub(super) fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(
                    status.success(),
                    "volantd ended with {status} after SIGTERM"
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("volantd did not end within {LIMIT:?} after SIGTERM")
    }

    /// Shows the end of its log.
    pub(super) fn show_log(&self) {
        let text = fs::read_to_string(self.work.path().join("volantd.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(30);
        printer::progress("api", "the end of volantd's log:");
        printer::quote(&lines.get(from..).unwrap_or_default().join("\n"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself. What it started, it started in the namespace, and the fakes are ended by their folder.
        drop(self.child.kill());
        drop(self.child.wait());
        if let Err(error) = end_fakes(self.work.path()) {
            printer::progress("api", &format!("the fakes could not be ended: {error:#}"));
        }
    }
}

/// What the fake QEMU in `dir` is told to do from now on: it reads that when it starts, so there is never half of it.
fn write_script(dir: &Path, fake: &str) -> Result<()> {
    let new = dir.join("fake-qemu.script.new");
    fs::write(&new, fake)?;
    Ok(fs::rename(new, dir.join("fake-qemu.script"))?)
}

/// Ends the VMMs that outlive their daemon, as they should outside of a lab: those whose program is in `work`.
fn end_fakes(work: &Path) -> Result<()> {
    for pid in fakes(work)? {
        // It may have ended meanwhile.
        let _ignored = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    Ok(())
}

/// Processes whose program is in `work`.
pub(super) fn fakes(work: &Path) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let program = fs::read_link(entry.path().join("exe"));
        if program.is_ok_and(|program| program.starts_with(work)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The smallest kernel that volantd takes: a 64-bit ELF file for x86-64 whose one program header is the note with which a kernel says that
/// it can be entered by PVH (note type 18 of Xen's `include/public/elfnote.h`).
fn kernel() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01".to_vec();
    file.resize(64 + 56, 0);
    // Offsets of the ELF-64 header: machine, table of program headers, the size of one, their number.
    for (offset, byte) in [(18, 62), (32, 64), (54, 56), (56, 1)] {
        file[offset] = byte;
    }
    // Of the program header: its type, where its content is, and how long that is.
    for (offset, byte) in [(64, 4), (72, 120), (96, 20)] {
        file[offset] = byte;
    }
    for number in [4_u32, 4, 18] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0\0\0\0\0");
    file
}

/// An initramfs with a program as `/init` and no more, as an archive of the kernel's `buffer-format.rst` ("newc").
fn empty_archive() -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [("init", 0o100_755, "#!/x"), ("TRAILER!!!", 0, "")] {
        let fields = [
            1,
            mode,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        archive.extend_from_slice(b"070701");
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        for part in [format!("{name}\0"), content.to_owned()] {
            archive.extend_from_slice(part.as_bytes());
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_one() {
        let archive = empty_archive();
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(&archive[110..115], b"init\0");
        assert_eq!(&archive[116..120], b"#!/x");
        assert!(archive.ends_with(b"TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn processes_are_found_by_the_folder_of_their_program() {
        let own = std::env::current_exe().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(fakes(own.parent().unwrap()).unwrap().contains(&pid));
        assert!(fakes(Path::new("/no/such/folder")).unwrap().is_empty());
    }
}
