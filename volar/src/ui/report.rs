//! An error as people see it: message, numbered causes, details, hints. Pure text; decides nothing about exit codes.

use std::fmt::Write as _;

use super::text::plain;

/// An error, ready to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What could not be done.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// A heading and lines that belong to it, such as the end of a console.
    pub details: Vec<(String, Vec<String>)>,
    /// What to try.
    pub hints: Vec<String>,
}

/// The text of a report.
pub fn render(report: &Report, color: bool) -> String {
    let mut text = format!(
        "{} {}\n",
        painted("error:", "1;31", color),
        plain(&report.message)
    );
    if !report.causes.is_empty() {
        text.push_str("Caused by:\n");
        for (index, cause) in report.causes.iter().enumerate() {
            let _ = writeln!(text, "  {}: {}", index + 1, plain(cause));
        }
    }
    for (heading, lines) in &report.details {
        let _ = writeln!(text, "{}", plain(heading));
        for line in lines {
            let _ = writeln!(text, "  | {}", plain(line));
        }
    }
    for hint in &report.hints {
        text.push_str(&hint_line(hint, color));
    }
    text
}

pub(super) fn hint_line(hint: &str, color: bool) -> String {
    format!("{} {}\n", painted("hint:", "1;36", color), plain(hint))
}

fn painted(word: &str, sgr: &str, color: bool) -> String {
    if color {
        format!("\u{1b}[{sgr}m{word}\u{1b}[0m")
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_all_its_parts() {
        let report = Report {
            message: "Cannot start VM `web`".to_owned(),
            causes: vec![
                "The guest \u{1b}[2Jpanicked".to_owned(),
                "No init".to_owned(),
            ],
            details: vec![("Last lines:".to_owned(), vec!["Kernel panic".to_owned()])],
            hints: vec!["Try `volar vms logs web`".to_owned()],
        };
        insta::assert_snapshot!(render(&report, false), @r"
        error: Cannot start VM `web`
        Caused by:
          1: The guest \u{1b}[2Jpanicked
          2: No init
        Last lines:
          | Kernel panic
        hint: Try `volar vms logs web`
        ");
        assert!(render(&report, true).starts_with("\u{1b}[1;31merror:\u{1b}[0m Cannot"));
    }
}
