//! Configurations, upgrades, use, artifacts, the daemon's files, a workload's API.

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fake::{Server, kept_artifact, manifest, problem, ready, vm, write};

fn versioned(version: u64) -> Value {
    json!({"version": version, "updated_at": "2026-11-23T10:00:00Z",
        "config": {"plugin": "caddy", "runtime": "caddy", "manifest": manifest("caddy"), "resources": {"memory_mb": 512}}})
}

/// Keeps the head and the body of each request.
fn kept(answer: Value) -> (axum::routing::MethodRouter, Arc<Mutex<Vec<String>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let handler = move |request: Request| async move {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let condition = head
            .headers
            .get("if-match")
            .map(|value| value.to_str().unwrap().to_owned());
        let line = format!(
            "{} {condition:?} {}",
            head.method,
            String::from_utf8_lossy(&body)
        );
        keep.lock().unwrap().push(line);
        Json(answer)
    };
    (any(handler), kept)
}

#[test]
fn a_configuration_is_shown_and_changed_by_versions() {
    let (config, kept) = kept(versioned(4));
    let history = json!([{"id": 9, "version": 4, "updated_at": "2026-11-23T10:00:00Z", "config": versioned(4)["config"]}]);
    let router = Router::new()
        .route("/api/v1/vms/{name}/config", config)
        .route(
            "/api/v1/vms/{name}/config/rollback",
            post(async || Json(versioned(5))),
        )
        .route(
            "/api/v1/vms/{name}/config/history",
            get(move || async move { Json(history) }),
        );
    let server = Server::unix(router);
    let out = server
        .volar(&["vms", "config", "get", "web", "-o", "yaml"])
        .exits(0)
        .out();
    assert!(
        out.contains("\nversion: 4") || out.starts_with("config:"),
        "{out}"
    );
    let file = server.dir.path().join("web.json");
    let path = file.to_str().unwrap();
    server
        .volar(&["vms", "config", "get", "web", "--file", path])
        .exits(0);
    let text = fs_err::read_to_string(path).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), versioned(4));
    let ran = server
        .volar(&["vms", "config", "set", "web", "--file", path])
        .exits(0);
    assert!(
        ran.err().contains("takes effect at the next start"),
        "{ran:?}"
    );
    server
        .volar(&[
            "vms",
            "config",
            "patch",
            "web",
            r#"{"env":{"A":null}}"#,
            "--restart",
        ])
        .exits(0)
        .prints("The configuration of VM web is version 4\n");
    let kept = kept.lock().unwrap();
    // What was got says which version it changes.
    assert!(
        kept[2].starts_with("PATCH Some(\"\\\"4\\\"\") {"),
        "{kept:?}"
    );
    assert_eq!(kept[3], r#"PATCH None {"env":{"A":null}}"#);
    server
        .volar(&["vms", "config", "patch", "web", "[]"])
        .exits(1)
        .says("must be an object");
    server
        .volar(&["vms", "config", "rollback", "web", "2"])
        .exits(0);
    let table = server
        .volar(&["vms", "config", "history", "web", "-o", "name"])
        .exits(0);
    table.prints("4\n");
    assert!(
        server
            .seen
            .all()
            .contains(&"PATCH /api/v1/vms/web/config?restart=true".to_owned())
    );
}

#[test]
fn what_is_chosen_at_create_goes_into_the_configuration() {
    let (create, kept) = kept(vm("web", 1, "pending", None));
    let server = Server::unix(Router::new().route("/api/v1/vms", create));
    let config = write(
        server.dir.path(),
        "c.json",
        r#"{"env": {"A": "file", "B": "2"}, "kernel_cmdline": "quiet"}"#,
    );
    server
        .volar(&[
            "vms",
            "create",
            "web",
            "--plugin",
            "caddy",
            "--config",
            &config,
            "-e",
            "A=flag",
            "--restart",
            "on-failure",
            "--wait=none",
        ])
        .exits(0)
        .prints("VM web is pending\n");
    let line = kept.lock().unwrap().pop().unwrap();
    let body: Value = serde_json::from_str(line.strip_prefix("POST None ").unwrap()).unwrap();
    let expected = json!({"env": {"A": "flag", "B": "2"}, "kernel_cmdline": "quiet", "restart_policy": "on-failure"});
    assert_eq!(body["config"], expected);
    server
        .volar(&[
            "vms",
            "list",
            "--status",
            "running,paused",
            "--plugin",
            "caddy",
            "--search",
            "a b",
            "--sort",
            "name",
            "--desc",
            "--limit",
            "5",
        ])
        .exits(5);
    let seen = server.seen.all();
    assert_eq!(
        seen[1],
        "GET /api/v1/vms?status=running,paused&plugin=caddy&q=a%20b&sort=name&order=desc&limit=5"
    );
}

