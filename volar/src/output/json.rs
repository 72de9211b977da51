//! JSON as the API sent it, with line breaks, in one line, or as YAML. Only blanks between the tokens change: order, numbers and unknown members stay.

use std::fmt::Write as _;

use crate::ui::is_harmful;

/// Blanks for each level.
const INDENT: &str = "  ";

/// Lays out a valid JSON text for people.
pub(super) fn indent(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut opened = false;
    for c in json.chars() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(c, '}' | ']');
        if closes {
            depth = depth.saturating_sub(1);
        }
        // An empty object or array stays on its line.
        if opened != closes {
            new_line(&mut out, depth);
        }
        opened = matches!(c, '{' | '[');
        out.push(c);
        match c {
            '"' => in_string = true,
            '{' | '[' => depth += 1,
            ':' => out.push(' '),
            ',' => new_line(&mut out, depth),
            _ => {}
        }
    }
    out
}

/// A valid JSON text in one line: its strings cannot hold line breaks (RFC 8259 §7), so those between tokens are blanks.
pub(super) fn compact(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

/// The same value as YAML, its members in their order. What has no such form stays JSON.
pub(super) fn yaml(json: &str) -> String {
    let value = serde_json::from_str::<serde_norway::Value>(json);
    match value.map(|value| serde_norway::to_string(&value)) {
        Ok(Ok(yaml)) => yaml,
        Ok(Err(_)) | Err(_) => indent(json),
    }
}

/// The same value without anything that a terminal obeys: valid JSON has such characters in strings only, where each may be an escape of
/// its UTF-16 (RFC 8259 §7).
pub(super) fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmful(c) && !c.is_ascii_whitespace() {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&INDENT.repeat(depth));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_blanks_change() {
        let text = r#"{"b":1.0,"a":[],"s":"x, {\"y\": [1]} \\","n":{"o":{}},"l":[1,"2",[true]]}"#;
        insta::assert_snapshot!(indent(text), @r#"
        {
          "b": 1.0,
          "a": [],
          "s": "x, {\"y\": [1]} \\",
          "n": {
            "o": {}
          },
          "l": [
            1,
            "2",
            [
              true
            ]
          ]
        }
        "#);
        assert_eq!(indent("[]"), "[]");
        assert_eq!(indent(" [ { } ] "), "[\n  {}\n]");
    }

    #[test]
    fn yaml_keeps_the_order() {
        let text = r#"{"b": 1, "a": [{"x": "1", "y": null}], "c": "two\nlines", "d": "no"}"#;
        insta::assert_snapshot!(yaml(text), @r#"
        b: 1
        a:
        - x: '1'
          y: null
        c: |-
          two
          lines
        d: no
        "#);
    }

    #[test]
    fn nothing_is_left_for_a_terminal() {
        let text = "{\n\"a\u{9b}2J\":\t\"\u{7f}é\u{202e}\u{85}\"}";
        let found = escaped(text);
        assert_eq!(found, "{\n\"a\\u009b2J\":\t\"\\u007fé\\u202e\\u0085\"}");
        let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(same(&found), same(text));
    }

    proptest! {
        #[test]
        fn it_is_the_same_value(key in ".{0,20}", text in ".{0,40}", number in proptest::num::i64::ANY) {
            let value = serde_json::json!({ key: [text.clone(), number, { "x": text }, [], {}] });
            let again: Value = serde_json::from_str(&indent(&value.to_string())).unwrap();
            prop_assert_eq!(again, value);
        }
    }
}
