//! The command line as types: names, flags, help and examples. Reads no environment and does nothing; see `settings` and `commands`.

mod artifacts;
mod configs;
mod context;
mod duration;
mod guest;
mod plugins;
mod run;
mod setup;
mod shell;
mod system;
mod vms;
mod watch;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use common::name::Name;

pub use artifacts::{
    AddArtifactArgs, ArtifactName, ArtifactsCommand, CollectArgs, RemoveArtifactArgs,
};
pub use configs::{ConfigCommand, GetArgs, HistoryArgs, PatchArgs, RollbackArgs, SetArgs};
pub use context::{AddContextArgs, ContextCommand, ContextName, MaybeContextName};
pub use duration::{InvalidDuration, parse_duration};
pub use guest::{CallArgs, CopyArgs, ExecArgs, GuestPath, Place, ShellArgs};
pub use plugins::{InstallArgs, PluginName, PluginsCommand};
pub use run::RunArgs;
pub use setup::SetupArgs;
pub use shell::{CompletionsArgs, ManArgs, Shell};
pub use system::{PruneArgs, SystemCommand};
pub use vms::{
    ConsoleArgs, CreateArgs, DeleteArgs, ListArgs, RestartWord, ScaleArgs, StartArgs, StopArgs,
    UpgradeArgs, VmName, VmsCommand, WaitFor,
};
pub use watch::{EventsArgs, LogsArgs, Since, StreamWord, TopArgs};

const EXAMPLES: &str = "\
Environment:
  VOLANT_API_BASE    where volantd is, as --api
  VOLANT_CONTEXT     the context to use, as --context
  VOLANT_API_KEY     the API token itself, for TCP
  VOLANT_TOKEN_FILE  a file with the API token, as --token-file
  NO_COLOR           no colours, as --color never

Exit codes:
  0 success                    5 volantd cannot be reached   124 deadline passed
  1 wrong input, failed VM     6 wrong checksum              126 not executable
  2 wrong usage                7 no capacity                 127 no such program
  3 not found                 70 a bug in Volant             130 interrupted
  4 conflict

exec, shell and run end with the exit code of what they ran; 126 and 127 are
of exec and shell, where the program could not be run in the guest.

Examples:
  volar doctor
  volar plugins install --manifest https://example.org/caddy.json
  volar run caddy
  volar vms create web --plugin caddy --cpu 1 --memory 512
  volar logs -f web
  volar shell web";

const VERSION_EXAMPLES: &str = "\
Examples:
  volar version
  volar version -o json";

const DOCTOR_EXAMPLES: &str = "\
Exits with 1 if a check fails; warnings do not count.

Examples:
  volar doctor
  sudo volar doctor -o json";

/// Runs microVMs from plugins, through volantd
#[derive(Debug, Parser)]
#[command(
    name = "volar",
    arg_required_else_help = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = EXAMPLES,
    max_term_width = 100
)]
pub struct Cli {
    /// Print the versions of volar and, if it can be reached, volantd
    #[arg(short = 'V', long)]
    pub version: bool,
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do; nothing only with `--version`.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Where volantd is: `unix:///path` or `http://host:port`
    #[arg(
        short = 'a',
        long,
        global = true,
        value_name = "URL",
        help = "Where volantd is: unix:///path, http://host:port or https://host [default: the \
                context, else the socket /run/volant/volantd.sock, else http://127.0.0.1:7777]"
    )]
    pub api: Option<String>,
    /// The context to use, as `volar context list` shows them
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with = "api",
        help = "The context to use, see `volar context` [default: the current one]"
    )]
    pub context: Option<Name>,
    /// A file with the API token, for TCP [default: /run/volant/token]
    #[arg(long, global = true, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// A file with the certificates (PEM) that vouch for volantd's, for https [default: the context's, else those of the host]
    #[arg(long, global = true, value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
    /// How to print results: table, wide, json (as the API sends it), yaml or name
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub output: Format,
    /// Print nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show each call to volantd on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// When to use colours: auto, always or never
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true
    )]
    pub color: ColorChoice,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For people with wide terminals: more columns
    Wide,
    /// The JSON of the API
    Json,
    /// The same as YAML
    Yaml,
    /// Names only, one a line
    Name,
}

impl Format {
    /// Whether it is for people.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// When colours are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a plugin or an artifact, follow what it writes, and remove it at the end
    #[command(after_help = run::EXAMPLES)]
    Run(RunArgs),
    /// Run a command in a VM
    #[command(after_help = guest::EXEC_EXAMPLES)]
    Exec(ExecArgs),
    /// Open a shell in a VM
    #[command(after_help = guest::SHELL_EXAMPLES)]
    Shell(ShellArgs),
    /// Copy files into a VM or out of it
    #[command(after_help = guest::COPY_EXAMPLES)]
    Cp(CopyArgs),
    /// Print what a VM's workload writes
    #[command(after_help = watch::LOGS_EXAMPLES)]
    Logs(LogsArgs),
    /// Show what happens to VMs and plugins, as it happens
    #[command(after_help = watch::EVENTS_EXAMPLES)]
    Events(EventsArgs),
    /// Show what the VMs use, again and again
    #[command(after_help = watch::TOP_EXAMPLES)]
    Top(TopArgs),
    /// Install and manage plugins
    #[command(subcommand, arg_required_else_help = true, after_help = plugins::EXAMPLES)]
    Plugins(PluginsCommand),
    /// Create and manage microVMs
    #[command(subcommand, arg_required_else_help = true, after_help = vms::EXAMPLES)]
    Vms(VmsCommand),
    /// Look at and clean the store of artifacts
    #[command(subcommand, arg_required_else_help = true, after_help = artifacts::EXAMPLES)]
    Artifacts(ArtifactsCommand),
    /// Look at volantd itself and what it takes of the disk
    #[command(subcommand, arg_required_else_help = true, after_help = system::EXAMPLES)]
    System(SystemCommand),
    /// Choose which volantd to talk to
    #[command(subcommand, arg_required_else_help = true, after_help = context::EXAMPLES)]
    Context(ContextCommand),
    /// Print the versions of volar and, if it can be reached, volantd
    #[command(after_help = VERSION_EXAMPLES)]
    Version,
    /// Check this host: virtualization, VMM, kernel, network, volantd
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor,
    /// Prepare this host as root: group, directories, systemd service
    #[command(after_help = setup::EXAMPLES)]
    Setup(SetupArgs),
    /// Print what makes a shell complete commands and the names of VMs and plugins
    #[command(after_help = shell::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(after_help = shell::MAN_EXAMPLES)]
    Man(ManArgs),
}
