//! `volar vms config …` as types.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use common::name::Name;

pub(super) const EXAMPLES: &str = "\
Each change makes a new version, which takes effect at the next start. This is
about one VM; which volantd to talk to is a matter of volar context.

Examples:
  volar vms config get web
  volar vms config patch web '{\"resources\":{\"memory_mb\":1024}}' --restart
  volar vms config history web
  volar vms config rollback web 3";

const GET_EXAMPLES: &str = "\
Examples:
  volar vms config get web
  volar vms config get web --raw --file web.json
  volar vms config get web -o yaml";

const SET_EXAMPLES: &str = "\
What the file names is replaced, what it does not name stays. It may be the
answer of config get: then it is refused if the configuration has changed
since.

Examples:
  volar vms config set web --file web.json
  volar vms config set web --file web.json --if-version 3 --restart";

const PATCH_EXAMPLES: &str = "\
null takes a choice back: then the manifest decides again.

Examples:
  volar vms config patch web '{\"env\":{\"LOG\":\"debug\",\"OLD\":null}}'
  volar vms config patch web '{\"kernel_cmdline\":\"quiet\"}' --restart";

const HISTORY_EXAMPLES: &str = "\
Examples:
  volar vms config history web
  volar vms config history web --limit 5 -o json";

const ROLLBACK_EXAMPLES: &str = "\
The old version becomes the newest one; nothing is lost.

Examples:
  volar vms config rollback web 3";

/// What to do with a VM's configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show a VM's configuration
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
    /// Change a VM's configuration as a file says
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// Change parts of a VM's configuration
    #[command(after_help = PATCH_EXAMPLES)]
    Patch(PatchArgs),
    /// List the versions of a VM's configuration, newest first
    #[command(after_help = HISTORY_EXAMPLES)]
    History(HistoryArgs),
    /// Take up an older version again
    #[command(after_help = ROLLBACK_EXAMPLES)]
    Rollback(RollbackArgs),
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The VM's name
    pub name: Name,
    /// Write it into this file instead of to stdout
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Without its version and time
    #[arg(long)]
    pub raw: bool,
}

/// A change from a file.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The VM's name
    pub name: Name,
    /// JSON file; `-` for stdin
    #[arg(short, long, value_name = "FILE", help = "JSON file; - for stdin")]
    pub file: PathBuf,
    /// Refuse unless this is its version
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// Start the VM again, so that it takes effect
    #[arg(long)]
    pub restart: bool,
}

/// A change.
#[derive(Debug, Args)]
pub struct PatchArgs {
    /// The VM's name
    pub name: Name,
    /// The change as a JSON object
    #[arg(value_name = "JSON")]
    pub patch: String,
    /// Refuse unless this is its version
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// Start the VM again, so that it takes effect
    #[arg(long)]
    pub restart: bool,
}

/// Which versions.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The VM's name
    pub name: Name,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Which version.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The VM's name
    pub name: Name,
    /// The version to take up again
    #[arg(value_name = "VERSION")]
    pub version: u64,
}
