//! `volar run`: from a plugin or an artifact to a service that is followed, and gone at the end.

use std::time::Duration;

use common::api::{ConfigPatch, CreateVm, ResourcesPatch, Vm, VmStatus};
use common::exit_code::ExitCode;
use common::manifest::Manifest;
use common::name::Name;
use jiff::Timestamp;

use super::download::watched;
use super::vms::logs::Follower;
use super::vms::{Patience, failure, settle};
use super::{CommandError, Context, Doing as _};
use crate::cli::RunArgs;
use crate::client::{Answer, Change, Client, ClientError, Follow, LogQuery};
use crate::manifest_source::Daemon;
use crate::output::ready_line;
use crate::runnable::{Bare, Runnable, find, unique};
use crate::terminal::Endings;
use crate::wait::{Goal, WaitError, follow, phase};

/// How long volantd may take to fetch and verify the artifact.
const INSTALL_TIMEOUT: Duration = Duration::from_mins(10);

/// How long the last lines of a VM that is down may take to arrive. volantd has them when it is.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long a VM may take to be down before it is kept.
const STOP_TIMEOUT: Duration = Duration::from_mins(2);

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<(), CommandError> {
    let mut endings = Endings::watch()?;
    let client = context.client()?;
    let plan = tokio::select! {
        biased;
        _ = endings.next() => return Err(CommandError::Interrupted),
        plan = plan(context, &client, &args) => plan?,
    };
    let run = Run {
        context,
        client: &client,
        name: plan.create.name.clone(),
        plugin: plan.installed,
        port: plan.port,
        keep: args.keep,
    };
    let created = client.create_vm(&plan.create).await;
    let first = match created.doing(|| format!("create VM `{}`", run.name)) {
        Ok(first) => first,
        Err(error) => {
            run.remove_plugin().await?;
            return Err(error);
        }
    };
    if args.detach {
        let patience = Patience::new(Goal::Ready, false, args.timeout);
        settle(context, &client, first, patience).await?;
        let name = &run.name;
        context
            .ui
            .hint(&format!("`volar vms delete {name}` stops and removes it"));
        return Ok(());
    }
    let result = run.to_its_end(first, args.timeout, &mut endings).await;
    match (run.clean_up(&mut endings).await, result) {
        (Ok(()), result) => result.map_err(|error| without_vm(error, args.keep)),
        // What stays is said last: nothing else has to be done about the rest.
        (Err(left @ CommandError::Left(_)), _) => Err(left),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(first)) => {
            if let Some(report) = error.report() {
                context.ui.report(&report);
            }
            Err(first)
        }
    }
}

/// An error whose advice needs no VM, where that is gone.
fn without_vm(error: CommandError, is_kept: bool) -> CommandError {
    match error {
        CommandError::Wait { error, console } if !is_kept => CommandError::Run { error, console },
        other => other,
    }
}

/// What is to be done.
struct Plan {
    create: CreateVm,
    /// The plugin that was installed for this run.
    installed: Option<Name>,
    port: Option<u16>,
}

async fn plan(context: &Context, client: &Client, args: &RunArgs) -> Result<Plan, CommandError> {
    let local = context.settings.endpoint.is_local();
    let daemon = if local { Daemon::Local } else { Daemon::Remote };
    let bare = Bare {
        command: &args.args,
        port: args.port,
    };
    let now_ms = Timestamp::now().as_millisecond();
    let mut config = ConfigPatch::default();
    let (plugin, installed, port) = match find(&args.what, bare, daemon).await? {
        Runnable::Plugin(name) => {
            let action = || format!("run plugin `{name}`");
            let mut manifest = client.plugin(&name).await.doing(action)?.value;
            let port = manifest.workload.port();
            if !args.args.is_empty() {
                with_arguments(&mut manifest, &args.args);
                config.manifest = Some(manifest);
            }
            (name, None, port)
        }
        Runnable::Manifest(mut manifest) => {
            with_arguments(&mut manifest, &args.args);
            // A plugin of that name may be installed, and is none of this run's business.
            manifest.name = unique(&manifest.name, now_ms);
            install(context, client, &manifest).await?;
            let port = manifest.workload.port();
            (manifest.name.clone(), Some(manifest.name), port)
        }
    };
    let variables = args.env.iter().cloned();
    config.env = variables.map(|(key, value)| (key, Some(value))).collect();
    config.resources = (args.cpu.is_some() || args.memory.is_some()).then(|| ResourcesPatch {
        cpu_cores: args.cpu.map(Some),
        memory_mb: args.memory.map(Some),
    });
    let name = match (&args.name, &installed) {
        (Some(name), _) => name.clone(),
        (None, Some(unique)) => unique.clone(),
        (None, None) => unique(&plugin, now_ms),
    };
    let create = CreateVm {
        name,
        plugin: Some(plugin),
        runtime: None,
        cpu_cores: None,
        memory_mb: None,
        kernel_cmdline: None,
        ephemeral: None,
        api_host: None,
        api_port: None,
        config: (config != ConfigPatch::default()).then_some(config),
    };
    Ok(Plan {
        create,
        installed,
        port,
    })
}

