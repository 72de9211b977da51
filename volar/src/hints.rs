//! What to try after an error. The errors say what happened; this says what can be done, and nothing else.

use crate::client::{ClientError, Distrust, Endpoint};
use crate::commands::{CallError, CommandError};
use crate::contexts::ContextsError;
use crate::manifest_source::SourceError;
use crate::runnable::RunnableError;
use crate::settings::SettingsError;
use crate::setup::SetupError;
use crate::wait::WaitError;

/// What to try after `error`, most promising first.
pub(crate) fn for_error(error: &CommandError) -> Vec<String> {
    match error {
        CommandError::Call { source, .. } => for_call(source),
        CommandError::Client(source) => for_call(source),
        CommandError::Wait { error, .. } => for_wait(error),
        CommandError::Run { error, .. } => {
            let vm = error.vm().and_then(|vm| vm.failure.as_ref());
            let mut hints = vm.map_or_else(Vec::new, |failure| failure.hints.clone());
            hints.push("With --keep the VM stays, so that it can be looked at".to_owned());
            hints
        }
        CommandError::Settings(source) => for_settings(source),
        CommandError::Manifest(source) => for_manifest(source),
        CommandError::Setup(source) => for_setup(source),
        CommandError::Unconfirmed => one("Say --yes to delete without being asked"),
        CommandError::Runnable(source) => for_runnable(source),
        CommandError::Contexts(source) => for_contexts(source),
        CommandError::NoTerminal => one("Leave -t out: then the command gets pipes"),
        CommandError::ConsoleFormat => one("Leave -o out, or follow stdout, stderr and agent"),
        CommandError::Operation(CallError::Unknown { name, .. }) => {
            vec![format!("`volar vms operations {name}` lists them")]
        }
        CommandError::Artifact(_) => one("`volar artifacts list` shows the artifacts"),
        CommandError::Checks { .. }
        | CommandError::Console { .. }
        | CommandError::Exec { .. }
        | CommandError::Guest(_)
        | CommandError::Copy(_)
        | CommandError::Operation(_)
        | CommandError::Left(_)
        | CommandError::Json(_)
        | CommandError::NoAddress
        | CommandError::NoReplicas
        | CommandError::Man(_)
        | CommandError::Terminal(_)
        | CommandError::Interrupted
        | CommandError::Output(_)
        | CommandError::Reported(_) => Vec::new(),
    }
}

