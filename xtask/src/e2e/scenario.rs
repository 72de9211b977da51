//! What the end-to-end test does and checks, step by step, as a user would: both examples from their sources to their removal.
//!
//! Runs in a network namespace of its own (`--namespace`), or as it is inside the lab, where the whole machine is its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use common::agent::{CONSOLE_PREFIX, HealthState};
use common::api::{Vm, VmStatus};
use fs_err as fs;
use nix::sched::{CloneFlags, unshare};

use super::aftermath::{nothing_left, ten_recorded};
use super::daemon::Daemon;
use super::volar::Volar;
use super::{chaos, checks, http, overlay, refusals, rootfs, trust, workbench};
use crate::{printer, process};

/// How long anything in an emulated guest may take.
pub(super) const GUEST_LIMIT: Duration = Duration::from_mins(2);
/// The most memory that the agent may hold, in KiB.
const MAX_AGENT_KIB: u64 = 6 * 1024;

/// Where everything is. Run by `cargo xtask e2e`, not by hand
#[derive(Debug, Args)]
pub(crate) struct ScenarioArguments {
    /// Run in a new network namespace
    #[arg(long)]
    pub(super) namespace: bool,
    #[arg(long)]
    pub(super) vmm: String,
    #[arg(long)]
    pub(super) work: PathBuf,
    #[arg(long)]
    pub(super) dist: PathBuf,
    #[arg(long)]
    pub(super) kernel: PathBuf,
    #[arg(long)]
    pub(super) caddy: PathBuf,
    #[arg(long)]
    pub(super) busybox: PathBuf,
    #[arg(long)]
    pub(super) examples: PathBuf,
    #[arg(long)]
    pub(super) cloud_hypervisor: Option<PathBuf>,
    /// A folder with root file systems and their manifests; made if not given
    #[arg(long)]
    pub(super) rootfs: Option<PathBuf>,
    /// The programs that make a client from docs/openapi.json; without them it is not tried
    #[arg(long)]
    pub(super) generator: Option<PathBuf>,
    /// Only the loop of both examples, without refusals and random kills
    #[arg(long)]
    pub(super) loop_only: bool,
    /// Only what the control plane does with one VM
    #[arg(long)]
    pub(super) workbench_only: bool,
}

/// One example: how it is built, and how one sees that it works.
struct Example {
    /// Name of its folder, its plugin and its VM.
    name: &'static str,
    vm: &'static str,
    /// The words behind `fledge`.
    build: &'static [&'static str],
    /// The manifest that is installed: the author's, or the one that fledge wrote.
    manifest: &'static str,
    memory_mib: &'static str,
    page: &'static str,
    /// Something that its own log says.
    log_line: &'static str,
    crash: Crash,
}

