//! VMs: listing, creating, waiting, stopping, deleting, logs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::fake::{Server, manifest, problem, program, ready, vm};

/// A daemon whose VM `web` goes through `states`, one at each long-poll; the last stays.
pub(crate) fn daemon(states: Vec<Value>) -> Router {
    daemon_with_log(states, "kernel: hello\r\nworkload: no luck\r\n")
}

fn daemon_with_log(states: Vec<Value>, log: &'static str) -> Router {
    let first = states[0].clone();
    let started = first.clone();
    let step = AtomicUsize::new(1);
    let states = Mutex::new(states);
    let next = std::sync::Arc::new(move || {
        let states = states.lock().unwrap();
        let at = step.fetch_add(1, Ordering::SeqCst).min(states.len() - 1);
        states[at].clone()
    });
    Router::new()
        .route(
            "/api/v1/vms",
            post(move || async move { (StatusCode::CREATED, Json(first)) }),
        )
        .route(
            "/api/v1/vms/{name}",
            get(move || async move { Json(next()) }),
        )
        .route(
            "/api/v1/vms/{name}/{change}",
            post(move || async move { Json(started) }).get(move || async move { log }),
        )
        .route(
            "/api/v1/plugins/{name}",
            get(async || Json(manifest("caddy"))),
        )
}

const CREATE: &[&str] = &[
    "vms", "create", "web", "--plugin", "caddy", "--cpu", "1", "--memory", "512",
];

#[test]
fn create_waits_and_shows_each_phase() {
    let server = Server::unix(daemon(vec![
        vm("web", 1, "pending", None),
        vm("web", 2, "starting", Some("media")),
        vm("web", 3, "starting", Some("guest")),
        vm("web", 4, "running", None),
        ready("web", 5),
    ]));
    let ran = server
        .volar(CREATE)
        .exits(0)
        .prints("VM web is ready at http://192.168.127.10 (VMM 20 ms, ready 812 ms)\n");
    let err = ran.err();
    let phases: Vec<&str> = err
        .lines()
        .map(|line| line.split(" (").next().unwrap())
        .collect();
    assert_eq!(
        phases,
        [
            "web: pending",
            "web: media",
            "web: guest",
            "web: health",
            "web: running"
        ]
    );
    let seen = server.seen.all();
    assert!(
        seen[1].starts_with("GET /api/v1/vms/web?after=1&timeout_ms="),
        "{seen:?}"
    );
    assert!(seen[2].contains("after=2"), "{seen:?}");
}

#[test]
fn quiet_leaves_only_the_result() {
    let server = Server::unix(daemon(vec![vm("web", 1, "pending", None), ready("web", 2)]));
    let ran = server.volar(&[CREATE, &["-q", "-o", "name"]].concat());
    assert_eq!(ran.err(), "");
    ran.exits(0).prints("web\n");
}

#[test]
fn no_wait_asks_nothing_more() {
    let server = Server::unix(daemon(vec![vm("web", 1, "pending", None)]));
    server
        .volar(&[CREATE, &["--no-wait"]].concat())
        .exits(0)
        .prints("VM web is pending\n");
    assert_eq!(server.seen.all(), ["POST /api/v1/vms"]);
}

