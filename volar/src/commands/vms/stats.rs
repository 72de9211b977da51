//! `volar vms stats`.

use common::name::Name;

use crate::commands::{CommandError, Context, Doing as _};
use crate::output::stats_details;

pub(in crate::commands) async fn run(context: &Context, name: &Name) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .stats(name)
        .await
        .doing(|| format!("show what VM `{name}` uses"))?;
    Ok(context.output.result(&answer.json, &[name.as_str()], || {
        stats_details(&answer.value)
    })?)
}
