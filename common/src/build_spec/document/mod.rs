//! A TOML document that is read as a whole: everything that is wrong is found at once, each at its place.
//!
//! Places are JSON pointers (RFC 6901), as in a manifest's problems; [`Document::locate`] makes lines and columns of them.

mod findings;
mod problem;
mod reader;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use findings::{Finding, Mark, pointer};
pub(super) use findings::{Findings, steps};
pub use problem::{Place, Problem, Problems};

use problem::MAX_PROBLEMS;

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
            .take(MAX_PROBLEMS + 1)
            .map(|error| Problem::new(text, error.span(), sentence(error.message())));
        Err(Problems::new(problems.collect()))
    }

    /// Reads the document as a `T`, whose members must all be optional. What is wrong is left out and added to `found`.
    pub(super) fn read<T: DeserializeOwned>(&self, found: &mut Findings) -> Option<T> {
        reader::read(&self.root, found)
    }

    /// Whether there is something at `pointer`.
    pub(super) fn has(&self, pointer: &str) -> bool {
        let mut value = &self.root;
        for step in steps(pointer) {
            match child(value, &step) {
                Some((_, next)) => value = next,
                None => return false,
            }
        }
        true
    }

    /// The document as a JSON object, without what was found wrong.
    pub(super) fn to_json(&self, found: &Findings) -> Map<String, Value> {
        match json(&self.root, "", found) {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        }
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
        // One more than is shown, which is how the end is known to be missing: finding lines takes time.
        let problems = located
            .into_iter()
            .take(MAX_PROBLEMS + 1)
            .map(|(span, sentence)| Problem::new(self.text, span, sentence));
        Problems::new(problems.collect())
    }

    /// Where `pointer` leads; if there is nothing, the last key on the way that is there.
    fn span(&self, pointer: &str, mark: Mark) -> Option<Range<usize>> {
        let mut value = &self.root;
        let mut span = None;
        for step in steps(pointer) {
            // Nothing there: the key above is where it is missing.
            let Some((place, next)) = child(value, &step) else {
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

/// What lies one step below `value`, and where its key or, in a list, itself is.
fn child<'a, 'text>(
    value: &'a Spanned<DeValue<'text>>,
    step: &str,
) -> Option<(Range<usize>, &'a Spanned<DeValue<'text>>)> {
    match value.get_ref() {
        DeValue::Table(table) => table
            .get_key_value(step)
            .map(|(key, value)| (key.span(), value)),
        DeValue::Array(array) => {
            let value = array.get(step.parse::<usize>().ok()?)?;
            Some((value.span(), value))
        }
        _ => None,
    }
}

/// The value at `place` in JSON, unless it was found wrong.
fn json(value: &Spanned<DeValue<'_>>, place: &str, found: &Findings) -> Option<Value> {
    if found.has(place) {
        return None;
    }
    Some(match value.get_ref() {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => match reader::integer(number) {
            Some(Ok(number)) => Value::from(number),
            Some(Err(number)) => Value::from(number),
            None => return None,
        },
        DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().ok()?),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(items) => items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| json(item, &format!("{place}/{index}"), found))
            .collect(),
        DeValue::Table(table) => {
            let mut members = Map::new();
            for (key, value) in table {
                let place = format!("{place}{}", pointer(&[key.get_ref()]));
                if let Some(value) = json(value, &place, found) {
                    members.insert(key.get_ref().to_string(), value);
                }
            }
            Value::Object(members)
        }
    })
}

/// The parser's message as a sentence of ours.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
