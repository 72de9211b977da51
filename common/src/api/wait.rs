//! What `?wait=` and `?timeout=` of the API say. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long `?wait=` waits unless told otherwise, in milliseconds. Software emulation needs much of it.
pub const DEFAULT_STATE_WAIT_MS: u64 = 180_000;

/// The longest time that `?wait=` waits, in milliseconds: an hour.
pub const MAX_STATE_WAIT_MS: u64 = 3_600_000;

/// Where a VM is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum WaitGoal {
    /// Running and healthy.
    Ready,
    /// The guest is up, whatever its health.
    Running,
    /// Down, as it was asked to or because it failed.
    Stopped,
    /// Not there any more.
    Gone,
}

impl WaitGoal {
    /// All goals.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Running, Self::Stopped, Self::Gone];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
        }
    }
}

/// How long a wait may take: milliseconds, or a number with `ms`, `s` or `m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WaitLimit(Duration);

/// A text that is no time to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a time to wait: use milliseconds, or a number with `ms`, `s` or `m`, at most an hour"
)]
pub struct InvalidWaitLimit(String);

impl WaitLimit {
    /// The time.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl Default for WaitLimit {
    fn default() -> Self {
        Self(Duration::from_millis(DEFAULT_STATE_WAIT_MS))
    }
}

impl FromStr for WaitLimit {
    type Err = InvalidWaitLimit;

    fn from_str(text: &str) -> Result<Self, InvalidWaitLimit> {
        let invalid =
            || InvalidWaitLimit(text.chars().take(40).flat_map(char::escape_debug).collect());
        let (digits, unit_ms) = if let Some(digits) = text.strip_suffix("ms") {
            (digits, 1)
        } else if let Some(digits) = text.strip_suffix('s') {
            (digits, 1000)
        } else if let Some(digits) = text.strip_suffix('m') {
            (digits, 60_000)
        } else {
            (text, 1)
        };
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = digits.parse().ok().filter(|_| plain).ok_or_else(invalid)?;
        let wait_ms = number.checked_mul(unit_ms).ok_or_else(invalid)?;
        if wait_ms > MAX_STATE_WAIT_MS {
            return Err(invalid());
        }
        Ok(Self(Duration::from_millis(wait_ms)))
    }
}

impl TryFrom<String> for WaitLimit {
    type Error = InvalidWaitLimit;

    fn try_from(text: String) -> Result<Self, InvalidWaitLimit> {
        text.parse()
    }
}

impl From<WaitLimit> for String {
    fn from(limit: WaitLimit) -> Self {
        limit.to_string()
    }
}

impl fmt::Display for WaitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let table = [
            ("0", Some(0)),
            ("1500", Some(1500)),
            ("1500ms", Some(1500)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("60m", Some(3_600_000)),
            ("61m", None),
            ("3600001", None),
            ("18446744073709551615m", None),
            ("", None),
            ("s", None),
            ("-1", None),
            ("+1", None),
            ("1.5s", None),
            ("1h", None),
        ];
        for (text, expected_ms) in table {
            let read = text.parse::<WaitLimit>().ok();
            assert_eq!(
                read.map(WaitLimit::duration),
                expected_ms.map(Duration::from_millis),
                "{text}"
            );
        }
        assert_eq!("30s".parse::<WaitLimit>().unwrap().to_string(), "30000ms");
    }

    #[test]
    fn goals_have_their_words() {
        for goal in WaitGoal::ALL {
            assert_eq!(serde_json::to_value(goal).unwrap(), goal.as_str());
        }
    }
}
