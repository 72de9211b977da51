//! The command line: what can be typed, and how a run ends. The work is in [`crate::commands`].

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use common::error_chain;
use common::exit_code::ExitCode as Code;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::commands::build::{self, BuildArgs, BuildError};
use crate::commands::cache::CacheArgs;
use crate::commands::check::CheckArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::diff::DiffArgs;
use crate::commands::init::InitArgs;
use crate::commands::inspect::InspectArgs;
use crate::commands::keygen::KeygenArgs;
use crate::commands::serve::{ServeArgs, ServeError};
use crate::commands::sign::SignArgs;
use crate::commands::staged::is_full;
use crate::commands::verify::VerifyArgs;
use crate::commands::{self, Failure};
use crate::ui::{Ui, Verbosity};

/// Builds bootable Volant plugins.
#[derive(Debug, Parser)]
#[command(name = "fledge", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  fledge init --binary ./app                  begin with a fledge.toml and a manifest.toml
  fledge check                                find all mistakes in them
  fledge build                                build ./fledge.toml into ./plugin.cpio.gz
  fledge build --manifest manifest/web.json   and write its manifest beside it
  fledge build --help                         all flags
  fledge inspect plugin.cpio.gz               what is in it, and what it costs to boot it
  fledge diff a.cpio.gz b.cpio.gz             why they differ
  fledge keygen                               make fledge.key and fledge.pub
  fledge sign plugin.cpio.gz -s fledge.key    write plugin.cpio.gz.minisig
  fledge verify plugin.cpio.gz -p fledge.pub  check it, and the manifest beside it
  fledge serve --root plugins                 build for programs of this machine over HTTP";

#[derive(Debug, Args)]
struct OutputArgs {
    /// Say more
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,
}

impl OutputArgs {
    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an artifact from a fledge.toml
    Build(BuildArgs),
    /// Find all mistakes in a fledge.toml and its manifest
    Check(CheckArgs),
    /// Print what a shell needs to complete commands and flags
    Completions(CompletionsArgs),
    /// Write a fledge.toml and a manifest.toml to begin with
    Init(InitArgs),
    /// Show what is in an artifact, and what it costs to boot it
    Inspect(InspectArgs),
    /// Say why two artifacts differ
    Diff(DiffArgs),
    /// Make a key pair for signatures
    Keygen(KeygenArgs),
    /// Build for other programs over HTTP
    Serve(ServeArgs),
    /// Sign an artifact
    Sign(SignArgs),
    /// Check an artifact's signature and checksum
    Verify(VerifyArgs),
    /// Show or clean up what was downloaded
    Cache(CacheArgs),
    /// Print the version
    Version,
}

/// Runs the program with the arguments of the process.
pub fn run() -> ExitCode {
    let (ui, code) = match Cli::try_parse() {
        Ok(cli) => {
            let ui = Ui::new(cli.output.verbosity());
            let code = carry_out(cli.command, &ui);
            (ui, code)
        }
        Err(said) => {
            let ui = Ui::new(Verbosity::Normal);
            ui.usage(&said);
            let code = if said.use_stderr() {
                Code::Usage
            } else {
                Code::Success
            };
            (ui, code)
        }
    };
    match ui.finish() {
        Ok(()) => code.into(),
        Err(error) => {
            let lost = Unprinted(error);
            ui.error(&lost, &error_chain::causes(&lost), &[]);
            lost.exit_code(code).into()
        }
    }
}

/// A result that nobody got.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write the result to the standard output")]
struct Unprinted(#[source] std::io::Error);

impl Unprinted {
    /// The exit code of a program that would have ended with `code`. A failure of its own stands.
    fn exit_code(&self, code: Code) -> Code {
        match code {
            Code::Success | Code::Invalid if is_full(&self.0) => Code::Capacity,
            Code::Success => Code::Invalid,
            code => code,
        }
    }
}

fn carry_out(command: Command, ui: &Ui) -> Code {
    let done = |()| Code::Success;
    match command {
        Command::Build(args) => match build(args, ui) {
            Ok(()) => Code::Success,
            Err(error) => {
                ui.error(&error, &error_chain::causes(&error), &error.hints());
                error.exit_code()
            }
        },
        Command::Check(args) => commands::check::run(&args, ui),
        Command::Completions(args) => {
            commands::completions::run(&args, Cli::command(), ui);
            Code::Success
        }
        Command::Init(args) => ended(commands::init::run(&args, ui).map(done), ui),
        Command::Inspect(args) => ended(commands::inspect::run(&args, ui).map(done), ui),
        Command::Diff(args) => ended(commands::diff::run(&args, ui), ui),
        Command::Keygen(args) => ended(commands::keygen::run(args, ui).map(done), ui),
        Command::Serve(args) => ended(serve(args, ui).map(done), ui),
        Command::Sign(args) => ended(commands::sign::run(args, ui).map(done), ui),
        Command::Verify(args) => ended(commands::verify::run(args, ui).map(done), ui),
        Command::Cache(args) => ended(commands::cache::run(&args, ui).map(done), ui),
        Command::Version => {
            commands::version::run(ui);
            Code::Success
        }
    }
}

/// Says why a command failed, and how the program ends.
fn ended<E: Failure>(result: Result<Code, E>, ui: &Ui) -> Code {
    match result {
        Ok(code) => code,
        Err(error) => {
            ui.error(&error, &error_chain::causes(&error), &error.hints());
            error.exit_code()
        }
    }
}

fn build(args: BuildArgs, ui: &Ui) -> Result<(), BuildError> {
    let (runtime, interrupted) = runtime().map_err(BuildError::Runtime)?;
    let settings = args.resolve()?;
    runtime
        .block_on(build::run(&settings, ui, interrupted))
        .map(drop)
}

fn serve(args: ServeArgs, ui: &Ui) -> Result<(), ServeError> {
    let (runtime, interrupted) = runtime().map_err(ServeError::Runtime)?;
    let served = runtime.block_on(commands::serve::run(args, ui, interrupted));
    // A build that did not stop in time is not waited for any longer.
    runtime.shutdown_background();
    served
}

/// What downloads and waits for Ctrl-C, and a value that becomes true when it is pressed.
fn runtime() -> std::io::Result<(Runtime, watch::Receiver<bool>)> {
    // One thread beside the main one, which packs.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let (stop, interrupted) = watch::channel(false);
    // Both are listened for before any work begins: not even the first moment ends without a word.
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    runtime.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.send_replace(true);
        // The channel stays open: a closed one would look like an interruption that never comes.
        stop.closed().await;
    });
    Ok((runtime, interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
