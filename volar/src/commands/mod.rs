//! One file for each command: what it asks of the daemon and what it prints. No flag or variable is read here, see `settings`.

mod doctor;
mod plugins;
mod setup;
mod version;
mod vms;

use common::api::Problem;
use common::error_chain::causes;
use common::exit_code::ExitCode;

use crate::cli::{Command, PluginsCommand, VmsCommand};
use crate::client::{Client, ClientError, Observer};
use crate::console::ConsoleError;
use crate::hints;
use crate::manifest_source::SourceError;
use crate::output::{Output, OutputError};
use crate::settings::{Settings, SettingsError, Verbosity};
use crate::setup::SetupError;
use crate::ui::{Report, Ui, show_call};
use crate::wait::WaitError;

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
    /// The number that the program ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Call { source, .. } => source.exit_code(),
            Self::Client(source) => source.exit_code(),
            Self::Wait { error, .. } => error.exit_code(),
            Self::Settings(_) | Self::Unconfirmed | Self::Checks { .. } | Self::Setup(_) => {
                ExitCode::Invalid
            }
            Self::Manifest(source) => match source {
                SourceError::Fetch { .. } | SourceError::Status { .. } => ExitCode::Unavailable,
                SourceError::SetUp(_) => ExitCode::Internal,
                SourceError::Read(_)
                | SourceError::WorkingDirectory(_)
                | SourceError::TooLarge { .. }
                | SourceError::Invalid { .. } => ExitCode::Invalid,
            },
            Self::Console { source, .. } => source.exit_code(),
            Self::Interrupted => ExitCode::Interrupted,
            Self::Output(error) if error.is_broken_pipe() => ExitCode::Success,
            Self::Output(_) => ExitCode::Invalid,
            Self::Reported(code) => *code,
        }
    }

    /// What is shown, or nothing if all was said or nobody reads it.
    pub fn report(&self) -> Option<Report> {
        let (message, causes) = match self {
            Self::Reported(_) => return None,
            Self::Output(error) if error.is_broken_pipe() => return None,
            Self::Wait { error, .. } => (error.to_string(), causes(error.as_ref())),
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
            Self::Wait { console, .. } if !console.is_empty() => {
                vec![("Last lines of its console:".to_owned(), console.clone())]
            }
            Self::Manifest(SourceError::Invalid { problems, .. }) => wrong(problems),
            Self::Call { source, .. } => match source.problem() {
                Some(Problem { errors, .. }) if !errors.is_empty() => wrong(errors),
                Some(_) | None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
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
        let (endpoint, token) = (self.settings.endpoint.clone(), self.settings.token.clone());
        Client::new(endpoint, token, observer).map_err(CommandError::Client)
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

/// Runs a command to its end.
///
/// # Errors
/// [`CommandError`], with all that a user needs to know.
pub async fn run(context: &Context, command: Command) -> Result<(), CommandError> {
    match command {
        Command::Version => version::run(context).await,
        Command::Doctor => doctor::run(context).await,
        Command::Setup(args) => setup::run(context, &args),
        Command::Plugins(command) => match command {
            PluginsCommand::Install(args) => plugins::install::run(context, &args).await,
            PluginsCommand::List => plugins::list::run(context).await,
            PluginsCommand::Show(args) => plugins::show::run(context, &args.name).await,
            PluginsCommand::Enable(args) => plugins::toggle::run(context, &args.name, true).await,
            PluginsCommand::Disable(args) => plugins::toggle::run(context, &args.name, false).await,
            PluginsCommand::Remove(args) => plugins::remove::run(context, &args.name).await,
        },
        Command::Vms(command) => match command {
            VmsCommand::Create(args) => vms::create::run(context, args).await,
            VmsCommand::List => vms::list::run(context).await,
            VmsCommand::Get(args) => vms::get::run(context, &args.name).await,
            VmsCommand::Start(args) => vms::start::run(context, args).await,
            VmsCommand::Stop(args) => vms::stop::run(context, args).await,
            VmsCommand::Restart(args) => vms::restart::run(context, args).await,
            VmsCommand::Delete(args) => vms::delete::run(context, args).await,
            VmsCommand::Logs(args) => vms::logs::run(context, &args).await,
            VmsCommand::Console(args) => vms::console::run(context, &args.name).await,
        },
    }
}

/// Prints the versions: `--version` is the same as `version`.
///
/// # Errors
/// [`CommandError`] if they cannot be printed.
pub async fn version(context: &Context) -> Result<(), CommandError> {
    version::run(context).await
}
