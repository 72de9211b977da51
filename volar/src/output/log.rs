//! Lines of a log as text. On a terminal they are made harmless, and other streams than stdout have colours.

use common::agent::log::LogStream;
use common::api::LogEntry;

use crate::ui::harmless;

/// Makes text of lines, some of which come in pieces.
#[derive(Debug)]
pub struct LogPrinter {
    is_terminal: bool,
    color: bool,
    timestamps: bool,
    /// The stream whose line has no end yet.
    open: Option<LogStream>,
}

impl LogPrinter {
    /// For a terminal or not, with colours or not, with times or not.
    pub const fn new(is_terminal: bool, color: bool, timestamps: bool) -> Self {
        Self {
            is_terminal,
            color,
            timestamps,
            open: None,
        }
    }

    /// The text of a line.
    pub fn text(&mut self, line: &LogEntry) -> String {
        let mut text = String::new();
        let goes_on = self.open == Some(line.stream);
        if self.open.take().is_some() && !goes_on {
            text.push('\n');
        }
        if self.timestamps && !goes_on {
            text.push_str(&format!("{} ", line.time));
        }
        let content = if self.is_terminal {
            harmless(&line.line, self.color)
        } else {
            line.line.clone()
        };
        match (line.stream, self.color && self.is_terminal) {
            (LogStream::Stderr, true) => text.push_str(&format!("\u{1b}[31m{content}\u{1b}[0m")),
            (LogStream::Agent, true) => text.push_str(&format!("\u{1b}[2m{content}\u{1b}[0m")),
            _ => text.push_str(&content),
        }
        if line.partial {
            self.open = Some(line.stream);
        } else {
            text.push('\n');
        }
        text
    }

    /// The end of a line that has none.
    pub fn finish(&mut self) -> &'static str {
        if self.open.take().is_some() { "\n" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stream: LogStream, text: &str, partial: bool) -> LogEntry {
        LogEntry {
            id: 1,
            time: "2026-11-23T10:00:00Z".parse().unwrap(),
            stream,
            line: text.to_owned(),
            partial,
            seq: 1,
            launch: "1".to_owned(),
        }
    }

    #[test]
    fn pieces_of_a_line_are_joined_within_their_stream() {
        let mut printer = LogPrinter::new(false, false, true);
        let lines = [
            line(LogStream::Stdout, "a", true),
            line(LogStream::Stdout, "b", false),
            line(LogStream::Stdout, "c", true),
            line(LogStream::Stderr, "d\u{1b}[2J", false),
            line(LogStream::Stdout, "e", true),
        ];
        let mut text: String = lines.iter().map(|line| printer.text(line)).collect();
        text.push_str(printer.finish());
        let time = "2026-11-23T10:00:00Z";
        assert_eq!(
            text,
            format!("{time} ab\n{time} c\n{time} d\u{1b}[2J\n{time} e\n")
        );
    }

    #[test]
    fn a_terminal_gets_colours_and_nothing_else() {
        let mut printer = LogPrinter::new(true, true, false);
        let text = printer.text(&line(LogStream::Stderr, "\u{1b}[2Jno\u{7}", false));
        assert_eq!(text, "\u{1b}[31mno\u{1b}[0m\n");
        let mut printer = LogPrinter::new(true, false, false);
        let text = printer.text(&line(LogStream::Stderr, "\u{1b}[1mno", false));
        assert_eq!(text, "no\n");
    }
}