#[test]
fn a_job_is_waited_for_and_its_failure_is_told_apart() {
    for (status, code) in [("stopped", 0), ("failed", 1)] {
        let router = Router::new()
            .route(
                "/api/v1/vms",
                post(async || Json(vm("web", 1, "pending", None))),
            )
            .route(
                "/api/v1/vms/{name}",
                get(move || async move { Json(vm("web", 2, status, None)) }),
            );
        let server = Server::unix(router);
        server
            .volar(&[
                "vms",
                "create",
                "web",
                "--plugin",
                "caddy",
                "--wait=stopped",
            ])
            .exits(code);
    }
}

#[test]
fn pause_resume_stop_and_upgrade() {
    let mut upgraded = ready("web", 8);
    upgraded["plugin_version"] = json!("2.0");
    upgraded["config_version"] = json!(2);
    let answer = upgraded.clone();
    let router = Router::new()
        .route(
            "/api/v1/vms/{name}",
            get(async || Json(vm("web", 7, "stopped", None))),
        )
        .route(
            "/api/v1/vms/{name}/pause",
            post(async || Json(vm("web", 2, "paused", None))),
        )
        .route(
            "/api/v1/vms/{name}/resume",
            post(async || Json(ready("web", 3))),
        )
        .route(
            "/api/v1/vms/{name}/stop",
            post(async || Json(vm("web", 4, "stopped", None))),
        )
        .route(
            "/api/v1/vms/{name}/upgrade",
            post(move || async move { Json(answer) }),
        );
    let server = Server::unix(router);
    server
        .volar(&["vms", "pause", "web"])
        .exits(0)
        .prints("VM web is paused\n");
    server
        .volar(&["vms", "resume", "web"])
        .exits(0)
        .prints("VM web is running\n");
    server
        .volar(&["vms", "stop", "web", "--grace", "30s"])
        .exits(0);
    assert!(
        server
            .seen
            .all()
            .contains(&"POST /api/v1/vms/web/stop?grace_ms=30000".to_owned())
    );
    server
        .volar(&["vms", "upgrade", "web"])
        .exits(0)
        .says("volar vms config rollback web");
}

#[test]
fn an_upgrade_to_what_is_there_says_so() {
    let mut same = ready("web", 7);
    same["plugin_version"] = json!("2.0");
    same["config_version"] = json!(2);
    let (before, answer) = (same.clone(), same);
    let router = Router::new()
        .route(
            "/api/v1/vms/{name}",
            get(move || async move { Json(before) }),
        )
        .route(
            "/api/v1/vms/{name}/upgrade",
            post(move || async move { Json(answer) }),
        );
    let ran = Server::unix(router)
        .volar(&["vms", "upgrade", "web"])
        .exits(0)
        .says("VM web has caddy 2.0 already");
    assert!(!ran.err().contains("way back"), "{ran:?}");
}

#[test]
fn a_vm_gets_more_or_less() {
    let (config, kept) = kept(versioned(4));
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}/config", config));
    server
        .volar(&["vms", "scale", "web", "--cpu", "2", "--memory", "1024"])
        .exits(0)
        .prints("The configuration of VM web is version 4\n")
        .says("takes effect at the next start");
    server
        .volar(&["vms", "scale", "web", "--memory", "512", "--restart"])
        .exits(0)
        .says("VM web is started again");
    assert_eq!(
        kept.lock().unwrap()[..],
        [
            r#"PATCH None {"resources":{"cpu_cores":2,"memory_mb":1024}}"#,
            r#"PATCH None {"resources":{"memory_mb":512}}"#,
        ]
    );
    assert!(server.seen.all()[1].ends_with("/config?restart=true"));
    server
        .volar(&["vms", "scale", "web", "--replicas", "3"])
        .exits(1)
        .says("A VM has no replicas");
    for wrong in [&[][..], &["--restart"], &["--cpu", "0"]] {
        server
            .volar(&[&["vms", "scale", "web"], wrong].concat())
            .exits(2);
    }
    assert_eq!(server.seen.all().len(), 2);
}

