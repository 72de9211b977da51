//! Plugins: what is read, checked, sent and printed.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};

use crate::fake::{Server, kept_artifact, manifest, problem, program, vm, write};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A daemon that keeps the manifests that it gets.
fn daemon(pinned: bool) -> (Router, Arc<Mutex<Vec<Value>>>) {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&sent);
    let install = move |Json(body): Json<Value>| async move {
        keep.lock().unwrap().push(body);
        let installed = json!({
            "name": "caddy", "version": "0.1.0", "enabled": true, "installed_at": "2026-11-23T10:00:00Z",
            "artifact": {"kind": "initramfs", "digest": DIGEST, "size_bytes": 20_971_520, "pinned": pinned,
                "source_url": "/x"}
        });
        (StatusCode::CREATED, Json(installed))
    };
    let router = Router::new()
        .route(
            "/api/v1/plugins",
            post(install).get(async |Query(query): Query<Vec<(String, String)>>| {
                let detail = query.iter().any(|(key, value)| key == "detail" && value == "true");
                assert!(detail, "names alone are too little");
                Json(json!({"plugins": [
                    {"name": "caddy", "version": "0.1.0", "runtime": "caddy", "enabled": true, "installed_at": "2026-11-23T10:00:00Z",
                        "artifact": {"kind": "initramfs", "digest": DIGEST, "size_bytes": 20_971_520, "pinned": true, "source_url": "/x"}},
                    {"name": "hello", "version": "2", "enabled": false, "installed_at": "2026-11-23T10:00:00Z", "from_the_future": 1,
                        "artifact": {"kind": "rootfs", "digest": DIGEST, "size_bytes": 1536, "pinned": false, "source_url": "/y"}}]}))
            }),
        )
        .route(
            "/api/v1/plugins/{name}",
            get(async |Path(name): Path<String>| match name.as_str() {
                "caddy" => Json(manifest("caddy")).into_response(),
                _ => problem(404, "plugin-not-found", "There is no plugin"),
            })
            .delete(async || StatusCode::NO_CONTENT),
        )
        .route(
            "/api/v1/plugins/{name}/enabled",
            post(async || StatusCode::OK),
        )
        .route(
            "/api/v1/plugins/{name}/artifacts",
            get(async || Json(json!([kept_artifact(DIGEST)]))),
        );
    (router, sent)
}

#[test]
fn a_relative_artifact_is_sent_as_an_absolute_path() {
    let (router, sent) = daemon(true);
    let server = Server::unix(router);
    write(server.dir.path(), "p.cpio.gz", "x");
    let mut wanted = manifest("caddy");
    wanted["initramfs"] = json!({"url": "p.cpio.gz", "checksum": DIGEST});
    let path = write(server.dir.path(), "caddy.json", &wanted.to_string());
    let ran = server
        .volar(&["plugins", "install", "--manifest", &path])
        .exits(0)
        .prints(&format!(
            "Plugin caddy 0.1.0 is installed ({DIGEST}, 20.0 MiB)\n"
        ));
    assert!(!ran.err().contains("unpinned"), "{ran:?}");
    let url = sent.lock().unwrap()[0]["initramfs"]["url"].clone();
    assert_eq!(url, json!(server.dir.path().join("p.cpio.gz")));
}

#[test]
fn an_unpinned_artifact_is_told() {
    let (router, _) = daemon(false);
    let server = Server::unix(router);
    let artifact = write(server.dir.path(), "p", "x");
    let mut wanted = manifest("caddy");
    wanted["initramfs"]["url"] = json!(artifact);
    let path = write(server.dir.path(), "caddy.json", &wanted.to_string());
    server
        .volar(&["plugins", "install", &path])
        .exits(0)
        .says("hint: The artifact is unpinned")
        .says(DIGEST);
}

#[test]
fn everything_that_is_wrong_is_listed_and_nothing_is_sent() {
    let (router, _) = daemon(true);
    let server = Server::unix(router);
    let mut wrong = manifest("caddy");
    wrong["name"] = json!("Caddy");
    wrong["initramfs"] = json!({"url": "/x", "checksum": "sha256:zz"});
    let path = write(server.dir.path(), "caddy.json", &wrong.to_string());
    server
        .volar(&["plugins", "install", &path])
        .exits(1)
        .says("error: Cannot install the plugin")
        .says("  | /name: `Caddy` is not a valid name")
        .says("  | /initramfs/checksum: `sha256:zz`")
        .says("hint: Nothing was sent to volantd");
    for (content, words) in [("{", "EOF"), ("[]", "/"), ("<html>", "expected value")] {
        let path = write(server.dir.path(), "bad.json", content);
        server
            .volar(&["plugins", "install", &path])
            .exits(1)
            .says(words);
    }
    server
        .volar(&["plugins", "install", "/nonexistent.json"])
        .exits(1)
        .says("/nonexistent.json");
    assert!(server.seen.all().is_empty());
}

