//! Commands that watch, as types: events, logs, top.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use common::api::EventType;
use common::name::Name;
use jiff::Timestamp;

use super::parse_duration;

pub(super) const EVENTS_EXAMPLES: &str = "\
It goes on until Ctrl-C; when the connection ends it comes back and goes on
after the last event. VM_LOG and DOWNLOAD events come only if --type names
them. With -o json each event is one line.

Examples:
  volar events
  volar events --vm web --type VM_HEALTH,VM_RESTART
  volar events --since 10m -o json
  volar events --after 4711 --no-follow";

pub(super) const LOGS_EXAMPLES: &str = "\
Streams: stdout and stderr of the workload, agent (its ends and restarts), and
console (what the guest wrote to its serial console, from its first byte). On
a terminal, control sequences other than colours are left out, because the
guest is not trusted; into a file or pipe it is written as it is.

Examples:
  volar logs web
  volar logs -f --tail 20 web
  volar logs web --since 10m --stream stderr -t
  volar logs web --stream console > boot.log";

pub(super) const TOP_EXAMPLES: &str = "\
CPU is of one host CPU: 100% is one of them busy. Memory is the VMM's share on
the host (PSS), then what is used in the guest. Where stdout is no terminal it
prints once. Ctrl-C ends it.

Examples:
  volar top
  volar top --once
  volar top --once -o json";

/// Which events.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only events of this VM or plugin; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub vm: Vec<Name>,
    /// Only events of this type
    #[arg(help = "Only events of this type, such as VM_RUNNING; may be repeated", long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = parse_event_type)]
    pub types: Vec<EventType>,
    /// Begin with events of so long ago, or since a time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Begin after the event of this number; 0 for all that are kept
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    pub after: Option<u64>,
    /// End with what was kept, once nothing comes any more for a moment
    #[arg(long)]
    pub no_follow: bool,
}

fn parse_event_type(text: &str) -> Result<EventType, String> {
    let text = text.to_ascii_uppercase();
    text.parse()
        .map_err(|error: common::api::UnknownEventType| error.to_string())
}

/// Which part of a log.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The VM's name
    pub name: Name,
    /// Go on with what comes, until Ctrl-C or until the VM is deleted
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last N lines [default: all that is kept]
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<u32>,
    /// Only since so long ago, or since a time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only this stream; may be repeated [default: stdout,stderr,agent]
    #[arg(long, value_enum, value_name = "STREAM", value_delimiter = ',')]
    pub stream: Vec<StreamWord>,
    /// Begin each line with its time
    #[arg(short, long)]
    pub timestamps: bool,
}

/// A stream of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StreamWord {
    /// The workload's standard output
    Stdout,
    /// The workload's standard error
    Stderr,
    /// The agent, about the workload
    Agent,
    /// The serial console
    Console,
}

impl StreamWord {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Agent => "agent",
            Self::Console => "console",
        }
    }
}

/// What to show of the VMs' use.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print once and end
    #[arg(long)]
    pub once: bool,
    /// How often to look
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub interval: Duration,
}

/// A time in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// At this time.
    At(Timestamp),
}

impl Since {
    /// The time that it means.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if let Ok(ago) = parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| "write a duration such as 10m, or a time such as 2026-11-23T10:00:00Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_or_a_time() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<Since>().unwrap().at(now).to_string();
        assert_eq!(at("10m"), "2026-11-23T09:50:00Z");
        assert_eq!(at("2026-11-23T09:00:00+01:00"), "2026-11-23T08:00:00Z");
        assert!("yesterday".parse::<Since>().is_err());
    }
}
