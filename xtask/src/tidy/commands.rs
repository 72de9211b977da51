//! The documentation holds no command that nobody runs: each one in a Markdown file is in the table below with the test
//! that runs it, and the table holds nothing else. Checks that are there, not that they pass: that is their own work.

use super::Finding;
use super::source::{Tree, has_extension};

/// Programs whose commands are looked for.
const PROGRAMS: &[&str] = &["cargo", "fledge", "volantd", "volar"];

/// Code blocks of these languages hold no commands.
const OTHER_LANGUAGES: &[&str] = &["c", "ini", "json", "rust", "sql", "text", "toml", "yaml"];

/// A command as documentation may show it, and what runs it.
struct Tested {
    /// Words; `<…>` stands for any one word.
    command: &'static str,
    /// The file that runs it.
    by: &'static str,
    /// What that file says if it does, blanks aside.
    shown_by: &'static str,
}

const ACCESS: &str = "xtask/src/e2e/access.rs";
const CI: &str = "xtask/src/ci.rs";
const CONSOLE: &str = "xtask/src/e2e/volar.rs";
const E2E: &str = "xtask/src/e2e/mod.rs";
const EXAMPLES: &str = "xtask/src/examples.rs";
const FLEDGE: &str = "fledge/tests/it/build.rs";
const INSPECT: &str = "fledge/tests/it/artifacts.rs";
const REFUSALS: &str = "xtask/src/e2e/refusals.rs";
const ROOTFS: &str = "xtask/src/e2e/rootfs.rs";
const SCENARIO: &str = "xtask/src/e2e/scenario.rs";
const SERVE: &str = "fledge/tests/it/serve.rs";
const SIGNATURES: &str = "fledge/tests/it/signatures.rs";
const STEERING: &str = "xtask/src/e2e/steering.rs";
const TRUST: &str = "xtask/src/e2e/trust.rs";
const VOLAR: &str = "volar/tests/it/misbehaviour.rs";
const WATCH: &str = "volar/tests/it/watch.rs";

