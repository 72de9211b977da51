//! `volar logs`: lines of the workload, or the serial log as it is; made harmless where they would reach a terminal.

use std::time::Duration;

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
        let output = self.context.output;
        let mut printer =
            LogPrinter::new(output.is_terminal(), output.has_color(), self.timestamps);
        let mut last_id: Option<String> = None;
        let mut log = client
            .logs(self.name, &self.query, None)
            .await
            .doing(action)?;
        loop {
            let mut lines = match log {
                Log::Raw(raw) => return self.print_raw(raw).await,
                Log::Lines(lines) => lines,
            };
            let mut is_cut = false;
            while let Some(piece) = lines.next().await.doing(action)? {
                match piece {
                    LogPiece::Line(line, json) if self.context.settings.format == Format::Json => {
                        output.item(&json, line.stream.as_str(), String::new)?;
                    }
                    LogPiece::Line(line, _) => output.bytes(printer.text(&line).as_bytes())?,
                    LogPiece::Cut => {
                        is_cut = true;
                        last_id = lines.last_id().map(str::to_owned).or(last_id);
                        break;
                    }
                }
            }
            output.bytes(printer.finish().as_bytes())?;
            if !is_cut || self.query.follow == Follow::No {
                return Ok(());
            }
            log = self
                .come_back(client, last_id.as_deref())
                .await
                .doing(action)?;
        }
    }

    async fn come_back(&self, client: &Client, last_id: Option<&str>) -> Result<Log, ClientError> {
        let begun = std::time::Instant::now();
        loop {
            tokio::time::sleep(PAUSE).await;
            let mut query = self.query.clone();
            // What was printed is not printed again, also where volantd gives lines no ids.
            if last_id.is_none() {
                query.tail = Some(0);
            }
            match client.logs(self.name, &query, last_id).await {
                Err(error) if error.is_passing() && begun.elapsed() < MAX_ABSENCE => {}
                other => return other,
            }
        }
    }

    /// Prints bytes to their end.
    async fn print_raw(&self, mut log: Box<RawLog>) -> Result<(), CommandError> {
        let output = self.context.output;
        let mut filter = output
            .is_terminal()
            .then(|| Sanitizer::new(output.has_color()));
        loop {
            let piece = log.next().await;
            match (&piece, &mut filter) {
                (Ok(Some(bytes)), Some(filter)) => output.bytes(filter.push(bytes).as_bytes())?,
                (Ok(Some(bytes)), None) => output.bytes(bytes)?,
                // Also before an error: a colour must not stay on.
                (Ok(None) | Err(_), Some(filter)) => output.bytes(filter.finish().as_bytes())?,
                (Ok(None) | Err(_), None) => {}
            }
            let piece = piece.doing(|| format!("read the log of VM `{}`", self.name))?;
            if piece.is_none() {
                return Ok(());
            }
        }
    }
}
