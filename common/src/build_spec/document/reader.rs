//! Reads a document into a type by serde, and goes on behind what is wrong: an unknown key is left out at once, a value of a wrong type
//! before the document is read again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::Findings;
use super::findings::pointer;
use super::problem::MAX_PROBLEMS;
use crate::build_spec::shown;

/// A name is meant by another if at most a third of its letters differ: farther, a guess misleads.
const MEANT_SHARE: usize = 3;

/// Reads `root` as a `T`, whose members must all be optional. What is wrong is left out and added to `found`.
pub(super) fn read<T: DeserializeOwned>(
    root: &Spanned<DeValue<'_>>,
    found: &mut Findings,
) -> Option<T> {
    let reading = Reading::default();
    let mut wrong = Findings::default();
    let result = loop {
        let item = Item {
            value: root.get_ref(),
            pointer: String::new(),
            reading: &reading,
        };
        let fault = match T::deserialize(item) {
            Ok(value) => break Some(value),
            Err(fault) => fault,
        };
        let place = fault.pointer.unwrap_or_default();
        wrong.value(&place, fault.sentence);
        let is_new = reading
            .left_out
            .borrow_mut()
            .insert(without_indices(&place));
        if !is_new || place.is_empty() || wrong.len() >= MAX_PROBLEMS {
            break None;
        }
    };
    let unknown = reading.unknown.into_inner().into_vec();
    for finding in unknown.into_iter().chain(wrong.into_vec()) {
        found.push(finding);
    }
    result
}

/// The number that TOML allows to be written in several ways: from 0 up, or below 0.
pub(super) fn integer(number: &DeInteger<'_>) -> Option<Result<u64, i64>> {
    let (digits, radix) = (number.as_str(), number.radix());
    if let Ok(number) = u64::from_str_radix(digits, radix) {
        return Some(Ok(number));
    }
    i64::from_str_radix(digits, radix).ok().map(Err)
}

/// A list is left out as a whole, so that the places of its other items stay right.
fn without_indices(place: &str) -> String {
    let is_index = |step: &str| !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit());
    let mut place = place;
    while let Some((list, step)) = place.rsplit_once('/') {
        if !is_index(step) {
            break;
        }
        place = list;
    }
    place.to_owned()
}

/// What is known of the document from reading it so far.
#[derive(Debug, Default)]
struct Reading {
    unknown: RefCell<Findings>,
    left_out: RefCell<BTreeSet<String>>,
}

/// A value that could not be read.
#[derive(Debug)]
struct Fault {
    pointer: Option<String>,
    sentence: String,
}

impl Fault {
    /// The innermost place is the one that is meant.
    fn at(mut self, pointer: &str) -> Self {
        self.pointer.get_or_insert_with(|| pointer.to_owned());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            pointer: None,
            sentence: message.to_string(),
        }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            "u16" | "u32" | "u64" => "a whole number, 0 or more",
            "a string" => "a text in quotes",
            "a boolean" => "true or false",
            "a sequence" => "a list in brackets",
            "a map" => "a table",
            other => other.strip_prefix("struct ").map_or(other, |_| "a table"),
        };
        let found = match unexpected {
            Unexpected::Str(text) => format!("the text `{}`", shown(text)),
            Unexpected::Signed(_) | Unexpected::Unsigned(_) => "a number".to_owned(),
            Unexpected::Float(_) => "a number with a point".to_owned(),
            Unexpected::Bool(value) => value.to_string(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a table".to_owned(),
            other => other.to_string(),
        };
        Self::custom(format!("Expected {expected}, found {found}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("The key `{field}` is missing"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match unexpected {
            Unexpected::Signed(number) => Self::custom(out_of_range(&number.to_string(), expected)),
            Unexpected::Unsigned(number) => {
                Self::custom(out_of_range(&number.to_string(), expected))
            }
            other => Self::invalid_type(other, expected),
        }
    }
}

/// The sentence about a number that the type called `expected` does not have.
fn out_of_range(number: &str, expected: &dyn Expected) -> String {
    let range = match expected.to_string().as_str() {
        "u8" => (0, u64::from(u8::MAX)),
        "u16" => (0, u64::from(u16::MAX)),
        "u32" => (0, u64::from(u32::MAX)),
        // TOML has no larger numbers.
        "u64" | "usize" => (0, i64::MAX.unsigned_abs()),
        other => return format!("{number} is not {other}"),
    };
    let (least, most) = range;
    format!("{number} is too small or too large here: it can be {least} to {most}")
}

/// A value on its way into a type.
#[derive(Clone)]
struct Item<'a, 'text> {
    value: &'a DeValue<'text>,
    pointer: String,
    reading: &'a Reading,
}

