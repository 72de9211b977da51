//! The log of a VM's workload as clients read it. The guest's own lines are `common::agent::log`.

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
    /// When it was complete, RFC 3339: by the guest's clock where that can be right, else by the host's. Never before the line before it.
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
