//! What bad input gets from the real programs: a sentence, an exit code, and nothing changed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use common::agent::HealthState;
use common::api::{DEFAULT_API_LISTEN, VmStatus};
use fs_err as fs;
use serde_json::{Value, json};

use super::ScenarioArguments;
use super::daemon::Daemon;
use super::http;
use super::scenario::wait_for;
use super::volar::Volar;
use crate::printer;

/// Tries everything that must be refused, and the guests that cannot work.
pub(super) fn run(
    arguments: &ScenarioArguments,
    daemon: &mut Daemon,
    volar: &Volar,
    hello: &Path,
) -> Result<()> {
    let manifests = Manifests::new(arguments, hello)?;
    plugins(volar, &manifests, hello)?;
    requests(volar, &manifests)?;
    without_token(daemon)?;
    second_daemon(daemon)?;
    missing_parts(daemon, volar)?;
    broken_guests(volar, &manifests)
}

/// Variations of the hello example's manifest.
struct Manifests {
    folder: PathBuf,
    /// The Caddy example's artifact, which has more than one way to listen.
    caddy: PathBuf,
    good: Value,
}

impl Manifests {
    fn new(arguments: &ScenarioArguments, hello: &Path) -> Result<Self> {
        let folder = arguments.work.join("refusals");
        fs::create_dir_all(&folder)?;
        let text = fs::read_to_string(hello.join("plugin.cpio.gz.manifest.json"))?;
        let mut good: Value =
            serde_json::from_str(&text).context("The manifest of hello is not JSON")?;
        good["initramfs"] = json!({"url": hello.join("plugin.cpio.gz")});
        let caddy = arguments.work.join("examples/caddy/plugin.cpio.gz");
        Ok(Self {
            folder,
            caddy,
            good,
        })
    }