impl<'a> Item<'a, '_> {
    /// The keys of a table, without those that are left out.
    fn entries(&self, known: Option<&[&'static str]>) -> Vec<(&'a str, Self)> {
        let DeValue::Table(table) = self.value else {
            return Vec::new();
        };
        let left_out = self.reading.left_out.borrow();
        let mut entries = Vec::new();
        for (key, value) in table {
            let key: &'a str = key.get_ref();
            let pointer = format!("{}{}", self.pointer, pointer(&[key]));
            if known.is_some_and(|known| !known.contains(&key)) {
                let sentence = unknown_key(key, known.unwrap_or_default());
                self.reading.unknown.borrow_mut().key(&pointer, sentence);
            } else if !left_out.contains(&pointer) {
                let item = Self {
                    value: value.get_ref(),
                    pointer,
                    reading: self.reading,
                };
                entries.push((key, item));
            }
        }
        entries
    }

    fn visit<'de, V: Visitor<'de>>(
        self,
        known: Option<&[&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let place = self.pointer.clone();
        let result = match self.value {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Integer(number) => match integer(number) {
                Some(Ok(number)) => visitor.visit_u64(number),
                Some(Err(number)) => visitor.visit_i64(number),
                None => Err(Fault::custom("This number is too large")),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => Err(Fault::custom("This number cannot be represented")),
            },
            DeValue::Boolean(value) => visitor.visit_bool(*value),
            DeValue::Datetime(time) => Err(Fault::custom(format!(
                "`{time}` is a time, which is not expected here: a text stands in quotes"
            ))),
            DeValue::Array(items) => {
                let items = items.iter().enumerate().map(|(index, value)| Self {
                    value: value.get_ref(),
                    pointer: format!("{}/{index}", self.pointer),
                    reading: self.reading,
                });
                visitor.visit_seq(List(items.collect::<Vec<_>>().into_iter()))
            }
            DeValue::Table(_) => visitor.visit_map(Table {
                entries: self.entries(known).into_iter(),
                value: None,
            }),
        };
        result.map_err(|fault| fault.at(&place))
    }
}

impl<'de> Deserializer<'de> for Item<'_, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(None, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.visit(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match self.value {
            DeValue::String(text) if variants.contains(&text.as_ref()) => {
                visitor.visit_enum(text.as_ref().into_deserializer())
            }
            DeValue::String(text) => {
                let key = self.pointer.rsplit('/').next().unwrap_or_default();
                Err(Fault::custom(unknown_value(key, text, variants)))
            }
            _ => Err(Fault::custom(format!(
                "Expected {}",
                listed(variants, '"', "or")
            ))),
        };
        result.map_err(|fault| fault.at(&self.pointer))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The items of a list.
struct List<'a, 'text>(std::vec::IntoIter<Item<'a, 'text>>);

impl<'de> SeqAccess<'de> for List<'_, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.0.next() else {
            return Ok(None);
        };
        let place = item.pointer.clone();
        let result = seed.deserialize(item).map(Some);
        result.map_err(|fault| fault.at(&place))
    }
}

/// The keys and values of a table.
struct Table<'a, 'text> {
    entries: std::vec::IntoIter<(&'a str, Item<'a, 'text>)>,
    value: Option<Item<'a, 'text>>,
}

impl<'de> MapAccess<'de> for Table<'_, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, item)) = self.entries.next() else {
            return Ok(None);
        };
        let place = item.pointer.clone();
        self.value = Some(item);
        let result = seed.deserialize(key.into_deserializer()).map(Some);
        result.map_err(|fault: Fault| fault.at(&place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let item = self
            .value
            .take()
            .ok_or_else(|| Fault::custom("A value was asked for without its key"))?;
        let place = item.pointer.clone();
        seed.deserialize(item).map_err(|fault| fault.at(&place))
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let unknown = format!("Unknown key `{}`", shown(key));
    match meant(key, known) {
        Some(meant) => format!("{unknown}: did you mean `{meant}`?"),
        None => format!("{unknown}: known here are {}", listed(known, '`', "and")),
    }
}

fn unknown_value(key: &str, value: &str, known: &[&str]) -> String {
    let unknown = format!("`{}` is not a `{key}`", shown(value));
    match meant(value, known) {
        Some(meant) => format!("{unknown}: did you mean \"{meant}\"?"),
        None => format!("{unknown}: use {}", listed(known, '"', "or")),
    }
}

/// What somebody may have meant who wrote `text`.
fn meant<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let folded = text.to_lowercase().replace(['-', ' '], "_");
    known
        .iter()
        .map(|known| (strsim::osa_distance(&folded, known), *known))
        .filter(|(distance, known)| *distance <= known.chars().count() / MEANT_SHARE)
        .min()
        .map(|(_, known)| known)
}

/// `a`, `b` or `c`.
fn listed(words: &[&str], quote: char, last: &str) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("{quote}{word}{quote}"))
        .collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [word] => word.clone(),
        [words @ .., end] => format!("{} {last} {end}", words.join(", ")),
    }
}
