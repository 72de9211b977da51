//! What the workload writes, as kestrel passes it on: lines with their time and stream, apart from the console.

use serde::{Deserialize, Serialize};

/// The most bytes of one line as the workload writes it: its JSON has up to six times as many. A longer line comes in pieces, all but the
/// last with [`LogLine::partial`].
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// The bytes that kestrel keeps for a host that does not listen just now. Older lines are lost, and counted.
pub const KEPT_BYTES: usize = 256 * 1024;

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// The workload's standard output.
    Stdout,
    /// The workload's standard error.
    Stderr,
    /// kestrel, about the workload: that it ended, and when it is started again.
    Agent,
}

impl LogStream {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Agent => "agent",
        }
    }
}

/// One line of `GET` [`LOGS_PATH`](super::LOGS_PATH), as JSON with a line break behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counts a guest's lines from 1, anew with each boot. A gap is what was lost.
    pub seq: u64,
    /// When it was complete, in milliseconds of Unix time by the guest's clock, which may be anything. For hosts that do not know `age_ms`.
    pub at_ms: u64,
    /// How long it had been complete when it was sent, in milliseconds of the guest's boot-time clock (`CLOCK_BOOTTIME`), which nobody sets.
    /// The host's time of arrival less this is when it was complete. Older agents do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Where it comes from.
    pub stream: LogStream,
    /// The text without its line break, be it LF or CR LF. What is not UTF-8 is replaced by U+FFFD.
    pub line: String,
    /// Whether the line goes on in the next one of its stream.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partial: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
