//! `volar vms console`.

use common::name::Name;

use crate::commands::{CommandError, Context, Doing as _};
use crate::console::{ConsoleError, Left, attach};

pub(in crate::commands) async fn run(context: &Context, name: &Name) -> Result<(), CommandError> {
    let console = context
        .client()?
        .console(name)
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
