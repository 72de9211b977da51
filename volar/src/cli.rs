//! The command line as types: names, flags, help and examples. Reads no environment and does nothing; see `settings` and `commands`.

mod duration;
mod plugins;
mod setup;
mod vms;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use duration::{InvalidDuration, parse_duration};
pub use plugins::{InstallArgs, PluginName, PluginsCommand};
pub use setup::SetupArgs;
pub use vms::{CreateArgs, DeleteArgs, LogsArgs, RunArgs, StopArgs, VmName, VmsCommand};

const EXAMPLES: &str = "\
Examples:
  volar doctor
  volar plugins install --manifest https://example.org/caddy.json
  volar vms create web --plugin caddy --cpu 1 --memory 512
  volar vms logs -f web

Environment:
  VOLANT_API_BASE    where volantd is, as --api
  VOLANT_API_KEY     the API token itself, for TCP
  VOLANT_TOKEN_FILE  a file with the API token, as --token-file
  NO_COLOR           no colours, as --color never

Exit codes:
  0 success                    5 volantd cannot be reached   124 deadline passed
  1 wrong input, failed VM     6 wrong checksum              130 interrupted
  2 wrong usage                7 no capacity
  3 not found                 70 a bug in Volant
  4 conflict";

const VERSION_EXAMPLES: &str = "\
Examples:
  volar version
  volar version -o json";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  volar doctor
  sudo volar doctor -o json

Exits with 1 if a check fails; warnings do not count.";

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
        help = "Where volantd is: unix:///path or http://host:port [default: the socket \
                /run/volant/volantd.sock, else http://127.0.0.1:7777]"
    )]
    pub api: Option<String>,
    /// A file with the API token, for TCP [default: /run/volant/token]
    #[arg(long, global = true, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// How to print results: table, json (as the API sends it) or name
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
    /// The JSON of the API
    Json,
    /// Names only, one a line
    Name,
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
    /// Install and manage plugins
    #[command(subcommand, arg_required_else_help = true, after_help = plugins::EXAMPLES)]
    Plugins(PluginsCommand),
    /// Create and manage microVMs
    #[command(subcommand, arg_required_else_help = true, after_help = vms::EXAMPLES)]
    Vms(VmsCommand),
    /// Print the versions of volar and, if it can be reached, volantd
    #[command(after_help = VERSION_EXAMPLES)]
    Version,
    /// Check this host: virtualization, VMM, kernel, network, volantd
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor,
    /// Prepare this host as root: group, directories, systemd service
    #[command(after_help = setup::EXAMPLES)]
    Setup(SetupArgs),
}
