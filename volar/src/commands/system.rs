//! `volar system …`.

use super::{CommandError, Context, Doing as _, confirmed};
use crate::cli::{PruneArgs, SystemCommand};
use crate::output::{info_details, pruned, usage_table};

pub(super) async fn run(context: &Context, command: SystemCommand) -> Result<(), CommandError> {
    match command {
        SystemCommand::Info => info(context).await,
        SystemCommand::Df => usage(context).await,
        SystemCommand::Prune(args) => prune(context, &args).await,
    }
}

async fn info(context: &Context) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .system_info()
        .await
        .doing(|| "show volantd".to_owned())?;
    let version = answer.value.version.as_str();
    Ok(context
        .output
        .result(&answer.json, &[version], || info_details(&answer.value))?)
}

async fn usage(context: &Context) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .disk_usage()
        .await
        .doing(|| "show what volantd's files take".to_owned())?;
    let kinds: Vec<&str> = answer
        .value
        .items
        .iter()
        .map(|row| row.kind.as_str())
        .collect();
    Ok(context
        .output
        .result(&answer.json, &kinds, || usage_table(&answer.value))?)
}

async fn prune(context: &Context, args: &PruneArgs) -> Result<(), CommandError> {
    let asks = !args.yes && !args.dry_run;
    if asks
        && !confirmed(
            context,
            "Remove all artifacts that nothing needs?".to_owned(),
        )
        .await
    {
        return Err(CommandError::Unconfirmed);
    }
    collect(context, args.dry_run).await
}

/// Removes what nothing needs, or tells what that is: `artifacts gc` is the same without a question.
pub(super) async fn collect(context: &Context, dry_run: bool) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .prune(dry_run)
        .await
        .doing(|| "remove unused artifacts".to_owned())?;
    let digests: Vec<String> = answer
        .value
        .removed
        .iter()
        .map(|artifact| artifact.digest.to_string())
        .collect();
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    Ok(context
        .output
        .result(&answer.json, &digests, || pruned(&answer.value))?)
}
