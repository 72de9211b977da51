//! What volar says when the daemon refuses, is away, or is not volantd at all.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::fake::{Server, command, manifest, problem, write};

#[test]
fn each_problem_has_its_exit_code() {
    let router = Router::new().route(
        "/api/v1/vms/{code}",
        get(async |Path(code): Path<String>| {
            let status = match code.as_str() {
                "invalid-request" => 400,
                "checksum-mismatch" | "bad-signature" => 422,
                "vm-not-found" => 404,
                "vm-exists" | "wrong-phase" => 409,
                "unavailable" => 503,
                "no-capacity" => 507,
                "unauthorized" => 401,
                _ => 500,
            };
            problem(status, &code, "A plain sentence")
        }),
    );
    let server = Server::unix(router);
    for (code, exit) in [
        ("invalid-request", 1),
        ("unauthorized", 1),
        ("vm-not-found", 3),
        ("vm-exists", 4),
        ("wrong-phase", 4),
        ("unavailable", 5),
        ("checksum-mismatch", 6),
        ("bad-signature", 6),
        ("no-capacity", 7),
        ("internal", 70),
    ] {
        server
            .volar(&["vms", "get", code])
            .exits(exit)
            .prints("")
            .says(&format!(
                "error: Cannot show VM `{code}`\nCaused by:\n  1: A plain sentence\n"
            ));
    }
    server.volar(&["vms", "get", "internal"]).says("grep req-1");
    server
        .volar(&["vms", "get", "unauthorized"])
        .says("--token-file");
}

#[test]
fn wrong_members_and_hints_of_the_daemon_are_shown() {
    let router = Router::new().route(
        "/api/v1/vms",
        get(async || {
            let body = json!({"type": "t", "title": "t", "status": 400, "detail": "The request is not valid",
                "error": "e", "code": "invalid-request", "hints": ["Do this"],
                "errors": [{"pointer": "/cpu_cores", "detail": "This host has 2"}]});
            (StatusCode::BAD_REQUEST, Json(body))
        }),
    );
    let ran = Server::unix(router).volar(&["vms", "list"]).exits(1);
    insta::assert_snapshot!(ran.err(), @r"
    error: Cannot list the VMs
    Caused by:
      1: The request is not valid
    What is wrong:
      | /cpu_cores: This host has 2
    hint: Do this
    ");
}

#[test]
fn a_daemon_that_is_away_is_told_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/none.sock", dir.path().display());
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for api in [socket, format!("http://{port}")] {
        for words in [&["vms", "list"][..], &["vms", "console", "web"]] {
            let output = command()
                .args(["--api", &api])
                .args(words)
                .output()
                .unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(5), "{err}");
            assert!(
                err.contains(&format!("volantd is not running at {api}")),
                "{err}"
            );
            assert!(
                err.contains("hint: Start it with `sudo systemctl start volantd`"),
                "{err}"
            );
            assert!(err.contains("volar doctor"), "{err}");
        }
    }
}

#[test]
fn an_address_that_cannot_be_used_is_refused() {
    for (api, words) in [
        ("localhost:7777", "is not an API address"),
        ("http://me:secret@localhost", "--token-file"),
    ] {
        let output = command()
            .env("VOLANT_API_BASE", api)
            .args(["vms", "list"])
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(
            err.contains("VOLANT_API_BASE") && err.contains(words),
            "{err}"
        );
        assert!(!err.contains("secret"), "{err}");
    }
}

#[test]
fn what_is_not_volantd_is_recognised() {
    let router = Router::new()
        .route("/api/v1/vms", get(async || "<html>hello</html>"))
        .route(
            "/api/v1/vms/{name}",
            get(async || Json(json!({"name": "web"}))),
        )
        .route(
            "/api/v1/plugins",
            get(async || (StatusCode::BAD_GATEWAY, "nginx")),
        )
        .route(
            "/api/v1/plugins/{name}",
            get(async || Redirect::temporary("/stolen")),
        )
        .route("/stolen", get(async || Json(manifest("caddy"))));
    let server = Server::tcp(router);
    for words in [
        &["vms", "list"][..],
        &["vms", "get", "web"],
        &["plugins", "list"],
        &["plugins", "show", "caddy"],
    ] {
        server
            .volar(words)
            .exits(5)
            .prints("")
            .says("Something else may listen there");
    }
    assert!(
        !server
            .seen
            .all()
            .iter()
            .any(|line| line.contains("/stolen")),
        "redirects are not followed"
    );
}

fn read_head(stream: &mut TcpStream) {
    let mut head = [0; 4096];
    let length = stream.read(&mut head).unwrap();
    assert!(length > 0);
}

#[test]
fn connections_that_break_are_told() {
    let closes: fn(TcpStream) = |mut stream| read_head(&mut stream);
    let breaks_off: fn(TcpStream) = |mut stream| {
        read_head(&mut stream);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[{\"id\""));
    };
    let babbles: fn(TcpStream) = |mut stream| {
        read_head(&mut stream);
        drop(stream.write_all(b"220 smtp ready\r\n"));
    };
    for speak in [closes, breaks_off, babbles] {
        let server = Server::raw(speak);
        server
            .volar(&["vms", "list"])
            .exits(5)
            .says("The connection to volantd ended before `GET /api/v1/vms` was answered");
        server
            .volar(&["vms", "console", "web"])
            .exits(5)
            .says("Cannot open the console of VM `web`");
    }
}