fn one(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

fn for_call(error: &ClientError) -> Vec<String> {
    match error {
        ClientError::NotRunning { endpoint, .. } if endpoint.is_local() => vec![
            "Start it with `sudo systemctl start volantd`, or prepare this host with `sudo volar setup`".to_owned(),
            "`volar doctor` checks this host".to_owned(),
        ],
        ClientError::NotRunning { .. } | ClientError::Connect { .. } => {
            one("Check --api and VOLANT_API_BASE, and that volantd runs there")
        }
        ClientError::Denied { endpoint: Endpoint::Unix(_), .. } => vec![
            "Only root and group `volant` may: `sudo usermod -aG volant $USER`, then log in again".to_owned(),
        ],
        ClientError::Untrusted { source: Distrust::UnknownIssuer, .. } => {
            one("Give the certificate of its authority with --ca-file, if you know that it is the right one")
        }
        ClientError::Denied { .. } => one("Check --api and VOLANT_API_BASE"),
        ClientError::Timeout { .. } => {
            one("`journalctl -u volantd -e` shows what volantd is doing")
        }
        ClientError::Cut { .. } => {
            one("volantd may have been stopped: `journalctl -u volantd -e` shows its log")
        }
        ClientError::Decode { .. } | ClientError::Status { .. } => vec![
            "Something else may listen there, or volantd has another version: compare with `volar version`".to_owned(),
        ],
        ClientError::Refused(problem) | ClientError::NotStarted(problem) => for_problem(problem),
        ClientError::SetUp(_)
        | ClientError::Untrusted { .. }
        | ClientError::TooLarge { .. }
        | ClientError::WebSocket(_) => Vec::new(),
    }
}

fn for_problem(problem: &common::api::Problem) -> Vec<String> {
    let mut hints = problem.hints.clone();
    let own = match (problem.status, problem.code.as_str()) {
        (401, _) => Some(
            "Over TCP volantd wants its token: run as root or as a member of group `volant`, or give --token-file",
        ),
        (_, "vm-not-found") => Some("`volar vms list` shows the VMs"),
        (_, "plugin-not-found") => Some("`volar plugins list` shows the plugins"),
        (_, "version-mismatch") => {
            Some("Somebody else changed it: look at it again with `volar vms config get`")
        }
        (_, "vm-exists") => Some("Choose another name, or delete the VM with `volar vms delete`"),
        _ => None,
    };
    // The daemon knows more than volar: its hints come first, and suffice where there are some.
    if hints.is_empty() {
        hints.extend(own.map(str::to_owned));
    }
    if problem.status == 500 && !problem.request_id.is_empty() {
        hints.push(format!(
            "`journalctl -u volantd | grep {}` shows the reason",
            problem.request_id
        ));
    }
    hints
}

fn for_wait(error: &WaitError) -> Vec<String> {
    match error {
        WaitError::Failed { vm, .. } => {
            let own = vm.failure.iter().flat_map(|failure| failure.hints.clone());
            own.chain([
                format!("`volar vms logs {}` shows its whole console", vm.name),
                format!("`volar vms delete {}` removes it", vm.name),
            ])
            .collect()
        }
        WaitError::Ended { vm, .. } => vec![format!(
            "`volar vms logs {}` shows its whole console",
            vm.name
        )],
        WaitError::Deadline { vm, .. } => vec![
            format!("It goes on: `volar vms get {}` shows where it is", vm.name),
            format!(
                "`volar vms logs {}` shows its whole console; --timeout waits longer",
                vm.name
            ),
        ],
        WaitError::Interrupted { name, .. } => {
            vec![format!("`volar vms get {name}` shows where it is")]
        }
        WaitError::Gone(_) => Vec::new(),
        WaitError::Poll { source, .. } => for_call(source),
    }
}

fn for_settings(error: &SettingsError) -> Vec<String> {
    match error {
        SettingsError::Endpoint { .. } => Vec::new(),
        SettingsError::Contexts(source) => for_contexts(source),
        SettingsError::ReadToken { .. } | SettingsError::Token { .. } => {
            one("volantd writes its token to /run/volant/token, readable by group `volant`")
        }
        SettingsError::PlainToken { .. } => one(
            "Put a proxy with TLS before volantd and use https, or a tunnel to a port of this host",
        ),
        SettingsError::ReadAuthorities { .. } | SettingsError::Authorities { .. } => one(
            "It is a text with `-----BEGIN CERTIFICATE-----`, as a TLS server's authority publishes it",
        ),
    }
}

fn for_contexts(error: &ContextsError) -> Vec<String> {
    match error {
        ContextsError::Unknown { .. } => one("`volar context list` shows the contexts"),
        ContextsError::NoCurrent => one("`volar context use` makes one the current one"),
        ContextsError::NoHome
        | ContextsError::Read(_)
        | ContextsError::Parse { .. }
        | ContextsError::Write(_)
        | ContextsError::Format(_) => Vec::new(),
    }
}

fn for_runnable(error: &RunnableError) -> Vec<String> {
    match error {
        RunnableError::Manifest(source) => for_manifest(source),
        RunnableError::NoCommand { path } => {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            vec![format!(
                "For example `volar run ./{file} -- /usr/bin/app --flag`"
            )]
        }
        RunnableError::Remote { .. } => {
            one("Put it where volantd can fetch it, and give the URL of a manifest")
        }
        RunnableError::Read(_) | RunnableError::Unknown { .. } | RunnableError::Bare(_) => {
            Vec::new()
        }
    }
}

fn for_manifest(error: &SourceError) -> Vec<String> {
    match error {
        SourceError::Invalid { .. } => one("Nothing was sent to volantd"),
        SourceError::Fetch { .. } | SourceError::Status { .. } => {
            one("Fetch it by other means and give its path")
        }
        SourceError::Read(_)
        | SourceError::WorkingDirectory(_)
        | SourceError::SetUp(_)
        | SourceError::TooLarge { .. } => Vec::new(),
    }
}

fn for_setup(error: &SetupError) -> Vec<String> {
    match error {
        SetupError::NotRoot => {
            one("Run `sudo volar setup`; `volar setup --dry-run` shows what it would do")
        }
        SetupError::NoDaemon { .. } => one("Install volantd beside volar, then run this again"),
        SetupError::ConfigExists { path } => vec![format!(
            "Change it there, then `sudo systemctl restart volantd`: {}",
            path.display()
        )],
        SetupError::HostOutside { .. } | SetupError::ServiceFile { .. } | SetupError::Locate(_) => {
            Vec::new()
        }
        SetupError::Step { .. } => {
            one("Run it again when the cause is removed: what is done already stays as it is")
        }
    }
}