/// The program stays, what follows it is replaced. The command of a bare artifact is there as a whole already.
fn with_arguments(manifest: &mut Manifest, arguments: &[String]) {
    let entrypoint = &mut manifest.workload.entrypoint;
    if !arguments.is_empty() && entrypoint != arguments {
        entrypoint.truncate(1);
        entrypoint.extend_from_slice(arguments);
    }
}

async fn install(
    context: &Context,
    client: &Client,
    manifest: &Manifest,
) -> Result<(), CommandError> {
    let mut progress = context.ui.progress(manifest.name.as_str());
    let url = manifest.artifact().url;
    progress.phase(&format!("volantd fetches and verifies {url}"));
    let call = client.install_plugin(manifest, INSTALL_TIMEOUT);
    let installed = watched(client, &manifest.name, &mut progress, call).await;
    progress.finish();
    installed.doing(|| format!("install plugin `{}`", manifest.name))?;
    Ok(())
}

/// A VM that is run.
struct Run<'a> {
    context: &'a Context,
    client: &'a Client,
    name: Name,
    /// The plugin that goes with it.
    plugin: Option<Name>,
    port: Option<u16>,
    keep: bool,
}

impl Run<'_> {
    /// Follows the VM until it is down or somebody presses Ctrl-C.
    async fn to_its_end(
        &self,
        first: Answer<Vm>,
        limit: Duration,
        endings: &mut Endings,
    ) -> Result<(), CommandError> {
        let begun = tokio::select! {
            biased;
            _ = endings.next() => return Err(CommandError::Reported(ExitCode::Interrupted)),
            begun = self.begin(first, limit) => begun?,
        };
        let follower = Follower {
            context: self.context,
            name: &self.name,
            query: LogQuery {
                follow: Follow::Onwards,
                ..LogQuery::default()
            },
            timestamps: false,
        };
        let logs = self.print(&follower);
        let down = self.until_down(begun);
        tokio::pin!(logs, down);
        let mut logs_ended = false;
        loop {
            tokio::select! {
                biased;
                _ = endings.next() => return Err(CommandError::Reported(ExitCode::Interrupted)),
                result = &mut logs, if !logs_ended => {
                    result?;
                    logs_ended = true;
                }
                vm = &mut down => {
                    let vm = vm?;
                    if !logs_ended && let Ok(result) = tokio::time::timeout(LAST_LINES, &mut logs).await {
                        result?;
                    }
                    return self.ended(vm).await;
                }
            }
        }
    }

    /// Prints the log. One that cannot be read does not end the run.
    async fn print(&self, follower: &Follower<'_>) -> Result<(), CommandError> {
        match follower.print(self.client).await {
            Err(CommandError::Call { source, .. }) => {
                let chain = common::error_chain::Chain(source.as_ref()).to_string();
                let text = format!("What it writes cannot be shown: {chain}");
                self.context.ui.note(&crate::ui::plain(&text));
                Ok(())
            }
            other => other,
        }
    }

    /// Waits until the guest is up, or was.
    async fn begin(&self, first: Answer<Vm>, limit: Duration) -> Result<Answer<Vm>, CommandError> {
        let mut progress = self.context.ui.progress(self.name.as_str());
        let mut watch = |vm: &Vm| progress.phase(phase(vm));
        let result = follow(self.client, Goal::Running, first, limit, &mut watch).await;
        progress.finish();
        match result {
            // What it wrote and how it ended is told as for any other end.
            Err(WaitError::Ended { vm, .. }) => Ok(Answer {
                value: *vm,
                json: String::new(),
            }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(failure(self.client, error).await),
        }
    }

    async fn until_down(&self, first: Answer<Vm>) -> Result<Vm, CommandError> {
        let mut told = false;
        let mut watch = |vm: &Vm| {
            let healthy = vm.health.state == common::agent::HealthState::Healthy;
            if healthy && vm.status == VmStatus::Running && !told {
                told = true;
                self.context.ui.note(&ready_line(vm, self.port));
            }
        };
        match follow(self.client, Goal::Down, first, Duration::MAX, &mut watch).await {
            Ok(answer) => Ok(answer.value),
            Err(error) => Err(failure(self.client, error).await),
        }
    }

    /// How the program ends with a VM that is down.
    async fn ended(&self, vm: Vm) -> Result<(), CommandError> {
        match (&vm.last_exit, vm.status) {
            (Some(exit), VmStatus::Stopped) if exit.code == 0 => Ok(()),
            (Some(exit), VmStatus::Stopped) => Err(CommandError::Guest(exit.code)),
            (None, VmStatus::Stopped) => Ok(()),
            _ => Err(failure(self.client, WaitError::of_failed(vm)).await),
        }
    }

    /// Removes what this run made; a second Ctrl-C leaves it there.
    async fn clean_up(&self, endings: &mut Endings) -> Result<(), CommandError> {
        tokio::select! {
            biased;
            result = self.remove() => result,
            _ = endings.next() => {
                let mut stays = vec![format!("VM {0} stays: `volar vms delete {0}`", self.name)];
                if let Some(plugin) = &self.plugin {
                    stays.push(format!("Plugin {plugin} stays: `volar plugins remove {plugin}`"));
                }
                Err(CommandError::Left(stays))
            }
        }
    }

    async fn remove(&self) -> Result<(), CommandError> {
        let name = &self.name;
        let mut progress = self.context.ui.progress(name.as_str());
        if self.keep {
            progress.phase("stopping; Ctrl-C leaves it as it is");
            let action = || format!("stop VM `{name}`");
            let first = self
                .client
                .change_vm(name, Change::Stop(None))
                .await
                .doing(action)?;
            let down = follow(self.client, Goal::Stopped, first, STOP_TIMEOUT, &mut |_| {}).await;
            if let Err(error) = down {
                return Err(failure(self.client, error).await);
            }
            progress.finish();
            self.context.ui.note(&format!("VM {name} is kept, stopped"));
            return Ok(());
        }
        progress.phase("stopping and removing; Ctrl-C leaves it as it is");
        match self.client.delete_vm(name).await {
            // Somebody was faster.
            Err(ClientError::Refused(problem)) if problem.status == 404 => {}
            other => other.doing(|| format!("delete VM `{name}`"))?,
        }
        self.remove_plugin().await?;
        progress.finish();
        Ok(())
    }

    async fn remove_plugin(&self) -> Result<(), CommandError> {
        let Some(plugin) = &self.plugin else {
            return Ok(());
        };
        self.client
            .remove_plugin(plugin)
            .await
            .doing(|| format!("remove plugin `{plugin}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_follow_the_program() {
        let text = r#"{"name":"a","version":"1","initramfs":{"url":"/x"},"workload":{"type":"exec","entrypoint":["/x","old"]}}"#;
        let mut manifest = Manifest::from_json(text.as_bytes()).unwrap();
        with_arguments(&mut manifest, &[]);
        assert_eq!(manifest.workload.entrypoint, ["/x", "old"]);
        with_arguments(&mut manifest, &["a".to_owned(), "b".to_owned()]);
        assert_eq!(manifest.workload.entrypoint, ["/x", "a", "b"]);
        let whole = manifest.workload.entrypoint.clone();
        with_arguments(&mut manifest, &whole);
        assert_eq!(manifest.workload.entrypoint, ["/x", "a", "b"]);
    }
}
