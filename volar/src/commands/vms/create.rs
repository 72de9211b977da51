//! `volar vms create`.

use common::api::{ConfigPatch, CreateVm};
use serde::Deserialize as _;

use super::config::{json_of, read, unwrapped};
use super::{Patience, settle};
use crate::cli::{CreateArgs, WaitFor};
use crate::client::names_artifact;
use crate::commands::download::watched;
use crate::commands::{CommandError, Context, Doing as _, JsonError};
use crate::wait::Goal;

pub(in crate::commands) async fn run(
    context: &Context,
    args: CreateArgs,
) -> Result<(), CommandError> {
    let (goal, waits) = match args.wait {
        WaitFor::Ready => (Goal::Ready, true),
        WaitFor::Running => (Goal::Running, true),
        // A job that failed is down as well, and is told apart.
        WaitFor::Stopped => (Goal::Down, true),
        WaitFor::None => (Goal::Ready, false),
    };
    let patience = Patience::new(goal, args.no_wait || !waits, args.timeout);
    let mut config = match &args.config {
        Some(path) => {
            let (value, _) = unwrapped(json_of(&read(path)?)?);
            ConfigPatch::deserialize(value).map_err(JsonError::Parse)?
        }
        None => ConfigPatch::default(),
    };
    let variables = args.env.into_iter();
    config
        .env
        .extend(variables.map(|(key, value)| (key, Some(value))));
    if let Some(policy) = args.restart {
        config.restart_policy = Some(Some(policy.into()));
    }
    let request = CreateVm {
        name: args.name,
        plugin: Some(args.plugin.clone()),
        runtime: args.runtime,
        cpu_cores: args.cpu,
        memory_mb: args.memory,
        kernel_cmdline: args.kernel_cmdline,
        ephemeral: args.ephemeral.then_some(true),
        api_host: args.api_host,
        api_port: args.api_port,
        config: (config != ConfigPatch::default()).then_some(config),
    };
    let client = context.client()?;
    let call = client.create_vm(&request);
    let first = if request.config.as_ref().is_some_and(names_artifact) {
        let mut progress = context.ui.progress(request.name.as_str());
        progress.phase("volantd takes up its configuration");
        watched(&client, &args.plugin, &mut progress, call).await
    } else {
        call.await
    };
    let first = first.doing(|| format!("create VM `{}`", request.name))?;
    settle(context, &client, first, patience).await
}
