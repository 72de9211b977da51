//! The daemon's log lines: on stderr, where journald reads them. What is logged is the other rooms' business.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::LogFormat;

/// What is logged unless `VOLANT_LOG` says otherwise (in the syntax of tracing's `EnvFilter`).
const DEFAULT_FILTER: &str = "info,hyper=warn,reqwest=warn,rustls=warn,h2=warn,netlink_proto=warn";

/// Sets the process's log up. A second call in one process does nothing.
pub fn init(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("VOLANT_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_target(false);
    // The journal has its own clock.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let outcome = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text if journal => lines.without_time().with_ansi(false).try_init(),
        LogFormat::Text => lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_timer(SystemTime)
            .try_init(),
    };
    // It fails only where a log is set up already.
    drop(outcome);
}