#[test]
fn a_vm_that_fails_is_told_with_step_cause_console_and_hints() {
    let mut failed = vm("web", 2, "failed", None);
    failed["failure"] = json!({"step": "guest", "cause": "The guest kernel panicked", "hints": ["Give it more memory"]});
    let server = Server::unix(daemon(vec![vm("web", 1, "pending", None), failed]));
    let ran = server
        .volar(&[CREATE, &["-q"]].concat())
        .exits(1)
        .prints("");
    insta::assert_snapshot!(ran.err(), @r"
    error: VM `web` failed at step `guest`
    Caused by:
      1: The guest kernel panicked
    Last lines of its console:
      | kernel: hello
      | workload: no luck
    hint: Give it more memory
    hint: `volar vms logs web` shows its whole console
    hint: `volar vms delete web` removes it
    ");
    assert!(
        server
            .seen
            .all()
            .contains(&"GET /api/v1/vms/web/logs?follow=false&tail=15&stream=console".to_owned())
    );
}

#[test]
fn a_console_cannot_drive_the_terminal_through_an_error() {
    let log = "\u{1b}]0;owned\u{7}\u{1b}[2Jlast words\r\n";
    let mut failed = vm("web", 2, "crashed", None);
    failed["failure"] = json!({"step": "vmm", "cause": "bad \u{1b}[31mcolour"});
    let server = Server::unix(daemon_with_log(
        vec![vm("web", 1, "pending", None), failed],
        log,
    ));
    let ran = server
        .volar(CREATE)
        .exits(1)
        .says("VM `web` crashed at step `vmm`")
        .says("  | last words\n");
    assert!(!ran.err().contains('\u{1b}'), "{ran:?}");
}

#[test]
fn a_deadline_says_what_is_missing_and_leaves_the_vm() {
    let mut unhealthy = vm("web", 2, "running", None);
    unhealthy["health"] = json!({"state": "unhealthy", "reason": "It listens on 127.0.0.1 only"});
    let server = Server::unix(daemon(vec![vm("web", 1, "pending", None), unhealthy]));
    let ran = server
        .volar(&[CREATE, &["--timeout", "900ms"]].concat())
        .exits(124)
        .says("error: VM `web` is not ready after 0.9 s")
        .says("1: It runs and is unhealthy: It listens on 127.0.0.1 only")
        .says("hint: It goes on: `volar vms get web`");
    // A daemon that does not wait is not asked in a busy loop.
    assert!(server.seen.all().len() < 12, "{ran:?}");
}

#[test]
fn ctrl_c_leaves_the_vm_and_says_so() {
    let server = Server::unix(daemon(vec![vm("web", 1, "starting", Some("media"))]));
    let mut child = Command::new(program())
        .args(["--api", &server.url])
        .args(CREATE)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("web: media"), "{line}");
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(
        rest.contains("VM `web` goes on starting without this command"),
        "{rest}"
    );
}

#[test]
fn a_daemon_that_is_started_again_is_waited_for() {
    let calls = AtomicUsize::new(0);
    let poll = std::sync::Arc::new(move || match calls.fetch_add(1, Ordering::SeqCst) {
        0 => problem(503, "unavailable", "volantd is stopping"),
        _ => Json(ready("web", 2)).into_response(),
    });
    let router = Router::new()
        .route(
            "/api/v1/vms",
            post(async || Json(vm("web", 1, "pending", None))),
        )
        .route("/api/v1/vms/{name}", get(move || async move { poll() }));
    let server = Server::unix(router);
    server
        .volar(CREATE)
        .exits(0)
        .prints("VM web is ready at 192.168.127.10 (VMM 20 ms, ready 812 ms)\n");
}

#[test]
fn a_vm_that_is_deleted_meanwhile_is_not_found() {
    let router = Router::new()
        .route(
            "/api/v1/vms",
            post(async || Json(vm("web", 1, "pending", None))),
        )
        .route(
            "/api/v1/vms/{name}",
            get(async || problem(404, "vm-not-found", "There is no VM `web`")),
        );
    Server::unix(router)
        .volar(CREATE)
        .exits(3)
        .says("VM `web` was deleted meanwhile");
}

#[test]
fn start_stop_and_restart_wait() {
    let stopping = vm("web", 1, "stopping", None);
    let stopped = vm("web", 2, "stopped", None);
    let starting = vm("web", 3, "starting", Some("vmm"));
    let server = Server::unix(daemon(vec![stopping.clone(), stopped.clone()]));
    server
        .volar(&["vms", "stop", "web"])
        .exits(0)
        .prints("VM web is stopped\n");
    assert_eq!(server.seen.all()[0], "POST /api/v1/vms/web/stop");

    let server = Server::unix(daemon(vec![starting.clone(), ready("web", 4)]));
    let ran = server.volar(&["vms", "start", "web"]).exits(0);
    assert!(
        ran.out()
            .starts_with("VM web is ready at http://192.168.127.10")
    );

    // Being down on the way is part of a restart.
    let server = Server::unix(daemon(vec![stopping, stopped, starting, ready("web", 4)]));
    let ran = server.volar(&["vms", "restart", "web"]).exits(0);
    assert!(ran.out().starts_with("VM web is ready at"));
    assert_eq!(server.seen.all()[0], "POST /api/v1/vms/web/restart");
}

