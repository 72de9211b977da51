//! `volar artifacts …` as types.

use std::time::Duration;

use clap::{Args, Subcommand};
use common::digest::Digest;
use common::name::Name;

use super::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  volar artifacts list
  volar artifacts show sha256:e3b0c442
  volar artifacts gc --dry-run";

const LIST_EXAMPLES: &str = "\
Examples:
  volar artifacts list
  volar artifacts list -o wide";

const SHOW_EXAMPLES: &str = "\
Examples:
  volar artifacts show sha256:e3b0c442
  volar artifacts show e3b0c442 -o json";

const ADD_EXAMPLES: &str = "\
volantd fetches it and keeps it with the plugin; no VM boots it until the
plugin's manifest names it.

Examples:
  volar artifacts add caddy rootfs /srv/caddy.erofs --version 1.2.0
  volar artifacts add caddy rootfs https://example.org/caddy.erofs --version 1.2.0 --kind rootfs";

const REMOVE_EXAMPLES: &str = "\
A word with sha256: before it, or of digits of a digest alone, is the
beginning of a digest, unless a plugin has that name: then write sha256:
before the digest. A file that a plugin or VM needs stays in the store.

Examples:
  volar artifacts remove sha256:e3b0c442
  volar artifacts remove e3b0c442 --yes
  volar artifacts remove caddy --version 1.1.0";

const GC_EXAMPLES: &str = "\
It never takes what a plugin, a VM or a kept version of a VM's configuration
needs.

Examples:
  volar artifacts gc --dry-run
  volar artifacts gc";

/// What to do with artifacts.
#[derive(Debug, Subcommand)]
pub enum ArtifactsCommand {
    /// List the artifacts in the store
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Show an artifact and who needs it
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ArtifactName),
    /// Fetch an artifact for a plugin
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArtifactArgs),
    /// Let go of artifacts that are kept for a plugin, or remove an unused one
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(RemoveArtifactArgs),
    /// Remove the artifacts that nothing needs
    #[command(after_help = GC_EXAMPLES)]
    Gc(CollectArgs),
}

/// One artifact.
#[derive(Debug, Args)]
pub struct ArtifactName {
    /// Its digest, or the beginning of it
    #[arg(value_name = "DIGEST")]
    pub digest: String,
}

/// An artifact to add.
#[derive(Debug, Args)]
pub struct AddArtifactArgs {
    /// The plugin's name
    pub plugin: Name,
    /// Its name among the plugin's
    #[arg(value_name = "ARTIFACT")]
    pub artifact: String,
    /// Path or http(s) URL
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The version of the plugin
    #[arg(long, value_name = "VERSION")]
    pub version: String,
    /// What it is
    #[arg(long, default_value = "rootfs", value_parser = ["initramfs", "rootfs"])]
    pub kind: String,
    /// The SHA-256 that it must have
    #[arg(long, value_name = "DIGEST")]
    pub checksum: Option<Digest>,
    /// How long volantd may take to fetch and verify it
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Artifacts to remove.
#[derive(Debug, Args)]
pub struct RemoveArtifactArgs {
    /// The digest of an artifact that nothing needs, or the beginning of it; or a plugin, whose kept artifacts are let go
    #[arg(value_name = "PLUGIN|DIGEST")]
    pub what: String,
    /// Only those of this version of the plugin
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// How to clean.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// Only tell what would be removed
    #[arg(long)]
    pub dry_run: bool,
}
