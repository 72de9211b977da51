//! Rules about single Rust files: their first line, their length, their name, and what may only be in some of them.

use super::Finding;
use super::source::{RustFile, Tree, has_extension, has_word, is_name, is_test_path};

/// Lines of a file that are not tests; more is no longer read in one sitting.
const MAX_LINES: usize = 500;

/// How the name of every type begins that stands in for a part of the world.
pub(crate) const FAKE: &str = "Fake";

/// Names that say nothing about what is inside, so that everything ends up there.
const EMPTY_NAMES: &[&str] = &[
    "common", "helper", "helpers", "manager", "misc", "prelude", "shared", "types", "util", "utils",
];

/// The first line tells a newcomer whether to read on.
pub(super) fn documented(tree: &Tree) -> Vec<Finding> {
    tree.texts()
        .filter(|(path, _)| has_extension(path, "rs"))
        .filter(|(path, text)| !text.starts_with("//!") && !is_test_data(path))
        .map(|(path, _)| {
            Finding::new(
                path,
                "Does not begin with `//!`: say what the file is, and what it deliberately does not do",
            )
        })
        .collect()
}

/// Counts the lines up to [`MAX_LINES`], tests aside.
pub(super) fn short(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .iter()
        .map(|file| (file.path, lines_without_tests(file)))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| {
            Finding::new(
                path,
                format!("Has {lines} lines without its tests; more than {MAX_LINES} are two files"),
            )
        })
        .collect()
}

/// Refuses the names in [`EMPTY_NAMES`], of files and of folders.
pub(super) fn named(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.texts().filter(|(path, _)| has_extension(path, "rs")) {
        let name = path.strip_suffix(".rs").unwrap_or(path);
        // The crate `common` has earned its name; only names below a crate's root are judged.
        for part in name.split('/').skip(1) {
            if EMPTY_NAMES.contains(&part) && !is_test_path(path) {
                findings.push(Finding::new(
                    path,
                    format!("`{part}` says nothing; name the file after the noun that it is about"),
                ));
            }
        }
    }
    findings
}

/// Fakes are behind `#[cfg(test)]` or the feature `test-fakes`, so that no release can hold one.
pub(super) fn fakes(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for name in fake_types(&file.shipped) {
            findings.push(Finding::new(
                file.path,
                format!("`{name}` is compiled into releases; put it behind `#[cfg(test)]` or the feature `test-fakes`"),
            ));
        }
    }
    findings
}

/// The names of all fakes there are, wherever they are.
pub(super) fn names_of_fakes(tree: &Tree) -> Vec<String> {
    let mut names: Vec<String> = tree
        .texts()
        .filter(|(path, _)| has_extension(path, "rs"))
        .flat_map(|(path, text)| fake_types(&RustFile::new(path, text).code))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// `unsafe` stays in one module of a crate, where each use says why it is sound.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .iter()
        .filter(|file| has_word(&file.shipped, "unsafe") && !is_sys(file.path))
        .map(|file| {
            Finding::new(
                file.path,
                "Has `unsafe` outside of a `sys` module; offer a safe function from there",
            )
        })
        .collect()
}

fn is_sys(path: &str) -> bool {
    path.split('/')
        .any(|part| part == "sys" || part == "sys.rs")
}

/// Files that tests read rather than compile.
fn is_test_data(path: &str) -> bool {
    path.split('/').any(|part| part == "fixtures")
}

fn lines_without_tests(file: &RustFile<'_>) -> usize {
    let tests = file
        .code
        .lines()
        .zip(file.shipped.lines())
        .filter(|(code, shipped)| !code.trim().is_empty() && shipped.trim().is_empty())
        .count();
    let first_test = file
        .code
        .lines()
        .zip(file.shipped.lines())
        .position(|(code, shipped)| code != shipped);
    // Comments and blank lines among the tests are tests, too; those before the first are not.
    match first_test {
        Some(first)
            if file
                .shipped
                .lines()
                .skip(first)
                .all(|line| line.trim().is_empty()) =>
        {
            first
        }
        _ => file.text.lines().count() - tests,
    }
}

