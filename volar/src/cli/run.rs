//! `volar run` as types.

use std::time::Duration;

use clap::Args;
use common::name::Name;

use super::parse_duration;
use super::vms::parse_variable;

pub(super) const EXAMPLES: &str = "\
It takes the name of a plugin, a manifest (path or URL), or an artifact: an
initramfs or a root file system, with a manifest beside it
(FILE.manifest.json) or without; then the command after -- is what runs. A
manifest or artifact is installed under a name of its own for as long as it
runs.

It follows what the workload writes and ends with its exit code. Ctrl-C stops
the VM and removes it; a second one leaves at once and says what stays.

Examples:
  volar run caddy
  volar run caddy.json --memory 512 -e LOG=debug
  volar run plugin.cpio.gz
  volar run root.erofs --port 80 -- /usr/bin/app
  volar run -d --name web caddy";

/// What to run, and how.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A plugin's name, or path or URL of a manifest, or path of an artifact
    #[arg(value_name = "ARTIFACT|PLUGIN")]
    pub what: String,
    /// Leave it running and return as soon as it is ready
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the VM, stopped, at the end
    #[arg(long)]
    pub keep: bool,
    /// The VM's name [default: made from what is run]
    #[arg(long)]
    pub name: Option<Name>,
    /// A variable for the workload's environment
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,
    /// Number of vCPUs [default: the plugin's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpu: Option<u32>,
    /// Memory in MiB [default: the plugin's]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: Option<u32>,
    /// The port at which an artifact without a manifest serves HTTP: it is ready when it accepts connections there
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// How long to wait until it is ready
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Instead of the workload's arguments; the whole command of an artifact without a manifest
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}
