//! Progress on stderr: a spinner or a bar on a terminal, a line now and then elsewhere, nothing when quiet.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::text::plain;
use super::write_stderr;

/// How often the spinner turns: fast enough to look alive.
const TICK: Duration = Duration::from_millis(100);

/// The least time between two lines about one download: enough for a log to stay readable.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// What turns. The templates are constants; if one were wrong, indicatif's own would be shown.
const SPINNER: &str = "{spinner} {msg} ({elapsed})";

/// A download whose size is known.
const BAR: &str = "{spinner} [{bar:24}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}  {wide_msg}";

/// One whose size is not.
const COUNTER: &str = "{spinner} {binary_bytes}, {binary_bytes_per_sec}  {wide_msg}";

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
    /// When the last line about a download was written.
    last_line: Option<Instant>,
}

impl Progress {
    pub(super) fn new(subject: &str, style: Style) -> Self {
        let spinner = (style == Style::Spinner).then(|| {
            let bar = ProgressBar::new_spinner();
            set_template(&bar, SPINNER);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            subject: plain(subject),
            begun: Instant::now(),
            phase: None,
            lines: style == Style::Lines,
            spinner,
            last_line: None,
        }
    }

    /// Whether anybody sees it.
    pub const fn is_shown(&self) -> bool {
        self.lines || self.spinner.is_some()
    }

    /// Says which phase it is in; the same phase again says nothing.
    pub fn phase(&mut self, phase: &str) {
        let phase = plain(phase);
        if self.phase.as_ref().is_some_and(|(now, _)| *now == phase) {
            return;
        }
        self.end_phase();
        if let Some(spinner) = &self.spinner {
            set_template(spinner, SPINNER);
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

    /// Says how much of a download has arrived, and of how much, where that is known.
    pub fn bytes(&mut self, received_bytes: u64, total_bytes: Option<u64>) {
        if let Some(bar) = &self.spinner {
            set_template(bar, if total_bytes.is_some() { BAR } else { COUNTER });
            if let Some(total_bytes) = total_bytes {
                bar.set_length(total_bytes);
            }
            bar.set_position(received_bytes);
        }
        let now = Instant::now();
        if self.lines && line_is_due(self.last_line, now) {
            self.last_line = Some(now);
            let how_far = how_far(received_bytes, total_bytes);
            write_stderr(&format!("{}: {how_far}\n", self.subject));
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

fn set_template(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

fn line_is_due(last: Option<Instant>, now: Instant) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= LINE_PAUSE)
}

fn how_far(received_bytes: u64, total_bytes: Option<u64>) -> String {
    let received = HumanBytes(received_bytes);
    match total_bytes {
        Some(total_bytes) => format!("{received} of {}", HumanBytes(total_bytes)),
        None => format!("{received} so far"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_a_line_now_and_then() {
        let begun = Instant::now();
        assert!(line_is_due(None, begun));
        assert!(!line_is_due(Some(begun), begun + LINE_PAUSE / 2));
        assert!(line_is_due(Some(begun), begun + LINE_PAUSE));
        assert_eq!(how_far(1536, None), "1.50 KiB so far");
        assert_eq!(how_far(0, Some(1 << 20)), "0 B of 1.00 MiB");
    }

    #[test]
    fn the_templates_are_right() {
        for template in [SPINNER, BAR, COUNTER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
