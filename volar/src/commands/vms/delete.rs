//! `volar vms delete`: one or more VMs, after a question where there is somebody to ask.

use common::exit_code::ExitCode;
use common::name::Name;

use crate::cli::DeleteArgs;
use crate::client::Client;
use crate::commands::{CommandError, Context, Doing as _, confirmed};

pub(in crate::commands) async fn run(
    context: &Context,
    args: DeleteArgs,
) -> Result<(), CommandError> {
    let client = context.client()?;
    if !args.yes && !confirmed(context, question(&args.names)).await {
        return Err(CommandError::Unconfirmed);
    }
    if let [name] = args.names.as_slice() {
        return delete(context, &client, name).await;
    }
    // One that cannot be deleted does not keep the others; the first reason is the exit code.
    let mut first_failure: Option<ExitCode> = None;
    for name in &args.names {
        if let Err(error) = delete(context, &client, name).await {
            let code = error.exit_code();
            if let Some(report) = error.report() {
                context.ui.report(&report);
            }
            first_failure.get_or_insert(code);
        }
    }
    first_failure.map_or(Ok(()), |code| Err(CommandError::Reported(code)))
}

async fn delete(context: &Context, client: &Client, name: &Name) -> Result<(), CommandError> {
    let mut progress = context.ui.progress(name.as_str());
    progress.phase("deleting");
    let result = client.delete_vm(name).await;
    progress.finish();
    result.doing(|| format!("delete VM `{name}`"))?;
    Ok(context
        .output
        .done(name.as_str(), &format!("VM {name} is deleted"))?)
}

fn question(names: &[Name]) -> String {
    let list: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let noun = if names.len() == 1 { "VM" } else { "VMs" };
    format!(
        "Delete {noun} {} and all that belongs to it?",
        list.join(", ")
    )
}
