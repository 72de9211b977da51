//! `volar logs`: lines of the workload, or the serial log as it is; made harmless where they would reach a terminal.

use std::time::Duration;

use common::api::LogEntry;
use common::exit_code::ExitCode;
use common::name::Name;
use jiff::Timestamp;

use crate::cli::{Format, LogsArgs};
use crate::client::{Client, ClientError, Follow, Log, LogPiece, LogQuery, RawLog};
use crate::commands::{CommandError, Context, Doing as _};
use crate::output::LogPrinter;
use crate::ui::Sanitizer;

/// How long volantd may be away while a log is followed.
const MAX_ABSENCE: Duration = Duration::from_mins(5);

/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

pub(in crate::commands) async fn run(
    context: &Context,
    args: &LogsArgs,
) -> Result<(), CommandError> {
    let query = LogQuery {
        follow: if args.follow {
            Follow::Onwards
        } else {
            Follow::No
        },
        tail: args.tail,
        since: args
            .since
            .map(|since| since.at(Timestamp::now()).to_string()),
        streams: args
            .stream
            .iter()
            .map(|word| word.as_str().to_owned())
            .collect(),
    };
    let is_document = matches!(context.settings.format, Format::Json | Format::Yaml);
    if query.is_console() && is_document {
        return Err(CommandError::ConsoleFormat);
    }
    let follower = Follower {
        context,
        name: &args.name,
        query,
        timestamps: args.timestamps,
    };
    let client = context.client()?;
    tokio::select! {
        biased;
        // How one stops following: not an error to talk about.
        _ = tokio::signal::ctrl_c(), if args.follow => {
            context.output.reset()?;
            Err(CommandError::Reported(ExitCode::Interrupted))
        }
        result = follower.print(&client) => result,
    }
}

/// Prints a log.
pub(in crate::commands) struct Follower<'a> {
    pub(in crate::commands) context: &'a Context,
    pub(in crate::commands) name: &'a Name,
    pub(in crate::commands) query: LogQuery,
    pub(in crate::commands) timestamps: bool,
}

impl Follower<'_> {
    /// Prints until the log ends, through absences of volantd.
    pub(in crate::commands) async fn print(&self, client: &Client) -> Result<(), CommandError> {
        let action = || format!("read the log of VM `{}`", self.name);
        let mut screen = Screen::new(self.context, self.timestamps);
        let mut last_id: Option<String> = None;
        let first = client.logs(self.name, &self.query, None).await;
        let mut log = first.doing(action)?;
        loop {
            let mut pieces = match log {
                Log::Raw(raw) => return self.print_raw(raw).await,
                Log::Lines(pieces) => pieces,
            };
            let is_cut = loop {
                match pieces.next().await {
                    Ok(Some(LogPiece::Line(line, json))) => screen.line(&line, &json)?,
                    Ok(Some(LogPiece::Bytes(bytes))) => screen.bytes(&bytes)?,
                    Ok(Some(LogPiece::Cut)) => break true,
                    Ok(Some(LogPiece::Lagged)) => {
                        screen.finish()?;
                        let ui = &self.context.ui;
                        ui.note("The log went on faster than it was read: some of it may be missing here");
                        break true;
                    }
                    Ok(None) => break false,
                    Err(error) => {
                        screen.finish()?;
                        return Err(error).doing(action);
                    }
                }
            };
            last_id = pieces.last_id().map(str::to_owned).or(last_id);
            if !is_cut || self.query.follow == Follow::No {
                return screen.finish();
            }
            log = match self.come_back(client, last_id.as_deref()).await {
                Ok(log) => log,
                // It was deleted meanwhile: that is how a followed log ends.
                Err(error) if error.exit_code() == ExitCode::NotFound => return screen.finish(),
                Err(error) => {
                    screen.finish()?;
                    return Err(error).doing(action);
                }
            };
        }
    }

    async fn come_back(&self, client: &Client, last_id: Option<&str>) -> Result<Log, ClientError> {
        let begun = std::time::Instant::now();
        loop {
            tokio::time::sleep(PAUSE).await;
            match client.logs(self.name, &self.query, last_id).await {
                Err(error) if error.is_passing() && begun.elapsed() < MAX_ABSENCE => {}
                other => return other,
            }
        }
    }

    /// Prints bytes to their end.
    async fn print_raw(&self, mut log: Box<RawLog>) -> Result<(), CommandError> {
        let mut screen = Screen::new(self.context, self.timestamps);
        loop {
            match log.next().await {
                Ok(Some(bytes)) => screen.bytes(&bytes)?,
                Ok(None) => return screen.finish(),
                Err(error) => {
                    screen.finish()?;
                    return Err(error).doing(|| format!("read the log of VM `{}`", self.name));
                }
            }
        }
    }
}

/// Prints what comes, also what goes on over several connections.
struct Screen<'a> {
    context: &'a Context,
    printer: LogPrinter,
    filter: Option<Sanitizer>,
}

impl<'a> Screen<'a> {
    fn new(context: &'a Context, timestamps: bool) -> Self {
        let output = context.output;
        Self {
            context,
            printer: LogPrinter::new(output.is_terminal(), output.has_color(), timestamps),
            filter: output
                .is_terminal()
                .then(|| Sanitizer::new(output.has_color())),
        }
    }

    fn line(&mut self, line: &LogEntry, json: &str) -> Result<(), CommandError> {
        let output = self.context.output;
        match self.context.settings.format {
            Format::Json | Format::Yaml => output.item(json, line.stream.as_str(), String::new)?,
            Format::Table | Format::Wide | Format::Name => {
                output.bytes(self.printer.text(line).as_bytes())?;
            }
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        let output = self.context.output;
        match &mut self.filter {
            Some(filter) => output.bytes(filter.push(bytes).as_bytes())?,
            None => output.bytes(bytes)?,
        }
        Ok(())
    }

    /// Ends a line that has no end, and colours: also before an error, because they must not stay on.
    fn finish(&mut self) -> Result<(), CommandError> {
        let output = self.context.output;
        output.bytes(self.printer.finish().as_bytes())?;
        if let Some(filter) = &mut self.filter {
            output.bytes(filter.finish().as_bytes())?;
        }
        Ok(())
    }
}