fn stats() -> Value {
    json!({"name": "web", "host": {"cpu_us": 1_000_000, "memory_pss_bytes": 1_048_576}, "network": {"rx_bytes": 5, "tx_bytes": 1, "rx_packets": 1, "tx_packets": 1, "rx_dropped": 0, "tx_dropped": 0},
        "disks": [], "at": "2026-11-23T10:00:00Z", "from_the_future": 1})
}

#[test]
fn use_is_shown_once_where_there_is_no_terminal() {
    let router = Router::new()
        .route("/api/v1/vms", get(async || Json(json!([ready("web", 1)]))))
        .route("/api/v1/stats", get(async || Json(json!([stats()]))))
        .route("/api/v1/vms/{name}/stats", get(async || Json(stats())));
    let server = Server::unix(router);
    let out = server.volar(&["top"]).exits(0).out();
    assert!(out.starts_with("1 VM, 1 running\n\nNAME"), "{out}");
    assert!(!out.contains('\u{1b}'), "{out}");
    let out = server
        .volar(&["top", "--once", "-o", "json"])
        .exits(0)
        .out();
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap()[0]["name"],
        json!("web")
    );
    let out = server.volar(&["vms", "stats", "web"]).exits(0).out();
    assert!(out.contains("Memory on the host   1.0 MiB"), "{out}");
    let out = server
        .volar(&["vms", "stats", "web", "-o", "json"])
        .exits(0)
        .out();
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), stats());
}

