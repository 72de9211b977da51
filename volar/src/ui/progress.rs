//! Progress on stderr: a spinner on a terminal, one line for each phase elsewhere, nothing when quiet.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::text::plain;
use super::write_stderr;

/// How often the spinner turns: fast enough to look alive.
const TICK: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Not at all.
    Hidden,
    /// One line for each phase.
    Lines,
    /// One line that turns, and one for each phase that is over.
    Spinner,
}

/// Something that takes its time, in phases.
#[derive(Debug)]
pub struct Progress {
    subject: String,
    begun: Instant,
    phase: Option<(String, Instant)>,
    lines: bool,
    spinner: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(subject: &str, style: Style) -> Self {
        let spinner = (style == Style::Spinner).then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant; if it were wrong, indicatif's own would be shown.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            subject: plain(subject),
            begun: Instant::now(),
            phase: None,
            lines: style == Style::Lines,
            spinner,
        }
    }

    /// Says which phase it is in; the same phase again says nothing.
    pub fn phase(&mut self, phase: &str) {
        let phase = plain(phase);
        if self.phase.as_ref().is_some_and(|(now, _)| *now == phase) {
            return;
        }
        self.end_phase();
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{}: {phase}", self.subject));
        }
        if self.lines {
            let elapsed = self.begun.elapsed().as_secs_f64();
            write_stderr(&format!("{}: {phase} ({elapsed:.1} s)\n", self.subject));
        }
        self.phase = Some((phase, Instant::now()));
    }

    /// Says how far the phase is, where it can be said again and again.
    pub fn detail(&self, detail: &str) {
        if let (Some(spinner), Some((phase, _))) = (&self.spinner, &self.phase) {
            spinner.set_message(format!("{}: {phase}, {}", self.subject, plain(detail)));
        }
    }

    /// Removes what turns; the lines stay.
    pub fn finish(mut self) {
        self.end_phase();
    }

    fn end_phase(&mut self) {
        if let (Some(spinner), Some((phase, begun))) = (&self.spinner, &self.phase) {
            let elapsed = begun.elapsed().as_secs_f64();
            spinner.println(format!("  {phase:<12} {elapsed:>7.2} s"));
        }
        self.phase = None;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
