//! What a shell asks for at a Tab: commands and flags of clap, and names of VMs, plugins and contexts. It takes half a second at most, and a
//! daemon that cannot be asked is no reason to say anything: then there are no names. Flags that stand on the line already say which
//! daemon.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};
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

/// What says where names come from.
struct Around {
    /// The flags on the line.
    flags: GlobalArgs,
    surroundings: Surroundings,
}

/// Answers a shell if one asks.
pub fn answer(arguments: &[OsString], surroundings: &Surroundings) -> bool {
    if surroundings.variable(VARIABLE).is_none() {
        return false;
    }
    let around = Arc::new(Around {
        flags: typed_flags(arguments, surroundings),
        surroundings: surroundings.clone(),
    });
    let factory = || with_names(Cli::command(), &around);
    // What does not work at a Tab is not told at a Tab.
    CompleteEnv::with_factory(factory)
        .var(VARIABLE)
        .try_complete(arguments.iter().cloned(), None)
        .unwrap_or(true)
}

/// The flags in what is typed so far, as far as it can be understood. Shells give the words behind `--` (`clap_complete`'s own way).
fn typed_flags(arguments: &[OsString], surroundings: &Surroundings) -> GlobalArgs {
    let words = arguments.iter().skip_while(|word| *word != "--").skip(1);
    let found = Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(words)
        .and_then(|matches| GlobalArgs::from_arg_matches(&matches));
    let mut flags = found.unwrap_or_default();
    // A shell expands `~` only when it runs the line.
    let home = surroundings.variable("HOME");
    for path in [&mut flags.token_file, &mut flags.ca_file] {
        let below_home = path.as_ref().and_then(|path| path.strip_prefix("~").ok());
        if let (Some(home), Some(below_home)) = (home, below_home) {
            *path = Some(Path::new(home).join(below_home));
        }
    }
    flags
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

fn with_names(command: Command, around: &Arc<Around>) -> Command {
    add_names(command, "", around)
}

/// Adds the names to the arguments of a command and of those below it.
fn add_names(command: Command, parent: &str, around: &Arc<Around>) -> Command {
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
                let around = Arc::clone(around);
                arg.add(ArgValueCandidates::new(move || candidates(names, &around)))
            }
            None => arg,
        })
        .mut_subcommands(|sub| add_names(sub, &below, around))
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

fn candidates(names: Names, around: &Around) -> Vec<CompletionCandidate> {
    let found = match names {
        Names::Contexts => contexts(&around.surroundings),
        Names::Vms | Names::Plugins => of_daemon(names, around),
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

fn of_daemon(names: Names, around: &Around) -> Option<Vec<String>> {
    let settings =
        Settings::resolve(&around.flags, around.surroundings.clone(), Talks::ToDaemon).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let asked = runtime.block_on(async {
        let client = Client::new(
            settings.endpoint,
            settings.token,
            settings.authorities,
            None,
        )
        .ok()?;
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
