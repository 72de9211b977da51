//! `volar vms …` as types.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use common::manifest::RestartPolicy;
use common::name::Name;

use super::{CallArgs, ConfigCommand, CopyArgs, ExecArgs, LogsArgs, ShellArgs, parse_duration};

pub(super) const EXAMPLES: &str = "\
Examples:
  volar vms create web --plugin caddy --cpu 1 --memory 512
  volar vms list
  volar vms logs -f web
  volar vms delete web --yes";

const CREATE_EXAMPLES: &str = "\
What is chosen here goes before --config, that before the plugin's manifest.
It waits until the VM is ready: booted, healthy inside, and reached from the
host. What a VM of a root file system writes is kept until it is deleted,
unless --ephemeral is given. Exits with 1 if the VM fails and with 124 if it
is not ready in time; in both cases the VM is kept, so that it can be looked
at.

Examples:
  volar vms create web --plugin caddy --cpu 1 --memory 512
  volar vms create web --plugin caddy --timeout 10m
  volar vms create try --plugin nginx --ephemeral
  volar vms create web --plugin caddy --env LOG=debug --restart on-failure
  volar vms create web --plugin caddy --config web.json
  volar vms create web --plugin caddy --no-wait -o json";

const LIST_EXAMPLES: &str = "\
Examples:
  volar vms list
  volar vms list --status running,paused --plugin caddy
  volar vms list -o wide --sort updated_at --desc --limit 10
  volar vms list --search web -o name";

const GET_EXAMPLES: &str = "\
Examples:
  volar vms get web
  volar vms get web -o json";

const START_EXAMPLES: &str = "\
Examples:
  volar vms start web
  volar vms start web --no-wait";

const STOP_EXAMPLES: &str = "\
The workload gets SIGTERM, or the signal that its manifest names, and time to
end before the VM is powered off.

Examples:
  volar vms stop web
  volar vms stop web --grace 30s
  volar vms stop web --no-wait";

const RESTART_EXAMPLES: &str = "\
Examples:
  volar vms restart web
  volar vms restart web --timeout 5m";

const DELETE_EXAMPLES: &str = "\
On a terminal it asks first, unless --yes is given.

Examples:
  volar vms delete web
  volar vms delete web-1 web-2 --yes
  volar vms list -o name | xargs volar vms delete --yes";

const CONSOLE_EXAMPLES: &str = "\
Ctrl-] leaves the console; the VM goes on. Many can watch a console, and one
types: whoever does so first; --force takes the keyboard over, --watch leaves
it to others. A serial line has no size: `stty rows 50 cols 120` in the guest
sets it. Input that is not from a terminal is sent as it is; after its end the
console stays attached until the VM is gone or Ctrl-C. What the guest writes
reaches the terminal unfiltered.

Examples:
  volar vms console web
  volar vms console web --force
  volar vms console web --watch > console.log
  printf 'uname -a\\n\\035' | volar vms console web";

const STATS_EXAMPLES: &str = "\
`volar top` shows all VMs, again and again.

Examples:
  volar vms stats web
  volar vms stats web -o json";

const PAUSE_EXAMPLES: &str = "\
Its CPUs stand still until `volar vms resume`; it keeps its memory and
address.

Examples:
  volar vms pause web";

const RESUME_EXAMPLES: &str = "\
Examples:
  volar vms resume web";

const UPGRADE_EXAMPLES: &str = "\
The VM gets the manifest that its plugin has now, as a new version of its
configuration, and is started again if it runs. The way back: volar vms config
history web, then volar vms config rollback web VERSION.

Examples:
  volar vms upgrade web
  volar vms upgrade web --to 1.4.0 --timeout 5m";

const SCALE_EXAMPLES: &str = "\
It is a new version of the VM's configuration, and takes effect at the VM's
next start, or at once with --restart. The way back: volar vms config
rollback. Several replicas are a matter of deployments, which this version
does not have.

Examples:
  volar vms scale web --cpu 2 --memory 1024
  volar vms scale web --memory 512 --restart";

const OPERATIONS_EXAMPLES: &str = "\
They are read from the OpenAPI document of the workload, or the one that its
manifest names.

Examples:
  volar vms operations web
  volar vms operations web -o json";

const CALL_EXAMPLES: &str = "\
The body of the answer goes to stdout. Exits with 1 if the workload answers
with a status from 400 on.

Examples:
  volar vms call web listItems --query limit=5
  volar vms call web POST:/items --body '{\"name\":\"x\"}'
  volar vms call web createItem --body-file item.json --timeout 2m";

