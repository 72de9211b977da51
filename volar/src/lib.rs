//! The command line of Volant. Does nothing by itself but talk to volantd, check this host, and prepare it.
//!
//! The way of a command: `cli` (types only) → `settings` (flag, else environment, else default) → `commands` (one file each, over
//! `client`) → `output` for results on stdout and `ui` for everything else on stderr. Exit codes are decided in
//! [`commands::CommandError`], advice in `hints`.

pub mod cli;
pub mod client;
pub mod commands;
pub mod completion;
pub mod console;
pub mod contexts;
pub mod copy;
pub mod doctor;
pub mod exec;
mod hints;
pub mod manifest_source;
pub mod output;
pub mod runnable;
pub mod settings;
pub mod setup;
pub mod terminal;
#[cfg(test)]
mod test_data;
mod tls;
pub mod ui;
pub mod wait;

use std::ffi::OsString;
use std::process::ExitCode as ProcessCode;

use clap::Parser as _;
use common::exit_code::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command, VmsCommand};
use crate::commands::{CommandError, Context};
use crate::settings::{Settings, Surroundings, Talks, color};
use crate::ui::Report;

/// Runs the program with these arguments and variables, and tells how it ended.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> ProcessCode {
    let surroundings = Surroundings::look(variables);
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if completion::answer(&arguments, &surroundings) {
        return ExitCode::Success.into();
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    let colored = color(
        cli.global.color,
        &surroundings,
        surroundings.stderr_is_terminal,
    );
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let report = Report {
                message: "Cannot start".to_owned(),
                causes: vec![error.to_string()],
                ..Report::default()
            };
            ui::report_early(&report, colored);
            return ExitCode::Internal.into();
        }
    };
    let result = runtime.block_on(interruptible(cli, surroundings));
    // A thread may still wait for a key or an answer: nobody needs it any more.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::Success.into(),
        Err(error) => {
            if let Some(report) = error.report() {
                ui::report_early(&report, colored);
            }
            error.number().into()
        }
    }
}

/// Runs the command; Ctrl-C ends it unless the command deals with that itself.
async fn interruptible(cli: Cli, surroundings: Surroundings) -> Result<(), CommandError> {
    if cli.command.as_ref().is_some_and(minds_interrupts) {
        return Box::pin(dispatch(cli, surroundings)).await;
    }
    // Asked for before the command begins: a Ctrl-C at its very first question counts too.
    let interrupt = signal(SignalKind::interrupt());
    let interrupted = async {
        match interrupt {
            Ok(mut interrupt) => interrupt.recv().await,
            // Then Ctrl-C ends the process without a word.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        result = Box::pin(dispatch(cli, surroundings)) => result,
        _ = interrupted => Err(CommandError::Interrupted),
    }
}

/// Whether a command goes on after a Ctrl-C: it passes it on, or cleans up.
const fn minds_interrupts(command: &Command) -> bool {
    matches!(
        command,
        Command::Run(_)
            | Command::Exec(_)
            | Command::Shell(_)
            | Command::Vms(VmsCommand::Exec(_) | VmsCommand::Shell(_))
    )
}

async fn dispatch(cli: Cli, surroundings: Surroundings) -> Result<(), CommandError> {
    let Cli {
        version,
        global,
        command,
    } = cli;
    let talks = match &command {
        Some(Command::Context(_) | Command::Completions(_) | Command::Man(_)) if !version => {
            Talks::ToNobody
        }
        Some(_) | None => Talks::ToDaemon,
    };
    let context = Context::new(Settings::resolve(&global, surroundings, talks)?);
    match command {
        Some(command) if !version => Box::pin(commands::run(&context, &global, command)).await,
        // clap shows the help when there is nothing at all.
        Some(_) | None => commands::version(&context).await,
    }
}

/// Prints help, or what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Help goes to stdout, where a reader may be gone already.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::Usage
    } else {
        ExitCode::Success
    }
}
