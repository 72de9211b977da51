//! Durations as users type them: `180s`, `3m`, `500ms`, or a number of seconds.

use std::time::Duration;

/// The longest duration that is accepted: one day. Longer is a mistake in the unit.
const MAX_DURATION: Duration = Duration::from_hours(24);

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a number and a unit, such as 500ms, 90s, 3m or 1h, up to 24h")]
pub struct InvalidDuration;

/// Reads a duration. A number without a unit is in seconds.
///
/// # Errors
/// [`InvalidDuration`] for anything else, for zero and for more than a day.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| InvalidDuration)?;
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(InvalidDuration),
    };
    let duration = number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or(InvalidDuration)?;
    if duration.is_zero() || duration > MAX_DURATION {
        return Err(InvalidDuration);
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let table = [
            ("500ms", 500),
            ("180s", 180_000),
            ("180", 180_000),
            (" 3m ", 180_000),
            ("2 min", 120_000),
            ("24h", 86_400_000),
        ];
        for (text, ms) in table {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "0",
            "0s",
            "-1s",
            "1.5s",
            "s",
            "3d",
            "25h",
            "99999999999999999999",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_duration(text), Err(InvalidDuration), "{text}");
        }
    }
}
