//! `volar vms …` as types.

use std::time::Duration;

use clap::{Args, Subcommand};
use common::name::Name;

use super::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  volar vms create web --plugin caddy --cpu 1 --memory 512
  volar vms list
  volar vms logs -f web
  volar vms delete web --yes";

const CREATE_EXAMPLES: &str = "\
Examples:
  volar vms create web --plugin caddy --cpu 1 --memory 512
  volar vms create web --plugin caddy --timeout 10m
  volar vms create try --plugin nginx --ephemeral
  volar vms create web --plugin caddy --no-wait -o json

It waits until the VM is ready: booted, healthy inside, and reached from the
host. What a VM of a root file system writes is kept until it is deleted, unless
--ephemeral is given. Exits with 1 if the VM fails and with 124 if it is not ready in time; in
both cases the VM is kept, so that it can be looked at.";

const LIST_EXAMPLES: &str = "\
Examples:
  volar vms list
  volar vms list -o name
  volar vms list -o json";

const GET_EXAMPLES: &str = "\
Examples:
  volar vms get web
  volar vms get web -o json";

const START_EXAMPLES: &str = "\
Examples:
  volar vms start web
  volar vms start web --no-wait";

const STOP_EXAMPLES: &str = "\
Examples:
  volar vms stop web
  volar vms stop web --no-wait

The workload gets SIGTERM, or the signal that its manifest names, and time to end before the VM is powered off.";

const RESTART_EXAMPLES: &str = "\
Examples:
  volar vms restart web
  volar vms restart web --timeout 5m";

const DELETE_EXAMPLES: &str = "\
Examples:
  volar vms delete web
  volar vms delete web-1 web-2 --yes
  volar vms list -o name | xargs volar vms delete --yes

On a terminal it asks first, unless --yes is given.";

const LOGS_EXAMPLES: &str = "\
Examples:
  volar vms logs web
  volar vms logs -f --tail 20 web
  volar vms logs web > web.log

The log is what the guest wrote to its serial console, from the first byte. On a
terminal, control sequences other than colours are left out, because the guest
is not trusted; into a file or pipe it is written as it is.";

const CONSOLE_EXAMPLES: &str = "\
Examples:
  volar vms console web
  printf 'uname -a\\n\\035' | volar vms console web

Ctrl-] leaves the console; the VM goes on. Input that is not from a terminal is
sent as it is; after its end the console stays attached until the VM is gone or
Ctrl-C. What the guest writes reaches the terminal unfiltered.";

/// What to do with VMs.
#[derive(Debug, Subcommand)]
pub enum VmsCommand {
    /// Create a VM from a plugin and wait until it is ready
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List the VMs
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Show a VM: health, last failure, boot timeline
    #[command(after_help = GET_EXAMPLES)]
    Get(VmName),
    /// Start a stopped VM and wait until it is ready
    #[command(after_help = START_EXAMPLES)]
    Start(RunArgs),
    /// Stop a VM gracefully and wait until it is down
    #[command(after_help = STOP_EXAMPLES)]
    Stop(StopArgs),
    /// Stop a VM, start it again and wait until it is ready
    #[command(after_help = RESTART_EXAMPLES)]
    Restart(RunArgs),
    /// Stop VMs and remove them with all that belongs to them
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(DeleteArgs),
    /// Print what a VM wrote to its serial console
    #[command(after_help = LOGS_EXAMPLES)]
    Logs(LogsArgs),
    /// Attach to a VM's serial console; Ctrl-] leaves
    #[command(after_help = CONSOLE_EXAMPLES)]
    Console(VmName),
}

/// The name of one VM.
#[derive(Debug, Args)]
pub struct VmName {
    /// The VM's name
    pub name: Name,
}

/// What the VM is to be like.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The VM's name
    pub name: Name,
    /// The plugin to run
    #[arg(short, long, value_name = "NAME")]
    pub plugin: Name,
    /// Number of vCPUs [default: the plugin's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpu: Option<u32>,
    /// Memory in MiB [default: the plugin's]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: Option<u32>,
    /// Refuse a plugin of another runtime
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// Arguments to add to the kernel command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub kernel_cmdline: Option<String>,
    /// Keep what the guest writes in memory only, and lose it when the VM stops
    #[arg(long)]
    pub ephemeral: bool,
    /// Address of an API that the guest may ask for its manifest
    #[arg(long, value_name = "HOST", requires = "api_port")]
    pub api_host: Option<String>,
    /// Port of that API
    #[arg(long, value_name = "PORT", requires = "api_host", value_parser = clap::value_parser!(u16).range(1..))]
    pub api_port: Option<u16>,
    /// Return as soon as volantd has accepted the VM
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait until it is ready
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// A VM to start.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The VM's name
    pub name: Name,
    /// Return as soon as volantd has accepted the request
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait until it is ready
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// A VM to stop.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// The VM's name
    pub name: Name,
    /// Return as soon as volantd has accepted the request
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait until it is down
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// VMs to delete.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The VMs' names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<Name>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Which part of a log.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The VM's name
    pub name: Name,
    /// Go on with what the VM writes, until Ctrl-C or until it is deleted
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last N lines [default: all that is kept]
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u32>,
}
