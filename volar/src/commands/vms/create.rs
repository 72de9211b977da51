//! `volar vms create`.

use common::api::CreateVm;

use super::{Patience, settle};
use crate::cli::CreateArgs;
use crate::commands::{CommandError, Context, Doing as _};
use crate::wait::Goal;

pub(in crate::commands) async fn run(
    context: &Context,
    args: CreateArgs,
) -> Result<(), CommandError> {
    let patience = Patience::new(Goal::Ready, args.no_wait, args.timeout);
    let request = CreateVm {
        name: args.name,
        plugin: args.plugin,
        runtime: args.runtime,
        cpu_cores: args.cpu,
        memory_mb: args.memory,
        kernel_cmdline: args.kernel_cmdline,
        ephemeral: args.ephemeral.then_some(true),
        api_host: args.api_host,
        api_port: args.api_port,
        config: None,
    };
    let client = context.client()?;
    let first = client
        .create_vm(&request)
        .await
        .doing(|| format!("create VM `{}`", request.name))?;
    settle(context, &client, first, patience).await
}
