//! The nested lab: QEMU emulates a host with AMD's SVM, that host's kernel has KVM, and in it the real Cloud Hypervisor runs the
//! same scenario. Its image is built by fledge and its PID 1 is kestrel, so that Volant is also its own first user.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use common::cmdline::{BASE, KEY_MANIFEST, MAX_CMDLINE_BYTES, encode_manifest};
use common::manifest::Manifest;
use fs_err as fs;
use serde_json::json;

use super::Kit;
use crate::{kernel, printer, process};

/// Memory of the lab host in MiB: its files are in memory, and so are its guests.
const MEMORY_MIB: u32 = 6144;
/// How often a lab is booted that does not live to the scenario's end.
const ATTEMPTS: u32 = 3;
/// One CPU: with two, emulated in threads of their own, the lab's kernel died of a nested interrupt.
const CPUS: &str = "1";
/// An AMD with nested paging. Without protection keys, whose state the nested kernel would not find where it expects it.
const CPU: &str = "max,+svm,+npt,-pku";
/// An emulated TSC cannot be calibrated on a busy machine, and emulated timers are late for every check.
const CLOCK: &str = "tsc=unstable no_timer_check hpet=disable";
/// How long the scenario may take there. A CPU that is emulated runs a guest that is nested in it, so minutes become many.
const LIMIT: Duration = Duration::from_hours(1);
/// Programs of the host that the scenario calls.
const HOST_PROGRAMS: [&str; 2] = ["nft", "ip"];
/// What the scenario prints last when all went well.
const PASSED: &str = "the scenario passed on cloud-hypervisor";

/// Boots the lab and runs the scenario in it.
pub(super) fn run(kit: &Kit, cloud_hypervisor: &Path, keep: bool) -> Result<()> {
    let lab_kernel = kernel::ensure(kernel::Variant::Lab, kernel::Options::default())?.image;
    let work = tempfile::Builder::new()
        .prefix("volant-lab-")
        .tempdir()
        .context("No working directory")?;
    let image = build_image(kit, cloud_hypervisor, work.path())?;
    let outcome = boot_until_verdict(&lab_kernel, &image);
    if keep || outcome.is_err() {
        printer::progress(
            "lab",
            &format!("its files are kept in {}", work.keep().display()),
        );
    }
    outcome
}

/// Builds the lab host's initramfs with fledge.
fn build_image(kit: &Kit, cloud_hypervisor: &Path, work: &Path) -> Result<PathBuf> {
    let mut files: Vec<(PathBuf, String)> = vec![
        (std::env::current_exe()?, "/usr/bin/xtask".to_owned()),
        (
            cloud_hypervisor.to_path_buf(),
            "/usr/bin/cloud-hypervisor".to_owned(),
        ),
        (kit.kernel.clone(), "/kit/vmlinux".to_owned()),
        (kit.caddy.clone(), "/kit/caddy".to_owned()),
        (kit.busybox.clone(), "/kit/busybox".to_owned()),
    ];
    for name in ["fledge", "volantd", "volar", "kestrel", "hello"] {
        files.push((kit.dist.join(name), format!("/kit/dist/{name}")));
    }
    for name in HOST_PROGRAMS {
        let program = process::find(name).with_context(|| format!("`{name}` is not in PATH"))?;
        files.push((program, format!("/usr/bin/{name}")));
    }
    let mut libraries = BTreeSet::new();
    for (program, _) in &files {
        libraries.extend(shared_libraries(program)?);
    }
    for library in libraries {
        let target = library.to_string_lossy().into_owned();
        files.push((fs::canonicalize(&library)?, target));
    }
    for example in ["caddy", "hello"] {
        let copy = work.join("examples").join(example);
        super::scenario::copy_folder(&kit.examples.join(example), &copy)?;
        files.push((copy, format!("/kit/examples/{example}")));
    }
    let mut spec = String::from("version = \"1\"\nstrategy = \"initramfs\"\n\n[mappings]\n");
    for (source, target) in &files {
        spec.push_str(&format!("{:?} = {target:?}\n", source.to_string_lossy()));
    }
    fs::write(work.join("fledge.toml"), spec)?;
    let image = work.join("lab.cpio.gz");
    let mut command = Command::new(kit.dist.join("fledge"));
    command
        .current_dir(work)
        .args(["build", "--output"])
        .arg(&image)
        .arg("--busybox")
        .arg(&kit.busybox);
    process::logged(&mut command, &work.join("fledge.log"), |_| ())?;
    Ok(image)
}