const TESTED: &[Tested] = &[
    entry(
        "cargo build --profile guest --target x86_64-unknown-linux-gnu -p hello",
        "xtask/src/dist.rs",
        r#".args(["build", "--profile", "guest", "#,
    ),
    entry("cargo xtask bench api", CI, "api::bench::check("),
    entry("cargo xtask bench api --short", CI, "api::bench::check("),
    entry("cargo xtask bench fledge", CI, "bench::measure("),
    entry("cargo xtask ci", ".ci/run", "exec cargo xtask ci"),
    entry("cargo xtask ci <stage>", CI, r#"["ci", "tidy"]"#),
    entry("cargo xtask dist", CI, "dist::run()"),
    entry("cargo xtask e2e", CI, "e2e::run("),
    entry("cargo xtask kernel --print-path", E2E, "kernel::ensure("),
    entry("cargo xtask repro", CI, "repro::check"),
    entry("cargo xtask schemas", CI, "schemas::check"),
    entry("cargo xtask soak", CI, "api::soak::check"),
    entry("cargo xtask tidy", CI, "tidy::run()"),
    entry("fledge build", EXAMPLES, r#"vec!["build".to_owned()]"#),
    entry(
        "fledge build --manifest manifest/caddy.json",
        EXAMPLES,
        r#"["--manifest", "manifest/caddy.json"]"#,
    ),
    entry(
        "fledge build --manifest manifest/caddy.json --agent <kestrel> --busybox <busybox>",
        FLEDGE,
        r#"&["build", "--agent", "kestrel", "--busybox", "box"]"#,
    ),
    entry(
        "fledge build --output <artifact>",
        ROOTFS,
        r#".args(["--output", &format!("{format}.img")])"#,
    ),
    entry("fledge diff", INSPECT, r#"["diff", "#),
    entry("fledge inspect", INSPECT, r#"["inspect", "#),
    entry(
        "fledge inspect --tree",
        INSPECT,
        r#""plugin.cpio.gz", "--tree"]"#,
    ),
    entry("fledge keygen", SIGNATURES, r#"["keygen""#),
    entry(
        "fledge keygen -o <name>",
        TRUST,
        r#"["keygen", "-o", name, "#,
    ),
    entry("fledge serve", SERVE, r#".args(["serve"])"#),
    entry(
        "fledge serve --addr <address> --api-key-file key --root plugins --jobs 2",
        SERVE,
        r#"["--addr", "127.0.0.2:0", "--api-key-file", "key", "--root", "plugins", "--jobs", "2""#,
    ),
    entry("fledge sign", SIGNATURES, r#"["sign", "#),
    entry(
        "fledge sign <artifact> -s <key>",
        TRUST,
        r#"["sign", "plugin.cpio.gz", "-s", &key]"#,
    ),
    entry("fledge verify", SIGNATURES, r#"["verify", "#),
    entry(
        "fledge verify <artifact> -p <key>",
        TRUST,
        r#"["verify", "plugin.cpio.gz", "-p", &public]"#,
    ),
    entry(
        "volar cp <folder> <place>",
        ACCESS,
        r#"&["cp", &there.to_string_lossy(), &guest_folder]"#,
    ),
    entry("volar doctor", VOLAR, r#""unix:///nonexistent", "doctor""#),
    entry("volar events", WATCH, r#"&["events"]"#),
    entry(
        "volar exec <name> -- <program> <argument>",
        ACCESS,
        r#"&["exec", NAME, "--", "/usr/bin/hello", "no-port"]"#,
    ),
    entry("volar logs -f <name>", WATCH, r#"&["logs", "-f", "web"]"#),
    entry(
        "volar plugins enable",
        REFUSALS,
        r#"words("plugins enable hello")"#,
    ),
    entry(
        "volar plugins install <manifest>",
        REFUSALS,
        r#"&["plugins", "install", &off]"#,
    ),
    entry(
        "volar plugins install --manifest <manifest>",
        SCENARIO,
        r#"&["plugins", "install", "--manifest", "#,
    ),
    entry("volar plugins list", VOLAR, r#"&["plugins", "list"]"#),
    entry(
        "volar run <plugin>",
        "volar/tests/it/run.rs",
        r#"&["run", "--name", "web", "caddy"]"#,
    ),
    // What it would do is tested; to do it, a test would need a machine of its own.
    entry("volar setup", VOLAR, r#"["setup", "--dry-run", "#),
    entry(
        "volar shell <name>",
        "volar/tests/it/guest.rs",
        r#"&["shell", "web"]"#,
    ),
    entry("volar top", "volar/tests/it/control.rs", r#"&["top"]"#),
    entry(
        "volar vms config patch <name> <json> --restart",
        STEERING,
        r#"&["vms", "config", "patch", NAME, &patch, "--restart"]"#,
    ),
    entry(
        "volar vms config rollback <name> <version>",
        STEERING,
        r#"&["vms", "config", "rollback", NAME, "1"]"#,
    ),
    entry(
        "volar vms console <name>",
        CONSOLE,
        r#"&["vms", "console", name]"#,
    ),
    entry(
        "volar vms create <name> --plugin <plugin>",
        "volar/tests/it/vms.rs",
        r#"&["vms", "create", "web", "--plugin", "caddy""#,
    ),
    entry(
        "volar vms create <name> --plugin <plugin> --cpu 1 --memory 512",
        SCENARIO,
        r#"&["vms", "create", vm, "--plugin", name, "--cpu", "1", "--memory", "#,
    ),
    entry(
        "volar vms create <name> --plugin <plugin> --ephemeral",
        ROOTFS,
        r#"&["--ephemeral"]"#,
    ),
    entry("volar vms get <name>", VOLAR, r#"&["vms", "get", "web"]"#),
    entry("volar version", SCENARIO, r#"&["version"]"#),
    entry("volar vms list", VOLAR, r#"&["vms", "list"]"#),
    entry(
        "volar vms logs <name>",
        CONSOLE,
        r#"&["vms", "logs", name]"#,
    ),
    entry("volar vms start <name>", ROOTFS, r#"&["vms", "start", VM"#),
    entry("volar vms stop <name>", ROOTFS, r#"&["vms", "stop", VM]"#),
    entry(
        "volantd config",
        "volantd/tests/it/settings.rs",
        r#"&["--header-timeout-s", "11", "config"]"#,
    ),
];

const fn entry(command: &'static str, by: &'static str, shown_by: &'static str) -> Tested {
    Tested {
        command,
        by,
        shown_by,
    }
}

/// A command in a Markdown file.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    place: String,
    command: String,
    /// Part of a sentence, where the beginning of a command is enough.
    in_prose: bool,
}

/// Checks the documentation against the table, and the table against the tests.
pub(super) fn tested(tree: &Tree) -> Vec<Finding> {
    check(tree, TESTED)
}

fn check(tree: &Tree, table: &[Tested]) -> Vec<Finding> {
    let shown: Vec<Shown> = tree
        .texts()
        .filter(|(path, _)| has_extension(path, "md") && *path != "CHANGELOG.md")
        .flat_map(|(path, text)| commands(path, text))
        .collect();
    let mut findings: Vec<Finding> = shown
        .iter()
        .filter(|shown| !table.iter().any(|entry| entry.covers(shown)))
        .map(|shown| {
            Finding::new(
                &shown.place,
                format!(
                    "No test runs `{}`: add one, and a line in tidy's table `TESTED`",
                    shown.command
                ),
            )
        })
        .collect();
    for entry in table {
        let place = format!("`{}` in tidy's table", entry.command);
        if !shown.iter().any(|shown| entry.is(&shown.command)) {
            findings.push(Finding::new(&place, "No documentation shows it any more"));
        }
        let text = tree.texts().find(|(path, _)| *path == entry.by);
        if !text.is_some_and(|(_, text)| unspaced(text).contains(&unspaced(entry.shown_by))) {
            findings.push(Finding::new(
                &place,
                format!("`{}` does not say `{}`", entry.by, entry.shown_by),
            ));
        }
    }
    findings
}

impl Tested {
    /// Says whether this is what is shown, or in a sentence its beginning.
    fn covers(&self, shown: &Shown) -> bool {
        if !shown.in_prose {
            return self.is(&shown.command);
        }
        self.rest(&shown.command).is_some()
    }

    fn is(&self, command: &str) -> bool {
        self.rest(command) == Some(0)
    }

    /// How many words are left behind those of `command`, `None` if it is another command.
    fn rest(&self, command: &str) -> Option<usize> {
        let mut expected = self.command.split_whitespace();
        for word in command.split_whitespace() {
            let expected = expected.next()?;
            if expected != word && !is_placeholder(expected) {
                return None;
            }
        }
        Some(expected.count())
    }
}

fn unspaced(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Where a line of Markdown is.
enum Block {
    /// In no code block.
    Prose,
    /// In one that may hold commands, behind lines that go on here.
    Shell(String),
    /// In one of another language.
    Other,
}

/// Finds the commands of a Markdown file: in code blocks, and between backquotes.
fn commands(path: &str, text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut block = Block::Prose;
    for (number, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = match block {
                Block::Prose if OTHER_LANGUAGES.contains(&language.trim()) => Block::Other,
                Block::Prose => Block::Shell(String::new()),
                Block::Shell(_) | Block::Other => Block::Prose,
            };
            continue;
        }
        let in_prose = matches!(block, Block::Prose);
        let commands = match &mut block {
            Block::Prose => prose(line),
            Block::Other => Vec::new(),
            Block::Shell(pending) => {
                pending.push_str(line.trim_end().trim_end_matches('\\'));
                if line.trim_end().ends_with('\\') {
                    continue;
                }
                shell(&std::mem::take(pending))
            }
        };
        found.extend(commands.into_iter().map(|command| Shown {
            place: format!("{path}:{}", number + 1),
            command,
            in_prose,
        }));
    }
    found
}

/// The commands between backquotes; a program's bare name is none.
fn prose(line: &str) -> Vec<String> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| span.contains(' '))
        .filter_map(command)
        .collect()
}

/// The commands of a line of shell, each without what is only about its surroundings.
fn shell(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap_or_default();
    // A command whose output is another's argument is a command of its own.
    line.replace("\"$(", ";")
        .replace(")\"", ";")
        .split(['|', ';', '&'])
        .filter_map(command)
        .collect()
}

/// Reads a command up to its redirections, leaving out what stands before the program.
fn command(text: &str) -> Option<String> {
    let words: Vec<&str> = words(text)
        .into_iter()
        .skip_while(|word| matches!(*word, "$" | "sudo" | "-E" | "exec") || word.contains('='))
        .take_while(|word| !word.contains(['<', '>']) || is_placeholder(word))
        .collect();
    let program = words.first()?.rsplit('/').next()?;
    let arguments = words.get(1..)?;
    let known = PROGRAMS.contains(&program) && !arguments.is_empty();
    known.then(|| format!("{program} {}", arguments.join(" ")))
}

fn is_placeholder(word: &str) -> bool {
    word.starts_with('<') && word.ends_with('>')
}

/// Splits at blanks that are not between quotes.
fn words(text: &str) -> Vec<&str> {
    let mut quote = None;
    text.split(|character: char| {
        match quote {
            Some(open) if open == character => quote = None,
            None if matches!(character, '\'' | '"') => quote = Some(character),
            _ => (),
        }
        quote.is_none() && character.is_whitespace()
    })
    .filter(|word| !word.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::File;
    use super::*;

    const README: &str = r#"
# A title with `volar`

Type `cargo xtask ci` and `volar vms`, or `cat x`.

```sh
$ sudo -E volar vms create web --plugin caddy   # the greeting
RUST_LOG='a b' target/dist/volantd config > out && fledge \
  build --agent kestrel | cat
install "$(cargo xtask kernel --print-path)" /boot
```

```json
{ "a": "volar b" }
volar c
```

```
cargo xtask <command>
```
"#;

    fn tree(test: &str) -> Tree {
        Tree {
            files: vec![
                File::new("README.md", README.as_bytes().to_vec()),
                File::new("e2e.rs", test.as_bytes().to_vec()),
                File::new("CHANGELOG.md", b"`volar gone now`".to_vec()),
            ],
        }
    }

    #[test]
    fn commands_are_found() {
        let found: Vec<(String, bool)> = commands("README.md", README)
            .into_iter()
            .map(|shown| (shown.command, shown.in_prose))
            .collect();
        let expected = [
            ("cargo xtask ci", true),
            ("volar vms", true),
            ("volar vms create web --plugin caddy", false),
            ("volantd config", false),
            ("fledge build --agent kestrel", false),
            ("cargo xtask kernel --print-path", false),
            ("cargo xtask <command>", false),
        ];
        assert_eq!(
            found,
            expected.map(|(command, in_prose)| (command.to_owned(), in_prose))
        );
    }

    #[test]
    fn the_table_and_the_documentation_agree() {
        let table = [
            entry("cargo xtask ci", "e2e.rs", "ci"),
            entry("cargo xtask <command>", "e2e.rs", "ci"),
            entry(
                "volar vms create <name> --plugin caddy",
                "e2e.rs",
                "\"create\", \"web\"",
            ),
            entry("volantd config", "e2e.rs", "config"),
            entry("fledge build --agent <path>", "e2e.rs", "build"),
            entry("cargo xtask kernel --print-path", "e2e.rs", "ci"),
        ];
        let test = "ci config build(\"create\",\n    \"web\")";
        assert_eq!(check(&tree(test), &table), []);
        // Without the test, without an entry, with one too many.
        assert_eq!(check(&tree("ci config build"), &table).len(), 1);
        assert_eq!(check(&tree(test), &table[..5]).len(), 1);
        let stale = [entry("volar vms delete <name>", "e2e.rs", "ci")];
        let findings = check(&tree(test), &stale);
        assert!(
            findings
                .iter()
                .any(|finding| finding.what.contains("No documentation"))
        );
    }

    #[test]
    fn the_beginning_is_enough_in_prose_only() {
        let table = entry("volar vms create <name> --plugin caddy", "", "");
        let shown = |command: &str, in_prose| Shown {
            place: String::new(),
            command: command.to_owned(),
            in_prose,
        };
        assert!(table.covers(&shown("volar vms create", true)));
        assert!(!table.covers(&shown("volar vms create", false)));
        assert!(table.covers(&shown("volar vms create web --plugin caddy", false)));
        assert!(!table.covers(&shown("volar vms create web --plugin caddy --cpu 1", true)));
        assert!(!table.covers(&shown("volar vms delete", true)));
    }
}
