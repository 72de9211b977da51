//! The signal that asks a workload to end, by its name or number on Linux. Sends nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Numbers of the named signals (include/uapi/asm-generic/signal.h; the same on x86-64 and arm64).
const NAMES: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The first real-time signal that the C libraries leave to programs, as container images count it.
const RT_MIN: u8 = 34;

/// The last signal (`_NSIG` of the same header).
const RT_MAX: u8 = 64;

/// A signal that asks a workload to end: from 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct StopSignal(u8);

impl StopSignal {
    /// SIGTERM, which a workload gets unless its manifest says otherwise.
    pub const TERM: Self = Self(15);

    /// SIGHUP, which tells a command that nobody talks to it any more.
    pub const HUP: Self = Self(1);

    /// The signal with a number from 1 to 64.
    pub fn of_number(number: i32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| (1..=RT_MAX).contains(number))
            .map(Self)
    }

    /// The number, as `kill(2)` takes it.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        Self::TERM
    }
}

/// A text or number that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a signal: use a name such as `SIGQUIT` or a number from 1 to {RT_MAX}")]
pub struct InvalidStopSignal(String);

/// Manifests have numbers and names.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a signal's name or number")]
enum Written {
    Number(u64),
    Name(String),
}

impl TryFrom<Written> for StopSignal {
    type Error = InvalidStopSignal;

    fn try_from(written: Written) -> Result<Self, InvalidStopSignal> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Name(name) => name.parse(),
        }
    }
}

impl FromStr for StopSignal {
    type Err = InvalidStopSignal;

    fn from_str(text: &str) -> Result<Self, InvalidStopSignal> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let real_time = |offset: &str| offset.parse::<u8>().ok();
        let number = if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            Some(*number)
        } else if let Some(offset) = name.strip_prefix("RTMIN") {
            match offset.strip_prefix('+') {
                Some(offset) => real_time(offset).and_then(|offset| RT_MIN.checked_add(offset)),
                None => offset.is_empty().then_some(RT_MIN),
            }
        } else if let Some(offset) = name.strip_prefix("RTMAX") {
            match offset.strip_prefix('-') {
                Some(offset) => real_time(offset)
                    .and_then(|offset| RT_MAX.checked_sub(offset))
                    .filter(|number| *number >= RT_MIN),
                None => offset.is_empty().then_some(RT_MAX),
            }
        } else {
            upper.parse().ok()
        };
        number
            .filter(|number| (1..=RT_MAX).contains(number))
            .map(Self)
            .ok_or_else(|| {
                let shown = text.chars().take(40).flat_map(char::escape_debug).collect();
                InvalidStopSignal(shown)
            })
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl From<StopSignal> for String {
    fn from(signal: StopSignal) -> Self {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        let table = [
            ("SIGQUIT", 3, "SIGQUIT"),
            ("quit", 3, "SIGQUIT"),
            (" TERM ", 15, "SIGTERM"),
            ("28", 28, "SIGWINCH"),
            ("SIGRTMIN+3", 37, "37"),
            ("RTMIN", 34, "34"),
            ("SIGRTMAX-14", 50, "50"),
            ("64", 64, "64"),
        ];
        for (text, number, shown) in table {
            let signal: StopSignal = text.parse().unwrap();
            assert_eq!((signal.number(), &*signal.to_string()), (number, shown));
            let json = serde_json::to_string(&signal).unwrap();
            assert_eq!(serde_json::from_str::<StopSignal>(&json).unwrap(), signal);
        }
        let number: StopSignal = serde_json::from_str("9").unwrap();
        assert_eq!(number.number(), 9);
    }

    #[test]
    fn numbers_are_bounded() {
        for (number, expected) in [
            (1, true),
            (64, true),
            (0, false),
            (65, false),
            (-9, false),
            (257, false),
        ] {
            let found = StopSignal::of_number(number);
            assert_eq!(found.map(StopSignal::number), expected.then_some(number));
        }
    }

    #[test]
    fn other_words_are_refused() {
        let table = [
            "", "0", "65", "-1", "SIG", "SIGFOO", "RTMIN+31", "RTMAX-31", "RTMIN+", "1.5",
        ];
        for text in table {
            assert!(text.parse::<StopSignal>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<StopSignal>("true").is_err());
    }
}
