//! `volar run` against a daemon whose VM goes through the states that a test names.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::fake::{Server, manifest, program, ready, vm, write};

type Bodies = Arc<Mutex<Vec<Value>>>;

fn ended(code: i32) -> Value {
    let mut vm = vm("web", 9, "stopped", None);
    vm["last_exit"] = json!({"code": code, "at_us": 1});
    vm
}

/// A daemon that plays `states`, the last one for ever, and keeps what is sent. A VM is deleted at once, or never.
fn daemon(states: Vec<Value>, deletes: bool) -> (Router, Bodies) {
    let bodies = Bodies::default();
    let (plugins, vms) = (Arc::clone(&bodies), Arc::clone(&bodies));
    let install = move |Json(body): Json<Value>| async move {
        let answer = json!({"name": body["name"], "version": "1", "enabled": true, "installed_at": "2026-11-23T10:00:00Z",
            "artifact": {"kind": "rootfs", "digest": format!("sha256:{}", "0".repeat(64)), "size_bytes": 1, "pinned": false,
            "source_url": "/x"}});
        plugins.lock().unwrap().push(body);
        (StatusCode::CREATED, Json(answer))
    };
    let create = move |Json(body): Json<Value>| async move {
        let first = vm(body["name"].as_str().unwrap(), 1, "pending", None);
        vms.lock().unwrap().push(body);
        (StatusCode::CREATED, Json(first))
    };
    let step = Arc::new(AtomicUsize::new(0));
    let state = move |Path(name): Path<String>| {
        let at = step.fetch_add(1, Ordering::SeqCst).min(states.len() - 1);
        let mut state = states[at].clone();
        state["name"] = json!(name);
        async move { Json(state) }
    };
    let gone = move || async move {
        if !deletes {
            std::future::pending::<()>().await;
        }
        StatusCode::NO_CONTENT
    };
    let log = async || {
        let line = json!({"time": "2026-11-23T10:00:00Z", "stream": "stdout", "line": "hello", "id": 1, "seq": 1, "launch": "1"});
        (
            [(header::CONTENT_TYPE, "text/event-stream")],
            format!("data: {line}\n\n"),
        )
    };
    let router = Router::new()
        .route("/api/v1/plugins", post(install))
        .route(
            "/api/v1/plugins/{name}",
            get(async || Json(manifest("caddy"))).delete(async || StatusCode::NO_CONTENT),
        )
        .route("/api/v1/vms", post(create))
        .route("/api/v1/vms/{name}", get(state).merge(delete(gone)))
        .route(
            "/api/v1/vms/{name}/stop",
            post(async || Json(vm("web", 5, "stopped", None))),
        )
        .route("/api/v1/vms/{name}/logs", get(log));
    (router, bodies)
}

#[test]
fn a_plugin_runs_to_its_end_and_is_gone() {
    let (router, bodies) = daemon(vec![ready("web", 2), ended(3)], true);
    let server = Server::unix(router);
    let words = [
        "run", "--name", "web", "--cpu", "2", "-e", "A=1", "caddy", "--", "--fast",
    ];
    let ran = server.volar(&words).exits(3).prints("hello\n");
    assert!(
        ran.err()
            .contains("VM web is ready at http://192.168.127.10"),
        "{ran:?}"
    );
    let body = bodies.lock().unwrap().pop().unwrap();
    assert_eq!(body["config"]["env"], json!({"A": "1"}));
    assert_eq!(body["config"]["resources"]["cpu_cores"], json!(2));
    assert_eq!(
        body["config"]["manifest"]["workload"]["entrypoint"],
        json!(["/usr/bin/caddy", "--fast"])
    );
    let seen = server.seen.all();
    assert_eq!(seen.last().unwrap(), "DELETE /api/v1/vms/web");
    assert!(
        !seen
            .iter()
            .any(|call| call.contains("DELETE /api/v1/plugins")),
        "{seen:?}"
    );
}

