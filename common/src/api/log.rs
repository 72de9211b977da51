//! The logs of a VM as clients read them: lines of its workload, and pieces of its serial console. The guest's own lines are
//! `common::agent::log`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::agent::log::LogStream;
use crate::name::Name;

/// The media type of one JSON object a line.
pub const NDJSON_CONTENT_TYPE: &str = "application/x-ndjson";

/// A line of the log: one line of `GET /api/v1/vms/{name}/logs?format=json`, and the data of its server-sent events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntry {
    /// Counts the VM's lines from 1, over all its starts.
    pub id: u64,
    /// When it was complete, RFC 3339, by the host's clock: when it arrived, less the age that the guest's agent tells. Never before the
    /// guest's launch, after its arrival or before the line before it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub time: Timestamp,
    /// Where it comes from.
    pub stream: LogStream,
    /// The text without its line break.
    pub line: String,
    /// Whether the line goes on in the next one of its stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Counts the guest's lines from 1, anew with each start.
    pub seq: u64,
    /// The start that it belongs to.
    pub launch: String,
}

/// A line as the WebSocket `/ws/v1/vms/{name}/logs` sends it: the members of the Go system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogMessage {
    /// The VM.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: Name,
    /// Where it comes from.
    pub stream: LogStream,
    /// The text without its line break.
    pub line: String,
    /// When it was complete, RFC 3339.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub timestamp: Timestamp,
}

/// The name of a server-sent event with a line of the log.
pub const LOG_EVENT: &str = "log";

/// The name of a server-sent event with a piece of the serial console's log.
pub const CONSOLE_EVENT: &str = "console";

/// A piece of the serial console's log: the data of its server-sent events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsolePiece {
    /// The bytes as the guest wrote them, in base64 (RFC 4648, 4): they may be no text, or be cut within a character.
    pub base64: String,
}

impl ConsolePiece {
    /// A piece of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self {
            base64: STANDARD.encode(bytes),
        }
    }

    /// Its bytes; none if it is not base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.base64).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_console_may_be_any_bytes() {
        for (bytes, base64) in [(&b""[..], ""), (b"\xff\x00\n", "/wAK"), (b"\xc3", "ww==")] {
            let piece = ConsolePiece::new(bytes);
            assert_eq!(
                (piece.base64.as_str(), piece.bytes()),
                (base64, Some(bytes.to_vec()))
            );
        }
        let wrong = ConsolePiece {
            base64: "!".to_owned(),
        };
        assert_eq!(wrong.bytes(), None);
    }
}
