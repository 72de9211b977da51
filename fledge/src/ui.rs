//! The only place that prints. Results go to stdout, everything else to stderr; progress shows on a terminal only. What a run says can
//! be relayed instead, as values: then nothing is printed.

use std::fmt::{Debug, Display};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Progress is relayed no more often than this: people cannot read faster, and each step would be a message.
const RELAY_INTERVAL: Duration = Duration::from_millis(250);

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

/// Something that a run says. Texts hold no control characters but line breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Said {
    /// A line of the result.
    Result {
        /// The line.
        text: String,
    },
    /// Something worth knowing that is not wrong.
    Note {
        /// What it is.
        text: String,
    },
    /// Something that may go wrong later.
    Warning {
        /// What it is.
        text: String,
    },
    /// What only the curious want to know.
    Detail {
        /// What it is.
        text: String,
    },
    /// Why the run failed, or one of the causes of that.
    Error {
        /// A sentence.
        text: String,
    },
    /// How far something is.
    Progress {
        /// What it is.
        text: String,
        /// How much of it is done, in bytes.
        done_bytes: u64,
        /// How much there is to do, in bytes, if that is known.
        total_bytes: Option<u64>,
    },
}

/// Takes what a run says. Is called from several threads, and must not block for long.
pub trait Relay: Debug + Send + Sync {
    /// Takes the next thing.
    fn relay(&self, said: Said);
}

/// Prints for one run of the program, or relays what one says.
#[derive(Debug, Clone)]
pub struct Ui(Out);

#[derive(Debug, Clone)]
enum Out {
    Terminal(Verbosity, Arc<Mutex<Option<io::Error>>>),
    Relay(Arc<dyn Relay>),
}

/// A line that shows how far something is.
#[derive(Debug)]
pub struct Progress(Shown);

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Relayed(Relayed),
}

impl Ui {
    /// A printer that says as much as `verbosity` allows.
    pub fn new(verbosity: Verbosity) -> Self {
        Self(Out::Terminal(verbosity, Arc::default()))
    }

    /// Says at the end of a run whether all of the result could be printed. Whoever closed the pipe did not want to know the rest.
    ///
    /// # Errors
    /// Why not, such as a full disk.
    pub fn finish(&self) -> io::Result<()> {
        let Out::Terminal(_, lost) = &self.0 else {
            return Ok(());
        };
        self.stdout(b"");
        match lost.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// Prints to stdout, and remembers the first failure for [`Ui::finish`].
    fn stdout(&self, bytes: &[u8]) {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        if let (Out::Terminal(_, lost), Err(error)) = (&self.0, written) {
            let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.get_or_insert(error);
        }
    }

    /// Prints what the parser of the command line has to say: help and version to stdout, usage errors to stderr.
    pub fn usage(&self, said: &clap::Error) {
        if said.use_stderr() {
            drop(said.print());
        } else {
            self.stdout(said.render().to_string().as_bytes());
        }
    }

    /// Prints nothing, and gives everything to `relay`.
    pub fn relayed(relay: Arc<impl Relay + 'static>) -> Self {
        Self(Out::Relay(relay))
    }

    /// Prints a line of the result.
    pub fn result(&self, line: &str) {
        match &self.0 {
            Out::Terminal(Verbosity::Quiet, _) => {}
            Out::Terminal(..) => self.stdout(format!("{}\n", printable(line)).as_bytes()),
            Out::Relay(relay) => relay.relay(Said::Result {
                text: printable(line),
            }),
        }
    }

    /// Prints a text of the program's own as it is, such as a script for a shell: it is asked for, so it is never too much.
    pub fn document(&self, text: &str) {
        self.stdout(text.as_bytes());
    }

    /// Prints something worth knowing that is not wrong.
    pub fn note(&self, line: &str) {
        match &self.0 {
            Out::Terminal(Verbosity::Quiet, _) => {}
            Out::Terminal(..) => stderr(&format!("note: {line}")),
            Out::Relay(relay) => relay.relay(Said::Note {
                text: printable(line),
            }),
        }
    }

    /// Prints something that may go wrong later.
    pub fn warn(&self, line: &str) {
        match &self.0 {
            Out::Terminal(Verbosity::Quiet, _) => {}
            Out::Terminal(..) => stderr(&format!("warning: {line}")),
            Out::Relay(relay) => relay.relay(Said::Warning {
                text: printable(line),
            }),
        }
    }

    /// Prints what only the curious want to know.
    pub fn detail(&self, line: &str) {
        match &self.0 {
            Out::Terminal(Verbosity::Quiet | Verbosity::Normal, _) => {}
            Out::Terminal(Verbosity::Verbose, _) => stderr(line),
            Out::Relay(relay) => relay.relay(Said::Detail {
                text: printable(line),
            }),
        }
    }

    /// Prints an error with its causes and what can be done; hints are about the command line, and not relayed.
    pub fn error(&self, message: impl Display, causes: &[String], hints: &[String]) {
        if let Out::Relay(relay) = &self.0 {
            let lines = std::iter::once(message.to_string()).chain(causes.iter().cloned());
            for line in lines {
                relay.relay(Said::Error {
                    text: printable(&line),
                });
            }
            return;
        }
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
        let target = match &self.0 {
            Out::Terminal(Verbosity::Quiet, _) => ProgressDrawTarget::hidden(),
            // Draws on a terminal only.
            Out::Terminal(..) => ProgressDrawTarget::stderr(),
            Out::Relay(relay) => {
                return Progress(Shown::Relayed(Relayed {
                    relay: Arc::clone(relay),
                    text: printable(message),
                    amounts: Mutex::new(Amounts {
                        done_bytes: 0,
                        total_bytes,
                        relayed_at: None,
                    }),
                }));
            }
        };
        let bar = ProgressBar::with_draw_target(total_bytes, target);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(printable(message));
        Progress(Shown::Bar(bar))
    }
}

impl Progress {
    /// Says how much there is to do.
    pub fn total(&self, bytes: u64) {
        match &self.0 {
            Shown::Bar(bar) => bar.set_length(bytes),
            Shown::Relayed(relayed) => relayed.change(|amounts| amounts.total_bytes = Some(bytes)),
        }
    }

