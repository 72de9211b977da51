//! One file for each command: what it asks of the daemon and what it prints. No flag or variable is read here, see `settings`.

mod artifacts;
mod context;
mod doctor;
mod download;
mod events;
mod man;
mod plugins;
mod run;
mod setup;
mod system;
mod top;
mod version;
mod vms;

use std::io;

use common::api::Problem;
use common::error_chain::causes;
use common::exit_code::ExitCode;

use crate::cli::{Command, GlobalArgs, PluginsCommand, VmsCommand};
use crate::client::{Change, Client, ClientError, Observer};
use crate::completion;
use crate::console::ConsoleError;
use crate::contexts::ContextsError;
use crate::exec::ExecError;
use crate::hints;
use crate::manifest_source::SourceError;
use crate::output::{Output, OutputError};
use crate::runnable::RunnableError;
use crate::settings::{Settings, SettingsError, Verbosity};
use crate::setup::SetupError;
use crate::terminal::TerminalError;
use crate::ui::{Report, Ui, show_call};
use crate::wait::WaitError;

pub use artifacts::ArtifactError;
pub use man::ManError;
pub use vms::copy::CopyError;
pub use vms::operations::CallError;

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A flag or variable.
    #[error("Cannot use the given settings")]
    Settings(#[from] SettingsError),
    /// The client could not be made.
    #[error("Cannot prepare to talk to volantd")]
    Client(#[source] ClientError),
    /// A call to the daemon.
    #[error("Cannot {action}")]
    Call {
        /// What was to be done, such as ``start VM `web` ``.
        action: String,
        /// The cause.
        #[source]
        source: Box<ClientError>,
    },
    /// A VM that is not where it should be.
    #[error("{error}")]
    Wait {
        /// What happened.
        error: Box<WaitError>,
        /// The last lines of its console.
        console: Vec<String>,
    },
    /// The same for one that was removed thereupon.
    #[error("{error}")]
    Run {
        /// What happened.
        error: Box<WaitError>,
        /// The last lines of its console.
        console: Vec<String>,
    },
    /// A manifest that cannot be used.
    #[error("Cannot install the plugin")]
    Manifest(#[from] SourceError),
    /// The console.
    #[error("Cannot go on with the console of VM `{name}`")]
    Console {
        /// The VM.
        name: String,
        /// The cause.
        #[source]
        source: Box<ConsoleError>,
    },
    /// A command in a guest.
    #[error("Cannot go on with the command in VM `{name}`")]
    Exec {
        /// The VM.
        name: String,
        /// The cause.
        #[source]
        source: Box<ExecError>,
    },
    /// A command in a guest, or what was run, ended with this code.
    #[error("It ended with exit code {0}")]
    Guest(i32),
    /// `-t` where there is none.
    #[error("There is no terminal to give to the command")]
    NoTerminal,
    /// `scale --replicas`.
    #[error(
        "A VM has no replicas: they are a matter of deployments, which this version does not have"
    )]
    NoReplicas,
    /// Console bytes as documents.
    #[error("The console is bytes without lines: it has no JSON and no YAML")]
    ConsoleFormat,
    /// A copy.
    #[error("Cannot copy")]
    Copy(#[from] CopyError),
    /// A call of a workload's API.
    #[error("Cannot call the workload")]
    Operation(#[from] CallError),
    /// What was to be run.
    #[error("Cannot run it")]
    Runnable(#[from] RunnableError),
    /// Left at the second Ctrl-C: these things stay.
    #[error("Interrupted before everything was removed")]
    Left(Vec<String>),
    /// JSON that the user gave.
    #[error("The JSON cannot be used")]
    Json(#[from] JsonError),
    /// The store.
    #[error("Cannot show the artifact")]
    Artifact(#[from] ArtifactError),
    /// The user's contexts.
    #[error("Cannot use the contexts")]
    Contexts(#[from] ContextsError),
    /// `context add` without `--api`.
    #[error("A context needs an address: give it with --api")]
    NoAddress,
    /// The manual.
    #[error(transparent)]
    Man(#[from] ManError),
    /// The user's terminal.
    #[error("The terminal cannot be used")]
    Terminal(#[from] TerminalError),
    /// Preparing the host.
    #[error("Cannot prepare this host")]
    Setup(#[from] SetupError),
    /// The user said no.
    #[error("Nothing was deleted")]
    Unconfirmed,
    /// Checks that failed.
    #[error("{failed} of {total} checks failed")]
    Checks {
        /// Failures.
        failed: usize,
        /// All checks.
        total: usize,
    },
    /// Ctrl-C.
    #[error("Interrupted")]
    Interrupted,
    /// stdout.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// All was said already.
    #[error("Not everything succeeded")]
    Reported(ExitCode),
}

impl CommandError {
    /// The number that the program ends with: that of what ran in a guest, or one of our own.
    pub fn number(&self) -> u8 {
        match self {
            // What is no exit code, as no kernel gives it, is a failure at least.
            Self::Guest(code) => u8::try_from(*code).unwrap_or(u8::MAX),
            other => other.exit_code().number(),
        }
    }

    /// Which of our own exit codes it is.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Call { source, .. } => source.exit_code(),
            Self::Client(source) => source.exit_code(),
            Self::Wait { error, .. } | Self::Run { error, .. } => error.exit_code(),
            Self::Contexts(ContextsError::Unknown { .. })
            | Self::Artifact(ArtifactError::Unknown(_))
            | Self::Copy(CopyError::NotInGuest { .. }) => ExitCode::NotFound,
            Self::Copy(CopyError::Silence) => ExitCode::Unavailable,
            Self::Copy(CopyError::Lost) => ExitCode::Internal,
            Self::Operation(source) => source.exit_code(),
            Self::Exec { source, .. } => source.exit_code(),
            Self::Manifest(source) | Self::Runnable(RunnableError::Manifest(source)) => {
                of_manifest(source)
            }
            Self::Console { source, .. } => source.exit_code(),
            Self::ConsoleFormat => ExitCode::Usage,
            Self::Interrupted | Self::Left(_) => ExitCode::Interrupted,
            Self::Output(error) if error.is_broken_pipe() => ExitCode::Success,
            Self::Settings(_)
            | Self::Unconfirmed
            | Self::Checks { .. }
            | Self::Setup(_)
            | Self::Guest(_)
            | Self::NoTerminal
            | Self::NoReplicas
            | Self::Json(_)
            | Self::NoAddress
            | Self::Man(_)
            | Self::Terminal(_)
            | Self::Contexts(_)
            | Self::Artifact(_)
            | Self::Copy(_)
            | Self::Runnable(_)
            | Self::Output(_) => ExitCode::Invalid,
            Self::Reported(code) => *code,
        }
    }

    /// What is shown, or nothing if all was said or nobody reads it.
    pub fn report(&self) -> Option<Report> {
        let (message, causes) = match self {
            Self::Reported(_) | Self::Guest(_) => return None,
            Self::Output(error) if error.is_broken_pipe() => return None,
            Self::Wait { error, .. } | Self::Run { error, .. } => {
                (error.to_string(), causes(error.as_ref()))
            }
            other => (other.to_string(), causes(other)),
        };
        Some(Report {
            message,
            causes,
            details: self.details(),
            hints: hints::for_error(self),
        })
    }

    fn details(&self) -> Vec<(String, Vec<String>)> {
        let wrong = |problems: &[common::manifest::FieldProblem]| {
            let lines = problems.iter().map(ToString::to_string).collect();
            vec![("What is wrong:".to_owned(), lines)]
        };
        match self {
            Self::Wait { console, .. } | Self::Run { console, .. } if !console.is_empty() => {
                vec![("Last lines of its console:".to_owned(), console.clone())]
            }
            Self::Manifest(SourceError::Invalid { problems, .. })
            | Self::Runnable(RunnableError::Manifest(SourceError::Invalid { problems, .. })) => {
                wrong(problems)
            }
            Self::Runnable(RunnableError::Bare(error)) => wrong(&error.problems),
            Self::Left(stays) => vec![("What stays:".to_owned(), stays.clone())],
            Self::Call { source, .. } => match source.problem() {
                Some(Problem { errors, .. }) if !errors.is_empty() => wrong(errors),
                Some(_) | None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

const fn of_manifest(source: &SourceError) -> ExitCode {
    match source {
        SourceError::Fetch { .. } | SourceError::Status { .. } => ExitCode::Unavailable,
        SourceError::SetUp(_) => ExitCode::Internal,
        SourceError::Read(_)
        | SourceError::WorkingDirectory(_)
        | SourceError::TooLarge { .. }
        | SourceError::Invalid { .. } => ExitCode::Invalid,
    }
}

/// JSON that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// It cannot be read.
    #[error("It cannot be read")]
    Read(#[source] io::Error),
    /// It cannot be written.
    #[error("It cannot be written")]
    Write(#[source] io::Error),
    /// It is not what it should be.
    #[error("It is not as it should be")]
    Parse(#[source] serde_json::Error),
    /// It is something else than an object.
    #[error("It must be an object: {{...}}")]
    NoObject,
}

/// What every command works with.
#[derive(Debug)]
pub struct Context {
    /// Everything that was resolved.
    pub settings: Settings,
    /// For results.
    pub output: Output,
    /// For people.
    pub ui: Ui,
}

impl Context {
    /// A context of these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            output: Output::new(&settings),
            ui: Ui::new(&settings),
            settings,
        }
    }

    fn client(&self) -> Result<Client, CommandError> {
        let observer: Observer = show_call;
        let observer = (self.settings.verbosity == Verbosity::Verbose).then_some(observer);
        let settings = self.settings.clone();
        let (endpoint, token) = (settings.endpoint, settings.token);
        Client::new(endpoint, token, settings.authorities, observer).map_err(CommandError::Client)
    }
}

/// Names the call that failed.
trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, CommandError>;
}

impl<T> Doing<T> for Result<T, ClientError> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, CommandError> {
        self.map_err(|source| CommandError::Call {
            action: action(),
            source: Box::new(source),
        })
    }
}

/// Asks on another thread, so that Ctrl-C ends the program meanwhile. Where nobody can be asked, the answer is yes.
async fn confirmed(context: &Context, question: String) -> bool {
    let ui = context.ui;
    if !ui.can_ask() {
        return true;
    }
    tokio::task::spawn_blocking(move || ui.confirm(&question))
        .await
        .unwrap_or(false)
}

/// Runs a command to its end. `flags` are for what is not a setting there but the matter itself.
///
/// # Errors
/// [`CommandError`], with all that a user needs to know.
pub async fn run(
    context: &Context,
    flags: &GlobalArgs,
    command: Command,
) -> Result<(), CommandError> {
    match command {
        Command::Run(args) => run::run(context, args).await,
        Command::Exec(args) => vms::exec::run(context, args).await,
        Command::Shell(args) => vms::exec::shell(context, args).await,
        Command::Cp(args) => vms::copy::run(context, args).await,
        Command::Logs(args) => vms::logs::run(context, &args).await,
        Command::Events(args) => events::run(context, &args).await,
        Command::Top(args) => top::run(context, &args).await,
        Command::Version => version::run(context).await,
        Command::Doctor => doctor::run(context).await,
        Command::Setup(args) => setup::run(context, &args),
        Command::Plugins(command) => of_plugins(context, command).await,
        Command::Vms(command) => of_vms(context, command).await,
        Command::Artifacts(command) => artifacts::run(context, command).await,
        Command::System(command) => system::run(context, command).await,
        Command::Context(command) => context::run(context, flags, command),
        Command::Completions(args) => {
            let script = completion::registration(args.shell.as_str());
            Ok(context.output.bytes(&script)?)
        }
        Command::Man(args) => man::run(context, &args),
    }
}

async fn of_plugins(context: &Context, command: PluginsCommand) -> Result<(), CommandError> {
    match command {
        PluginsCommand::Install(args) => plugins::install::run(context, &args).await,
        PluginsCommand::List => plugins::list::run(context).await,
        PluginsCommand::Show(args) => plugins::show::run(context, &args.name).await,
        PluginsCommand::Enable(args) => plugins::toggle::run(context, &args.name, true).await,
        PluginsCommand::Disable(args) => plugins::toggle::run(context, &args.name, false).await,
        PluginsCommand::Remove(args) => plugins::remove::run(context, &args.name).await,
    }
}

async fn of_vms(context: &Context, command: VmsCommand) -> Result<(), CommandError> {
    match command {
        VmsCommand::Create(args) => vms::create::run(context, args).await,
        VmsCommand::List(args) => vms::list::run(context, args).await,
        VmsCommand::Get(args) => vms::get::run(context, &args.name).await,
        VmsCommand::Start(args) => vms::start::run(context, args).await,
        VmsCommand::Stop(args) => vms::stop::run(context, args).await,
        VmsCommand::Restart(args) => vms::restart::run(context, args).await,
        VmsCommand::Delete(args) => vms::delete::run(context, args).await,
        VmsCommand::Pause(args) => vms::pause::run(context, &args.name, Change::Pause).await,
        VmsCommand::Resume(args) => vms::pause::run(context, &args.name, Change::Resume).await,
        VmsCommand::Upgrade(args) => vms::upgrade::run(context, args).await,
        VmsCommand::Scale(args) => vms::scale::run(context, &args).await,
        VmsCommand::Config(command) => vms::config::run(context, command).await,
        VmsCommand::Logs(args) => vms::logs::run(context, &args).await,
        VmsCommand::Console(args) => vms::console::run(context, &args).await,
        VmsCommand::Exec(args) => vms::exec::run(context, args).await,
        VmsCommand::Shell(args) => vms::exec::shell(context, args).await,
        VmsCommand::Cp(args) => vms::copy::run(context, args).await,
        VmsCommand::Stats(args) => vms::stats::run(context, &args.name).await,
        VmsCommand::Operations(args) => vms::operations::list(context, &args.name).await,
        VmsCommand::Call(args) => vms::operations::call(context, args).await,
    }
}

/// Prints the versions: `--version` is the same as `version`.
///
/// # Errors
/// [`CommandError`] if they cannot be printed.
pub async fn version(context: &Context) -> Result<(), CommandError> {
    version::run(context).await
}