#[test]
fn a_manifest_is_fetched_through_redirects_and_bounded() {
    let (router, sent) = daemon(true);
    let server = Server::unix(router);
    let mut wanted = manifest("caddy");
    wanted["initramfs"]["url"] = json!("p.cpio.gz");
    let site = Server::tcp(
        Router::new()
            .route(
                "/latest/caddy.json",
                get(async || Redirect::temporary("/elsewhere/caddy.json")),
            )
            .route(
                "/elsewhere/caddy.json",
                get(move || async move { Json(wanted) }),
            )
            .route("/huge.json", get(async || " ".repeat(300 * 1024)))
            .route(
                "/loop.json",
                get(async || Redirect::temporary("/loop.json")),
            ),
    );
    let url = |path: &str| format!("{}{path}", site.url);
    server
        .volar(&["plugins", "install", &url("/latest/caddy.json")])
        .exits(0);
    // Where the user found it, not where a server keeps it today.
    let expected = url("/latest/p.cpio.gz");
    assert_eq!(sent.lock().unwrap()[0]["initramfs"]["url"], json!(expected));
    server
        .volar(&["plugins", "install", &url("/huge.json")])
        .exits(1)
        .says("that is no manifest");
    server
        .volar(&["plugins", "install", &url("/loop.json")])
        .exits(5)
        .says("Cannot fetch the manifest");
    server
        .volar(&["plugins", "install", &url("/none.json")])
        .exits(5)
        .says("HTTP status 404");
}

