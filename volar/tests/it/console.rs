//! The console over a WebSocket, with piped input. The same on a terminal is in `terminal`.

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::fake::{Server, problem, write};

/// A guest that greets, shouts back what it hears, powers off at `bye`, and takes the daemon with it at `crash`.
async fn guest(mut socket: WebSocket) {
    drop(socket.send(Message::binary(&b"welcome\r\n"[..])).await);
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Binary(bytes) = message else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes).to_uppercase();
        drop(socket.send(Message::binary(text.clone())).await);
        if text.contains("BYE") {
            drop(socket.send(Message::Close(None)).await);
            return;
        }
        if text.contains("CRASH") {
            return;
        }
    }
}

pub(crate) fn router() -> Router {
    let upgrade = async |headers: HeaderMap, upgrade: WebSocketUpgrade| -> Response {
        match headers.get("x-volant-api-key") {
            Some(key) if key != "s3cret" => {
                problem(401, "unauthorized", "Wrong token").into_response()
            }
            _ => upgrade.on_upgrade(guest),
        }
    };
    Router::new().route("/ws/v1/vms/{name}/console", get(upgrade))
}

#[test]
fn the_key_leaves_after_what_was_before_it() {
    for server in [Server::unix(router()), Server::tcp(router())] {
        let output = server
            .command(&["vms", "console", "web"])
            .write_stdin("hello\x1dnever sent")
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{err}");
        assert!(err.contains("Ctrl-] leaves it"), "{err}");
        assert!(err.contains("Left the console; VM web goes on"), "{err}");
        assert!(output.stdout.starts_with(b"welcome") || output.stdout.is_empty());
    }
}

#[test]
fn after_the_end_of_input_it_stays_until_the_vm_is_gone() {
    let server = Server::unix(router());
    let output = server
        .command(&["vms", "console", "web"])
        .write_stdin("hello bye")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"welcome\r\nHELLO BYE");
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("The console of VM web is gone"), "{err}");
}

#[test]
fn a_console_that_breaks_is_an_error() {
    let server = Server::unix(router());
    let output = server
        .command(&["vms", "console", "web"])
        .write_stdin("crash")
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{err}");
    assert!(
        err.contains("Cannot go on with the console of VM `web`"),
        "{err}"
    );
}

#[test]
fn a_refusal_is_told_as_for_any_other_call() {
    let refuse = async || problem(409, "wrong-phase", "VM `web` is stopped");
    let router_of = || Router::new().route("/ws/v1/vms/{name}/console", get(refuse));
    let ran = Server::unix(router_of())
        .volar(&["vms", "console", "web"])
        .exits(4);
    assert!(ran.err().contains("1: VM `web` is stopped"), "{ran:?}");

    let server = Server::tcp(router());
    let token = write(server.dir.path(), "token", "wrong");
    server
        .volar(&["--token-file", &token, "vms", "console", "web"])
        .exits(1)
        .says("Wrong token");
}
