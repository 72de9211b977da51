//! `volar context …` as types.

use clap::{Args, Subcommand};
use common::name::Name;

pub(super) const EXAMPLES: &str = "\
They are kept in ~/.config/volant/config.toml, tokens in files of their own.
--api and --context go before VOLANT_API_BASE and VOLANT_CONTEXT, and those
before the current context.

Examples:
  volar context add lab --api https://lab.example.org --token-file ~/.config/volant/lab.token
  volar context use lab
  volar --context lab vms list";

const LIST_EXAMPLES: &str = "\
Examples:
  volar context list
  volar context list -o name";

const SHOW_EXAMPLES: &str = "\
Examples:
  volar context show
  volar context show lab";

const USE_EXAMPLES: &str = "\
Examples:
  volar context use lab";

const ADD_EXAMPLES: &str = "\
Adding a context again replaces it. A token is never sent over plain http to
another host.

Examples:
  volar context add local --api unix:///run/volant/volantd.sock
  volar context add lab --api https://lab.example.org --token-file lab.token --use
  volar context add lab --api https://10.1.2.3 --token-file lab.token --ca-file lab.pem";

const REMOVE_EXAMPLES: &str = "\
The token's file stays.

Examples:
  volar context remove lab";

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List the contexts
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Show a context, the current one if none is named
    #[command(after_help = SHOW_EXAMPLES)]
    Show(MaybeContextName),
    /// Make a context the current one
    #[command(after_help = USE_EXAMPLES)]
    Use(ContextName),
    /// Add or replace a context: --api says where, --token-file what proves who we are, --ca-file who vouches for it
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddContextArgs),
    /// Remove a context
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(ContextName),
}

/// The name of one context.
#[derive(Debug, Args)]
pub struct ContextName {
    /// The context's name
    #[arg(id = "context_name", value_name = "NAME")]
    pub name: Name,
}

/// The name of a context, perhaps.
#[derive(Debug, Args)]
pub struct MaybeContextName {
    /// The context's name
    #[arg(id = "context_name", value_name = "NAME")]
    pub name: Option<Name>,
}

/// A context to add.
#[derive(Debug, Args)]
pub struct AddContextArgs {
    /// The context's name
    #[arg(id = "context_name", value_name = "NAME")]
    pub name: Name,
    /// Make it the current one as well
    #[arg(long = "use")]
    pub make_current: bool,
}
