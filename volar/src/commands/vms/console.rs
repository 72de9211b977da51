//! `volar vms console`.

use crate::cli::ConsoleArgs;
use crate::client::Writing;
use crate::commands::{CommandError, Context, Doing as _};
use crate::console::{ConsoleError, Left, attach};

pub(in crate::commands) async fn run(
    context: &Context,
    args: &ConsoleArgs,
) -> Result<(), CommandError> {
    let name = &args.name;
    let writing = match (args.write, args.force, args.watch) {
        (_, true, _) => Writing::Force,
        (true, ..) => Writing::Now,
        (.., true) => Writing::Never,
        (false, false, false) => Writing::First,
    };
    let console = context
        .client()?
        .console(name, writing)
        .await
        .doing(|| format!("open the console of VM `{name}`"))?;
    context.ui.note(&format!(
        "Attached to the console of VM {name}; Ctrl-] leaves it"
    ));
    let terminal = context.settings.surroundings.stdin_is_terminal;
    let left = attach(console, terminal, context.output)
        .await
        .map_err(|error| match error {
            ConsoleError::Output(error) => CommandError::Output(error),
            ConsoleError::Interrupted => CommandError::Interrupted,
            source => CommandError::Console {
                name: name.to_string(),
                source: Box::new(source),
            },
        })?;
    match left {
        Left::ByUser => context
            .ui
            .note(&format!("\nLeft the console; VM {name} goes on")),
        Left::ByDaemon => context
            .ui
            .note(&format!("\nThe console of VM {name} is gone")),
    }
    Ok(())
}
