//! `volar vms logs`: the serial log as it is, or made harmless where it would reach a terminal.

use common::exit_code::ExitCode;

use crate::cli::LogsArgs;
use crate::client::Follow;
use crate::commands::{CommandError, Context, Doing as _};
use crate::ui::Sanitizer;

pub(in crate::commands) async fn run(
    context: &Context,
    args: &LogsArgs,
) -> Result<(), CommandError> {
    let follow = if args.follow {
        Follow::Onwards
    } else {
        Follow::No
    };
    let action = || format!("read the log of VM `{}`", args.name);
    let client = context.client()?;
    let mut log = client
        .logs(&args.name, args.tail, follow)
        .await
        .doing(action)?;
    let output = context.output;
    let mut filter = output
        .is_terminal()
        .then(|| Sanitizer::new(output.has_color()));
    loop {
        let piece = tokio::select! {
            biased;
            // How one stops following: not an error to talk about.
            _ = tokio::signal::ctrl_c(), if args.follow => {
                if let Some(filter) = &mut filter {
                    output.bytes(filter.finish().as_bytes())?;
                }
                return Err(CommandError::Reported(ExitCode::Interrupted));
            }
            piece = log.next() => piece,
        };
        match (&piece, &mut filter) {
            (Ok(Some(bytes)), Some(filter)) => output.bytes(filter.push(bytes).as_bytes())?,
            (Ok(Some(bytes)), None) => output.bytes(bytes)?,
            // Also before an error: a colour must not stay on.
            (Ok(None) | Err(_), Some(filter)) => output.bytes(filter.finish().as_bytes())?,
            (Ok(None) | Err(_), None) => {}
        }
        if piece.doing(action)?.is_none() {
            return Ok(());
        }
    }
}