    /// Says how much is done.
    pub fn at(&self, bytes: u64) {
        match &self.0 {
            Shown::Bar(bar) => bar.set_position(bytes),
            Shown::Relayed(relayed) => relayed.change(|amounts| amounts.done_bytes = bytes),
        }
    }

    /// Says how much more is done.
    pub fn advance(&self, bytes: u64) {
        match &self.0 {
            Shown::Bar(bar) => bar.inc(bytes),
            Shown::Relayed(relayed) => relayed.change(|amounts| {
                amounts.done_bytes = amounts.done_bytes.saturating_add(bytes);
            }),
        }
    }

    /// Removes the line.
    pub fn finish(&self) {
        match &self.0 {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Relayed(relayed) => relayed.last(),
        }
    }
}

/// Progress that is relayed now and then.
#[derive(Debug)]
struct Relayed {
    relay: Arc<dyn Relay>,
    text: String,
    amounts: Mutex<Amounts>,
}

#[derive(Debug)]
struct Amounts {
    done_bytes: u64,
    total_bytes: Option<u64>,
    relayed_at: Option<Instant>,
}

impl Relayed {
    /// Changes the amounts, and relays them if it is time.
    fn change(&self, change: impl FnOnce(&mut Amounts)) {
        let mut amounts = self.amounts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut amounts);
        let is_due = amounts
            .relayed_at
            .is_none_or(|last| last.elapsed() >= RELAY_INTERVAL);
        if is_due {
            self.say(&mut amounts);
        }
    }

    /// Relays what is done in the end.
    fn last(&self) {
        self.say(&mut self.amounts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn say(&self, amounts: &mut Amounts) {
        amounts.relayed_at = Some(Instant::now());
        self.relay.relay(Said::Progress {
            text: self.text.clone(),
            done_bytes: amounts.done_bytes,
            total_bytes: amounts.total_bytes,
        });
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

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<Said>>);

    impl Relay for Heard {
        fn relay(&self, said: Said) {
            self.0.lock().unwrap().push(said);
        }
    }

    #[test]
    fn what_is_relayed_is_what_would_be_printed() {
        let heard = Arc::new(Heard::default());
        let ui = Ui::relayed(Arc::clone(&heard));
        ui.result("a\u{7}");
        ui.note("b");
        ui.warn("c");
        ui.detail("d");
        ui.error("e", &["f".to_owned()], &["--flag".to_owned()]);
        let json = serde_json::to_string(&*heard.0.lock().unwrap()).unwrap();
        let expected = r#"[{"kind":"result","text":"a\\u{7}"},{"kind":"note","text":"b"},{"kind":"warning","text":"c"},{"kind":"detail","text":"d"},{"kind":"error","text":"e"},{"kind":"error","text":"f"}]"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn progress_is_relayed_now_and_then_and_at_the_end() {
        let heard = Arc::new(Heard::default());
        let progress = Ui::relayed(Arc::clone(&heard)).packing(1000);
        for _ in 0..1000 {
            progress.advance(1);
        }
        progress.finish();
        let said = heard.0.lock().unwrap();
        assert!(said.len() < 100, "{}", said.len());
        let at = |done_bytes| Said::Progress {
            text: "Packing".to_owned(),
            done_bytes,
            total_bytes: Some(1000),
        };
        assert_eq!(said.first(), Some(&at(1)));
        assert_eq!(said.last(), Some(&at(1000)));
    }
}
