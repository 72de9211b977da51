//! What was found wrong, by place in the document. Lines and columns come later.

use std::collections::BTreeSet;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, as a JSON pointer (RFC 6901): see [`pointer()`].
    pub pointer: String,
    /// What of it is meant.
    pub mark: Mark,
    /// What is wrong.
    pub sentence: String,
}

/// What of a member is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// That it is there, or that something is missing in it.
    Key,
    /// Its value.
    Value,
}

/// Everything that was found wrong, at most once for each place.
#[derive(Debug, Clone, Default)]
pub(in crate::build_spec) struct Findings {
    findings: Vec<Finding>,
    /// Of all findings.
    pointers: BTreeSet<String>,
}

impl Findings {
    /// Notes that the key at `pointer` should not be there.
    pub(in crate::build_spec) fn key(&mut self, pointer: &str, sentence: impl Into<String>) {
        self.add(pointer, Mark::Key, sentence.into());
    }

    /// Notes that there should be a key at `pointer`.
    pub(in crate::build_spec) fn missing(&mut self, pointer: &str, sentence: impl Into<String>) {
        self.add(pointer, Mark::Key, sentence.into());
    }

    /// Notes that the value at `pointer` is wrong.
    pub(in crate::build_spec) fn value(&mut self, pointer: &str, sentence: impl Into<String>) {
        self.add(pointer, Mark::Value, sentence.into());
    }

    /// Notes another problem of the value at `pointer`, whatever has been said of it.
    pub(in crate::build_spec) fn also(&mut self, pointer: &str, sentence: &str) {
        self.push(Finding {
            pointer: pointer.to_owned(),
            mark: Mark::Value,
            sentence: sentence.to_owned(),
        });
    }

    /// Whether nothing is wrong.
    pub(in crate::build_spec) fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// All findings, in the order in which they were made.
    pub(in crate::build_spec) fn into_vec(self) -> Vec<Finding> {
        self.findings
    }

    pub(super) fn len(&self) -> usize {
        self.findings.len()
    }

    /// Whether something was found at `pointer`.
    pub(in crate::build_spec) fn has(&self, pointer: &str) -> bool {
        self.pointers.contains(pointer)
    }

    /// Takes over what was found elsewhere.
    pub(in crate::build_spec) fn push(&mut self, finding: Finding) {
        self.pointers.insert(finding.pointer.clone());
        self.findings.push(finding);
    }

    /// What was said of a place first stands: a value of the wrong type is not also missing.
    fn add(&mut self, pointer: &str, mark: Mark, sentence: String) {
        if !self.has(pointer) {
            self.push(Finding {
                pointer: pointer.to_owned(),
                mark,
                sentence,
            });
        }
    }
}

/// The JSON pointer that leads through these keys.
pub fn pointer(keys: &[&str]) -> String {
    keys.iter().fold(String::new(), |pointer, key| {
        format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
    })
}

/// The keys that a JSON pointer leads through.
pub(in crate::build_spec) fn steps(pointer: &str) -> impl Iterator<Item = String> {
    pointer
        .split('/')
        .skip(1)
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
}
