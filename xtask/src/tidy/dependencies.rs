//! Rules about dependencies: which crate of ours may use which, under which licences the others come, and how many there
//! are. Known vulnerabilities are not looked up here, as that needs a network.

use super::Finding;
use super::source::Tree;
use crate::workspace::{Metadata, Package};

/// Packages that Cargo.lock may have. Only ever lowered, or raised with a reason in the commit: each package is code that
/// somebody has to trust and everybody has to build.
const MAX_LOCKED_PACKAGES: usize = 440;

/// What each of our crates may depend on among ours, tests aside; a crate that is not in the list may use none.
const BETWEEN_CRATES: &[(&str, &[&str])] = &[
    ("common", &[]),
    ("fledge", &["common"]),
    ("hello", &[]),
    ("kestrel", &["common"]),
    ("volantd", &["common", "fledge"]),
    ("volar", &["common"]),
    ("xtask", &["common", "fledge", "volantd", "volar"]),
];

/// Licences whose terms an Apache-2.0 program can meet by passing on notices.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    // The root certificates' list: data, no terms on what uses it.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks the table above, and that volantd takes fledge's library without its command line.
pub(super) fn between_crates(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in members(metadata) {
        let allowed = BETWEEN_CRATES
            .iter()
            .find(|(name, _)| *name == package.name)
            .map_or(&[][..], |(_, allowed)| allowed);
        let ours = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"));
        for dependency in ours {
            if !allowed.contains(&dependency.name.as_str()) {
                findings.push(Finding::new(
                    format!("{}/Cargo.toml", package.name),
                    format!(
                        "`{}` may not depend on `{}`: see the table in ARCHITECTURE.md",
                        package.name, dependency.name
                    ),
                ));
            }
            let with_features = dependency.uses_default_features || !dependency.features.is_empty();
            if package.name == "volantd" && dependency.name == "fledge" && with_features {
                findings.push(Finding::new(
                    "volantd/Cargo.toml",
                    "`fledge` is used for its image library alone: no default features, none added",
                ));
            }
        }
    }
    findings
}

/// Checks every package's licence against the list above.
pub(super) fn licences(metadata: &Metadata) -> Vec<Finding> {
    metadata
        .packages
        .iter()
        .filter_map(|package| {
            let place = format!("{} {}", package.name, package.version);
            match package.license.as_deref() {
                None => Some(Finding::new(place, "Names no licence")),
                Some(expression) if is_allowed(expression) => None,
                Some(expression) => Some(Finding::new(
                    place,
                    format!("Comes under `{expression}`, which is not in the list of licences"),
                )),
            }
        })
        .collect()
}

/// Counts the packages of the lock file.
pub(super) fn lock_size(tree: &Tree) -> Vec<Finding> {
    let count = tree
        .texts()
        .find(|(path, _)| *path == "Cargo.lock")
        .map_or(0, |(_, text)| {
            text.lines().filter(|line| *line == "[[package]]").count()
        });
    if count == 0 {
        return vec![Finding::new("Cargo.lock", "Is missing or names no package")];
    }
    if count > MAX_LOCKED_PACKAGES {
        return vec![Finding::new(
            "Cargo.lock",
            format!("Names {count} packages, and the limit is {MAX_LOCKED_PACKAGES}"),
        )];
    }
    Vec::new()
}

fn members(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
}

/// Evaluates an SPDX expression, or the slashes that older packages write for `OR`. `AND` binds before `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words) && words.peek().is_none()
}

type Words<'text> = std::iter::Peekable<std::str::SplitWhitespace<'text>>;

fn either(words: &mut Words<'_>) -> bool {
    let mut allowed = both(words);
    while words.next_if_eq(&"OR").is_some() {
        let other = both(words);
        allowed |= other;
    }
    allowed
}

fn both(words: &mut Words<'_>) -> bool {
    let mut allowed = licence(words);
    while words.next_if_eq(&"AND").is_some() {
        let other = licence(words);
        allowed &= other;
    }
    allowed
}

fn licence(words: &mut Words<'_>) -> bool {
    let Some(word) = words.next() else {
        return false;
    };
    if word == "(" {
        let allowed = either(words);
        return words.next_if_eq(&")").is_some() && allowed;
    }
    let name = match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => format!("{word} WITH {exception}"),
        None => word.to_owned(),
    };
    LICENCES.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::source::File;
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, license: Option<&str>, dependencies: Vec<Dependency>) -> Metadata {
        let id = format!("path+{name}");
        Metadata {
            workspace_members: vec![id.clone()],
            target_directory: PathBuf::new(),
            packages: vec![Package {
                id,
                name: name.to_owned(),
                version: "1.0.0".to_owned(),
                license: license.map(str::to_owned),
                dependencies,
            }],
        }
    }

    fn dependency(name: &str, kind: Option<&str>, uses_default_features: bool) -> Dependency {
        Dependency {
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            path: Some(PathBuf::from(name)),
            uses_default_features,
            features: Vec::new(),
        }
    }

    #[test]
    fn arrows_between_crates() {
        let cases = [
            ("common", "fledge", None, 1),
            ("volar", "common", None, 0),
            ("volar", "volantd", None, 1),
            ("volar", "volantd", Some("build"), 1),
            ("volantd", "volar", Some("dev"), 0),
            ("newcomer", "common", None, 1),
        ];
        for (name, used, kind, expected) in cases {
            let metadata = package(name, None, vec![dependency(used, kind, false)]);
            assert_eq!(
                between_crates(&metadata).len(),
                expected,
                "{name} -> {used}"
            );
        }
    }

    #[test]
    fn volantd_takes_the_library_alone() {
        let metadata = package("volantd", None, vec![dependency("fledge", None, true)]);
        assert_eq!(between_crates(&metadata).len(), 1);
        let metadata = package("volantd", None, vec![dependency("fledge", None, false)]);
        assert_eq!(between_crates(&metadata).len(), 0);
    }

    #[test]
    fn expressions() {
        let allowed = [
            "MIT",
            "MIT OR GPL-3.0-only",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "(MIT OR GPL-2.0-only) AND Unicode-3.0",
            "GPL-2.0-only OR MIT AND ISC",
        ];
        let refused = [
            "",
            "GPL-3.0-only",
            "MPL-2.0",
            "MIT AND GPL-2.0-only",
            "GPL-2.0-only AND MIT OR AGPL-3.0-only",
            "Apache-2.0 WITH Classpath-exception-2.0",
            "(MIT",
            "MIT)",
            "mit",
        ];
        for expression in allowed {
            assert!(is_allowed(expression), "{expression}");
        }
        for expression in refused {
            assert!(!is_allowed(expression), "{expression}");
        }
    }

    #[test]
    fn packages_without_a_licence() {
        assert_eq!(licences(&package("foo", None, Vec::new())).len(), 1);
        assert_eq!(licences(&package("foo", Some("MIT"), Vec::new())).len(), 0);
        let found = licences(&package("foo", Some("AGPL-3.0-only"), Vec::new()));
        assert!(found[0].what.contains("AGPL-3.0-only") && found[0].place.contains("foo 1.0.0"));
    }

    #[test]
    fn the_lock_is_counted() {
        let tree = |count: usize| Tree {
            files: vec![File::new(
                "Cargo.lock",
                "[[package]]\nname = \"a\"\n".repeat(count).into_bytes(),
            )],
        };
        assert_eq!(lock_size(&tree(MAX_LOCKED_PACKAGES)), []);
        assert_eq!(lock_size(&tree(MAX_LOCKED_PACKAGES + 1)).len(), 1);
        assert_eq!(lock_size(&Tree::default()).len(), 1);
    }
}
