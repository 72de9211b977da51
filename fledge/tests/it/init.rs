//! `fledge init` writes what `fledge check` accepts and `fledge build` builds; `fledge completions` what shells read.

use std::process::Stdio;

use crate::workspace::{Workspace, elf};

fn run(workspace: &Workspace, arguments: &[&str]) -> (i32, String) {
    let output = workspace.fledge(arguments).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), message)
}

/// An empty directory with a program in it.
fn empty() -> Workspace {
    let workspace = Workspace::new();
    fs_err::remove_file(workspace.path("fledge.toml")).unwrap();
    workspace
}

#[test]
fn a_program_becomes_a_plugin() {
    let workspace = empty();
    assert_eq!(
        run(&workspace, &["init", "--binary", "app", "plugins/web"]),
        (0, String::new())
    );
    let spec = fs_err::read_to_string(workspace.path("plugins/web/fledge.toml")).unwrap();
    assert!(spec.contains("\"../../app\" = \"/usr/bin/app\""), "{spec}");
    assert_eq!(
        run(&workspace, &["check", "-c", "plugins/web/fledge.toml"]),
        (0, String::new())
    );
    let arguments = [
        "build",
        "-c",
        "plugins/web/fledge.toml",
        "--agent",
        "kestrel",
    ];
    let (code, message) = run(&workspace, &arguments);
    assert_eq!(code, 0, "{message}");
    assert_eq!(workspace.manifest().name.as_str(), "app");
    assert_eq!(workspace.manifest().workload.entrypoint, ["/usr/bin/app"]);
}

#[test]
fn images_and_dockerfiles_become_plugins() {
    let workspace = empty();
    let (code, message) = run(
        &workspace,
        &["init", "--image", "docker.io/library/nginx:alpine", "web"],
    );
    assert_eq!(code, 0, "{message}");
    let manifest = fs_err::read_to_string(workspace.path("web/manifest.toml")).unwrap();
    assert!(manifest.contains("name = \"nginx\""), "{manifest}");
    assert_eq!(run(&workspace, &["check", "-c", "web/fledge.toml"]).0, 0);
    workspace.write("My App/Dockerfile", b"FROM scratch\n");
    assert_eq!(run(&workspace, &["init", "My App"]).0, 0);
    assert_eq!(run(&workspace, &["check", "-c", "My App/fledge.toml"]).0, 0);
    let manifest = fs_err::read_to_string(workspace.path("My App/manifest.toml")).unwrap();
    assert!(manifest.contains("name = \"my-app\""), "{manifest}");
}

#[test]
fn nothing_is_overwritten() {
    let workspace = empty();
    workspace.write("manifest.toml", b"mine");
    let (code, message) = run(&workspace, &["init", "--binary", "app"]);
    assert!(
        message.contains("manifest.toml` exists already"),
        "{message}"
    );
    assert_eq!(code, 4);
    assert_eq!(
        fs_err::read(workspace.path("manifest.toml")).unwrap(),
        b"mine"
    );
    assert!(!workspace.path("fledge.toml").exists());
}

#[test]
fn what_could_not_run_is_refused() {
    let workspace = empty();
    workspace.write("dynamic", &elf(Some("/lib/ld.so")));
    workspace.write("python", b"#!/usr/bin/python3\n");
    workspace.write("text", b"hello\n");
    let table: [(&[&str], i32, &str); 10] = [
        (
            &["--binary", "dynamic"],
            1,
            "is dynamically linked and needs `/lib/ld.so`",
        ),
        (
            &["--binary", "python"],
            1,
            "is a script for `/usr/bin/python3`",
        ),
        (
            &["--binary", "text"],
            1,
            "is neither an ELF program nor a script",
        ),
        (&["--binary", "conf"], 1, "`conf` is not a file"),
        (&["--binary", "x"], 3, "`x` does not exist"),
        (&["--dockerfile", "x"], 3, "`x` does not exist"),
        (&["--image", "a b"], 1, "`a b` is not an image reference"),
        (
            &["--image", "BAD//ref"],
            1,
            "`BAD//ref` is not an image reference",
        ),
        (&["--image", ""], 1, "`` names no image"),
        (&[], 2, "Say what the plugin is made of"),
    ];
    let before = workspace.names();
    for (arguments, code, expected) in table {
        let (found, message) = run(&workspace, &[&["init"], arguments].concat());
        assert!(message.contains(expected), "{message}");
        assert_eq!(found, code, "{message}");
    }
    assert_eq!(
        run(&workspace, &["init", "--binary", "app", "--image", "x"]).0,
        2
    );
    assert_eq!(workspace.names(), before);
}

#[test]
fn completions_are_read_by_their_shell() {
    let workspace = empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = workspace.fledge(&["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("completions") && script.contains("manifest"),
            "{shell}"
        );
    }
    assert_eq!(run(&workspace, &["completions", "cmd"]).0, 2);
    let script = workspace
        .fledge(&["completions", "bash"])
        .output()
        .unwrap()
        .stdout;
    workspace.write("completions.bash", &script);
    let status = std::process::Command::new("bash")
        .args(["-n", "completions.bash"])
        .current_dir(workspace.path(""))
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            println!("SKIPPED: the syntax of the completions, as bash does not start: {error}");
        }
    }
}
