//! A TOML document that is read as a whole: everything that is wrong is found at once, each at its place.
//!
//! Places are JSON pointers (RFC 6901), as in a manifest's problems; [`Document::locate`] makes lines and columns of them.

mod findings;
mod problem;
mod reader;

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) use findings::{Findings, pointer};
pub use problem::{Place, Problem, Problems};

use findings::{Mark, steps};

/// The document's keys and values with their places in the text.
#[derive(Debug)]
pub(super) struct Document<'text> {
    text: &'text str,
    root: Spanned<DeValue<'text>>,
}

impl<'text> Document<'text> {
    /// Takes the text apart.
    ///
    /// # Errors
    /// What is not TOML, such as a key that is there twice.
    pub(super) fn parse(text: &'text str) -> Result<Self, Problems> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let span = table.span();
            let root = Spanned::new(span, DeValue::Table(table.into_inner()));
            return Ok(Self { text, root });
        }
        let problems = errors
            .iter()
            .map(|error| Problem::new(text, error.span(), sentence(error.message())));
        Err(Problems::new(problems.collect()))
    }

    /// Reads the document as a `T`, whose members must all be optional. What is wrong is left out and added to `found`.
    pub(super) fn read<T: DeserializeOwned>(&self, found: &mut Findings) -> Option<T> {
        reader::read(&self.root, found)
    }

    /// What was found, with lines and columns, from top to bottom.
    pub(super) fn locate(&self, found: Findings) -> Problems {
        let mut located: Vec<_> = found
            .into_vec()
            .into_iter()
            .map(|finding| {
                let span = self.span(&finding.pointer, finding.mark);
                (span, finding.sentence)
            })
            .collect();
        located.sort_by_key(|(span, _)| span.as_ref().map(|span| span.start));
        let problems = located
            .into_iter()
            .map(|(span, sentence)| Problem::new(self.text, span, sentence));
        Problems::new(problems.collect())
    }

    /// Where `pointer` leads; if there is nothing, the last key on the way that is there.
    fn span(&self, pointer: &str, mark: Mark) -> Option<Range<usize>> {
        let mut value = &self.root;
        let mut span = None;
        let mut key = None;
        for step in steps(pointer) {
            let next = match value.get_ref() {
                DeValue::Table(table) => table.get_key_value(step.as_str()).map(|(name, value)| {
                    key = Some(name.span());
                    (name.span(), value)
                }),
                DeValue::Array(array) => step
                    .parse()
                    .ok()
                    .and_then(|index: usize| array.get(index))
                    .map(|value| (value.span(), value)),
                _ => None,
            };
            // Nothing there: the key above is where it is missing.
            let Some((place, next)) = next else {
                return span;
            };
            span = Some(place);
            value = next;
        }
        match (mark, value.get_ref()) {
            (Mark::Key, _) | (_, DeValue::Table(_)) => span,
            (Mark::Value, _) => Some(value.span()),
        }
    }
}

/// The parser's message as a sentence of ours.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