/// The shared libraries of a program with its interpreter, as the dynamic linker finds them here. None for a static one.
fn shared_libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .context("`ldd` could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect())
}

/// The lab host's command line: kestrel runs the scenario once, and powers off. What a workload prints is kept for volantd, which a lab
/// has none of, so the scenario's goes to the console.
fn command_line() -> Result<String> {
    let words = [
        "/usr/bin/xtask",
        "e2e-scenario",
        "--vmm=cloud-hypervisor",
        "--work=/tmp/e2e",
        "--dist=/kit/dist",
        "--kernel=/kit/vmlinux",
        "--caddy=/kit/caddy",
        "--busybox=/kit/busybox",
        "--examples=/kit/examples",
        "--cloud-hypervisor=/usr/bin/cloud-hypervisor",
    ];
    let script = format!("exec {} >/dev/console 2>&1", words.join(" "));
    let manifest = json!({
        "name": "lab", "version": "1", "initramfs": {"url": "/lab.cpio.gz"},
        "workload": {"type": "exec", "entrypoint": ["/bin/sh", "-c", script], "restart": "never"},
    });
    let manifest = Manifest::from_json(manifest.to_string().as_bytes())?;
    let line = format!(
        "{BASE} {CLOCK} {KEY_MANIFEST}={}",
        encode_manifest(&manifest)
    );
    if line.len() > MAX_CMDLINE_BYTES {
        bail!("The lab's command line has {} bytes", line.len());
    }
    Ok(line)
}

/// How a run of the lab ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    /// The lab itself ended before the scenario did.
    None,
}

/// Emulated SVM is not perfect: now and then the lab's own kernel dies of it. That says nothing about the scenario, so it is tried again,
/// and said.
fn boot_until_verdict(kernel: &Path, image: &Path) -> Result<()> {
    for attempt in 1..=ATTEMPTS {
        match boot(kernel, image)? {
            Verdict::Passed => return Ok(()),
            Verdict::Failed => bail!("The scenario did not pass in the lab"),
            Verdict::None => printer::progress(
                "lab",
                &format!("the lab ended before the scenario did (attempt {attempt} of {ATTEMPTS})"),
            ),
        }
    }
    bail!("The lab never lived to the end of the scenario")
}

fn boot(kernel: &Path, image: &Path) -> Result<Verdict> {
    printer::progress(
        "lab",
        "booting a host with emulated SVM; everything in it is ten to fifty times slower than on real hardware",
    );
    let started = Instant::now();
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-accel",
            "tcg,thread=multi",
            "-M",
            "q35",
            "-cpu",
            CPU,
            "-smp",
            CPUS,
        ])
        .args([
            "-m",
            &MEMORY_MIB.to_string(),
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .args(["-append", &command_line()?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut lab = Lab(command
        .spawn()
        .context("`qemu-system-x86_64` could not be started")?);
    let stdout = lab.0.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender
                .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                .is_err()
            {
                break;
            }
        }
    });
    let mut verdict = Verdict::None;
    while let Some(left) = LIMIT.checked_sub(started.elapsed()) {
        // The channel closes when QEMU ends.
        let Ok(line) = lines.recv_timeout(left) else {
            break;
        };
        printer::quote(&line);
        if line.contains(PASSED) {
            verdict = Verdict::Passed;
        } else if line.starts_with("error: ") {
            verdict = Verdict::Failed;
        }
    }
    drop(lines);
    drop(lab);
    drop(reader.join());
    printer::progress(
        "lab",
        &format!("{verdict:?} after {:.0} s", started.elapsed().as_secs_f64()),
    );
    Ok(verdict)
}

/// The lab's QEMU; it does not outlive the test.
struct Lab(Child);

impl Drop for Lab {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