/// What to do with VMs.
#[derive(Debug, Subcommand)]
pub enum VmsCommand {
    /// Create a VM from a plugin and wait until it is ready
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List the VMs
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show a VM: health, last failure, boot timeline
    #[command(after_help = GET_EXAMPLES)]
    Get(VmName),
    /// Start a stopped VM and wait until it is ready
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// Stop a VM gracefully and wait until it is down
    #[command(after_help = STOP_EXAMPLES)]
    Stop(StopArgs),
    /// Stop a VM, start it again and wait until it is ready
    #[command(after_help = RESTART_EXAMPLES)]
    Restart(StartArgs),
    /// Stop VMs and remove them with all that belongs to them
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(DeleteArgs),
    /// Let a VM stand still
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause(VmName),
    /// Let a paused VM go on
    #[command(after_help = RESUME_EXAMPLES)]
    Resume(VmName),
    /// Move a VM to what its plugin is now
    #[command(after_help = UPGRADE_EXAMPLES)]
    Upgrade(UpgradeArgs),
    /// Give a VM more or less CPU and memory
    #[command(after_help = SCALE_EXAMPLES)]
    Scale(ScaleArgs),
    /// Show and change a VM's configuration, version by version
    #[command(subcommand, arg_required_else_help = true, after_help = super::configs::EXAMPLES)]
    Config(ConfigCommand),
    /// Print what a VM's workload writes
    #[command(after_help = super::watch::LOGS_EXAMPLES)]
    Logs(LogsArgs),
    /// Attach to a VM's serial console; Ctrl-] leaves
    #[command(after_help = CONSOLE_EXAMPLES)]
    Console(ConsoleArgs),
    /// Run a command in a VM
    #[command(after_help = super::guest::EXEC_EXAMPLES)]
    Exec(ExecArgs),
    /// Open a shell in a VM
    #[command(after_help = super::guest::SHELL_EXAMPLES)]
    Shell(ShellArgs),
    /// Copy files into a VM or out of it
    #[command(after_help = super::guest::COPY_EXAMPLES)]
    Cp(CopyArgs),
    /// Show what a VM uses
    #[command(after_help = STATS_EXAMPLES)]
    Stats(VmName),
    /// List the operations of a workload's API
    #[command(after_help = OPERATIONS_EXAMPLES)]
    Operations(VmName),
    /// Call an operation of a workload's API
    #[command(after_help = CALL_EXAMPLES)]
    Call(CallArgs),
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
    /// A variable for the workload's environment
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,
    /// What happens when the VM ends by itself [default: as its workload]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub restart: Option<RestartWord>,
    /// A JSON file with everything else
    #[arg(
        long,
        value_name = "FILE",
        help = "A JSON file with everything else: kernel_override, rootfs, disks, metadata..."
    )]
    pub config: Option<PathBuf>,
    /// Address of an API that the guest may ask for its manifest
    #[arg(long, value_name = "HOST", requires = "api_port")]
    pub api_host: Option<String>,
    /// Port of that API
    #[arg(long, value_name = "PORT", requires = "api_host", value_parser = clap::value_parser!(u16).range(1..))]
    pub api_port: Option<u16>,
    /// Until when to wait
    #[arg(
        long,
        value_enum,
        value_name = "STATE",
        default_value_t,
        require_equals = true
    )]
    pub wait: WaitFor,
    /// Return as soon as volantd has accepted the VM, as --wait=none
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// How long to wait until it is there
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// A VM to start.
#[derive(Debug, Args)]
pub struct StartArgs {
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
    /// How long the workload may take to end [default: as its configuration says]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub grace: Option<Duration>,
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

/// Which VMs to list.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those in this state, such as running; may be repeated
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub status: Vec<String>,
    /// Only those of this plugin
    #[arg(short, long, value_name = "NAME")]
    pub plugin: Option<Name>,
    /// Only those with this text in name, address or runtime
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Order by this member
    #[arg(help = "Order by name, status, runtime, created_at or updated_at", long, value_name = "FIELD", value_parser = ["name", "status", "runtime", "created_at", "updated_at"], hide_possible_values = true)]
    pub sort: Option<String>,
    /// In descending order
    #[arg(long)]
    pub desc: bool,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// How to attach to a console.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// The VM's name
    pub name: Name,
    /// Type when nobody else does, as without it
    #[arg(short, long)]
    pub write: bool,
    /// Be the one who types, whoever is
    #[arg(long, conflicts_with = "write")]
    pub force: bool,
    /// Only watch
    #[arg(long, conflicts_with_all = ["write", "force"])]
    pub watch: bool,
}

/// A VM to upgrade.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// The VM's name
    pub name: Name,
    /// Refuse if the plugin has another version than this
    #[arg(long, value_name = "VERSION")]
    pub to: Option<String>,
    /// Return as soon as volantd has accepted the request
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait until it is ready, if it runs
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// What a VM is to have.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("size").required(true).multiple(true).args(["cpu", "memory", "replicas"]))]
pub struct ScaleArgs {
    /// The VM's name
    pub name: Name,
    /// Number of vCPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpu: Option<u32>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: Option<u32>,
    /// Start the VM again, so that it takes effect
    #[arg(long)]
    pub restart: bool,
    /// Not supported: a VM has no replicas, and there are no deployments yet
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
}

/// What happens when a VM ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RestartWord {
    /// It is started again
    Always,
    /// It is started again unless it ended well
    OnFailure,
    /// It stays down
    Never,
}

impl From<RestartWord> for RestartPolicy {
    fn from(word: RestartWord) -> Self {
        match word {
            RestartWord::Always => Self::Always,
            RestartWord::OnFailure => Self::OnFailure,
            RestartWord::Never => Self::Never,
        }
    }
}

/// Until when a command waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Healthy inside, and reached from the host
    #[default]
    Ready,
    /// The guest is up
    Running,
    /// Down again, as a job is at its end
    Stopped,
    /// Not at all
    None,
}

/// A variable of an environment.
pub(super) fn parse_variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write KEY=VALUE"),
    }
}