/// How its workload is made to crash.
enum Crash {
    /// By asking for this page.
    Page(&'static str),
    /// By a command on the console.
    Console(&'static str),
}

const EXAMPLES: [Example; 2] = [
    Example {
        name: "caddy",
        vm: "web",
        build: &["build", "--manifest", "manifest/caddy.json"],
        manifest: "manifest/caddy.json",
        memory_mib: "512",
        page: "Hello from Caddy in a Volant microVM",
        log_line: "serving initial configuration",
        crash: Crash::Console("kill -9 $(pidof caddy); echo killed-$((40+2))"),
    },
    Example {
        name: "hello",
        vm: "hello",
        build: &["build"],
        manifest: "plugin.cpio.gz.manifest.json",
        memory_mib: "128",
        page: "Hello from Volant",
        log_line: "GET /",
        crash: Crash::Page("/crash"),
    },
];

/// Runs everything.
///
/// # Errors
/// The first thing that is not as it should be, after the evidence was printed.
pub(crate) fn run(arguments: &ScenarioArguments) -> Result<()> {
    if arguments.namespace {
        unshare(CloneFlags::CLONE_NEWNET).context("No network namespace of its own")?;
        process::captured(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    }
    let started = Instant::now();
    let mut daemon = Daemon::new(arguments);
    let volar = Volar::new(&arguments.dist, &daemon);
    let outcome = steps(arguments, &mut daemon, &volar);
    if outcome.is_err() {
        evidence(&daemon, &volar);
        clean_up(&mut daemon, &volar);
        return outcome;
    }
    daemon.stop()?;
    checks::no_process_of(&arguments.work)?;
    printer::progress(
        "e2e",
        &format!(
            "the scenario passed on {} in {:.0} s",
            arguments.vmm,
            started.elapsed().as_secs_f64()
        ),
    );
    Ok(())
}

fn steps(arguments: &ScenarioArguments, daemon: &mut Daemon, volar: &Volar) -> Result<()> {
    if arguments.workbench_only {
        daemon.start()?;
        return workbench::run(arguments, daemon, volar);
    }
    let mut built = Vec::new();
    for example in &EXAMPLES {
        built.push(build(arguments, example)?);
    }
    daemon.start()?;
    printer::progress(
        "e2e",
        &format!(
            "the daemon says: {}",
            volar.ok(&["version"])?.trim().replace('\n', "; ")
        ),
    );
    let rules = checks::rules()?;
    for (example, folder) in EXAMPLES.iter().zip(&built) {
        let manifest = folder.join(example.manifest);
        volar.ok(&[
            "plugins",
            "install",
            "--manifest",
            &manifest.to_string_lossy(),
        ])?;
    }
    let files = checks::files(&daemon.state_dir)?;
    for example in &EXAMPLES {
        one_example(example, daemon, volar)?;
        nothing_left(daemon, volar, &files, &rules)?;
    }
    workbench::run(arguments, daemon, volar)?;
    nothing_left(daemon, volar, &files, &rules)?;
    rootfs::run(arguments, daemon, volar, &rules)?;
    nothing_left(daemon, volar, &files, &rules)?;
    overlay::run(arguments, volar)?;
    nothing_left(daemon, volar, &files, &rules)?;
    trust::run(arguments, daemon, volar, &built[1])?;
    nothing_left(daemon, volar, &files, &rules)?;
    if arguments.loop_only {
        return Ok(());
    }
    refusals::run(arguments, daemon, volar, &built[1])?;
    nothing_left(daemon, volar, &files, &rules)?;
    chaos::run(daemon, volar)?;
    nothing_left(daemon, volar, &files, &rules)?;
    ten_recorded(daemon, volar)?;
    nothing_left(daemon, volar, &files, &rules)
}

/// Copies an example's folder, adds its program, and builds it with fledge.
fn build(arguments: &ScenarioArguments, example: &Example) -> Result<PathBuf> {
    let folder = arguments.work.join("examples").join(example.name);
    copy_folder(&arguments.examples.join(example.name), &folder)?;
    let program = match example.name {
        "caddy" => arguments.caddy.clone(),
        _ => arguments.dist.join(example.name),
    };
    fs::create_dir_all(folder.join("payload"))?;
    fs::copy(&program, folder.join("payload").join(example.name))?;
    let mut command = Command::new(arguments.dist.join("fledge"));
    command.current_dir(&folder).args(example.build);
    if example.name == "caddy" {
        command.arg("--busybox").arg(&arguments.busybox);
    }
    printer::progress(
        "$ fledge",
        &format!(
            "{}   (in examples/{})",
            example.build.join(" "),
            example.name
        ),
    );
    let started = Instant::now();
    let output = command.output().context("fledge could not be started")?;
    if !output.status.success() {
        printer::quote(&String::from_utf8_lossy(&output.stderr));
        bail!(
            "`fledge build` of {} ended with {}",
            example.name,
            output.status
        );
    }
    let size = fs::metadata(folder.join("plugin.cpio.gz"))?.len();
    printer::progress(
        "e2e",
        &format!(
            "{}: {size} bytes in {:.2} s",
            example.name,
            started.elapsed().as_secs_f64()
        ),
    );
    Ok(folder)
}

pub(super) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "target" && name != "src" {
                copy_folder(&entry.path(), &to.join(name))?;
            }
        } else {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn one_example(example: &Example, daemon: &mut Daemon, volar: &Volar) -> Result<()> {
    let Example { name, vm, page, .. } = *example;
    volar.ok(&[
        "vms",
        "create",
        vm,
        "--plugin",
        name,
        "--cpu",
        "1",
        "--memory",
        example.memory_mib,
        "--timeout",
        "300s",
    ])?;
    let created = volar.vm(vm)?;
    ensure!(
        created.ip_address == "192.168.127.10",
        "The first VM got {} and not 192.168.127.10",
        created.ip_address
    );
    let address: SocketAddr = format!("{}:80", created.ip_address).parse()?;
    http::wait_for_body(address, "/", page, Duration::from_secs(10))?;
    printer::progress(
        "e2e",
        &format!("http://{}/ holds \"{page}\"", created.ip_address),
    );
    timeline(&created);

    let log = volar.log_with(vm, example.log_line)?;
    ensure!(
        !log.contains(CONSOLE_PREFIX),
        "`volar vms logs {vm}` shows the console: {log}"
    );
    let console = volar.ok(&["vms", "logs", vm, "--stream", "console"])?;
    ensure!(
        console.contains(CONSOLE_PREFIX),
        "The console of `{vm}` lacks the agent's first words: {console}"
    );

    volar.ok(&["vms", "stop", vm])?;
    let stopped = volar.vm(vm)?;
    ensure!(
        stopped.status == VmStatus::Stopped && stopped.pid.is_none(),
        "After stop it is {stopped:?}"
    );
    ensure!(
        checks::taps()?.is_empty(),
        "A stopped VM has a tap: {:?}",
        checks::taps()?
    );
    volar.ok(&["vms", "start", vm, "--timeout", "300s"])?;
    http::wait_for_body(address, "/", page, Duration::from_secs(10))?;
    printer::progress("e2e", "stopped, started, reachable again");

    volar.ok(&["vms", "restart", vm, "--timeout", "300s"])?;
    http::wait_for_body(address, "/", page, Duration::from_secs(10))?;
    followed_log(example, address, volar)?;

    survives_the_daemon(vm, address, page, daemon, volar)?;
    crash_workload(example, address, volar)?;
    if name == "caddy" {
        agent_memory(vm, volar)?;
    }
    volar.ok(&["vms", "delete", vm, "--yes"]).map(drop)
}

/// `logs -f` shows what is written after it began, and goes on until it is ended.
fn followed_log(example: &Example, address: SocketAddr, volar: &Volar) -> Result<()> {
    printer::progress("$ volar", &format!("vms logs {} -f --tail 0", example.vm));
    let mut following = volar.follow_log(example.vm)?;
    if let Crash::Page(_) = example.crash {
        // Asked again until it is seen: when the follower has begun cannot be told from outside.
        following.wait_for("GET /followed", || drop(http::get(address, "/followed")))?;
    }
    following.end()
}

/// kill -9 of the daemon: the same VMM goes on, answers meanwhile, and is managed again.
fn survives_the_daemon(
    vm: &str,
    address: SocketAddr,
    page: &str,
    daemon: &mut Daemon,
    volar: &Volar,
) -> Result<()> {
    let before = volar.vm(vm)?;
    daemon.kill()?;
    http::wait_for_body(address, "/", page, Duration::from_secs(10))
        .context("While volantd was dead")?;
    daemon.start()?;
    let after = wait_for(volar, vm, "to be adopted healthy", |vm| {
        vm.status == VmStatus::Running && vm.health.state == HealthState::Healthy
    })?;
    ensure!(
        after.pid == before.pid && before.pid.is_some(),
        "The VMM was {:?} and is {:?}",
        before.pid,
        after.pid
    );
    http::wait_for_body(address, "/", page, Duration::from_secs(10))?;
    printer::progress(
        "e2e",
        &format!(
            "volantd was killed and started: VMM process {:?} is the same and answers",
            after.pid.unwrap_or(0)
        ),
    );
    Ok(())
}

fn crash_workload(example: &Example, address: SocketAddr, volar: &Volar) -> Result<()> {
    let before = volar.vm(example.vm)?.restarts.workload;
    match example.crash {
        // The service dies while it answers: an answer is not expected.
        Crash::Page(page) => drop(http::get(address, page)),
        Crash::Console(line) => drop(volar.type_on_console(example.vm, &[line], "killed-42")?),
    }
    let vm = wait_for(volar, example.vm, "to have its workload restarted", |vm| {
        vm.restarts.workload > before && vm.health.state == HealthState::Healthy
    })?;
    http::wait_for_body(address, "/", example.page, GUEST_LIMIT)?;
    let exit = vm.last_exit.context("The exit is not reported")?;
    printer::progress(
        "e2e",
        &format!(
            "its workload crashed with code {}, was restarted and answers again",
            exit.code
        ),
    );
    Ok(())
}

/// Reads the agent's memory by the console's root shell.
fn agent_memory(vm: &str, volar: &Volar) -> Result<()> {
    let said = volar.type_on_console(
        vm,
        &["grep VmRSS /proc/1/status; echo read-$((40+2))"],
        "read-42",
    )?;
    let kib: u64 = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("VmRSS:"))
        .find_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("No VmRSS on the console: {said}"))?;
    ensure!(
        kib <= MAX_AGENT_KIB,
        "The agent holds {kib} KiB; {MAX_AGENT_KIB} are allowed"
    );
    printer::progress("e2e", &format!("the agent holds {kib} KiB in the guest"));
    Ok(())
}

/// Waits until a VM is as it should be.
pub(super) fn wait_for(
    volar: &Volar,
    name: &str,
    what: &str,
    is: impl Fn(&Vm) -> bool,
) -> Result<Vm> {
    let deadline = Instant::now() + GUEST_LIMIT;
    loop {
        let vm = volar.vm(name)?;
        if is(&vm) {
            return Ok(vm);
        }
        if Instant::now() > deadline {
            bail!("`{name}` did not come {what} within {GUEST_LIMIT:?}: {vm:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Prints when each part of the start was reached.
fn timeline(vm: &Vm) {
    let boot = vm.boot.unwrap_or_default();
    let marks = [
        ("VMM", boot.vmm_ms),
        ("kernel", boot.kernel_ms),
        ("PID 1", boot.pid1_ms),
        ("workload", boot.workload_ms),
        ("ready", boot.ready_ms),
    ];
    let shown: Vec<String> = marks
        .iter()
        .map(|(name, ms)| ms.map_or_else(|| format!("{name} ?"), |ms| format!("{name} {ms:.0}")))
        .collect();
    printer::progress(
        "timeline",
        &format!(
            "{} on {}/{}: API 0 → {} ms",
            vm.name,
            vm.hypervisor.as_deref().unwrap_or("?"),
            vm.accelerator.as_deref().unwrap_or("?"),
            shown.join(" → ")
        ),
    );
}

/// What a person would look at first.
fn evidence(daemon: &Daemon, volar: &Volar) {
    daemon.show_log();
    for vm in volar.vms().unwrap_or_default() {
        printer::progress("e2e", &format!("{}: {:?}", vm.name, vm));
        for stream in ["console", "stdout,stderr,agent"] {
            let words = ["vms", "logs", vm.name.as_str(), "--tail", "30", "--stream"];
            if let Ok(said) = volar.call(&[&words[..], &[stream]].concat()) {
                printer::quote(&said.stdout);
            }
        }
    }
}

/// After a failure: ends what this run started, as far as the daemon still can.
fn clean_up(daemon: &mut Daemon, volar: &Volar) {
    if daemon.pid().is_none() && daemon.start().is_err() {
        return;
    }
    for vm in volar.vms().unwrap_or_default() {
        drop(volar.call(&["vms", "delete", vm.name.as_str(), "--yes"]));
    }
}
