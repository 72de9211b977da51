//! `volar vms …`, one file for each command, and what several of them share: waiting and telling how it went.

pub(super) mod config;
pub(super) mod console;
pub(super) mod copy;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod exec;
pub(super) mod get;
pub(super) mod list;
pub(super) mod logs;
pub(super) mod operations;
pub(super) mod pause;
pub(super) mod restart;
pub(super) mod scale;
pub(super) mod start;
pub(super) mod stats;
pub(super) mod stop;
pub(super) mod upgrade;

use std::time::Duration;

use common::api::{Vm, VmStatus};
use common::name::Name;

use super::{CommandError, Context};
use crate::client::{Answer, Client, Log, LogQuery};
use crate::output::ready_line;
use crate::ui::Sanitizer;
use crate::wait::{Goal, WaitError, phase, wait};

/// Lines of the console that are shown with a failure: a kernel panic or a workload's last words fit.
const CONSOLE_LINES: u32 = 15;

/// How long those lines may take. The failure itself must not wait for them.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(5);

/// The longest line of a console that is shown with a failure, in characters.
const MAX_CONSOLE_LINE_CHARS: usize = 300;

/// How long a command waits, if at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    goal: Goal,
    limit: Option<Duration>,
}

impl Patience {
    pub(super) fn new(goal: Goal, no_wait: bool, timeout: Duration) -> Self {
        Self {
            goal,
            limit: (!no_wait).then_some(timeout),
        }
    }
}

/// Waits as asked and prints how it went.
pub(super) async fn settle(
    context: &Context,
    client: &Client,
    first: Answer<Vm>,
    patience: Patience,
) -> Result<(), CommandError> {
    let name = first.value.name.clone();
    let Patience { goal, limit } = patience;
    let Some(limit) = limit else {
        return print_accepted(context, &first);
    };
    let mut progress = context.ui.progress(name.as_str());
    let result = wait(client, goal, first, limit, |vm| progress.phase(phase(vm))).await;
    progress.finish();
    match result {
        Ok(answer) if goal == Goal::Down && answer.value.status != VmStatus::Stopped => {
            Err(failure(client, WaitError::of_failed(answer.value)).await)
        }
        Ok(answer) => print_reached(context, client, goal, &answer).await,
        Err(error) => Err(failure(client, error).await),
    }
}

fn print_accepted(context: &Context, answer: &Answer<Vm>) -> Result<(), CommandError> {
    let vm = &answer.value;
    Ok(context
        .output
        .result(&answer.json, &[vm.name.as_str()], || {
            format!("VM {} is {}", vm.name, vm.status.as_str())
        })?)
}

async fn print_reached(
    context: &Context,
    client: &Client,
    goal: Goal,
    answer: &Answer<Vm>,
) -> Result<(), CommandError> {
    let vm = &answer.value;
    let port = match goal {
        // Only to show a URL: without the manifest the address is shown.
        Goal::Ready => match client.plugin(&vm.plugin).await {
            Ok(manifest) => manifest.value.workload.port(),
            Err(_) => None,
        },
        Goal::Running | Goal::Stopped | Goal::Down => None,
    };
    context
        .output
        .result(&answer.json, &[vm.name.as_str()], || match goal {
            Goal::Ready => ready_line(vm, port),
            Goal::Running | Goal::Stopped | Goal::Down => {
                format!("VM {} is {}", vm.name, vm.status.as_str())
            }
        })?;
    if vm.accelerator.as_deref() == Some("tcg") && goal == Goal::Ready {
        context.ui.note(
            "It runs in software emulation, which is slow: `volar doctor` says what keeps KVM from being used",
        );
    }
    Ok(())
}

/// An error of waiting, with the end of the console where that may tell more.
pub(super) async fn failure(client: &Client, error: WaitError) -> CommandError {
    let console = match error.vm() {
        Some(vm) => last_lines(client, &vm.name).await,
        None => Vec::new(),
    };
    CommandError::Wait {
        error: Box::new(error),
        console,
    }
}

/// The last lines of a console; none if they cannot be had at once.
async fn last_lines(client: &Client, name: &Name) -> Vec<String> {
    let query = LogQuery {
        tail: Some(CONSOLE_LINES),
        streams: vec!["console".to_owned()],
        ..LogQuery::default()
    };
    let read = async {
        let mut text = String::new();
        let Log::Raw(mut log) = client.logs(name, &query, None).await? else {
            return Ok(text);
        };
        let mut filter = Sanitizer::new(false);
        while let Some(bytes) = log.next().await? {
            text.push_str(&filter.push(&bytes));
        }
        text.push_str(&filter.finish());
        Ok::<_, crate::client::ClientError>(text)
    };
    match tokio::time::timeout(CONSOLE_PATIENCE, read).await {
        Ok(Ok(text)) => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.chars().take(MAX_CONSOLE_LINE_CHARS).collect())
            .collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}
