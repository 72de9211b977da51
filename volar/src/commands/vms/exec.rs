//! `volar exec` and `volar shell`.

use common::agent::session::{Start, TerminalSize};
use common::name::Name;

use crate::cli::{ExecArgs, ShellArgs};
use crate::commands::{CommandError, Context, Doing as _};
use crate::exec::{ExecError, Joined, join};
use crate::terminal;

/// The size of a terminal that does not tell its own: that of the VT100.
const USUAL_SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };

pub(in crate::commands) async fn run(
    context: &Context,
    args: ExecArgs,
) -> Result<(), CommandError> {
    let joined = Joined {
        stdin: args.interactive,
        tty: args.tty,
    };
    let start = Start {
        command: args.command,
        env: args.env.into_iter().collect(),
        workdir: args.workdir,
        user: args.user,
        ..Start::default()
    };
    exec(context, &args.name, start, joined).await
}

pub(in crate::commands) async fn shell(
    context: &Context,
    args: ShellArgs,
) -> Result<(), CommandError> {
    let start = Start {
        user: args.user,
        ..Start::default()
    };
    // Commands may come from a pipe as well.
    let tty = context.settings.surroundings.stdin_is_terminal;
    exec(context, &args.name, start, Joined { stdin: true, tty }).await
}

async fn exec(
    context: &Context,
    name: &Name,
    mut start: Start,
    joined: Joined,
) -> Result<(), CommandError> {
    if joined.tty {
        if !context.settings.surroundings.stdin_is_terminal {
            return Err(CommandError::NoTerminal);
        }
        start.tty = Some(terminal::size().unwrap_or(USUAL_SIZE));
        if let Some(kind) = context.settings.surroundings.variable("TERM") {
            let kind = kind.to_owned();
            start.env.entry("TERM".to_owned()).or_insert(kind);
        }
    }
    start.stdin = joined.stdin;
    let action = || format!("run a command in VM `{name}`");
    let session = context.client()?.exec(name, &start).await.doing(action)?;
    match join(session, joined, context.output, context.ui).await {
        Ok(exit) if exit.code == 0 => Ok(()),
        Ok(exit) => Err(CommandError::Guest(exit.code)),
        Err(ExecError::Output(error)) => Err(error.into()),
        Err(ExecError::Interrupted) => Err(CommandError::Interrupted),
        Err(ExecError::Connection(source)) => Err(source).doing(action),
        Err(source) => Err(CommandError::Exec {
            name: name.to_string(),
            source: Box::new(source),
        }),
    }
}
