//! volantd as a child process: started on its own state, ended kindly or by SIGKILL, started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ScenarioArguments;
use crate::printer;

/// How long volantd may take to answer after its start: it adopts VMs before it listens.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long volantd may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// One volantd, and where everything of it is.
#[derive(Debug)]
pub(super) struct Daemon {
    program: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) runtime_dir: PathBuf,
    log: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    vmm: String,
    child: Option<Child>,
}

impl Daemon {
    pub(super) fn new(arguments: &ScenarioArguments) -> Self {
        let mut environment = vec![("VOLANT_KERNEL_VMLINUX", arguments.kernel.clone())];
        if let Some(program) = &arguments.cloud_hypervisor {
            environment.push(("VOLANT_CLOUD_HYPERVISOR", program.clone()));
        }
        Self {
            program: arguments.dist.join("volantd"),
            state_dir: arguments.work.join("state"),
            runtime_dir: arguments.work.join("run"),
            log: arguments.work.join("volantd.log"),
            environment,
            vmm: arguments.vmm.clone(),
            child: None,
        }
    }

    /// The API's unix socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.runtime_dir.join("volantd.sock")
    }

    /// The token that TCP clients need.
    pub(super) fn token_file(&self) -> PathBuf {
        self.runtime_dir.join("token")
    }

    /// The process id while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A command that would start a volantd on the same state.
    pub(super) fn command(&self) -> Result<Command> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(&self.program);
        command
            .env("VOLANT_STATE_DIR", &self.state_dir)
            .env("VOLANT_RUNTIME_DIR", &self.runtime_dir)
            .env("VOLANT_API_SOCKET", self.socket())
            .env("VOLANT_TOKEN_FILE", self.token_file())
            .env("VOLANT_HYPERVISOR", &self.vmm)
            // Emulated CPUs need minutes where real ones need a second.
            .env("VOLANT_BOOT_TIMEOUT_S", "300")
            .envs(self.environment.iter().map(|(key, path)| (*key, path)))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.into_file());
        Ok(command)
    }

    /// Starts it with one variable more, and waits until it answers.
    pub(super) fn start_with(&mut self, extra: &[(&str, &Path)]) -> Result<()> {
        let mut command = self.command()?;
        command.envs(extra.iter().map(|(key, path)| (*key, *path)));
        let mut child = command
            .spawn()
            .with_context(|| format!("`{}` could not be started", self.program.display()))?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = child.try_wait()? {
                self.show_log();
                bail!("volantd ended at once with {status}");
            }
            if std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > deadline {
                self.child = Some(child);
                self.show_log();
                bail!("volantd does not answer on its socket after {START_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it, and waits until it answers.
    pub(super) fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Ends it by SIGKILL, as a crash would.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends it by SIGTERM, as systemd would. VMs stay.
    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("volantd ended with {status} after SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill()?;
        child.wait()?;
        bail!("volantd did not end within {STOP_LIMIT:?} after SIGTERM")
    }

    /// Shows the end of its log.
    pub(super) fn show_log(&self) {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        printer::progress("e2e", "the end of volantd's log:");
        printer::quote(&lines[lines.len().saturating_sub(40)..].join("\n"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            printer::progress("e2e", &format!("volantd could not be ended: {error:#}"));
        }
    }
}
