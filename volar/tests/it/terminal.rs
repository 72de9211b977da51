//! What is different on a terminal: single keys at the console, filtered logs, a question before a delete. Needs a pseudo-terminal only.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{delete, get};
use axum::{Json, Router};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use serde_json::json;

use crate::fake::{Server, program, ready, vm};

/// How long volar may take to show something.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a terminal shows, piece by piece. A read of it cannot be given up, so it has a thread of its own.
fn read_on_a_thread(mut master: File) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut piece = [0; 1024];
        while let Ok(length @ 1..) = master.read(&mut piece) {
            let text = String::from_utf8_lossy(&piece[..length]).into_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

/// volar on a terminal of its own.
struct Session {
    child: Child,
    master: File,
    shown: Receiver<String>,
    slave: OwnedFd,
    seen: String,
}

impl Session {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let child = Command::new(program())
            .args(["--api", &server.url, "--color", "never"])
            .args(arguments)
            .env_remove("NO_COLOR")
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave.try_clone().unwrap())
            .spawn()
            .unwrap();
        let master = File::from(master);
        let shown = read_on_a_thread(master.try_clone().unwrap());
        Self {
            child,
            master,
            shown,
            slave,
            seen: String::new(),
        }
    }

    /// Reads until the terminal has shown `words`.
    fn expect(&mut self, words: &str) {
        while !self.seen.contains(words) {
            let Ok(piece) = self.shown.recv_timeout(PATIENCE) else {
                drop(self.child.kill());
                panic!("`{words}` is not shown: {}", self.seen);
            };
            self.seen.push_str(&piece);
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Whether the terminal gives whole lines and shows them, as a shell leaves it.
    fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn the_console_takes_single_keys_and_gives_the_terminal_back() {
    let server = Server::unix(crate::console::router());
    let mut session = Session::start(&server, &["vms", "console", "web"]);
    assert!(session.is_cooked());
    session.expect("welcome");
    assert!(!session.is_cooked());
    // Ctrl-C is the guest's.
    session.press(b"a\x03b");
    session.expect("A\x03B");
    session.press(b"\x1d");
    session.expect("Left the console; VM web goes on");
    assert_eq!(session.code(), Some(0));
    assert!(session.is_cooked());
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let server = Server::unix(crate::console::router());
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut session = Session::start(&server, &["vms", "console", "web"]);
        session.expect("welcome");
        assert!(!session.is_cooked());
        let pid = Pid::from_raw(session.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
        assert_eq!(session.code(), Some(130));
        assert!(session.is_cooked(), "{signal}");
    }
}

#[test]
fn the_console_ends_with_its_vm() {
    let server = Server::unix(crate::console::router());
    let mut session = Session::start(&server, &["vms", "console", "web"]);
    session.expect("welcome");
    session.press(b"bye");
    session.expect("The console of VM web is gone");
    assert_eq!(session.code(), Some(0));
    assert!(session.is_cooked());
}

#[test]
fn waiting_shows_a_spinner_and_what_is_over() {
    let states = vec![
        vm("web", 1, "starting", Some("media")),
        vm("web", 2, "starting", Some("guest")),
        ready("web", 3),
    ];
    let server = Server::unix(crate::vms::daemon(states));
    let mut session = Session::start(&server, &["vms", "create", "web", "--plugin", "caddy"]);
    session.expect("VM web is ready at http://192.168.127.10");
    assert_eq!(session.code(), Some(0));
    for over in ["  media ", "  guest "] {
        assert!(session.seen.contains(over), "{:?}", session.seen);
    }
}

#[test]
fn a_log_on_a_terminal_cannot_drive_it() {
    let log = async || {
        Bytes::from_static(b"\x1b]0;owned\x07\x1b[2J\x1b[31mboot\x1b[0m\r\nend of log\r\n")
    };
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}/logs", get(log)));
    let mut session = Session::start(&server, &["vms", "logs", "web"]);
    session.expect("end of log");
    assert_eq!(session.code(), Some(0));
    assert!(session.seen.starts_with("boot\r\n"), "{:?}", session.seen);
}

/// What a workload may send to have a terminal read its clipboard out, retitle or clear it.
const HOSTILE: &str = "\u{1b}]52;c;aGk=\u{7}\u{9b}2J\u{9d}0;owned\u{9c}\u{7f}";

#[test]
fn an_api_on_a_terminal_cannot_drive_it() {
    let claimed = async || {
        (
            [(CONTENT_TYPE, "application/json")],
            format!("{{{HOSTILE}}}end"),
        )
    };
    let valid = async || Json(json!({"text": "\u{9b}2J\u{7f}é\u{202e}", "z": "end"}));
    let document = async || {
        Json(
            json!({"openapi": "3.1.0", "paths": {"/a": {"get": {"operationId": format!("{HOSTILE}\nend")}}}}),
        )
    };
    let router = Router::new()
        .route("/api/v1/vms/{name}/openapi", get(document))
        .route("/api/v1/vms/{name}/agent/v1/claimed", get(claimed))
        .route("/api/v1/vms/{name}/agent/v1/valid", get(valid));
    let server = Server::unix(router);
    for format in ["table", "wide", "json", "yaml", "name"] {
        for words in [
            &["vms", "call", "web", "GET:/claimed"][..],
            &["vms", "call", "web", "GET:/valid"],
            &["vms", "operations", "web"],
        ] {
            let mut session = Session::start(&server, &[&["-o", format], words].concat());
            // Names of a call's answer are the VM's.
            let last = match (format, words) {
                ("name", [_, "call", _, "GET:/valid"]) => "web",
                _ => "end",
            };
            session.expect(last);
            assert_eq!(session.code(), Some(0));
            let harmful = |c: char| (c.is_control() && !"\r\n".contains(c)) || c == '\u{202e}';
            assert!(
                !session.seen.contains(harmful),
                "{format}: {:?}",
                session.seen
            );
        }
    }
    let mut session = Session::start(&server, &["vms", "call", "web", "GET:/valid"]);
    session.expect("end");
    assert!(
        session.seen.contains(r"\u009b2J\u007fé\u202e"),
        "{:?}",
        session.seen
    );
    // Scripts get what was sent, but for names: one is one line.
    let out = server
        .volar(&["vms", "call", "web", "GET:/claimed"])
        .exits(0)
        .out();
    assert_eq!(out, format!("{{{HOSTILE}}}end"));
    let out = server
        .volar(&["vms", "operations", "web", "-o", "name"])
        .exits(0)
        .out();
    assert_eq!(out.lines().count(), 1, "{out:?}");
}

#[test]
fn a_delete_asks_first() {
    let gone = delete(async || StatusCode::NO_CONTENT);
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}", gone));
    let mut session = Session::start(&server, &["vms", "delete", "web"]);
    session.expect("[y/N] ");
    session.press(b"n\n");
    session.expect("Nothing was deleted");
    assert_eq!(session.code(), Some(1));
    assert!(server.seen.all().is_empty());

    let mut session = Session::start(&server, &["vms", "delete", "web"]);
    session.expect("Delete VM `web`");
    session.press(b"y\n");
    session.expect("VM web is deleted");
    assert_eq!(session.code(), Some(0));

    let mut session = Session::start(&server, &["vms", "delete", "web", "--yes"]);
    session.expect("VM web is deleted");
    assert_eq!(session.code(), Some(0));
    assert_eq!(server.seen.all().len(), 2);
}

