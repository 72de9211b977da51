//! `volar vms stop`.

use super::{Patience, settle};
use crate::cli::StopArgs;
use crate::client::Change;
use crate::commands::{CommandError, Context, Doing as _};
use crate::wait::Goal;

pub(in crate::commands) async fn run(
    context: &Context,
    args: StopArgs,
) -> Result<(), CommandError> {
    let client = context.client()?;
    let first = client
        .change_vm(&args.name, Change::Stop(args.grace))
        .await
        .doing(|| format!("stop VM `{}`", args.name))?;
    let patience = Patience::new(Goal::Stopped, args.no_wait, args.timeout);
    settle(context, &client, first, patience).await
}
