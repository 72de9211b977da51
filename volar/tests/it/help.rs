//! The help of every command, pinned: users and scripts read it.

use clap::{Command, CommandFactory as _};
use volar::cli::Cli;

use crate::fake::command;

/// The width that the help is made for here, whatever terminal the tests run in.
const COLUMNS: &str = "100";

/// The words of every command and group, the program itself first.
fn commands() -> Vec<Vec<String>> {
    fn collect(command: &Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for subcommand in command.get_subcommands() {
            let path = [path, &[subcommand.get_name().to_owned()]].concat();
            collect(subcommand, &path, all);
        }
    }
    let mut all = Vec::new();
    collect(&Cli::command(), &[], &mut all);
    all
}

pub(crate) fn help_of(path: &[String]) -> String {
    let output = command()
        .env("COLUMNS", COLUMNS)
        .args(path)
        .arg("--help")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{path:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_is_as_it_was() {
    let text: Vec<String> = commands()
        .iter()
        .map(|path| {
            let words = [&["volar".to_owned()], path.as_slice()].concat();
            format!("##### {} --help\n\n{}", words.join(" "), help_of(path))
        })
        .collect();
    insta::assert_snapshot!("help", text.join("\n"));
}

#[test]
fn every_help_has_examples_that_parse() {
    let commands = commands();
    assert!(commands.len() > 60, "{}", commands.len());
    for path in commands {
        let text = help_of(&path);
        let (_, examples) = text
            .split_once("Examples:\n")
            .unwrap_or_else(|| panic!("{path:?}"));
        // Nothing comes behind them.
        let lines: Vec<&str> = examples.lines().collect();
        assert!(!lines.is_empty(), "{path:?}");
        for line in &lines {
            let begins = ["  volar ", "  sudo volar "];
            let is_example = begins.iter().any(|begin| line.starts_with(begin))
                || (line.starts_with("  ") && line.contains("volar "));
            assert!(is_example, "{path:?} does not end with examples: {line}");
        }
        for line in lines {
            // What is behind a pipe or redirection is for the shell.
            let line = line.trim().trim_start_matches("sudo ");
            let Some(words) = line.strip_prefix("volar ") else {
                continue;
            };
            let words = words.split(['|', '>']).next().unwrap();
            let words = ["volar"]
                .into_iter()
                .chain(words.split_whitespace())
                .map(|word| word.trim_matches('\''));
            let parsed = Cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn no_sentence_is_broken_on_a_usual_terminal() {
    fn texts(command: &Command, all: &mut Vec<String>) {
        all.extend(command.get_after_help().map(ToString::to_string));
        command
            .get_subcommands()
            .for_each(|below| texts(below, all));
    }
    let mut all = Vec::new();
    texts(&Cli::command(), &mut all);
    assert!(all.len() > 60, "{}", all.len());
    for text in all {
        let (before, _) = text.split_once("Examples:\n").unwrap();
        for paragraph in before.split("\n\n") {
            let lines: Vec<&str> = paragraph.lines().collect();
            let is_table = lines.iter().any(|line| line.starts_with("  "));
            for (at, line) in lines.iter().enumerate() {
                assert!(line.len() <= 80, "{line}");
                let next = lines.get(at + 1).and_then(|next| next.split(' ').next());
                // A line ends where the next word has no room.
                let has_room = next.is_some_and(|next| line.len() + 1 + next.len() <= 70);
                assert!(is_table || !has_room, "broken too early: {line}");
            }
        }
    }
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    for wrong in [
        &["vms", "create", "web"][..],
        &["vms", "create", "web", "--plugin", "caddy", "--memory", "0"],
        &["vms", "create", "web", "--plugin", "caddy", "--cpu", "0"],
        &["vms", "create", "Web", "--plugin", "caddy"],
        &[
            "vms",
            "create",
            "web",
            "--plugin",
            "caddy",
            "--timeout",
            "0",
        ],
        &[
            "vms",
            "create",
            "web",
            "--plugin",
            "caddy",
            "--api-host",
            "h",
        ],
        &["vms", "delete"],
        &["vms", "get", "../x"],
        &["plugins", "install"],
        &["plugins", "install", "a", "--manifest", "b"],
        &["-q", "-v", "vms", "list"],
        &["frobnicate"],
        &[],
    ] {
        let output = command().args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
    for right in [
        &["--help"][..],
        &["vms", "--help"],
        &["vms", "create", "-h"],
    ] {
        let output = command().args(right).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{right:?}");
    }
}
