//! `cargo xtask e2e`: the whole loop through the real programs on a real kernel. Here are the preparations and the choice of where
//! the scenario runs; what is done and checked is in `scenario` and the modules that it calls.
//!
//! The scenario is a command of its own (`e2e-scenario`), so that it can run in a network namespace of its own, or inside the lab.

mod access;
mod aftermath;
mod api;
mod chaos;
mod checks;
mod daemon;
mod http;
mod hypervisor;
mod lab;
mod observing;
mod overlay;
mod refusals;
mod rootfs;
mod run_command;
mod scenario;
mod steering;
mod trust;
mod volar;
mod workbench;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{caddy, dist, generated, kernel, packages, printer, workspace};

pub(crate) use scenario::{ScenarioArguments, run as run_scenario};

/// Run the whole loop on a real kernel: build, install, boot, check, break, delete
#[derive(Debug, Default, Args)]
pub(crate) struct Arguments {
    /// Which VMM runs the VMs; `auto` takes Cloud Hypervisor where one is found, and QEMU in any case
    #[arg(long, value_enum, default_value_t)]
    vmm: VmmChoice,
    /// Keep the working directory and say where it is
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum VmmChoice {
    #[default]
    Auto,
    Qemu,
    CloudHypervisor,
}

/// What ran, and what did not.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Runs that passed.
    pub(crate) passed: Vec<String>,
    /// Runs that could not be made, each with the reason.
    pub(crate) skipped: Vec<String>,
}

/// Files that the scenario needs, all prepared.
#[derive(Debug)]
struct Kit {
    dist: PathBuf,
    kernel: PathBuf,
    caddy: PathBuf,
    busybox: PathBuf,
    examples: PathBuf,
    /// What makes a client from the API's description, if it can be had.
    generator: Option<PathBuf>,
}

/// Makes everything ready and runs the scenario on each VMM that was asked for.
///
/// # Errors
/// What failed, after the evidence was printed.
pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    if !packages::is_root() {
        bail!(
            "The end-to-end test makes a network namespace, taps and rules: run it as root (sudo -E cargo xtask e2e)"
        );
    }
    packages::ensure(packages::E2E)?;
    let found = match arguments.vmm {
        VmmChoice::Qemu => None,
        VmmChoice::Auto | VmmChoice::CloudHypervisor => hypervisor::find()?,
    };
    let kit = Kit {
        dist: dist::build()?,
        kernel: kernel::ensure(kernel::Variant::Guest, kernel::Options::default())?.image,
        caddy: caddy::binary()?,
        busybox: caddy::busybox()?,
        examples: workspace::root().join("examples"),
        generator: generated::programs()?,
    };
    let mut outcome = Outcome::default();
    if kit.generator.is_none() {
        let skip = "the generated client, because the Python package registry is out of reach";
        printer::progress("SKIPPED", skip);
        outcome.skipped.push(skip.to_owned());
    }
    match (arguments.vmm, found) {
        (VmmChoice::Qemu, _) => run_here(&kit, "qemu", None, arguments.keep, &mut outcome)?,
        (VmmChoice::CloudHypervisor, None) => bail!(hypervisor::NONE_FOUND),
        (VmmChoice::CloudHypervisor, Some(program)) => {
            run_cloud_hypervisor(&kit, &program, arguments.keep, &mut outcome)?;
        }
        (VmmChoice::Auto, None) => {
            printer::progress(
                "e2e",
                "SKIPPED Cloud Hypervisor: no binary in $VOLANT_CLOUD_HYPERVISOR, PATH or the cache; running QEMU",
            );
            outcome.skipped.push(format!(
                "e2e on Cloud Hypervisor: {}",
                hypervisor::NONE_FOUND
            ));
            run_here(&kit, "qemu", None, arguments.keep, &mut outcome)?;
        }
        (VmmChoice::Auto, Some(program)) => {
            run_here(&kit, "qemu", None, arguments.keep, &mut outcome)?;
            run_cloud_hypervisor(&kit, &program, arguments.keep, &mut outcome)?;
        }
    }
    Ok(outcome)
}

fn run_cloud_hypervisor(
    kit: &Kit,
    program: &Path,
    keep: bool,
    outcome: &mut Outcome,
) -> Result<()> {
    if checks::kvm_is_usable() {
        run_here(kit, "cloud-hypervisor", Some(program), keep, outcome)
    } else {
        printer::progress(
            "e2e",
            "no usable KVM on this machine: Cloud Hypervisor runs in the nested lab (QEMU emulates a host with SVM)",
        );
        lab::run(kit, program, keep)?;
        outcome
            .passed
            .push("e2e on Cloud Hypervisor (nested lab)".to_owned());
        Ok(())
    }
}

/// Runs the scenario on this machine, in a network namespace of its own.
fn run_here(
    kit: &Kit,
    vmm: &str,
    program: Option<&Path>,
    keep: bool,
    outcome: &mut Outcome,
) -> Result<()> {
    let before = checks::interfaces()?;
    let work = tempfile::Builder::new()
        .prefix("volant-e2e-")
        .tempdir()
        .context("No working directory")?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("e2e-scenario")
        .arg("--namespace")
        .args(["--vmm", vmm]);
    let paths = [
        ("--work", work.path()),
        ("--dist", &kit.dist),
        ("--kernel", &kit.kernel),
        ("--caddy", &kit.caddy),
        ("--busybox", &kit.busybox),
        ("--examples", &kit.examples),
    ];
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    if let Some(program) = program {
        command.arg("--cloud-hypervisor").arg(program);
    }
    if let Some(programs) = &kit.generator {
        command.arg("--generator").arg(programs);
    }
    printer::progress(
        "e2e",
        &format!(
            "the scenario runs on {vmm} in its own network namespace, in {}",
            work.path().display()
        ),
    );
    let status = command
        .status()
        .context("The scenario could not be started")?;
    if !status.success() {
        let kept = work.keep();
        checks::end_processes_of(&kept)?;
        bail!(
            "The scenario failed on {vmm}; its files are in {}",
            kept.display()
        );
    }
    checks::no_process_of(work.path())?;
    let after = checks::interfaces()?;
    if after != before {
        bail!("The scenario changed the machine's interfaces: {before:?} before, {after:?} after");
    }
    if keep {
        printer::progress(
            "e2e",
            &format!("its files are kept in {}", work.keep().display()),
        );
    } else {
        let path = work.path().to_path_buf();
        work.close()
            .context("The working directory could not be removed")?;
        if path.exists() {
            bail!("`{}` is still there", path.display());
        }
    }
    outcome.passed.push(format!("e2e on {vmm}"));
    Ok(())
}
