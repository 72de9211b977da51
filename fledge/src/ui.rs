//! The only place that prints. Results go to stdout, everything else to stderr; progress shows on a terminal only.

use std::fmt::Display;
use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How much is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Results, warnings and progress.
    #[default]
    Normal,
    /// Details too.
    Verbose,
}

/// Prints for one run of the program.
#[derive(Debug)]
pub struct Ui {
    verbosity: Verbosity,
}

/// A line that shows how far something is.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Ui {
    /// A printer that says as much as `verbosity` allows.
    pub fn new(verbosity: Verbosity) -> Self {
        Self { verbosity }
    }

    /// Prints a line of the result.
    pub fn result(&self, line: &str) {
        if self.verbosity > Verbosity::Quiet {
            // Whoever closed the pipe does not want to know.
            drop(writeln!(io::stdout().lock(), "{}", printable(line)));
        }
    }

    /// Prints a text of the program's own as it is, such as a script for a shell: it is asked for, so it is never too much.
    pub fn document(&self, text: &str) {
        drop(io::stdout().lock().write_all(text.as_bytes()));
    }

    /// Prints something worth knowing that is not wrong.
    pub fn note(&self, line: &str) {
        if self.verbosity > Verbosity::Quiet {
            stderr(&format!("note: {line}"));
        }
    }

    /// Prints something that may go wrong later.
    pub fn warn(&self, line: &str) {
        if self.verbosity > Verbosity::Quiet {
            stderr(&format!("warning: {line}"));
        }
    }

    /// Prints what only the curious want to know.
    pub fn detail(&self, line: &str) {
        if self.verbosity == Verbosity::Verbose {
            stderr(line);
        }
    }

    /// Prints an error with its causes and what can be done.
    pub fn error(&self, message: impl Display, causes: &[String], hints: &[String]) {
        stderr(&format!("error: {message}"));
        for cause in causes {
            stderr(&format!("  caused by: {}", cause.replace('\n', "\n  ")));
        }
        for hint in hints {
            stderr(&format!("hint: {hint}"));
        }
    }

    /// Shows a download of unknown size.
    pub fn download(&self, name: &str) -> Progress {
        self.progress(None, &format!("Downloading {name}"))
    }

    /// Shows work on `total_bytes`.
    pub fn packing(&self, total_bytes: u64) -> Progress {
        self.progress(Some(total_bytes), "Packing")
    }

    fn progress(&self, total_bytes: Option<u64>, message: &str) -> Progress {
        let target = if self.verbosity == Verbosity::Quiet {
            ProgressDrawTarget::hidden()
        } else {
            // Draws on a terminal only.
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(total_bytes, target);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(printable(message));
        Progress(bar)
    }
}

impl Progress {
    /// Says how much there is to do.
    pub fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    /// Says how much is done.
    pub fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Says how much more is done.
    pub fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Removes the line.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Prints a line beside the result.
fn stderr(line: &str) {
    drop(writeln!(io::stderr().lock(), "{}", printable(line)));
}

/// Without control characters, which could do anything to a terminal; line breaks stay.
fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jé\n\tb"), "a\\u{1b}[2Jé\n\\tb");
    }
}
