//! `volar vms get`.

use common::name::Name;
use jiff::Timestamp;

use crate::commands::{CommandError, Context, Doing as _};
use crate::output::vm_details;

pub(in crate::commands) async fn run(context: &Context, name: &Name) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .vm(name)
        .await
        .doing(|| format!("show VM `{name}`"))?;
    Ok(context.output.result(&answer.json, &[name.as_str()], || {
        vm_details(&answer.value, Timestamp::now())
    })?)
}
