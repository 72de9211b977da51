//! Reads JSON of others into types: objects by the names of their members only, and what is wrong is a pointer and a sentence. What a value
//! must fulfil beyond its type is the types' own business.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};
use serde_path_to_error::{Path, Segment};

use crate::manifest::FieldProblem;

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is no JSON.
    #[error("{0}")]
    Syntax(String),
    /// It is JSON, and a member is not what it should be.
    #[error("{0}")]
    Shape(FieldProblem),
}

/// Reads a whole text. Unlike `serde_json`, it takes no array for an object whose members it has in order.
///
/// # Errors
/// If it is no JSON, has something behind its value, or has another shape than `T`.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| JsonError::Syntax(error.to_string()))?;
    serde_path_to_error::deserialize(Strict(&value)).map_err(|error| {
        let pointer = pointer(error.path());
        JsonError::Shape(FieldProblem::new(pointer, error.into_inner().to_string()))
    })
}

/// One part of a JSON pointer, with its `/` and escaped (RFC 6901, 3).
pub fn pointer_part(member: &str) -> String {
    format!("/{}", member.replace('~', "~0").replace('/', "~1"))
}

fn pointer(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => pointer_part(key),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// A value that gives a struct its members by name only.
#[derive(Debug, Clone, Copy)]
struct Strict<'de>(&'de Value);

impl<'de> IntoDeserializer<'de, Error> for Strict<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Strict<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.iter().map(Strict));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(members) => {
                let members = members
                    .iter()
                    .map(|(name, value)| (name.as_str(), Strict(value)));
                let mut members = MapDeserializer::new(members);
                let value = visitor.visit_map(&mut members)?;
                members.end()?;
                Ok(value)
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.0.is_array() {
            return Err(Error::invalid_type(Unexpected::Seq, &"an object"));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        text: String,
        number: Option<u16>,
        inner: Inner,
        list: Vec<Inner>,
        map: BTreeMap<String, Inner>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        number: f32,
        word: Option<Word>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        One,
    }

    #[test]
    fn objects_are_read() {
        let text = br#"{"text": "a", "number": null, "inner": {"number": 1, "word": "one", "more": []}, "list": [{}], "map": {"a/b": {}}}"#;
        let read: Outer = read(text).unwrap();
        assert_eq!((read.text.as_str(), read.number), ("a", None));
        assert_eq!(read.inner.word, Some(Word::One));
        assert_eq!((read.list.len(), read.map.len()), (1, 1));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_pointer() {
        let table = [
            ("[]", ""),
            (r#"["a", 1]"#, ""),
            ("null", ""),
            (r#"{"inner": []}"#, "/inner"),
            (r#"{"inner": [1]}"#, "/inner"),
            (r#"{"list": [{}, [1]]}"#, "/list/1"),
            (r#"{"list": [{"number": "x"}]}"#, "/list/0/number"),
            (
                r#"{"map": {"a/b~c": {"number": true}}}"#,
                "/map/a~1b~0c/number",
            ),
            (r#"{"map": {"a": []}}"#, "/map/a"),
            (r#"{"number": 70000}"#, "/number"),
            (r#"{"inner": {"word": "two"}}"#, "/inner/word"),
            (r#"{"other": 1}"#, "/other"),
        ];
        for (text, pointer) in table {
            let Err(JsonError::Shape(problem)) = read::<Outer>(text.as_bytes()) else {
                panic!("{text} is read");
            };
            assert_eq!(problem.pointer, pointer, "{text}: {}", problem.detail);
            assert!(!problem.detail.contains(" line "), "{}", problem.detail);
        }
    }

    #[test]
    fn what_is_no_json_says_where() {
        for text in ["", "{", "{} {}", "{\"a\": 01}"] {
            let Err(JsonError::Syntax(detail)) = read::<Outer>(text.as_bytes()) else {
                panic!("{text} is read");
            };
            assert!(detail.contains(" line 1"), "{detail}");
        }
    }
}
