//! `volar plugins list`.

use crate::commands::{CommandError, Context, Doing as _};
use crate::output::plugin_table;

pub(in crate::commands) async fn run(context: &Context) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .installed_plugins()
        .await
        .doing(|| "list the plugins".to_owned())?;
    let plugins = &answer.value.plugins;
    let names: Vec<&str> = plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    let output = context.output;
    Ok(output.result(&answer.json, &names, || {
        plugin_table(plugins, output.is_wide())
    })?)
}