#[test]
fn ctrl_c_at_the_question_deletes_nothing() {
    let gone = delete(async || StatusCode::NO_CONTENT);
    let server = Server::unix(Router::new().route("/api/v1/vms/{name}", gone));
    let mut session = Session::start(&server, &["vms", "delete", "web"]);
    session.expect("[y/N] ");
    kill(
        Pid::from_raw(session.child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    session.expect("Interrupted");
    assert_eq!(session.code(), Some(130));
    assert!(server.seen.all().is_empty());
}

#[test]
fn a_command_with_a_terminal_takes_single_keys_and_gives_the_terminal_back() {
    let server = Server::unix(crate::guest::exec_router());
    for (keys, code) in [(&b"\x1d"[..], 130), (b"", 130)] {
        let mut session = Session::start(&server, &["exec", "-it", "web", "--", "wait"]);
        session.expect("begun");
        assert!(!session.is_cooked());
        // Ctrl-C is the command's.
        session.press(b"a\x03b");
        session.expect("A\x03B");
        if keys.is_empty() {
            let pid = Pid::from_raw(session.child.id().try_into().unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
        } else {
            session.press(keys);
        }
        assert_eq!(session.code(), Some(code));
        assert!(session.is_cooked());
    }
    let mut session = Session::start(&server, &["exec", "-t", "web", "--", "both"]);
    assert_eq!(session.code(), Some(7));
    assert!(session.is_cooked());
}

#[test]
fn top_has_a_screen_of_its_own_and_leaves_it() {
    let router = Router::new()
        .route("/api/v1/vms", get(async || Json([ready("web", 1)])))
        .route("/api/v1/stats", get(async || Json(Vec::<()>::new())));
    let server = Server::unix(router);
    let mut session = Session::start(&server, &["top", "--interval", "100ms"]);
    session.expect("\x1b[?1049h");
    session.expect("running");
    let pid = Pid::from_raw(session.child.id().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    session.expect("\x1b[?1049l");
    assert_eq!(session.code(), Some(130));
}

#[test]
fn a_download_has_a_bar() {
    let (router, go_on) = crate::plugins::downloading();
    let server = Server::unix(router);
    let path = crate::plugins::remote_manifest(&server);
    let mut session = Session::start(&server, &["plugins", "install", &path]);
    session.expect("] 1.50 KiB of 4.00 KiB");
    go_on.send(()).unwrap();
    session.expect("Plugin caddy 0.1.0 is installed");
    assert_eq!(session.code(), Some(0));
}
