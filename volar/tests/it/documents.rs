//! What is made of the help: completions, manual pages and docs/cli. The last is written here when told: `VOLAR_WRITE_DOCS=1`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use axum::routing::get;
use axum::{Json, Router};
use clap::CommandFactory as _;
use serde_json::json;
use volar::cli::Cli;

use crate::fake::{Server, command, ready, write};
use crate::help::help_of;

/// Where the reference lies.
const FOLDER: &str = "../docs/cli";

/// The reference: one file for each command of the first level, and one for the program.
fn reference() -> Vec<(String, String)> {
    let mut files = vec![("volar.md".to_owned(), page(&[]))];
    for top in Cli::command().get_subcommands() {
        let path = vec![top.get_name().to_owned()];
        let mut text = page(&path);
        let mut below: Vec<(Vec<String>, clap::Command)> = vec![(path, top.clone())];
        while let Some((path, command)) = below.pop() {
            for sub in command.get_subcommands() {
                let path = [path.as_slice(), &[sub.get_name().to_owned()]].concat();
                text.push_str(&page(&path));
                below.push((path, sub.clone()));
            }
        }
        files.push((format!("{}.md", top.get_name()), text));
    }
    files
}

fn page(path: &[String]) -> String {
    let words = [&["volar".to_owned()], path].concat().join(" ");
    let mark = if path.len() < 2 { "#" } else { "##" };
    let mut text = String::new();
    // Text, and not shell: the examples in it are run where they are checked.
    let help = help_of(path);
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(
        text,
        "{mark} {words}\n\n```text\n{}\n```\n\n",
        help.join("\n")
    )
    .unwrap();
    text
}

#[test]
fn docs_cli_is_current() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    let writes = std::env::var_os("VOLAR_WRITE_DOCS").is_some();
    let files = reference();
    for (name, text) in &files {
        let path = folder.join(name);
        let text = format!("{}\n", text.trim_end());
        if writes {
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(&path, text).unwrap();
        } else {
            let found = fs_err::read_to_string(&path).unwrap_or_default();
            assert!(
                found == text,
                "docs/cli/{name} is not current: run this test with VOLAR_WRITE_DOCS=1"
            );
        }
    }
    // What no command has any more is gone, too.
    assert_eq!(fs_err::read_dir(&folder).unwrap().count(), files.len());
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let output = command()
        .args(["man", "--dir", dir.path().join("man1").to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let page = |name: &str| fs_err::read_to_string(dir.path().join("man1").join(name)).unwrap();
    assert!(page("volar-vms-create.1").contains("plugin"));
    assert!(page("volar-vms-config-rollback.1").contains("Examples"));
    let title = |name: &str| {
        let page = page(name);
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
        title.to_owned()
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        title("volar.1"),
        format!(r#".TH volar 1  "volar {version}" Volant"#)
    );
    assert_eq!(
        title("volar-vms-create.1"),
        format!(r#".TH volar-vms-create 1  "volar {version}" Volant"#)
    );
}

/// Asks as bash does at a Tab behind these words.
fn completed(server: Option<&Server>, words: &[&str]) -> Vec<String> {
    completed_at(server, words.len() - 1, words, &[])
}

/// Asks at the word of this number.
fn completed_at(
    server: Option<&Server>,
    index: usize,
    words: &[&str],
    variables: &[(&str, &str)],
) -> Vec<String> {
    let mut command = command();
    if let Some(server) = server {
        command.env("VOLANT_API_BASE", &server.url);
    } else {
        command.env("VOLANT_API_BASE", "unix:///nonexistent/volantd.sock");
    }
    let output = command
        .envs(variables.iter().copied())
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", index.to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "false")
        .env("_CLAP_IFS", "\n")
        .arg("--")
        .args(words)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_tab_completes_commands_and_names() {
    let router = Router::new()
        .route(
            "/api/v1/vms",
            get(async || Json(json!([ready("web", 1), ready("worker", 1), ready("db", 1)]))),
        )
        .route(
            "/api/v1/plugins",
            get(async || Json(json!({"plugins": ["caddy", "nginx"]}))),
        );
    let server = Server::unix(router);
    let some = Some(&server);
    assert_eq!(
        completed(some, &["volar", "vms", "get", "w"]),
        ["web", "worker"]
    );
    assert_eq!(completed(some, &["volar", "exec", "d"]), ["db"]);
    assert_eq!(
        completed(some, &["volar", "plugins", "show", ""])[..2],
        ["caddy", "nginx"]
    );
    assert_eq!(
        completed(some, &["volar", "vms", "create", "x", "--plugin", "n"]),
        ["nginx"]
    );
    assert_eq!(
        completed(some, &["volar", "vms", "res"]),
        ["restart", "resume"]
    );
    // What stands on the line already says which daemon, wherever it stands.
    let url = server.url.as_str();
    for words in [
        &["volar", "--api", url, "vms", "get", "w"][..],
        &["volar", "vms", "-a", url, "get", "w"],
        &[
            "volar",
            "--color=never",
            &format!("--api={url}"),
            "vms",
            "get",
            "w",
        ],
        &["volar", "-q", "vms", "logs", "-f", "--api", url, "w"],
    ] {
        assert_eq!(completed(None, words), ["web", "worker"], "{words:?}");
    }
    // Behind `--` it belongs to somebody else.
    let words = ["volar", "exec", "w", "--", "x", "--api", url];
    assert!(completed_at(None, 2, &words, &[]).is_empty());
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/volant");
    fs_err::create_dir_all(&folder).unwrap();
    let contexts =
        format!("[contexts.prod]\napi = '{url}'\n[contexts.lab]\napi = 'unix:///nonexistent'");
    write(&folder, "config.toml", &contexts);
    let at_home = [("HOME", home.path().to_str().unwrap())];
    for (context, expected) in [("prod", &["db"][..]), ("lab", &[])] {
        let words = ["volar", "--context", context, "vms", "get", "d"];
        assert_eq!(completed_at(None, 5, &words, &at_home), expected);
    }
    let words = ["volar", "--context", "p", "vms", "get"];
    assert_eq!(completed_at(None, 2, &words, &at_home), ["prod"]);
    // A daemon that is away, or does not answer, is no reason to say anything or to wait for long.
    assert!(completed(None, &["volar", "vms", "get", "w"]).is_empty());
    let silent = Server::unix(Router::new().route(
        "/api/v1/vms",
        get(async || std::future::pending::<()>().await),
    ));
    let begun = Instant::now();
    assert!(completed(Some(&silent), &["volar", "vms", "get", "w"]).is_empty());
    assert!(begun.elapsed().as_secs() < 30);
}

#[test]
fn each_shell_gets_its_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = command().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("COMPLETE") && script.contains("volar"),
            "{shell}: {script}"
        );
    }
}
