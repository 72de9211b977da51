//! The repository's files as rules see them: those that git has or would add, and of Rust files the code without
//! comments, literals and tests. It understands just enough of Rust's surface for that; it is no parser.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use fs_err as fs;

use crate::process;

/// Every file that is in git, or would be added to it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

#[derive(Debug)]
pub(super) struct File {
    /// From the root, with slashes.
    pub(super) path: String,
    pub(super) bytes: usize,
    /// `None` if the file is no text.
    pub(super) text: Option<String>,
}

/// A Rust file and two views of it, each as long as the text with blanks for what is left out.
#[derive(Debug)]
pub(super) struct RustFile<'tree> {
    pub(super) path: &'tree str,
    pub(super) text: &'tree str,
    /// Without comments and without the content of strings and characters.
    pub(super) code: String,
    /// `code` without what is compiled for tests only.
    pub(super) shipped: String,
}

impl Tree {
    /// Reads the files of a checkout.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let list = process::captured(
            Command::new("git")
                .args(["ls-files", "-z", "--cached", "--others"])
                .arg("--exclude-standard")
                .current_dir(root),
        )?;
        let mut files = Vec::new();
        for path in list.split('\0').filter(|path| !path.is_empty()) {
            let full = root.join(path);
            // One that was removed but is still in git's index; links are judged where they point to.
            if full.is_file() && !full.is_symlink() {
                files.push(File::new(path, fs::read(&full)?));
            }
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files.dedup_by(|one, other| one.path == other.path);
        Ok(Self { files })
    }

    /// The text files, by path.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter_map(|file| Some((file.path.as_str(), file.text.as_deref()?)))
    }

    /// The Rust files that are part of a program: none that holds only tests.
    pub(super) fn rust(&self) -> Vec<RustFile<'_>> {
        let all: Vec<RustFile<'_>> = self
            .texts()
            .filter(|(path, _)| has_extension(path, "rs") && !is_test_path(path))
            .map(|(path, text)| RustFile::new(path, text))
            .collect();
        let test_modules: Vec<String> = all.iter().flat_map(RustFile::test_modules).collect();
        all.into_iter()
            .filter(|file| !test_modules.iter().any(|module| module == file.path))
            .collect()
    }
}

impl File {
    pub(super) fn new(path: &str, content: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            bytes: content.len(),
            text: String::from_utf8(content)
                .ok()
                .filter(|text| !text.contains('\0')),
        }
    }
}

impl<'tree> RustFile<'tree> {
    pub(super) fn new(path: &'tree str, text: &'tree str) -> Self {
        let code = without_literals(text);
        let shipped = without_tests(text, &code);
        Self {
            path,
            text,
            code,
            shipped,
        }
    }

    /// The paths that `#[cfg(test)] mod name;` in this file may mean.
    fn test_modules(&self) -> Vec<String> {
        let directory = match self.path.rsplit_once('/') {
            Some((directory, "mod.rs" | "lib.rs" | "main.rs")) => directory.to_owned(),
            _ => self
                .path
                .strip_suffix(".rs")
                .unwrap_or(self.path)
                .to_owned(),
        };
        let mut modules = Vec::new();
        for (start, end) in test_items(self.text, &self.code) {
            let item = self.code.get(start..end).unwrap_or_default();
            if let Some((_, name)) = item.trim_end_matches(';').rsplit_once("mod ")
                && item.ends_with(';')
            {
                modules.push(format!("{directory}/{name}.rs"));
                modules.push(format!("{directory}/{name}/mod.rs"));
            }
        }
        modules
    }
}

pub(super) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

/// Says whether a file is only ever compiled for tests, by the names that this repository gives such files.
pub(super) fn is_test_path(path: &str) -> bool {
    path.split('/')
        .any(|part| matches!(part, "tests" | "testing" | "tests.rs" | "fuzz"))
}

/// Says whether `code` has `name` as a whole word at any place.
pub(super) fn has_word(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code.get(..at).and_then(|code| code.chars().next_back());
        let after = code
            .get(at + name.len()..)
            .and_then(|code| code.chars().next());
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

pub(super) fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Blanks comments and what is between quotes; the quotes stay, so that what is left still has the text's shape.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let follows_name = code.chars().next_back().is_some_and(is_name);
        let length = literal_length(rest, follows_name);
        match length {
            Some(Literal::Comment(length)) => blank(&mut code, rest, 0, length, 0),
            Some(Literal::Quoted {
                open,
                length,
                close,
            }) => blank(&mut code, rest, open, length, close),
            None => code.push(character),
        }
        let step = match length {
            Some(Literal::Comment(length) | Literal::Quoted { length, .. }) => length,
            None => character.len_utf8(),
        };
        rest = rest.get(step..).unwrap_or_default();
    }
    code
}

