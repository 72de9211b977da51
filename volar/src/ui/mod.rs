//! What people read on stderr: notes, hints, errors and progress. Results are not printed here: see `output`.

mod progress;
mod report;
mod text;

use std::io::{self, BufRead as _, Write as _};

use crate::client::Finished;
use crate::settings::{Settings, Verbosity};

pub use progress::Progress;
pub use report::{Report, render};
pub use text::{Sanitizer, harmless, is_harmful, plain};

/// The way to stderr.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    verbosity: Verbosity,
    color: bool,
    progress: progress::Style,
    can_ask: bool,
}

impl Ui {
    /// As the settings say. Progress is not for programs, which read JSON, YAML or names.
    pub const fn new(settings: &Settings) -> Self {
        let around = &settings.surroundings;
        let is_quiet = matches!(settings.verbosity, Verbosity::Quiet);
        let is_hidden = is_quiet || !settings.format.is_text();
        Self {
            verbosity: settings.verbosity,
            color: settings.color_stderr,
            progress: match (is_hidden, around.stderr_is_terminal) {
                (true, _) => progress::Style::Hidden,
                (false, true) => progress::Style::Spinner,
                (false, false) => progress::Style::Lines,
            },
            can_ask: around.stdin_is_terminal && around.stderr_is_terminal,
        }
    }

    /// Says something that is good to know, unless quiet.
    pub fn note(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            write_stderr(&format!("{}\n", harmless(text, false)));
        }
    }

    /// Says what can be done, unless quiet.
    pub fn hint(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            write_stderr(&report::hint_line(text, self.color));
        }
    }

    /// Passes on what a program wrote to its standard error, as it is.
    pub fn bytes(&self, bytes: &[u8]) {
        drop(io::stderr().lock().write_all(bytes));
    }

    /// Prints an error with its causes and hints.
    pub fn report(&self, report: &Report) {
        write_stderr(&render(report, self.color));
    }

    /// Shows that something takes its time.
    pub fn progress(&self, subject: &str) -> Progress {
        Progress::new(subject, self.progress)
    }

    /// Whether somebody can be asked.
    pub const fn can_ask(&self) -> bool {
        self.can_ask
    }

    /// Asks a question and waits for an answer; anything but `y` and `yes` is no.
    pub fn confirm(&self, question: &str) -> bool {
        write_stderr(&format!("{} [y/N] ", plain(question)));
        let mut answer = String::new();
        match io::stdin().lock().read_line(&mut answer) {
            Ok(_) => matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
            Err(_) => false,
        }
    }
}

/// Prints an error of a time when there are no settings yet.
pub(crate) fn report_early(report: &Report, color: bool) {
    write_stderr(&render(report, color));
}

/// The observer of `--verbose`.
pub(crate) fn show_call(finished: &Finished<'_>) {
    let status = finished
        .status
        .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    write_stderr(&format!(
        "{} -> {status} ({:.1} ms)\n",
        plain(finished.call),
        finished.elapsed.as_secs_f64() * 1000.0
    ));
}

/// Writes to stderr. Nobody can be told when that fails.
pub(crate) fn write_stderr(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