    /// Writes a variation under a plugin name of its own.
    fn write(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
        let mut manifest = self.good.clone();
        manifest["name"] = json!(name);
        manifest["runtime"] = json!(name);
        change(&mut manifest);
        let path = self.folder.join(format!("{name}.json"));
        fs::write(&path, manifest.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }
}

fn plugins(volar: &Volar, manifests: &Manifests, hello: &Path) -> Result<()> {
    let artifact = fs::read(hello.join("plugin.cpio.gz"))?;
    let truncated = manifests.folder.join("truncated.cpio.gz");
    fs::write(&truncated, &artifact[..artifact.len() / 2])?;
    let plain = manifests.folder.join("plain.txt");
    fs::write(&plain, "this is no archive")?;
    let zeroes = "0".repeat(64);
    let cases: [(&str, Value, i32, &str); 4] = [
        (
            "wrong-sum",
            json!({"url": hello.join("plugin.cpio.gz"), "checksum": zeroes}),
            6,
            "hecksum",
        ),
        ("cut", json!({"url": truncated}), 1, "not an initramfs"),
        ("text", json!({"url": plain}), 1, "not an initramfs"),
        (
            "missing",
            json!({"url": "/no/such/file.cpio.gz"}),
            1,
            "/no/such/file.cpio.gz",
        ),
    ];
    for (name, initramfs, code, sentence) in cases {
        let path = manifests.write(name, |manifest| {
            manifest["initramfs"] = initramfs;
        })?;
        volar.refused(&["plugins", "install", &path], code, sentence)?;
        volar.refused(&["plugins", "show", name], 3, "no plugin")?;
    }
    let path = manifests.write("no-entry", |manifest| {
        manifest["workload"]["entrypoint"] = json!([]);
    })?;
    volar.refused(&["plugins", "install", &path], 1, "entrypoint")
}

fn requests(volar: &Volar, manifests: &Manifests) -> Result<()> {
    let long = format!(
        "vms create a --plugin hello --kernel-cmdline {}",
        "x".repeat(2100)
    );
    let cases = [
        ("vms create a --plugin nobody", 3, "no plugin"),
        ("vms create a --plugin hello --cpu 4096", 1, "CPU"),
        (
            "vms create a --plugin hello --memory 4000000000",
            1,
            "memory",
        ),
        (&long, 1, "command line"),
        ("vms get nobody", 3, "no VM"),
        ("vms delete nobody --yes", 3, "no VM"),
    ];
    for (line, code, sentence) in cases {
        volar.refused(&words(line), code, sentence)?;
    }
    for name in ["No", "-a", "a_b", "../a", &"a".repeat(64)] {
        let said = volar.call(&["vms", "create", "--plugin", "hello", "--", name])?;
        ensure!(
            matches!(said.code, 1 | 2),
            "The name `{name}` gave exit code {}: {}",
            said.code,
            said.stderr
        );
    }
    for flag in ["--cpu", "--memory"] {
        let said = volar.call(&["vms", "create", "a", "--plugin", "hello", flag, "0"])?;
        ensure!(
            matches!(said.code, 1 | 2),
            "`{flag} 0` gave exit code {}: {}",
            said.code,
            said.stderr
        );
    }
    taken_and_switched_off(volar, manifests)
}

fn taken_and_switched_off(volar: &Volar, manifests: &Manifests) -> Result<()> {
    volar.ok(&words(
        "vms create twice --plugin hello --memory 128 --no-wait",
    ))?;
    volar.refused(
        &words("vms create twice --plugin hello --no-wait"),
        4,
        "twice",
    )?;
    volar.ok(&words("vms delete twice --yes"))?;
    volar.ok(&words("plugins disable hello"))?;
    volar.refused(&words("vms create a --plugin hello"), 4, "switched off")?;
    volar.ok(&words("plugins enable hello"))?;
    let off = manifests.write("off", |manifest| manifest["enabled"] = json!(false))?;
    volar.ok(&["plugins", "install", &off])?;
    volar.refused(&words("vms create a --plugin off"), 4, "switched off")?;
    volar.ok(&words("plugins remove off")).map(drop)
}

/// A line as a user types it, without quotes.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Over TCP the API needs the token, and wants to be spoken to in HTTP.
fn without_token(daemon: &Daemon) -> Result<()> {
    let api: SocketAddr = DEFAULT_API_LISTEN.parse()?;
    let token = fs::read_to_string(daemon.token_file())?;
    let key = format!("X-Volant-API-Key: {}\r\n", token.trim());
    let cases = [
        ("/healthz", "", 200),
        ("/api/v1/vms", "", 401),
        ("/api/v1/vms", "X-Volant-API-Key: wrong\r\n", 401),
        ("/api/v1/vms?api_key=x", "", 401),
        ("/api/v1/vms", &key, 200),
        ("/api/v1/vms/nobody", &key, 404),
        ("/api/v1/vms/nobody/start", &key, 405),
        ("/nothing", &key, 404),
    ];
    for (path, headers, status) in cases {
        let answer = http::get_with(api, path, headers)?;
        ensure!(
            answer.status == status,
            "GET {path} was answered {answer:?}, not {status}"
        );
        ensure!(
            status < 400 || answer.body.contains("\"code\""),
            "GET {path}: no problem document: {}",
            answer.body
        );
    }
    printer::progress("e2e", "the API over TCP asks for its token");
    Ok(())
}

/// A second volantd on the same state ends with a sentence, and the first goes on.
fn second_daemon(daemon: &Daemon) -> Result<()> {
    printer::progress(
        "$ volantd",
        "(a second one on the same state; must be refused)",
    );
    let mut command = daemon.command()?;
    let output = command.stderr(std::process::Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success(),
        "A second volantd ran on the same state: {said}"
    );
    ensure!(
        said.contains("another volantd") || said.contains("Another volantd"),
        "A second volantd said: {said}"
    );
    printer::quote(said.trim());
    ensure!(
        std::os::unix::net::UnixStream::connect(daemon.socket()).is_ok(),
        "The first volantd is gone"
    );
    Ok(())
}

/// A missing kernel and a missing or dying VMM.
fn missing_parts(daemon: &mut Daemon, volar: &Volar) -> Result<()> {
    let dying = daemon.state_dir.join("../dying-vmm");
    fs::write(
        &dying,
        "#!/bin/sh\ncase \"$1\" in --version|-version) echo 'cloud-hypervisor v53.0'; echo 'QEMU emulator version 9.0.0';; *) echo 'I am broken' >&2; exit 3;; esac\n",
    )?;
    fs::set_permissions(&dying, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let dying = fs::canonicalize(&dying)?;
    let nothing = Path::new("/no/such/file");
    let create: &[&str] = &["vms", "create", "a", "--plugin", "hello", "--memory", "128"];

    daemon.stop()?;
    daemon.start_with(&[("VOLANT_KERNEL_VMLINUX", nothing)])?;
    volar.refused(create, 5, "kernel")?;
    ensure!(
        volar.vms()?.is_empty(),
        "A VM was recorded without a kernel"
    );

    daemon.stop()?;
    daemon.start_with(&[
        ("VOLANT_QEMU", nothing),
        ("VOLANT_CLOUD_HYPERVISOR", nothing),
    ])?;
    volar.refused(create, 5, "/no/such/file")?;
    ensure!(volar.vms()?.is_empty(), "A VM was recorded without a VMM");

    daemon.stop()?;
    daemon.start_with(&[("VOLANT_QEMU", &dying), ("VOLANT_CLOUD_HYPERVISOR", &dying)])?;
    volar.refused(create, 1, "I am broken")?;
    ensure!(
        volar.vm("a")?.status == VmStatus::Failed,
        "A dying VMM left {:?}",
        volar.vm("a")?
    );
    volar.ok(&["vms", "delete", "a", "--yes"])?;

    daemon.stop()?;
    daemon.start()
}

/// Guests that cannot work: each says why, and keeps its console.
fn broken_guests(volar: &Volar, manifests: &Manifests) -> Result<()> {
    let no_program = manifests.write("no-program", |manifest| {
        manifest["workload"]["entrypoint"] = json!(["/no/such/program"]);
    })?;
    volar.ok(&["plugins", "install", &no_program])?;
    fails_to_start(volar, "no-program", None, "/no/such/program")?;

    let panics = manifests.write("no-init", |_| ())?;
    volar.ok(&["plugins", "install", &panics])?;
    // The kernel finds no init at all and panics.
    let no_init = "rdinit=/no/such/init init=/no/such/init";
    fails_to_start(volar, "no-init", Some(no_init), "kernel panicked")?;
    never_healthy(volar, manifests)?;
    local_only(volar, manifests)
}

/// A service that listens on 127.0.0.1 only works inside and cannot be reached: its user is told just that.
fn local_only(volar: &Volar, manifests: &Manifests) -> Result<()> {
    let path = manifests.write("local-only", |manifest| {
        manifest["initramfs"] = json!({"url": manifests.caddy});
        manifest["workload"]["entrypoint"] = json!([
            "/usr/bin/caddy",
            "respond",
            "--listen",
            "127.0.0.1:80",
            "hello"
        ]);
        manifest["health_check"] = json!({"endpoint": "/"});
    })?;
    volar.ok(&["plugins", "install", &path])?;
    let said = volar.call(&words(
        "vms create local --plugin local-only --memory 512 --timeout 60s",
    ))?;
    ensure!(
        said.code != 0,
        "A service that nobody reaches was reported as ready: {}",
        said.stdout
    );
    let vm = volar.vm("local")?;
    let reason = vm.health.reason.unwrap_or_default();
    ensure!(
        vm.status == VmStatus::Running && reason.contains("127.0.0.1 only"),
        "Its state is {:?}, because {reason}",
        vm.status
    );
    printer::quote(&format!("local is running, unhealthy: {reason}"));
    volar.ok(&words("vms delete local --yes"))?;
    volar.ok(&words("plugins remove local-only")).map(drop)
}

fn fails_to_start(volar: &Volar, name: &str, cmdline: Option<&str>, sentence: &str) -> Result<()> {
    let line = format!("vms create {name} --plugin {name} --memory 128 --timeout 240s");
    let mut words = words(&line);
    words.extend(
        cmdline
            .iter()
            .flat_map(|cmdline| ["--kernel-cmdline", cmdline]),
    );
    volar.refused(&words, 1, sentence)?;
    let vm = volar.vm(name)?;
    ensure!(
        vm.status == VmStatus::Failed,
        "It should have failed: {vm:?}"
    );
    let log = volar.ok(&["vms", "logs", name, "--stream", "console"])?;
    ensure!(!log.is_empty(), "The console of `{name}` is lost");
    volar.ok(&["vms", "delete", name, "--yes"])?;
    volar.ok(&["plugins", "remove", name]).map(drop)
}

fn never_healthy(volar: &Volar, manifests: &Manifests) -> Result<()> {
    let sick = manifests.write("sick", |manifest| {
        manifest["health_check"] = json!({"endpoint": "/no-such-page", "timeout_ms": 2000});
    })?;
    volar.ok(&["plugins", "install", &sick])?;
    let said = volar.call(&words(
        "vms create sick --plugin sick --memory 128 --timeout 30s",
    ))?;
    ensure!(
        said.code != 0,
        "A VM whose health never comes was reported as ready: {}",
        said.stdout
    );
    let vm = wait_for(volar, "sick", "to be unhealthy", |vm| {
        vm.health.state == HealthState::Unhealthy
    })?;
    let reason = vm.health.reason.unwrap_or_default();
    let status = vm.status;
    ensure!(
        status == VmStatus::Running && reason.contains("404"),
        "Its state is {status:?}, because {reason}"
    );
    printer::quote(&format!("sick is {}, unhealthy: {reason}", status.as_str()));
    volar.log_with("sick", "GET /no-such-page")?;
    volar.ok(&words("vms delete sick --yes"))?;
    volar.ok(&words("plugins remove sick")).map(drop)
}