/// The types called `Fake…` that this code defines.
fn fake_types(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for keyword in ["struct ", "enum ", "trait ", "type "] {
        for (at, _) in code.match_indices(keyword) {
            let rest = code.get(at + keyword.len()..).unwrap_or_default();
            let name: String = rest.chars().take_while(|next| is_name(*next)).collect();
            if name.starts_with(FAKE) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::source::File;
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree {
            files: files
                .iter()
                .map(|(path, text)| File::new(path, text.as_bytes().to_vec()))
                .collect(),
        }
    }

    fn places(findings: &[Finding]) -> Vec<&str> {
        findings
            .iter()
            .map(|finding| finding.place.as_str())
            .collect()
    }

    #[test]
    fn undocumented_files() {
        let tree = tree(&[
            ("a/src/lib.rs", "//! A crate.\n"),
            ("a/src/b.rs", "use std::fmt;\n//! Too late.\n"),
            ("a/tests/it.rs", "// A test.\n"),
            ("a/README.md", "A crate.\n"),
        ]);
        assert_eq!(places(&documented(&tree)), ["a/src/b.rs", "a/tests/it.rs"]);
    }

    #[test]
    fn long_files() {
        let long = "let x = 1;\n".repeat(MAX_LINES + 1);
        let fitting = "let x = 1;\n".repeat(MAX_LINES);
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\n{}}}\n",
            "    // A test.\n\n    f();\n".repeat(MAX_LINES)
        );
        let tested = format!("{fitting}{tests}");
        let too_long = format!("{long}{tests}");
        let tree = tree(&[
            ("a/src/long.rs", &long),
            ("a/src/fitting.rs", &fitting),
            ("a/src/tested.rs", &tested),
            ("a/src/too_long.rs", &too_long),
            ("a/src/long/tests.rs", &long),
        ]);
        let findings = short(&tree);
        assert_eq!(places(&findings), ["a/src/long.rs", "a/src/too_long.rs"]);
        assert!(
            findings
                .iter()
                .all(|finding| finding.what.contains("501 lines"))
        );
    }

    #[test]
    fn names_that_say_nothing() {
        let tree = tree(&[
            ("common/src/lib.rs", ""),
            ("a/src/utils.rs", ""),
            ("a/src/types/vm.rs", ""),
            ("a/src/media.rs", ""),
            ("a/tests/common/mod.rs", ""),
        ]);
        assert_eq!(
            places(&named(&tree)),
            ["a/src/utils.rs", "a/src/types/vm.rs"]
        );
    }

    #[test]
    fn fakes_outside_of_tests() {
        let tree = tree(&[
            ("a/src/vmm.rs", "#[cfg(test)]\nstruct FakeVmm;\n"),
            (
                "a/src/net.rs",
                "pub(crate) struct FakeNetwork {}\n// struct FakeComment\n",
            ),
            ("a/src/store/tests.rs", "struct FakeStore;\n"),
        ]);
        let findings = fakes(&tree);
        assert_eq!(places(&findings), ["a/src/net.rs"]);
        assert!(findings[0].what.contains("FakeNetwork"));
        assert_eq!(
            names_of_fakes(&tree),
            ["FakeNetwork", "FakeStore", "FakeVmm"]
        );
    }

    #[test]
    fn unsafe_code_outside_of_sys() {
        let tree = tree(&[
            ("a/src/sys.rs", "unsafe { x() }"),
            ("a/src/sys/mount.rs", "unsafe { x() }"),
            ("a/src/lib.rs", "#![deny(unsafe_code)]\n// unsafe\n"),
            ("a/src/tap.rs", "fn f() { unsafe { x() } }"),
        ]);
        assert_eq!(places(&unsafe_code(&tree)), ["a/src/tap.rs"]);
    }
}
