//! What a shell asks for at a Tab: commands and flags of clap, and names of VMs, plugins and contexts. It takes half a second at most, and a
//! daemon that cannot be asked is no reason to say anything: then there are no names.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory as _};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;

use crate::cli::{Cli, GlobalArgs};
use crate::client::{Client, VmFilter};
use crate::contexts::Contexts;
use crate::settings::{Settings, Surroundings, Talks};

/// The variable that a shell's completion sets (`clap_complete`'s own choice); `volar completions` names it to the shell.
pub const VARIABLE: &str = "COMPLETE";

/// How long a Tab may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// The most names that are shown.
const MAX_NAMES: usize = 500;

/// Whose names an argument takes.
#[derive(Debug, Clone, Copy)]
enum Names {
    Vms,
    Plugins,
    Contexts,
}

/// Answers a shell if one asks.
pub fn answer(arguments: &[OsString], surroundings: &Surroundings) -> bool {
    if surroundings.variable(VARIABLE).is_none() {
        return false;
    }
    let surroundings = Arc::new(surroundings.clone());
    let factory = || with_names(Cli::command(), &surroundings);
    // What does not work at a Tab is not told at a Tab.
    CompleteEnv::with_factory(factory)
        .var(VARIABLE)
        .try_complete(arguments.iter().cloned(), None)
        .unwrap_or(true)
}

/// What a shell runs at its start, so that it asks at each Tab.
pub fn registration(shell: &str) -> Vec<u8> {
    let mut script = Vec::new();
    let shells = clap_complete::env::Shells::builtins();
    if let Some(completer) = shells.completer(shell) {
        // A vector takes all bytes.
        drop(completer.write_registration(VARIABLE, "volar", "volar", "volar", &mut script));
    }
    script
}

fn with_names(command: Command, surroundings: &Arc<Surroundings>) -> Command {
    add_names(command, "", surroundings)
}

/// Adds the names to the arguments of a command and of those below it.
fn add_names(command: Command, parent: &str, surroundings: &Arc<Surroundings>) -> Command {
    let noun = if parent.is_empty() {
        command.get_name()
    } else {
        parent
    };
    let noun = if noun == "volar" { "" } else { noun }.to_owned();
    let below = noun.clone();
    command
        .mut_args(|arg| match names_of(&noun, &arg) {
            Some(names) => {
                let around = Arc::clone(surroundings);
                arg.add(ArgValueCandidates::new(move || candidates(names, &around)))
            }
            None => arg,
        })
        .mut_subcommands(|sub| add_names(sub, &below, surroundings))
}

fn names_of(noun: &str, arg: &Arg) -> Option<Names> {
    match (noun, arg.get_id().as_str()) {
        (_, "plugin") | ("plugins", "name") | ("run", "what") => Some(Names::Plugins),
        (_, "context" | "context_name") => Some(Names::Contexts),
        // A new VM has a new name.
        ("run", "name") => None,
        (_, "name" | "names" | "vm") => Some(Names::Vms),
        (_, "source" | "target") if noun == "cp" => Some(Names::Vms),
        _ => None,
    }
}

fn candidates(names: Names, surroundings: &Surroundings) -> Vec<CompletionCandidate> {
    let found = match names {
        Names::Contexts => contexts(surroundings),
        Names::Vms | Names::Plugins => of_daemon(names, surroundings),
    };
    let found = found.unwrap_or_default();
    found
        .into_iter()
        .take(MAX_NAMES)
        .map(CompletionCandidate::new)
        .collect()
}

fn contexts(surroundings: &Surroundings) -> Option<Vec<String>> {
    let contexts = Contexts::load(&surroundings.contexts_file()?).ok()?;
    Some(contexts.contexts.keys().map(ToString::to_string).collect())
}

fn of_daemon(names: Names, surroundings: &Surroundings) -> Option<Vec<String>> {
    // Flags that stand on the line are not known here: the environment and the current context say where volantd is.
    let flags = GlobalArgs::default();
    let settings = Settings::resolve(&flags, surroundings.clone(), Talks::ToDaemon).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let asked = runtime.block_on(async {
        let client = Client::new(settings.endpoint, settings.token, None).ok()?;
        tokio::time::timeout(PATIENCE, ask(&client, names))
            .await
            .ok()?
    });
    runtime.shutdown_background();
    asked
}

async fn ask(client: &Client, names: Names) -> Option<Vec<String>> {
    match names {
        Names::Vms => {
            let vms = client.vms(&VmFilter::default()).await.ok()?.value;
            Some(vms.iter().map(|vm| vm.name.to_string()).collect())
        }
        Names::Plugins => {
            let plugins = client.plugins().await.ok()?.value.plugins;
            Some(plugins.iter().map(ToString::to_string).collect())
        }
        Names::Contexts => None,
    }
}
