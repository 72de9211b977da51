//! `volar system …` as types.

use clap::{Args, Subcommand};

pub(super) const EXAMPLES: &str = "\
Examples:
  volar system info
  volar system df
  volar system prune --dry-run";

const INFO_EXAMPLES: &str = "\
Examples:
  volar system info
  volar system info -o json";

const DF_EXAMPLES: &str = "\
Examples:
  volar system df
  volar system df -o json";

const PRUNE_EXAMPLES: &str = "\
It removes artifacts that no plugin, no VM and no kept version of a VM's
configuration needs, and the boot media made of them. VMs, plugins and their
data stay. On a terminal it asks first, unless --yes is given.

Examples:
  volar system prune --dry-run
  volar system prune --yes";

/// What to ask of the daemon.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show the daemon: version, addresses, VMM
    #[command(after_help = INFO_EXAMPLES)]
    Info,
    /// Show what its files take of the disk
    #[command(after_help = DF_EXAMPLES)]
    Df,
    /// Remove files that nothing needs
    #[command(after_help = PRUNE_EXAMPLES)]
    Prune(PruneArgs),
}

/// How to clean.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only tell what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}