fn two_vms() -> Router {
    let both = || json!([ready("web", 5), vm("db", 2, "stopped", None)]);
    Router::new()
        .route("/api/v1/vms", get(move || async move { Json(both()) }))
        .route("/api/v1/vms/{name}", get(async || Json(ready("web", 5))))
}

#[test]
fn lists_and_details_come_in_three_formats() {
    for server in [Server::unix(two_vms()), Server::tcp(two_vms())] {
        let table = server.volar(&["vms", "list"]).exits(0).out();
        let first: Vec<&str> = table
            .lines()
            .map(|line| line.split("  ").next().unwrap())
            .collect();
        assert_eq!(first, ["NAME", "web", "db"]);
        server
            .volar(&["vms", "list", "-o", "name"])
            .exits(0)
            .prints("web\ndb\n");
        server
            .volar(&["vms", "get", "web", "-o", "name"])
            .exits(0)
            .prints("web\n");
        let text = server.volar(&["vms", "get", "web"]).exits(0).out();
        assert!(text.contains("Status        running\n"), "{text}");
    }
}

#[test]
fn json_is_the_json_of_the_api() {
    let server = Server::unix(two_vms());
    let out = server
        .volar(&["vms", "get", "web", "-o", "json"])
        .exits(0)
        .out();
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value, ready("web", 5));
    assert!(out.contains("1.5"), "{out}");
}

#[test]
fn several_vms_are_deleted_and_one_failure_keeps_none() {
    let router = Router::new().route(
        "/api/v1/vms/{name}",
        delete(async |Path(name): Path<String>| match name.as_str() {
            "gone" => problem(404, "vm-not-found", "There is no VM `gone`"),
            _ => StatusCode::NO_CONTENT.into_response(),
        }),
    );
    let server = Server::unix(router);
    server
        .volar(&["vms", "delete", "a", "gone", "b"])
        .exits(3)
        .prints("VM a is deleted\nVM b is deleted\n")
        .says("There is no VM `gone`");
    assert_eq!(server.seen.all().len(), 3);
    server
        .volar(&["vms", "delete", "a", "-q", "-o", "json"])
        .exits(0)
        .prints("");
}

/// Bytes that are no UTF-8, and a sequence that a terminal would obey.
const RAW_LOG: &[u8] = b"\x1b[2Jboot \xff\xfe\r\nlast";

#[test]
fn a_log_in_a_pipe_is_as_the_guest_wrote_it() {
    let router = Router::new().route(
        "/api/v1/vms/{name}/logs",
        get(async || Bytes::from_static(RAW_LOG)),
    );
    let server = Server::unix(router);
    let ran = server
        .volar(&["vms", "logs", "web", "--tail", "5"])
        .exits(0);
    assert_eq!(ran.0.stdout, RAW_LOG);
    assert_eq!(
        server.seen.all(),
        ["GET /api/v1/vms/web/logs?follow=false&tail=5&format=json"]
    );
}

/// Writes without an end.
async fn endless() -> Body {
    Body::from_stream(futures_util::stream::unfold((), async |()| {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b"line\n")), ()))
    }))
}

#[test]
fn following_prints_at_once_and_ends_well_when_the_reader_goes() {
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}/logs", get(endless)));
    let mut child = Command::new(program())
        .args(["--api", &server.url, "vms", "logs", "-f", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut piece = [0; 10];
    stdout.read_exact(&mut piece).unwrap();
    assert_eq!(&piece, b"line\nline\n");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(server.seen.all(), ["GET /api/v1/vms/web/logs?follow=true"]);
}

#[test]
fn ctrl_c_ends_following_without_a_complaint() {
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}/logs", get(endless)));
    let mut child = Command::new(program())
        .args(["--api", &server.url, "vms", "logs", "-f", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut piece = [0; 5];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut piece)
        .unwrap();
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