#[test]
fn a_daemon_that_hangs_is_not_waited_for_forever() {
    let server = Server::raw(|mut stream| {
        read_head(&mut stream);
        std::thread::sleep(Duration::from_secs(30));
    });
    let mut wanted = manifest("caddy");
    wanted["initramfs"]["url"] = json!(write(server.dir.path(), "p", "x"));
    let path = write(server.dir.path(), "m.json", &wanted.to_string());
    let begun = Instant::now();
    server
        .volar(&["plugins", "install", &path, "--timeout", "700ms"])
        .exits(5)
        .says("volantd did not answer `POST /api/v1/plugins` within 0.7 s");
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_broken_log_says_so_after_what_arrived() {
    let server = Server::raw(|mut stream| {
        read_head(&mut stream);
        drop(
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        );
    });
    server
        .volar(&["vms", "logs", "web"])
        .exits(5)
        .prints("hello")
        .says("Cannot read the log of VM `web`");
}

async fn guarded(headers: HeaderMap) -> Response {
    match headers.get("x-volant-api-key") {
        Some(key) if key == "s3cret" => Json(json!([])).into_response(),
        _ => problem(401, "unauthorized", "The API token is missing or wrong"),
    }
}

#[test]
fn the_token_goes_over_tcp_only_and_is_never_shown() {
    let router = || Router::new().route("/api/v1/vms", get(guarded));
    let server = Server::tcp(router());
    let file = write(server.dir.path(), "token", "s3cret\n");
    server
        .volar(&["vms", "list"])
        .exits(1)
        .says("The API token is missing or wrong");
    server
        .volar(&["vms", "list", "--token-file", &file])
        .exits(0)
        .prints("No VMs\n");
    let with = |key: &str, value: &str| {
        let output = server
            .command(&["vms", "list", "-v"])
            .env(key, value)
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!err.contains("s3cret"), "{err}");
        assert!(err.contains("GET /api/v1/vms -> "), "{err}");
        output.status.code()
    };
    assert_eq!(with("VOLANT_API_KEY", "s3cret"), Some(0));
    assert_eq!(with("VOLANT_TOKEN_FILE", &file), Some(0));
    assert_eq!(with("VOLANT_API_KEY", "wrong"), Some(1));

    let server = Server::unix(router());
    server
        .volar(&["vms", "list", "--token-file", &file])
        .exits(1);
    assert_eq!(server.seen.all(), ["GET /api/v1/vms"]);
}

#[test]
fn a_proxy_is_not_used() {
    let server = Server::tcp(Router::new().route("/api/v1/vms", get(async || Json(json!([])))));
    let mut command = server.command(&["vms", "list"]);
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(variable, "http://127.0.0.1:1");
    }
    assert_eq!(command.output().unwrap().status.code(), Some(0));
}

#[test]
fn a_path_of_the_address_is_kept() {
    let server =
        Server::tcp(Router::new().route("/volant/api/v1/vms", get(async || Json(json!([])))));
    let api = format!("{}/volant/", server.url);
    let output = command()
        .args(["--api", &api, "vms", "list"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn info() -> Router {
    Router::new().route(
        "/api/v1/system/info",
        get(async || {
            Json(json!({"status": "ok", "version": "9.9.9", "api_listen_addr": "", "api_advertise_addr": "",
                "host_ip": "192.168.127.1", "hypervisor": "qemu", "accelerator": "tcg",
                "hypervisor_reason": "There is no KVM"}))
        }),
    )
}

#[test]
fn versions_are_shown_with_or_without_a_daemon() {
    let own = env!("CARGO_PKG_VERSION");
    let server = Server::unix(info());
    for words in ["version", "--version", "-V"] {
        let expected = format!("volar {own}\nvolantd 9.9.9 at {}\n", server.url);
        server.volar(&[words]).exits(0).prints(&expected);
    }
    let json = server.volar(&["version", "-o", "json"]).exits(0).out();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json,
        json!({"volar": own, "volantd": "9.9.9", "api": server.url})
    );
    let away = "unix:///nonexistent/volantd.sock";
    let output = command().args(["--api", away, "version"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        out,
        format!("volar {own}\nvolantd cannot be reached at {away}\n")
    );
}

#[test]
fn doctor_tells_of_the_daemon_and_exits_by_its_failures() {
    let server = Server::unix(info());
    let ran = server.volar(&["doctor", "-o", "json"]);
    let checks: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    let checks = checks.as_array().unwrap();
    assert_eq!(checks.len(), 11);
    let daemon = checks
        .iter()
        .find(|check| check["check"] == "volantd")
        .unwrap();
    assert_eq!(daemon["verdict"], "warn", "the versions differ: {daemon}");
    assert!(daemon["says"].as_str().unwrap().contains("There is no KVM"));
    let fails = checks.iter().any(|check| check["verdict"] == "fail");
    ran.exits(i32::from(fails));

    let away = command()
        .args(["--api", "unix:///nonexistent", "doctor"])
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1));
    let out = String::from_utf8(away.stdout).unwrap();
    assert!(out.contains("fail  volantd"), "{out}");
    assert!(
        String::from_utf8(away.stderr)
            .unwrap()
            .contains("checks failed")
    );
}

#[test]
fn setup_shows_what_it_would_do() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("volantd.service");
    let output = command()
        .args(["setup", "--dry-run", "--service-file"])
        .arg(&unit)
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains(&format!("write {}", unit.display())), "{out}");
    assert!(!unit.exists());
    let output = command()
        .args(["setup", "--dry-run", "--host-ip", "10.0.0.1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
