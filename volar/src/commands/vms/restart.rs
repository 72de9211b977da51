//! `volar vms restart`.

use super::{Patience, settle};
use crate::cli::StartArgs;
use crate::client::Change;
use crate::commands::{CommandError, Context, Doing as _};
use crate::wait::Goal;

pub(in crate::commands) async fn run(
    context: &Context,
    args: StartArgs,
) -> Result<(), CommandError> {
    let client = context.client()?;
    let first = client
        .change_vm(&args.name, Change::Restart)
        .await
        .doing(|| format!("restart VM `{}`", args.name))?;
    let patience = Patience::new(Goal::Ready, args.no_wait, args.timeout);
    settle(context, &client, first, patience).await
}
