//! The VM in which the control plane shows what it can do: hello as the workload, and a shell and busybox to look around with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use common::agent::HealthState;
use common::api::{DEFAULT_API_LISTEN, Vm, VmStatus};
use fs_err as fs;
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::scenario::wait_for;
use super::volar::Volar;
use super::{ScenarioArguments, access, observing, run_command, steering};
use crate::{generated, printer, process};

/// The plugin and its VM.
pub(super) const NAME: &str = "bench";

/// A file in the guest: while it is there, the workload counts as dead. The probe that finds it takes it away.
pub(super) const SICK: &str = "/sick";

/// A variable of the workload that tells the versions of the plugin apart.
pub(super) const VARIABLE: &str = "BENCH";

const SPEC: &str = r#"version = "1"
strategy = "initramfs"

[mappings]
"hello" = "/usr/bin/hello"
"#;

const TEMPLATE: &str = r#"name = "bench"
version = "1"

[workload]
type = "http"
base_url = "http://127.0.0.1:80"
entrypoint = ["/usr/bin/hello"]
stop_grace_ms = 2000
"#;

/// The plugin's files, and the VM once it is there.
#[derive(Debug)]
pub(super) struct Workbench<'a> {
    pub(super) volar: &'a Volar,
    folder: PathBuf,
    manifest: Value,
}

/// Builds it, boots it, lets each topic show what it has to, and removes it.
pub(super) fn run(arguments: &ScenarioArguments, daemon: &mut Daemon, volar: &Volar) -> Result<()> {
    let bench = Workbench::build(arguments, volar)?;
    bench.install("1")?;
    let create = ["vms", "create", NAME, "--plugin", NAME];
    volar.ok(&[&create[..], &["--timeout", "300s"]].concat())?;
    access::run(&bench, daemon)?;
    observing::run(&bench, daemon)?;
    steering::run(&bench)?;
    volar.ok(&["vms", "delete", NAME, "--yes"])?;
    by_a_generated_client(arguments, daemon)?;
    volar.ok(&["plugins", "remove", NAME])?;
    run_command::run(&bench)
}

/// Another VM of the plugin comes and goes by a client that was made from the API's description.
fn by_a_generated_client(arguments: &ScenarioArguments, daemon: &Daemon) -> Result<()> {
    let Some(programs) = &arguments.generator else {
        printer::progress("e2e", "SKIPPED the generated client: there is no generator");
        return Ok(());
    };
    let token = fs::read_to_string(daemon.token_file())?;
    let task = generated::Task {
        folder: &arguments.work.join("generated"),
        address: DEFAULT_API_LISTEN,
        token: token.trim(),
        plugin: NAME,
    };
    fs::create_dir_all(task.folder)?;
    generated::run(programs, &task, |program| Command::new(program))
}

impl<'a> Workbench<'a> {
    fn build(arguments: &ScenarioArguments, volar: &'a Volar) -> Result<Self> {
        let folder = arguments.work.join(NAME);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("fledge.toml"), SPEC)?;
        fs::write(folder.join("manifest.toml"), TEMPLATE)?;
        fs::copy(arguments.dist.join("hello"), folder.join("hello"))?;
        let mut fledge = Command::new(arguments.dist.join("fledge"));
        fledge
            .args(["build", "--output", "plugin.cpio.gz", "--busybox"])
            .arg(&arguments.busybox)
            .current_dir(&folder);
        let said = process::captured(&mut fledge)?;
        printer::progress("e2e", said.lines().next().unwrap_or_default());
        let text = fs::read(folder.join("plugin.cpio.gz.manifest.json"))?;
        let mut manifest: Value =
            serde_json::from_slice(&text).context("The manifest is not JSON")?;
        manifest["initramfs"]["url"] = json!(folder.join("plugin.cpio.gz"));
        // Room for what is copied into it.
        manifest["resources"] = json!({"cpu_cores": 1, "memory_mb": 256});
        let probe = format!("! rm {SICK} 2>/dev/null");
        manifest["liveness"] = json!({
            "command": ["/bin/sh", "-c", probe],
            "interval_ms": 1000, "timeout_ms": 10_000, "failure_threshold": 1,
        });
        Ok(Self {
            volar,
            folder,
            manifest,
        })
    }

    /// A place for files of a topic.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Installs the plugin under this version.
    pub(super) fn install(&self, version: &str) -> Result<()> {
        let mut manifest = self.manifest.clone();
        manifest["version"] = json!(version);
        manifest["workload"]["env"] = json!({VARIABLE: version});
        let path = self.path(&format!("{version}.json"));
        fs::write(&path, manifest.to_string())?;
        let path = path.to_string_lossy();
        self.volar
            .ok(&["plugins", "install", "--manifest", &path])
            .map(drop)
    }

    /// Where the workload is reached.
    pub(super) fn address(&self) -> Result<SocketAddr> {
        Ok(format!("{}:80", self.volar.vm(NAME)?.ip_address).parse()?)
    }

    /// Runs a line in the guest's shell.
    pub(super) fn shell(&self, line: &str) -> Result<String> {
        self.volar.ok(&["exec", NAME, "--", "sh", "-c", line])
    }

    /// Waits until the VM is as it should be, running and healthy.
    pub(super) fn wait_for(&self, what: &str, is: impl Fn(&Vm) -> bool) -> Result<Vm> {
        wait_for(self.volar, NAME, what, |vm| {
            vm.status == VmStatus::Running && vm.health.state == HealthState::Healthy && is(vm)
        })
    }
}
