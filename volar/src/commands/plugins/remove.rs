//! `volar plugins remove`.

use common::name::Name;

use crate::commands::{CommandError, Context, Doing as _};

pub(in crate::commands) async fn run(context: &Context, name: &Name) -> Result<(), CommandError> {
    context
        .client()?
        .remove_plugin(name)
        .await
        .doing(|| format!("remove plugin `{name}`"))?;
    Ok(context
        .output
        .done(name.as_str(), &format!("Plugin {name} is removed"))?)
}