#[derive(Debug, Clone, Copy)]
enum Literal {
    Comment(usize),
    /// Bytes of the opening quote, of everything, and of the closing quote.
    Quoted {
        open: usize,
        length: usize,
        close: usize,
    },
}

/// Says what comment or quoted literal `rest` begins with, if any.
fn literal_length(rest: &str, follows_name: bool) -> Option<Literal> {
    if rest.starts_with("//") {
        return Some(Literal::Comment(rest.find('\n').unwrap_or(rest.len())));
    }
    if rest.starts_with("/*") {
        return Some(Literal::Comment(block_comment(rest)));
    }
    if rest.starts_with('"') {
        return Some(Literal::Quoted {
            open: 1,
            length: escaped(rest, '"'),
            close: 1,
        });
    }
    if rest.starts_with('r') && !follows_name {
        return raw_string(rest);
    }
    if rest.starts_with('\'') {
        return character_literal(rest);
    }
    None
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth = depth.saturating_sub(1);
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Bytes up to and with the closing quote that no backslash precedes.
fn escaped(rest: &str, quote: char) -> usize {
    let mut skip = true;
    for (at, character) in rest.char_indices() {
        if std::mem::take(&mut skip) {
            continue;
        }
        if character == '\\' {
            skip = true;
        } else if character == quote {
            return at + 1;
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> Option<Literal> {
    let hashes = rest
        .get(1..)?
        .chars()
        .take_while(|hash| *hash == '#')
        .count();
    if !rest.get(1 + hashes..)?.starts_with('"') {
        return None;
    }
    let open = hashes + 2;
    let closing = format!("\"{}", "#".repeat(hashes));
    let length = rest
        .get(open..)?
        .find(&closing)
        .map_or(rest.len(), |at| open + at + closing.len());
    Some(Literal::Quoted {
        open,
        length,
        close: closing.len(),
    })
}

/// A character, not a lifetime: `'a'` and `'\n'`, but not `'a`.
fn character_literal(rest: &str) -> Option<Literal> {
    let mut characters = rest.chars().skip(1);
    let first = characters.next()?;
    let length = if first == '\\' {
        escaped(rest, '\'')
    } else if characters.next() == Some('\'') {
        first.len_utf8() + 2
    } else {
        return None;
    };
    Some(Literal::Quoted {
        open: 1,
        length,
        close: 1,
    })
}

/// Copies a literal to `code` with blanks for its content, byte for byte, keeping the lines.
fn blank(code: &mut String, rest: &str, open: usize, length: usize, close: usize) {
    let inside = open..length.saturating_sub(close).max(open);
    for (at, character) in rest.get(..length).unwrap_or(rest).char_indices() {
        if !inside.contains(&at) || character == '\n' {
            code.push(character);
        } else {
            code.extend(std::iter::repeat_n(' ', character.len_utf8()));
        }
    }
}

/// Blanks the items that are compiled for tests only.
fn without_tests(text: &str, code: &str) -> String {
    let mut shipped = code.to_owned();
    for (start, end) in test_items(text, code) {
        let blanks: String = code
            .get(start..end)
            .unwrap_or_default()
            .chars()
            .flat_map(|character| {
                let blank = if character == '\n' { '\n' } else { ' ' };
                std::iter::repeat_n(blank, character.len_utf8())
            })
            .collect();
        shipped.replace_range(start..end, &blanks);
    }
    shipped
}

/// Where the items with a `#[cfg(test)]`, or one that asks for the fakes, begin and end.
fn test_items(text: &str, code: &str) -> Vec<(usize, usize)> {
    const ATTRIBUTE: &str = "#[cfg(";
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(start) = code
        .get(from..)
        .and_then(|code| code.find(ATTRIBUTE))
        .map(|at| from + at)
    {
        from = start + ATTRIBUTE.len();
        let Some(close) = code.get(start..).and_then(|code| code.find(']')) else {
            break;
        };
        // The text, not the code: a feature's name is a literal.
        let condition = text.get(from..start + close).unwrap_or_default();
        let for_tests = has_word(condition, "test") || condition.contains("\"test-fakes\"");
        if for_tests && !condition.contains("not(") {
            let end = item_end(code, start + close + 1);
            items.push((start, end));
            from = end;
        }
    }
    items
}

/// Where the item behind an attribute ends: with its block, or with the first semicolon outside of brackets.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_i32;
    let mut in_block = false;
    for (at, character) in code.get(from..).unwrap_or_default().char_indices() {
        match character {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' => {
                in_block |= depth == 0;
                depth += 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 && in_block {
                    return from + at + 1;
                }
            }
            ';' if depth == 0 => return from + at + 1,
            // A field or a variant ends with a comma; in an item it stands between generics.
            ',' if depth == 0 && !is_item(code.get(from..from + at).unwrap_or_default()) => {
                return from + at + 1;
            }
            _ => (),
        }
        if depth < 0 {
            return from + at;
        }
    }
    code.len()
}

fn is_item(head: &str) -> bool {
    [
        "const", "enum", "fn", "impl", "mod", "static", "struct", "trait", "type", "use",
    ]
    .iter()
    .any(|keyword| has_word(head, keyword))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, proptest};

    use super::*;

    #[test]
    fn only_code_is_left() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x//y")"#, r#"f("    ")"#),
            (r#"f("\"", 1)"#, r#"f("  ", 1)"#),
            (r##"f(r#"a"b"#)"##, r##"f(r#"   "#)"##),
            ("f('\"', 'a)", "f(' ', 'a)"),
            (r"f('\'', '\\')", r"f('  ', '  ')"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("var\"x\"", "var\" \""),
            ("\"ü\"", "\"  \""),
        ];
        for (text, expected) in cases {
            assert_eq!(without_literals(text), expected, "{text}");
        }
    }

    #[test]
    fn tests_are_left_out() {
        let text = "use a;\n#[cfg(test)]\nmod tests {\n    fn f() { { } }\n}\nfn g() {}\n\
                    #[cfg(any(test, feature = \"test-fakes\"))]\npub mod fake;\n\
                    #[cfg(not(test))]\nfn h() {}\n#[cfg(unix)]\nfn i() {}\n#[cfg(test)]\nfn j(x: [u8; 2]) {}";
        let file = RustFile::new("volantd/src/vmm/mod.rs", text);
        for gone in ["tests", "fake", "fn j"] {
            assert!(!file.shipped.contains(gone), "{}", file.shipped);
        }
        for there in ["use a", "fn g", "fn h", "fn i"] {
            assert!(file.shipped.contains(there), "{}", file.shipped);
        }
        assert_eq!(file.shipped.lines().count(), text.lines().count());
    }

    #[test]
    fn modules_of_tests_are_no_part_of_a_program() {
        let files = [
            (
                "a/src/lib.rs",
                "#[cfg(test)]\npub(crate) mod double;\nmod real;",
            ),
            ("a/src/double.rs", "fn f() {}"),
            (
                "a/src/real.rs",
                "#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod fake;",
            ),
            ("a/src/real/tests.rs", ""),
            ("a/src/real/fake/mod.rs", ""),
            ("a/tests/it.rs", ""),
            ("a/README.md", ""),
        ];
        let tree = Tree {
            files: files
                .iter()
                .map(|(path, text)| File::new(path, text.as_bytes().to_vec()))
                .collect(),
        };
        let shipped: Vec<&str> = tree.rust().iter().map(|file| file.path).collect();
        assert_eq!(shipped, ["a/src/lib.rs", "a/src/real.rs"]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("unsafe_code", "unsafe"));
        assert!(!has_word("not_unsafe", "unsafe"));
        assert!(has_word("std::fs::read", "std::fs"));
        assert!(!has_word("std::fsx", "std::fs"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn views_are_as_long_as_the_text(text in any::<String>()) {
            let file = RustFile::new("a.rs", &text);
            assert_eq!(file.code.len(), text.len());
            assert_eq!(file.shipped.len(), text.len());
        }

        #[test]
        fn nothing_that_looks_like_rust_is_too_much(text in r#"(#\[cfg\(test\)\]|[a-z{}()\[\];,'"/*#\\\n ]|r#?"|//)*"#) {
            let file = RustFile::new("a.rs", &text);
            assert_eq!(file.code.len(), text.len());
            assert_eq!(file.shipped.len(), text.len());
        }
    }
}
