//! `volar plugins …` as types.

use std::time::Duration;

use clap::{Args, Subcommand};
use common::name::Name;

use super::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  volar plugins install manifest/caddy.json
  volar plugins list
  volar plugins show caddy -o json";

const INSTALL_EXAMPLES: &str = "\
The manifest is checked before anything is sent. A relative path in it is
taken from where the manifest lies. Installing a plugin again replaces it; VMs
that exist keep what they run.

Examples:
  volar plugins install plugin.cpio.gz.manifest.json
  volar plugins install --manifest https://example.org/releases/caddy.json";

const LIST_EXAMPLES: &str = "\
Examples:
  volar plugins list
  volar plugins list -o name";

const SHOW_EXAMPLES: &str = "\
Examples:
  volar plugins show caddy
  volar plugins show caddy -o json > caddy.json";

const ENABLE_EXAMPLES: &str = "\
Examples:
  volar plugins enable caddy";

const DISABLE_EXAMPLES: &str = "\
VMs that exist go on; no new ones can be created from it.

Examples:
  volar plugins disable caddy";

const REMOVE_EXAMPLES: &str = "\
Examples:
  volar plugins remove caddy";

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub enum PluginsCommand {
    /// Install a plugin from its manifest
    #[command(after_help = INSTALL_EXAMPLES)]
    Install(InstallArgs),
    /// List the installed plugins
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Show a plugin and the artifacts that it boots
    #[command(after_help = SHOW_EXAMPLES)]
    Show(PluginName),
    /// Let VMs be created from a plugin
    #[command(after_help = ENABLE_EXAMPLES)]
    Enable(PluginName),
    /// Let no more VMs be created from a plugin
    #[command(after_help = DISABLE_EXAMPLES)]
    Disable(PluginName),
    /// Remove a plugin that no VM uses
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(PluginName),
}

/// Where the manifest is.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Path or http(s) URL of the manifest
    #[arg(required_unless_present = "manifest", value_name = "MANIFEST")]
    pub source: Option<String>,
    /// The same as the argument
    #[arg(
        short,
        long,
        conflicts_with = "source",
        value_name = "PATH|URL",
        visible_alias = "url"
    )]
    pub manifest: Option<String>,
    /// How long volantd may take to fetch and verify the artifact
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub timeout: Duration,
}

impl InstallArgs {
    /// The path or URL, however it was given; clap requires one of the two.
    pub fn source(&self) -> &str {
        self.source
            .as_deref()
            .or(self.manifest.as_deref())
            .unwrap_or_default()
    }
}

/// The name of one plugin.
#[derive(Debug, Args)]
pub struct PluginName {
    /// The plugin's name
    pub name: Name,
}
