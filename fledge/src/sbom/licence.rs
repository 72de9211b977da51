//! Licences as `CycloneDX` wants them: an SPDX expression if it reads like one, else a name. Knows no list of licences.

use serde::Serialize;

/// A licence of a component.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Licence {
    /// Such as `MIT AND GPL-2.0-only`.
    Expression(String),
    /// Anything else that a database says.
    License {
        /// As it says.
        name: String,
    },
}

impl Licence {
    /// What `text` is.
    pub(super) fn read(text: &str) -> Self {
        if is_expression(text) {
            Self::Expression(text.to_owned())
        } else {
            Self::License {
                name: text.to_owned(),
            }
        }
    }
}

/// Whether names and operators take turns, and parentheses match (SPDX 2.3, annex D).
fn is_expression(text: &str) -> bool {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let mut wants_name = true;
    let mut depth = 0_u32;
    for word in spaced.split_whitespace() {
        match (word, wants_name) {
            ("(", true) => depth += 1,
            (")", false) => match depth.checked_sub(1) {
                Some(left) => depth = left,
                None => return false,
            },
            ("AND" | "OR" | "WITH", false) => wants_name = true,
            ("AND" | "OR" | "WITH", true) => return false,
            (name, true) if is_name(name) => wants_name = false,
            _ => return false,
        }
    }
    !wants_name && depth == 0
}

fn is_name(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_told_from_names() {
        for text in [
            "MIT",
            "MIT AND (GPL-2.0-only OR BSD-2-Clause)",
            "GPL-2.0+ WITH x",
        ] {
            assert_eq!(Licence::read(text), Licence::Expression(text.to_owned()));
        }
        for text in [
            "",
            "BSD MIT",
            "AND",
            "MIT AND",
            "(MIT",
            "MIT)",
            "GPL v2, or later",
            "()",
        ] {
            assert_eq!(
                Licence::read(text),
                Licence::License {
                    name: text.to_owned()
                }
            );
        }
    }
}
