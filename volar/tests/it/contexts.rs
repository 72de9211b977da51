//! Contexts: where they are kept, which one is used, and that no token is shown.

use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::fake::{Ran, Server, command, write};

#[test]
fn contexts_are_added_used_and_removed() {
    let server = Server::tcp(Router::new().route("/api/v1/vms", get(async || Json(json!([])))));
    let home = tempfile::tempdir().unwrap();
    let token = write(home.path(), "lab.token", "s3cret");
    let volar = |words: &[&str]| {
        let mut command = command();
        command
            .env_remove("XDG_CONFIG_HOME")
            .env("HOME", home.path())
            .args(words);
        Ran(command.output().unwrap())
    };
    volar(&["context", "list"]).exits(0).prints("No contexts\n");
    volar(&["context", "add", "lab"])
        .exits(1)
        .says("give it with --api");
    volar(&[
        "context",
        "add",
        "lab",
        "--api",
        &server.url,
        "--token-file",
        &token,
        "--use",
    ])
    .exits(0)
    .prints(&format!("Context lab is {}\n", server.url));
    volar(&[
        "context",
        "add",
        "other",
        "--api",
        "https://other.example.org",
    ])
    .exits(0);
    let shown = volar(&["context", "show", "-o", "json"]).exits(0).out();
    assert!(
        shown.contains(&server.url) && !shown.contains("s3cret"),
        "{shown}"
    );
    volar(&["context", "list", "-o", "name"])
        .exits(0)
        .prints("lab\nother\n");

    volar(&["vms", "list"]).exits(0).prints("No VMs\n");
    assert_eq!(server.seen.all(), ["GET /api/v1/vms with s3cret"]);
    let file = home.path().join(".config/volant/config.toml");
    assert!(!fs_err::read_to_string(&file).unwrap().contains("s3cret"));

    volar(&["--context", "none", "vms", "list"])
        .exits(1)
        .says("There is no context `none`")
        .says("volar context list");
    volar(&["context", "use", "none"]).exits(3);
    volar(&["context", "use", "other"]).exits(0);
    volar(&["--context", "lab", "vms", "list"]).exits(0);
    volar(&["context", "remove", "other"]).exits(0);
    volar(&["context", "show"])
        .exits(1)
        .says("No context is the current one");
    // A file that is damaged keeps nobody from what needs no context.
    fs_err::write(&file, "[").unwrap();
    volar(&["vms", "list"])
        .exits(1)
        .says("does not hold contexts");
    volar(&["--api", &server.url, "vms", "list"]).exits(0);
    volar(&["completions", "bash"]).exits(0);
}
