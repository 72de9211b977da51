//! The one printer: lines of the agent on the guest's console. Keeps nothing and filters nothing; who has little to say is quiet.

use std::io;
use std::time::Duration;

use common::agent::CONSOLE_PREFIX;

use crate::sys;

/// The longest line in characters. What is longer is cut: a console is no place for a whole document.
const MAX_LINE_CHARS: usize = 1000;

/// Writes one line with the seconds since the kernel began.
pub(crate) fn line(text: &str) {
    write(&mut io::stderr(), &format_line(sys::boot_time(), text));
}

/// Writes the last line of a guest that cannot go on.
pub(crate) fn fatal(text: &str) {
    write(&mut io::stderr(), &format_fatal(text));
}

/// Writes what a person asked for on a command line, where this is not PID 1.
pub(crate) fn answer(text: &str) {
    write(&mut io::stdout(), text);
}

/// Writes one line to whoever started this by mistake.
pub(crate) fn complain(text: &str) {
    write(&mut io::stderr(), &format!("{text}\n"));
}

/// One write for a whole line, so that the workload's output does not come between. A console that is gone cannot be told so.
fn write(to: &mut impl io::Write, line: &str) {
    if to.write_all(line.as_bytes()).is_ok() {
        drop(to.flush());
    }
}

fn format_line(uptime: Duration, text: &str) -> String {
    let (seconds, ms) = (uptime.as_secs(), uptime.subsec_millis());
    format!("{CONSOLE_PREFIX}[{seconds}.{ms:03}] {}\n", one_line(text))
}

fn format_fatal(text: &str) -> String {
    format!("{CONSOLE_PREFIX}fatal: {}\n", one_line(text))
}

/// Names and reasons may come from a manifest: without their control characters they stay on one line and do nothing to a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        if at == MAX_LINE_CHARS {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_prefix_and_uptime() {
        assert_eq!(
            format_line(Duration::from_micros(1_042_999), "hello"),
            "kestrel: [1.042] hello\n"
        );
        assert_eq!(format_fatal("no"), "kestrel: fatal: no\n");
    }

    #[test]
    fn a_line_is_one_line_and_bounded() {
        assert_eq!(one_line("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(
            one_line(&"x".repeat(5000)).chars().count(),
            MAX_LINE_CHARS + 1
        );
    }
}
