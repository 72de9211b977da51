//! `volar events`: events as they come, until Ctrl-C.

use std::time::Duration;

use common::api::VmEvent;
use common::exit_code::ExitCode;
use jiff::Timestamp;

use super::{CommandError, Context, Doing as _};
use crate::cli::EventsArgs;
use crate::client::{EventQuery, Told};
use crate::output::event_line;

/// How long nothing may come until what was kept is taken to be all. volantd sends that at once.
const END_OF_KEPT: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, args: &EventsArgs) -> Result<(), CommandError> {
    let since = args.since.map(|since| since.at(Timestamp::now()));
    let query = EventQuery {
        names: args.vm.iter().map(ToString::to_string).collect(),
        types: args.types.iter().map(ToString::to_string).collect(),
        // volantd counts events and does not look for times: what is too old is left out here.
        after: args
            .after
            .or_else(|| (since.is_some() || args.no_follow).then_some(0)),
    };
    let action = || "follow the events".to_owned();
    let mut reader = context.client()?.events(query).await.doing(action)?;
    loop {
        let limit = if args.no_follow {
            END_OF_KEPT
        } else {
            Duration::MAX
        };
        let told = tokio::select! {
            biased;
            // How one stops following: not an error to talk about.
            _ = tokio::signal::ctrl_c() => return Err(CommandError::Reported(ExitCode::Interrupted)),
            told = tokio::time::timeout(limit, reader.next()) => told,
        };
        let Ok(told) = told else {
            return Ok(());
        };
        match told.doing(action)? {
            Told::Event(event, json) => {
                if since.is_none_or(|since| event.timestamp >= since) {
                    print(context, &event, &json)?;
                }
            }
            Told::Gap => context
                .ui
                .note("Some events are not kept any more and are missing here"),
            Told::Away if args.no_follow => return Ok(()),
            Told::Away => context
                .ui
                .note("The connection to volantd ended; it is made again"),
            Told::Back => context.ui.note("Connected again"),
        }
    }
}

fn print(context: &Context, event: &VmEvent, json: &str) -> Result<(), CommandError> {
    let output = context.output;
    Ok(output.item(json, event.name.as_str(), || {
        event_line(event, output.has_color())
    })?)
}
