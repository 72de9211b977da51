//! `cargo xtask tidy`: the rules of this repository that no compiler and no lint checks. Each rule is a function from the
//! sources to findings, tested on made-up sources; here are the list of rules and the command. It changes no file.

mod commands;
mod dependencies;
mod files;
mod layers;
mod source;
mod sources;

use std::fmt;

use anyhow::{Result, bail};

use self::source::Tree;
pub(crate) use self::sources::FAKE;
use crate::{printer, workspace};

/// One place where the repository breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// The file, from the root, or what else is at fault.
    place: String,
    /// What is wrong, and what would be right.
    what: String,
}

type Rule = fn(&Tree) -> Vec<Finding>;

/// The rules that need nothing but the files.
const RULES: &[(&str, Rule)] = &[
    ("every Rust file begins with `//!`", sources::documented),
    ("files are short enough to read", sources::short),
    ("files are named after what they are", sources::named),
    ("fakes are for tests", sources::fakes),
    ("unsafe code lives in `sys`", sources::unsafe_code),
    ("the layers' arrows run one way", layers::one_way),
    ("no machine's paths", files::portable),
    ("no binary in git", files::no_binaries),
    ("documented commands are tested", commands::tested),
    ("the lock file stays small", dependencies::lock_size),
];

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.what)
    }
}

/// Runs the command; returns how many rules hold.
///
/// # Errors
/// When a rule is broken: every finding has been printed then.
pub(crate) fn run() -> Result<usize> {
    let tree = Tree::read(&workspace::root())?;
    let metadata = workspace::metadata_with_dependencies()?;
    let mut results: Vec<(&str, Vec<Finding>)> = RULES
        .iter()
        .map(|(name, rule)| (*name, rule(&tree)))
        .collect();
    results.push((
        "crates depend on what they may",
        dependencies::between_crates(&metadata),
    ));
    results.push((
        "licences are known and compatible",
        dependencies::licences(&metadata),
    ));
    let mut count = 0;
    for (name, mut findings) in results.iter().cloned() {
        findings.sort();
        count += findings.len();
        for finding in findings {
            printer::progress("tidy", &format!("{finding}\n      rule: {name}"));
        }
    }
    if count > 0 {
        bail!("{count} places break the repository's rules");
    }
    printer::progress("tidy", &format!("{} rules hold", results.len()));
    Ok(results.len())
}

/// Returns the names of every fake in the sources, for whoever checks that none was built into a program.
pub(crate) fn names_of_fakes() -> Result<Vec<String>> {
    Ok(sources::names_of_fakes(&Tree::read(&workspace::root())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_like_a_compilers() {
        let finding = Finding::new("volar/src/main.rs", "Does not begin with `//!`");
        assert_eq!(
            finding.to_string(),
            "volar/src/main.rs: Does not begin with `//!`"
        );
    }

    #[test]
    fn this_checkout_can_be_read() {
        let tree = Tree::read(&workspace::root()).unwrap();
        assert!(
            tree.files
                .iter()
                .any(|file| file.path == "xtask/src/tidy.rs")
        );
        assert!(
            !tree
                .files
                .iter()
                .any(|file| file.path.starts_with("target/"))
        );
    }
}
