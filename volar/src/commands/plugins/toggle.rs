//! `volar plugins enable` and `disable`.

use common::name::Name;

use crate::commands::{CommandError, Context, Doing as _};

pub(in crate::commands) async fn run(
    context: &Context,
    name: &Name,
    enabled: bool,
) -> Result<(), CommandError> {
    let (verb, state) = if enabled {
        ("enable", "enabled")
    } else {
        ("disable", "disabled")
    };
    context
        .client()?
        .set_plugin_enabled(name, enabled)
        .await
        .doing(|| format!("{verb} plugin `{name}`"))?;
    Ok(context
        .output
        .done(name.as_str(), &format!("Plugin {name} is {state}"))?)
}
