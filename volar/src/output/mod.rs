//! Results on stdout, the only module that writes there. Progress, hints and errors are the work of `ui`.

mod artifact;
mod config;
mod event;
mod json;
mod log;
mod openapi;
mod plugin;
mod stats;
mod system;
mod table;
mod vm;

use std::io::{self, Write as _};

use crate::cli::Format;
use crate::settings::Settings;
use crate::ui::{harmless, plain};

pub use artifact::{artifact_details, artifact_table, pruned, usage_table};
pub use config::{context_table, history_table};
pub use event::event_line;
pub use log::LogPrinter;
pub use openapi::{Operation, operation_table, operations};
pub use plugin::{installed_line, plugin_details, plugin_table, size};
pub use stats::{Sample, stats_details, top_json, top_table};
pub use system::{context_details, info_details};
pub use vm::{age, ready_line, vm_details, vm_table, vm_wide_table};

/// The result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write the result")]
pub struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether the reader went away, as `head` does. That is no failure.
    pub fn is_broken_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// The way to stdout.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    color: bool,
    is_terminal: bool,
}

impl Output {
    /// As the settings say.
    pub const fn new(settings: &Settings) -> Self {
        Self {
            format: settings.format,
            color: settings.color_stdout,
            is_terminal: settings.surroundings.stdout_is_terminal,
        }
    }

    /// Whether raw bytes of a guest would reach a terminal.
    pub const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Whether colours are wanted.
    pub const fn has_color(&self) -> bool {
        self.color
    }

    /// Prints a result in the format that was asked for. `text` is made only if it is needed.
    pub fn result(
        &self,
        json: &str,
        names: &[&str],
        text: impl FnOnce() -> String,
    ) -> Result<(), OutputError> {
        match self.format {
            Format::Table | Format::Wide => self.line(&text()),
            Format::Json => self.json(&json::indent(json)),
            Format::Yaml => self.line(&json::yaml(json)),
            Format::Name => names.iter().try_for_each(|name| self.name(name)),
        }
    }

    /// Prints one of many results as it comes: a line of JSON, a document of YAML, a name, or text.
    pub fn item(
        &self,
        json: &str,
        name: &str,
        text: impl FnOnce() -> String,
    ) -> Result<(), OutputError> {
        match self.format {
            Format::Table | Format::Wide => self.line(&text()),
            Format::Json => self.json(&json::compact(json)),
            Format::Yaml => self.line(&format!("---\n{}", json::yaml(json))),
            Format::Name => self.name(name),
        }
    }

    /// Prints a JSON document that has no other form for people than itself.
    pub fn document(&self, json: &str, name: &str) -> Result<(), OutputError> {
        match self.format {
            Format::Table | Format::Wide | Format::Json => self.json(&json::indent(json)),
            Format::Yaml => self.line(&json::yaml(json)),
            Format::Name => self.name(name),
        }
    }

    /// Ends the colours that somebody else's text may have begun.
    pub fn reset(&self) -> Result<(), OutputError> {
        if self.is_terminal && self.color {
            self.bytes(b"\x1b[0m")?;
        }
        Ok(())
    }

    /// Prints what happened. Nothing in JSON and YAML: the API has no answer for it either.
    pub fn done(&self, name: &str, text: &str) -> Result<(), OutputError> {
        match self.format {
            Format::Table | Format::Wide => self.line(text),
            Format::Name => self.name(name),
            Format::Json | Format::Yaml => Ok(()),
        }
    }

    /// Whether the table may have more columns than fit most terminals.
    pub fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// Whether results are for people.
    pub const fn is_text(&self) -> bool {
        self.format.is_text()
    }

    /// Writes bytes as they are, at once.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), OutputError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// JSON: scripts get the characters as they came, a terminal gets escapes for what it would obey.
    fn json(self, json: &str) -> Result<(), OutputError> {
        if self.is_terminal {
            self.line(&json::escaped(json))
        } else {
            self.line(json)
        }
    }

    /// A name of the daemon or a guest: one line, whatever it holds.
    fn name(self, name: &str) -> Result<(), OutputError> {
        self.line(&plain(name))
    }

    /// The one way to stdout of what is no stream of bytes: nothing in it drives a terminal, wherever it comes from.
    fn line(self, text: &str) -> Result<(), OutputError> {
        let text = text.trim_end_matches('\n');
        if text.is_empty() {
            return Ok(());
        }
        if self.is_terminal {
            self.bytes(format!("{}\n", harmless(text, self.color)).as_bytes())
        } else {
            self.bytes(format!("{text}\n").as_bytes())
        }
    }
}
