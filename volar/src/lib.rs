//! The command line of Volant. Does nothing by itself but talk to volantd, check this host, and prepare it.
//!
//! The way of a command: `cli` (types only) → `settings` (flag, else environment, else default) → `commands` (one file each, over
//! `client`) → `output` for results on stdout and `ui` for everything else on stderr. Exit codes are decided in
//! [`commands::CommandError`], advice in `hints`.

pub mod cli;
pub mod client;
pub mod commands;
pub mod console;
pub mod doctor;
mod hints;
pub mod manifest_source;
pub mod output;
pub mod settings;
pub mod setup;
#[cfg(test)]
mod test_data;
mod tls;
pub mod ui;
pub mod wait;

use std::ffi::OsString;

use clap::Parser as _;
use common::exit_code::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, GlobalArgs};
use crate::commands::{CommandError, Context};
use crate::settings::{Settings, Surroundings, color};
use crate::ui::Report;

/// Runs the program with these arguments and variables, and tells how it ended.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let surroundings = Surroundings::look(variables);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
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
            return ExitCode::Internal;
        }
    };
    let result = runtime.block_on(interruptible(cli, surroundings));
    // A thread may still wait for a key or an answer: nobody needs it any more.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            if let Some(report) = error.report() {
                ui::report_early(&report, colored);
            }
            error.exit_code()
        }
    }
}

/// Runs the command; Ctrl-C ends it unless the command deals with that itself.
async fn interruptible(cli: Cli, surroundings: Surroundings) -> Result<(), CommandError> {
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

async fn dispatch(cli: Cli, surroundings: Surroundings) -> Result<(), CommandError> {
    let Cli {
        version,
        global,
        command,
    } = cli;
    let context = context(&global, surroundings)?;
    match command {
        Some(command) if !version => commands::run(&context, command).await,
        // clap shows the help when there is nothing at all.
        Some(_) | None => commands::version(&context).await,
    }
}

fn context(flags: &GlobalArgs, surroundings: Surroundings) -> Result<Context, CommandError> {
    Ok(Context::new(Settings::resolve(flags, surroundings)?))
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