fn digest(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

/// A daemon with two artifacts that nobody needs.
fn store() -> Router {
    let row = |digit: &str| {
        json!({"digest": digest(digit), "size_bytes": 2048, "added_at": "2026-11-23T10:00:00Z", "signature": "none",
            "used_by": {"plugins": [], "vms": []}})
    };
    let rows = json!([row("a"), row("b")]);
    let removed = json!({"dry_run": true, "removed": [{"digest": digest("a"), "size_bytes": 2048}], "freed_bytes": 2048});
    let usage = json!({"items": [{"kind": "artifacts", "files": 2, "size_bytes": 4096}], "reclaimable_bytes": 2048,
        "disk_total_bytes": 4096, "disk_free_bytes": 1024});
    Router::new()
        .route("/api/v1/artifacts", get(move || async move { Json(rows) }))
        .route(
            "/api/v1/artifacts/{digest}",
            axum::routing::delete(async || StatusCode::NO_CONTENT),
        )
        .route(
            "/api/v1/system/prune",
            post(move || async move { Json(removed) }),
        )
        .route("/api/v1/system/df", get(move || async move { Json(usage) }))
        .route(
            "/api/v1/plugins",
            get(async || Json(json!({"plugins": ["caddy", "bb"]}))),
        )
        .route(
            "/api/v1/plugins/{name}/artifacts",
            post(async || (StatusCode::CREATED, Json(kept_artifact(&digest("a")))))
                .delete(async || StatusCode::NO_CONTENT),
        )
}

#[test]
fn an_added_artifact_is_told_as_it_is_asked_for() {
    let server = Server::unix(store());
    let add = [
        "artifacts",
        "add",
        "caddy",
        "rootfs",
        "x.erofs",
        "--version",
        "1",
    ];
    server
        .volar(&add)
        .exits(0)
        .prints("Artifact rootfs 1 of plugin caddy is stored\n");
    let out = server.volar(&[&add[..], &["-o", "json"]].concat()).exits(0);
    let printed: Value = serde_json::from_str(&out.out()).unwrap();
    assert_eq!(printed, kept_artifact(&digest("a")));
}

#[test]
fn artifacts_are_removed_by_plugin_and_by_digest() {
    let server = Server::unix(store());
    server
        .volar(&["artifacts", "remove", "caddy", "--version", "1"])
        .exits(0);
    // A beginning of a digest, and a plugin whose name looks like one.
    for (words, code, said) in [
        (
            &["aaa"][..],
            0,
            format!("Removed artifact `{}`", digest("a")),
        ),
        (
            &["sha256:bb"],
            0,
            format!("Removed artifact `{}`", digest("b")),
        ),
        (
            &["bb"],
            0,
            "Removed all artifacts that are kept for plugin `bb`".to_owned(),
        ),
        (
            &["bb", "--version", "1"],
            0,
            "Removed the artifacts of plugin `bb` 1".to_owned(),
        ),
        (&["dead"], 3, String::new()),
        (&["sha256:"], 1, String::new()),
        (&["Not_a_name"], 1, String::new()),
        (&["No"], 1, String::new()),
    ] {
        let words = [&["artifacts", "remove"], words].concat();
        let ran = server.volar(&words).exits(code);
        assert_eq!(ran.out().trim_end(), said, "{words:?}");
    }
    server
        .volar(&["artifacts", "remove", &digest("a")])
        .exits(0);
    let seen = server.seen.all();
    for call in [
        "DELETE /api/v1/plugins/caddy/artifacts?version=1".to_owned(),
        format!("DELETE /api/v1/artifacts/{}", digest("a")),
    ] {
        assert!(seen.contains(&call), "{call}: {seen:?}");
    }
}

#[test]
fn the_store_and_the_disk_are_looked_at_and_cleaned() {
    let server = Server::unix(store());
    let out = server.volar(&["artifacts", "list"]).exits(0).out();
    assert!(
        out.contains("sha256:aaaaaaaaaaaa   2.0 KiB   no       none        nothing"),
        "{out}"
    );
    server
        .volar(&["artifacts", "show", "bb", "-o", "name"])
        .exits(0)
        .prints(&format!("{}\n", digest("b")));
    server.volar(&["artifacts", "show", "c"]).exits(3);
    server
        .volar(&["artifacts", "show", "sha256:"])
        .exits(1)
        .says("write more of the digest");
    let would = format!(
        "Would remove {}, 2.0 KiB\n2.0 KiB would be free\n",
        digest("a")
    );
    server
        .volar(&["artifacts", "gc", "--dry-run"])
        .exits(0)
        .prints(&would);
    server
        .volar(&["system", "prune", "--dry-run"])
        .exits(0)
        .prints(&would);
    let out = server.volar(&["system", "df"]).exits(0).out();
    assert!(
        out.contains("1.0 KiB of 4.0 KiB are free on the disk"),
        "{out}"
    );
    let seen = server.seen.all();
    let call = "POST /api/v1/system/prune?dry_run=true".to_owned();
    assert!(seen.contains(&call), "{seen:?}");
}

#[test]
fn a_workloads_api_is_listed_and_called() {
    let document = json!({"openapi": "3.1.0", "paths": {"/items/{id}": {"get": {"operationId": "getItem", "summary": "Gets"}}}});
    let item = async |request: Request| match request.uri().path() {
        "/api/v1/vms/web/agent/v1/items/7" => {
            Json(json!({"b": 1, "a": request.uri().query()})).into_response()
        }
        "/api/v1/vms/web/agent/v1/down" => problem(409, "wrong-phase", "VM `web` is stopped"),
        _ => (StatusCode::IM_A_TEAPOT, "no").into_response(),
    };
    let router = Router::new()
        .route(
            "/api/v1/vms/{name}/openapi",
            get(move || async move { Json(document) }),
        )
        .route("/api/v1/vms/{name}/agent/{*path}", any(item));
    let server = Server::unix(router);
    let out = server.volar(&["vms", "operations", "web"]).exits(0).out();
    assert!(
        out.contains("GET      /items/{id}   getItem     Gets"),
        "{out}"
    );
    let words = [
        "vms", "call", "web", "getItem", "--query", "id=7", "--query", "x=1",
    ];
    let out = server.volar(&words).exits(0).out();
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap(),
        json!({"b": 1, "a": "x=1"})
    );
    server
        .volar(&["vms", "call", "web", "getItem"])
        .exits(1)
        .says("needs the parameter `id`");
    server
        .volar(&["vms", "call", "web", "none"])
        .exits(3)
        .says("volar vms operations web");
    server
        .volar(&["vms", "call", "web", "post:/x", "--body", "{}"])
        .exits(1)
        .prints("no")
        .says("HTTP status 418");
    server
        .volar(&["vms", "call", "web", "GET:/down"])
        .exits(4)
        .says("VM `web` is stopped");
}
