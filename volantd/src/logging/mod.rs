//! The daemon's log lines, on stderr, where journald reads them, and its traces, where a collector is configured. What is logged is the other
//! rooms' business.

pub mod otlp;
pub mod trace;

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;

use tokio::runtime::Handle;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::LogFormat;
use otlp::{Export, ExportError};

/// What is logged unless `VOLANT_LOG` says otherwise (in the syntax of tracing's `EnvFilter`).
const DEFAULT_FILTER: &str = "info,hyper=warn,reqwest=warn,rustls=warn,h2=warn,netlink_proto=warn";

/// The span that every task is in (`crate::task`): it names a task in the log and lasts as long as that, which is no work to trace.
const TASK_SPAN: &str = "task";

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The process's log, and what must be sent before it ends.
#[derive(Debug)]
pub struct Logging {
    export: Option<Export>,
}

impl Logging {
    /// Sets the process's log up. A second call in one process logs as the first one does.
    ///
    /// # Errors
    /// If traces are to be exported and cannot be.
    pub fn begin(
        format: LogFormat,
        collector: Option<&reqwest::Url>,
        runtime: &Handle,
    ) -> Result<Self, ExportError> {
        let filter = EnvFilter::try_from_env("VOLANT_LOG")
            .unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
        let mut layers: Vec<BoxedLayer> = vec![lines(format).with_filter(filter).boxed()];
        let export = collector
            .map(|url| Export::begin(url, runtime))
            .transpose()?;
        if let Some(export) = &export {
            layers.push(traces(export));
        }
        // It fails only where a log is set up already.
        drop(tracing_subscriber::registry().with(layers).try_init());
        Ok(Self { export })
    }

    /// Sends what is not sent yet, within a bound.
    pub async fn end(self) {
        if let Some(export) = self.export {
            export.end().await;
        }
    }
}

fn lines(format: LogFormat) -> BoxedLayer {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        // The journal has its own clock.
        LogFormat::Text if is_journal() => lines.without_time().with_ansi(false).boxed(),
        LogFormat::Text => lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_timer(SystemTime)
            .boxed(),
    }
}

/// The spans of this program that are work. Those of the libraries that the export itself uses would be exported in turn, for ever. What is
/// logged in a span stays in the log: errors quote what clients sent.
pub(crate) fn traces(export: &Export) -> BoxedLayer {
    let is_ours = filter_fn(|metadata| {
        metadata.is_span()
            && metadata.target().starts_with(env!("CARGO_PKG_NAME"))
            && *metadata.level() <= tracing::Level::INFO
            && metadata.name() != TASK_SPAN
    });
    tracing_opentelemetry::layer()
        .with_tracer(export.tracer())
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(is_ours)
        .boxed()
}

/// Whether stderr is the journal. systemd names it by device and inode (systemd.exec(5)), because children inherit the variable where they may
/// not inherit the stream.
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    nix::sys::stat::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stderr| names(&named, stderr.st_dev, stderr.st_ino))
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    stream
        .split_once(':')
        .and_then(|(dev, ino)| Some((dev.parse().ok()?, ino.parse().ok()?)))
        == Some((device, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_its_device_and_inode() {
        assert!(names("8:1234", 8, 1234));
        for other in ["", "8", "8:1235", "9:1234", "8:x", ":"] {
            assert!(!names(other, 8, 1234), "{other}");
        }
    }
}
