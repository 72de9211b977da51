//! `volar vms pause` and `resume`: they answer when it is done.

use common::name::Name;

use crate::client::Change;
use crate::commands::{CommandError, Context, Doing as _};

pub(in crate::commands) async fn run(
    context: &Context,
    name: &Name,
    change: Change,
) -> Result<(), CommandError> {
    let verb = if change == Change::Pause {
        "pause"
    } else {
        "resume"
    };
    let answer = context
        .client()?
        .change_vm(name, change)
        .await
        .doing(|| format!("{verb} VM `{name}`"))?;
    let status = answer.value.status.as_str();
    Ok(context.output.result(&answer.json, &[name.as_str()], || {
        format!("VM {name} is {status}")
    })?)
}