#[test]
fn a_bare_artifact_is_installed_for_as_long_as_it_runs() {
    let (router, bodies) = daemon(vec![ready("web", 2), ended(0)], true);
    let server = Server::unix(router);
    let path = write(server.dir.path(), "my_app.cpio.gz", "\u{1f}\u{8b}");
    fs_err::write(&path, b"\x1f\x8b\x08").unwrap();
    server
        .volar(&["run", &path])
        .exits(1)
        .says("say after `--` what is to run in it");
    assert!(server.seen.all().is_empty());
    server
        .volar(&["run", &path, "--", "/app", "-x"])
        .exits(0)
        .prints("hello\n");
    let (create, install) = {
        let mut bodies = bodies.lock().unwrap();
        (bodies.pop().unwrap(), bodies.pop().unwrap())
    };
    assert_eq!(install["workload"]["entrypoint"], json!(["/app", "-x"]));
    assert_eq!(install["workload"]["restart"], json!("never"));
    assert_eq!(install["initramfs"]["url"], json!(path));
    let name = install["name"].as_str().unwrap();
    assert!(name.starts_with("my-app-"), "{name}");
    assert_eq!(
        (&create["name"], &create["plugin"]),
        (&install["name"], &install["name"])
    );
    let seen = server.seen.all();
    let last = [
        format!("DELETE /api/v1/vms/{name}"),
        format!("DELETE /api/v1/plugins/{name}"),
    ];
    assert_eq!(seen[seen.len() - 2..], last);
}

#[test]
fn what_fails_is_told_and_removed() {
    let mut failed = vm("web", 2, "failed", None);
    failed["failure"] = json!({"step": "guest", "cause": "The guest kernel panicked"});
    let (router, _) = daemon(vec![failed], true);
    let server = Server::unix(router);
    let ran = server
        .volar(&["run", "--name", "web", "caddy"])
        .exits(1)
        .says("1: The guest kernel panicked")
        .says("With --keep");
    assert!(!ran.err().contains("volar vms logs"), "{ran:?}");
    assert_eq!(server.seen.all().last().unwrap(), "DELETE /api/v1/vms/web");
}

#[test]
fn detached_it_stays_and_kept_it_is_stopped() {
    let (router, _) = daemon(vec![ready("web", 2)], true);
    let server = Server::unix(router);
    server
        .volar(&["run", "-d", "--name", "web", "caddy"])
        .exits(0)
        .says("`volar vms delete web`");
    assert!(
        !server
            .seen
            .all()
            .iter()
            .any(|call| call.starts_with("DELETE"))
    );
    let (router, _) = daemon(vec![ready("web", 2), ended(0)], true);
    let server = Server::unix(router);
    server
        .volar(&["run", "--keep", "--name", "web", "caddy"])
        .exits(0)
        .says("VM web is kept, stopped");
    assert!(
        !server
            .seen
            .all()
            .iter()
            .any(|call| call.starts_with("DELETE"))
    );
}

fn spawn(server: &Server) -> Child {
    Command::new(program())
        .args(["--api", &server.url, "run", "--name", "web", "caddy"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn interrupt(child: &Child) {
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
}

#[test]
fn ctrl_c_removes_it() {
    let (router, _) = daemon(vec![ready("web", 2)], true);
    let server = Server::unix(router);
    let mut child = spawn(&server);
    let mut hello = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut hello)
        .unwrap();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(server.seen.all().last().unwrap(), "DELETE /api/v1/vms/web");
}

#[test]
fn a_second_ctrl_c_leaves_and_says_what_stays() {
    let (router, _) = daemon(vec![ready("web", 2)], false);
    let server = Server::unix(router);
    let mut child = spawn(&server);
    let mut hello = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut hello)
        .unwrap();
    interrupt(&child);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("stopping and removing") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    interrupt(&child);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(
        rest.contains("VM web stays: `volar vms delete web`"),
        "{rest}"
    );
}