#[test]
fn plugins_are_listed_shown_and_changed() {
    let (router, _) = daemon(true);
    let server = Server::unix(router);
    let ran = server.volar(&["plugins", "list"]).exits(0);
    insta::assert_snapshot!(ran.out(), @r"
    NAME    VERSION   ENABLED   RUNTIME
    caddy   0.1.0     yes       caddy
    hello   2         no
    ");
    let wide = server.volar(&["plugins", "list", "-o", "wide"]).exits(0);
    insta::assert_snapshot!(wide.out(), @r"
    NAME    VERSION   ENABLED   RUNTIME   KIND        SIZE       PINNED   INSTALLED              DIGEST
    caddy   0.1.0     yes       caddy     initramfs   20.0 MiB   yes      2026-11-23T10:00:00Z   sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
    hello   2         no                  rootfs      1.5 KiB    no       2026-11-23T10:00:00Z   sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
    ");
    let json = server.volar(&["plugins", "list", "-o", "json"]).exits(0);
    let json: Value = serde_json::from_str(&json.out()).unwrap();
    assert_eq!(
        (
            &json["plugins"][0]["artifact"]["digest"],
            &json["plugins"][1]["from_the_future"]
        ),
        (&json!(DIGEST), &json!(1))
    );
    let yaml = server
        .volar(&["plugins", "list", "-o", "yaml"])
        .exits(0)
        .out();
    assert!(yaml.contains("size_bytes: 20971520"), "{yaml}");
    server
        .volar(&["plugins", "list", "-o", "name"])
        .exits(0)
        .prints("caddy\nhello\n");
    let ran = server.volar(&["plugins", "show", "caddy"]).exits(0);
    insta::assert_snapshot!(ran.out(), @r"
    Name       caddy
    Version    0.1.0
    Runtime    caddy
    Enabled    yes
    Size       1 CPU, 256 MiB unless asked otherwise
    Workload   http: /usr/bin/caddy
    Serves     http://127.0.0.1:80
    Health     ready when its workload runs
    Artifact   initramfs, 1.5 KiB, unpinned
               sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
               from /plugins/caddy.cpio.gz
    ");
    let json = server
        .volar(&["plugins", "show", "caddy", "-o", "json"])
        .exits(0)
        .out();
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        manifest("caddy")
    );
    server
        .volar(&["plugins", "enable", "caddy"])
        .exits(0)
        .prints("Plugin caddy is enabled\n");
    server
        .volar(&["plugins", "disable", "caddy"])
        .exits(0)
        .prints("Plugin caddy is disabled\n");
    server
        .volar(&["plugins", "remove", "caddy"])
        .exits(0)
        .prints("Plugin caddy is removed\n");
    server
        .volar(&["plugins", "show", "none"])
        .exits(3)
        .says("hint: `volar plugins list`");
}

/// A daemon that downloads half, tells it, and goes on when it is told to.
pub(crate) fn downloading() -> (Router, std::sync::mpsc::Sender<()>) {
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let install = async move |Json(body): Json<Value>| {
        let waited = tokio::task::spawn_blocking(move || wait.lock().unwrap().recv().is_ok());
        assert!(waited.await.unwrap());
        let answer = json!({
            "name": body["name"], "version": "0.1.0", "enabled": true, "installed_at": "2026-11-23T10:00:00Z",
            "artifact": {"kind": "initramfs", "digest": DIGEST, "size_bytes": 4096, "pinned": true, "source_url": "/x"}
        });
        (StatusCode::CREATED, Json(answer))
    };
    let create = install.clone();
    let events = async || {
        let event = json!({
            "id": 0, "type": "DOWNLOAD", "name": "caddy", "timestamp": "2026-11-23T10:00:00Z",
            "download": {"source": "https://example.org/caddy.gz", "received_bytes": 1536, "total_bytes": 4096}
        });
        let told = stream::iter([Ok::<_, Infallible>(format!(
            "event: DOWNLOAD\ndata: {event}\n\n"
        ))]);
        let body = Body::from_stream(told.chain(stream::pending()));
        ([(header::CONTENT_TYPE, "text/event-stream")], body)
    };
    let router = Router::new()
        .route("/api/v1/plugins", post(install.clone()))
        .route(
            "/api/v1/plugins/{name}/artifacts",
            post(async move |body: Json<Value>| {
                let (status, Json(_)) = install(body).await;
                (status, Json(kept_artifact(DIGEST)))
            }),
        )
        .route(
            "/api/v1/vms",
            post(async move |body: Json<Value>| {
                let (status, Json(_)) = create(body).await;
                (status, Json(vm("web", 1, "pending", None)))
            }),
        )
        .route("/api/v1/events/vms", get(events));
    (router, go_on)
}

#[test]
fn a_download_is_told_in_lines_where_there_is_no_terminal() {
    for words in [
        &["plugins", "install", "MANIFEST"][..],
        &[
            "artifacts",
            "add",
            "caddy",
            "boot",
            "https://example.org/caddy.gz",
            "--version",
            "1",
        ],
        &[
            "vms",
            "create",
            "web",
            "--plugin",
            "caddy",
            "--no-wait",
            "--config",
            "CONFIG",
        ],
    ] {
        let (router, go_on) = downloading();
        let server = Server::unix(router);
        let path = remote_manifest(&server);
        let config = r#"{"initramfs": {"url": "https://example.org/caddy.gz"}}"#;
        let config = write(server.dir.path(), "config.json", config);
        let mut child = std::process::Command::new(program())
            .args(["--api", &server.url])
            .args(words.iter().map(|word| match *word {
                "MANIFEST" => path.as_str(),
                "CONFIG" => config.as_str(),
                word => word,
            }))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let told = lines.map(Result::unwrap).find(|line| line.contains(" of "));
        assert!(told.unwrap().ends_with(": 1.50 KiB of 4.00 KiB"));
        go_on.send(()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let seen = server.seen.all();
        let asked = "GET /api/v1/events/vms?vm=caddy&type=DOWNLOAD";
        assert!(seen.iter().any(|call| call == asked), "{seen:?}");
    }
}

pub(crate) fn remote_manifest(server: &Server) -> String {
    let mut wanted = manifest("caddy");
    wanted["initramfs"]["url"] = json!("https://example.org/caddy.gz");
    write(server.dir.path(), "caddy.json", &wanted.to_string())
}

#[test]
fn nobody_is_told_of_a_download_who_wants_only_results() {
    for flags in [&["-q"][..], &["-o", "json"]] {
        let (router, go_on) = downloading();
        let server = Server::unix(router);
        let path = remote_manifest(&server);
        go_on.send(()).unwrap();
        let ran = server
            .volar(&[&["plugins", "install", &path], flags].concat())
            .exits(0);
        assert_eq!(ran.err(), "");
        assert_eq!(server.seen.all(), ["POST /api/v1/plugins"]);
    }
}
