//! `volar plugins show`.

use common::name::Name;

use crate::commands::{CommandError, Context, Doing as _};
use crate::output::plugin_details;

pub(in crate::commands) async fn run(context: &Context, name: &Name) -> Result<(), CommandError> {
    let client = context.client()?;
    let action = || format!("show plugin `{name}`");
    let manifest = client.plugin(name).await.doing(action)?;
    let artifacts = if context.settings.format.is_text() {
        client.artifacts(name).await.doing(action)?.value
    } else {
        Vec::new()
    };
    Ok(context
        .output
        .result(&manifest.json, &[name.as_str()], || {
            plugin_details(&manifest.value, &artifacts)
        })?)
}
