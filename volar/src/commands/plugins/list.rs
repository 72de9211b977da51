//! `volar plugins list`.

use crate::client::ClientError;
use crate::commands::{CommandError, Context, Doing as _};
use crate::output::{PluginRow, plugin_table};

pub(in crate::commands) async fn run(context: &Context) -> Result<(), CommandError> {
    let client = context.client()?;
    let answer = client
        .plugins()
        .await
        .doing(|| "list the plugins".to_owned())?;
    let mut rows = Vec::new();
    // Only the table shows more than the names.
    if context.settings.format.is_text() {
        for name in &answer.value.plugins {
            match client.plugin(name).await {
                Ok(manifest) => rows.push(PluginRow {
                    manifest: manifest.value,
                }),
                // Removed since the names were listed.
                Err(ClientError::Refused(problem)) if problem.status == 404 => {}
                Err(error) => return Err(error).doing(|| format!("show plugin `{name}`")),
            }
        }
    }
    let names: Vec<&str> = answer.value.plugins.iter().map(AsRef::as_ref).collect();
    Ok(context
        .output
        .result(&answer.json, &names, || plugin_table(&rows))?)
}
