//! What happens to VMs and plugins, as clients are told of it. When which event is due is volantd's to decide.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::vm::{BootTimeline, Failure, Restarts, VmHealth, VmStatus};
use crate::agent::log::LogStream;
use crate::name::Name;

/// The name of the server-sent event that says that older events are not kept any more: some may be missing before the next one.
pub const GAP_EVENT: &str = "GAP";

/// The name of the last server-sent event of a reader that was too slow. It may come back with the id of the last event that it has.
pub const LAGGED_EVENT: &str = "LAGGED";

/// The most events that are kept for clients that come back.
pub const KEPT_EVENTS: usize = 10_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    /// A VM is recorded.
    VmCreated,
    /// Its guest is up.
    VmRunning,
    /// It is down as it was asked to, or because its workload is done.
    VmStopped,
    /// Its VMM ended by itself; it may be started again.
    VmCrashed,
    /// Nothing of it is left.
    VmDeleted,
    /// Its workload wrote a line. Only for readers that ask for this type, and never kept.
    VmLog,
    /// It is in another step or status.
    VmPhase,
    /// Its health is another one.
    VmHealth,
    /// The VM, or the workload in it, was started again.
    VmRestart,
    /// Its start reached another part.
    VmBoot,
    /// Its CPUs stand still.
    VmPaused,
    /// Its CPUs go on.
    VmResumed,
    /// It could not be started, or ended for good.
    VmFailed,
    /// It has a new configuration.
    VmConfig,
    /// A plugin is there, or there anew.
    PluginInstalled,
    /// A plugin is gone.
    PluginRemoved,
    /// So much of an artifact has arrived. Only for readers that ask for this type, a few a second, and never kept.
    Download,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::VmCreated,
        Self::VmRunning,
        Self::VmStopped,
        Self::VmCrashed,
        Self::VmDeleted,
        Self::VmLog,
        Self::VmPhase,
        Self::VmHealth,
        Self::VmRestart,
        Self::VmBoot,
        Self::VmPaused,
        Self::VmResumed,
        Self::VmFailed,
        Self::VmConfig,
        Self::PluginInstalled,
        Self::PluginRemoved,
        Self::Download,
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VmCreated => "VM_CREATED",
            Self::VmRunning => "VM_RUNNING",
            Self::VmStopped => "VM_STOPPED",
            Self::VmCrashed => "VM_CRASHED",
            Self::VmDeleted => "VM_DELETED",
            Self::VmLog => "VM_LOG",
            Self::VmPhase => "VM_PHASE",
            Self::VmHealth => "VM_HEALTH",
            Self::VmRestart => "VM_RESTART",
            Self::VmBoot => "VM_BOOT",
            Self::VmPaused => "VM_PAUSED",
            Self::VmResumed => "VM_RESUMED",
            Self::VmFailed => "VM_FAILED",
            Self::VmConfig => "VM_CONFIG",
            Self::PluginInstalled => "PLUGIN_INSTALLED",
            Self::PluginRemoved => "PLUGIN_REMOVED",
            Self::Download => "DOWNLOAD",
        }
    }

    /// Whether it comes only to readers that ask for it, and is never kept.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::VmLog | Self::Download)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no event's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a type of event")]
pub struct UnknownEventType(String);

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(text: &str) -> Result<Self, UnknownEventType> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownEventType(text.to_owned()))
    }
}

/// Something that happened, with what it is about as it was then. `GET /api/v1/events/vms` sends them as server-sent events: the type as
/// `event`, the number as `id`, and this as `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmEvent {
    /// Its number. Later events have greater ones, also after a restart of the daemon; 0 for those that are not kept.
    pub id: u64,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The VM, or the plugin.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: Name,
    /// The VM's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<VmStatus>,
    /// The VM's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// The VM's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// The VMM's process id, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it happened, RFC 3339.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub timestamp: Timestamp,
    /// The same for people, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of [`EventType::VmLog`]: where the line comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<LogStream>,
    /// Of [`EventType::VmLog`]: the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// Of [`EventType::VmPhase`]: the step it is in, else its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Of [`EventType::VmHealth`]: its health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<VmHealth>,
    /// Of [`EventType::VmRestart`]: how often things were started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<Restarts>,
    /// Of [`EventType::VmBoot`]: the timeline so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootTimeline>,
    /// Of [`EventType::VmCrashed`] and [`EventType::VmFailed`]: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Of [`EventType::Download`]: how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<Download>,
}

/// How far the download of an artifact is. A local file that is copied into the store counts as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Download {
    /// Where it comes from, without user name, password and query.
    pub source: String,
    /// Bytes that have arrived. They begin again where the download has to.
    pub received_bytes: u64,
    /// Bytes in all, where the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

impl VmEvent {
    /// An event with nothing in it yet, not numbered.
    pub fn new(kind: EventType, name: Name, timestamp: Timestamp) -> Self {
        Self {
            id: 0,
            kind,
            name,
            status: None,
            ip_address: None,
            mac_address: None,
            pid: None,
            timestamp,
            message: None,
            stream: None,
            line: None,
            phase: None,
            health: None,
            restarts: None,
            boot: None,
            failure: None,
            download: None,
        }
    }
}

/// What [`GAP_EVENT`] and [`LAGGED_EVENT`] carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MissedEvents {
    /// The last event that the reader is known to have; events after it may be missing.
    pub after: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_wire() {
        for kind in EventType::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        let unknown = "VM_LOST".parse::<EventType>().unwrap_err();
        assert_eq!(unknown.to_string(), "`VM_LOST` is not a type of event");
    }

    #[test]
    fn an_event_has_the_members_that_clients_of_the_go_system_read() {
        let mut event = VmEvent::new(
            EventType::VmRunning,
            "web".parse().unwrap(),
            Timestamp::UNIX_EPOCH,
        );
        event.status = Some(VmStatus::Running);
        event.pid = Some(7);
        let json = serde_json::to_value(&event).unwrap();
        let expected = serde_json::json!({
            "id": 0, "type": "VM_RUNNING", "name": "web", "status": "running", "pid": 7, "timestamp": "1970-01-01T00:00:00Z"
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<VmEvent>(json).unwrap(), event);
    }
}
