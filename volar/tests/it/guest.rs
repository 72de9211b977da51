//! Commands in a guest: exec, shell and cp, against a guest that is played by a WebSocket and tar archives.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use common::agent::session::{Channel, Start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::fake::{Server, problem, program, ready};

fn message(channel: Channel, payload: &[u8]) -> Message {
    Message::binary([&[channel.byte()], payload].concat())
}

/// A guest whose commands are `cat`, `both` (writes to both outputs), `env`, `wait` (ends by the signal that it gets), `gone` and others,
/// which are not there.
async fn guest(mut socket: WebSocket) {
    let mut start = Start::default();
    while let Some(Ok(Message::Binary(bytes))) = socket.recv().await {
        let (channel, payload) = (Channel::of(bytes[0]).unwrap(), &bytes[1..]);
        let mut say = Vec::new();
        let exit = |code: i32| message(Channel::Exit, json!({"code": code}).to_string().as_bytes());
        let command = start.command.first().map(String::as_str);
        match (channel, command) {
            (Channel::Start, _) => {
                start = serde_json::from_slice(payload).unwrap();
                let shown = serde_json::to_string(&start).unwrap();
                match start.command.first().map(String::as_str) {
                    Some("both") => {
                        say.push(message(Channel::Stdout, b"out\x00\xff"));
                        say.push(message(Channel::Stderr, b"err"));
                        say.push(exit(7));
                    }
                    Some("env") => {
                        say.extend([message(Channel::Stdout, shown.as_bytes()), exit(0)]);
                    }
                    Some("cat") => {}
                    Some("wait") | None => say.push(message(Channel::Stdout, b"begun\n")),
                    Some("gone") => return,
                    Some(program) => {
                        let (status, code) = match program {
                            "/etc/passwd" => (422, "not-executable"),
                            "late" => (404, "workdir-not-found"),
                            _ => (404, "not-found"),
                        };
                        let body = json!({"type": "t", "title": "t", "status": status, "detail": "There is no such program",
                            "error": "e", "code": code});
                        say.push(message(Channel::Failed, body.to_string().as_bytes()));
                    }
                }
            }
            (Channel::Stdin, _) => {
                say.push(message(Channel::Stdout, &payload.to_ascii_uppercase()));
            }
            (Channel::StdinEnd, _) => say.push(exit(0)),
            (Channel::Signal, _) => {
                let signal: serde_json::Value = serde_json::from_slice(payload).unwrap();
                say.push(exit(
                    128 + i32::try_from(signal["signal"].as_i64().unwrap()).unwrap(),
                ));
            }
            (Channel::Resize, _) => say.push(message(Channel::Stdout, payload)),
            _ => {}
        }
        for message in say {
            drop(socket.send(message).await);
        }
    }
}

pub(crate) fn exec_router() -> Router {
    let upgrade = async |upgrade: WebSocketUpgrade| -> Response { upgrade.on_upgrade(guest) };
    Router::new().route("/ws/v1/vms/{name}/exec", get(upgrade))
}

#[test]
fn a_commands_outputs_and_exit_code_are_its_own() {
    for server in [Server::unix(exec_router()), Server::tcp(exec_router())] {
        let ran = server.volar(&["exec", "web", "--", "both"]).exits(7);
        assert_eq!(
            (ran.0.stdout.as_slice(), ran.0.stderr.as_slice()),
            (&b"out\0\xff"[..], &b"err"[..])
        );
    }
}

#[test]
fn input_goes_in_and_ends() {
    let server = Server::unix(exec_router());
    let output = server
        .command(&["vms", "exec", "-i", "web", "--", "cat"])
        .write_stdin("x".repeat(200_000))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, "X".repeat(200_000).into_bytes());
    let output = server
        .command(&["shell", "web"])
        .write_stdin("exit")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"begun\nEXIT");
}

#[test]
fn what_is_asked_for_reaches_the_guest() {
    let server = Server::unix(exec_router());
    let words = [
        "exec", "-e", "A=1", "-e", "B=x=y", "-w", "/srv", "-u", "1000:5", "web", "--", "env", "-x",
    ];
    let out = server.volar(&words).exits(0).out();
    let start: serde_json::Value = serde_json::from_str(&out).unwrap();
    let expected = json!({"command": ["env", "-x"], "env": {"A": "1", "B": "x=y"}, "workdir": "/srv",
        "user": "1000:5", "stdin": false});
    assert_eq!(start, expected);
    server
        .volar(&["exec", "-it", "web", "--", "env"])
        .exits(1)
        .says("There is no terminal");
}

#[test]
fn what_cannot_run_is_told() {
    let server = Server::unix(exec_router());
    server
        .volar(&["exec", "web", "--", "nonsense"])
        .exits(127)
        .says("error: Cannot run a command in VM `web`\nCaused by:\n  1: There is no such program");
    // As shells, ssh and docker say it; a program's own 3 is something else.
    for (program, code) in [("/etc/passwd", 126), ("late", 3)] {
        server.volar(&["exec", "web", "--", program]).exits(code);
    }
    server.volar(&["exec", "web", "--", "gone"]).exits(5);
    let refuse = async || problem(409, "wrong-phase", "VM `web` is stopped");
    let router = Router::new().route("/ws/v1/vms/{name}/exec", get(refuse));
    let ran = Server::unix(router)
        .volar(&["exec", "web", "--", "x"])
        .exits(4);
    assert!(ran.err().contains("VM `web` is stopped"), "{ran:?}");
}

#[test]
fn the_first_ctrl_c_is_the_commands() {
    use std::io::Read as _;
    let server = Server::unix(exec_router());
    let mut child = Command::new(program())
        .args(["--api", &server.url, "exec", "web", "--", "wait"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut begun = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut begun)
        .unwrap();
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
}

/// What was unpacked in the guest: the folder and the archive.
type Sent = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A guest with `/srv` (a directory), `/srv/file`, `/evil` (an archive that leads elsewhere) and nothing else.
fn files() -> (Router, Sent) {
    let sent = Sent::default();
    let keep = Arc::clone(&sent);
    let read = async |Query(query): Query<Vec<(String, String)>>| {
        let path = query[0].1.clone();
        let (kind, size) = match path.trim_end_matches('/') {
            "/srv" | "" => ("directory", 0),
            "/srv/file" | "/evil" => ("file", 5),
            _ => return problem(404, "file-not-found", "There is nothing"),
        };
        let stat = json!({"name": "x", "kind": kind, "size_bytes": size, "mode": 420}).to_string();
        let mut headers = HeaderMap::new();
        headers.insert("x-volant-file-stat", HeaderValue::from_str(&stat).unwrap());
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o4755);
        match path.as_str() {
            "/srv" => {
                let mut folder = tar::Header::new_gnu();
                folder.set_entry_type(tar::EntryType::Directory);
                folder.set_mode(0o755);
                folder.set_size(0);
                tar.append_data(&mut folder, "srv", std::io::empty())
                    .unwrap();
                tar.append_data(&mut header, "srv/file", &b"hello"[..])
                    .unwrap();
            }
            "/evil" => {
                header.as_old_mut().name[..11].copy_from_slice(b"../escapedX");
                header.set_cksum();
                tar.append(&header, &b"hello"[..]).unwrap();
            }
            _ => tar.append_data(&mut header, "file", &b"hello"[..]).unwrap(),
        }
        (headers, tar.into_inner().unwrap()).into_response()
    };
    let write = move |Query(query): Query<Vec<(String, String)>>, body: Bytes| async move {
        keep.lock()
            .unwrap()
            .push((query[0].1.clone(), body.to_vec()));
        StatusCode::NO_CONTENT
    };
    let vm = async |Path(name): Path<String>| match name.as_str() {
        "web" => axum::Json(ready("web", 1)).into_response(),
        _ => problem(404, "vm-not-found", "There is no VM"),
    };
    let router = Router::new()
        .route("/api/v1/vms/{name}/files", get(read).put(write))
        .route("/api/v1/vms/{name}", get(vm));
    (router, sent)
}

#[test]
fn files_and_directories_come_out() {
    let (router, _) = files();
    let server = Server::unix(router);
    let dir = server.dir.path();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let ran = server.volar(&["cp", "web:/srv/file", &at("")]).exits(0);
    assert!(ran.err().contains("Copied 1 file, 5 B"), "{ran:?}");
    assert_eq!(fs_err::read_to_string(at("file")).unwrap(), "hello");
    server
        .volar(&["cp", "web:/srv/file", &at("renamed")])
        .exits(0);
    assert_eq!(fs_err::read_to_string(at("renamed")).unwrap(), "hello");
    server.volar(&["cp", "web:/srv", &at("tree")]).exits(0);
    assert_eq!(fs_err::read_to_string(at("tree/file")).unwrap(), "hello");
    // Again, into what is there now.
    server
        .volar(&["vms", "cp", "web:/srv", &at("tree")])
        .exits(0);
    assert_eq!(
        fs_err::read_to_string(at("tree/srv/file")).unwrap(),
        "hello"
    );
    let archive = server.volar(&["cp", "web:/srv", "-"]).exits(0).0.stdout;
    assert_eq!(
        tar::Archive::new(archive.as_slice())
            .entries()
            .unwrap()
            .count(),
        2
    );
}

#[test]
fn the_umask_takes_its_part_of_a_guests_modes() {
    let (router, _) = files();
    let server = Server::unix(router);
    let dir = server.dir.path();
    let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    // The umask is one for a whole process, so it is that of a shell.
    let copied = Command::new("sh")
        .args(["-c", "umask 077 && exec \"$@\"", "sh", program()])
        .args(["--api", &server.url, "cp", "web:/srv"])
        .arg(dir.join("tree"))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    assert_eq!((mode("tree"), mode("tree/file")), (0o700, 0o700));
}

#[test]
fn a_hostile_archive_does_not_come_out_of_its_place() {
    let (router, _) = files();
    let server = Server::unix(router);
    let inner = server.dir.path().join("inner");
    fs_err::create_dir(&inner).unwrap();
    server
        .volar(&["cp", "web:/evil", inner.to_str().unwrap()])
        .exits(1)
        .says("which leads out of what is copied");
    assert!(!server.dir.path().join("escapedX").exists());
}

#[test]
fn files_and_directories_go_in() {
    let (router, sent) = files();
    let server = Server::unix(router);
    let site = server.dir.path().join("site");
    fs_err::create_dir(&site).unwrap();
    fs_err::write(site.join("a"), "1").unwrap();
    let site = site.to_str().unwrap();
    let names = |archive: &[u8]| {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        let name = |entry: Result<tar::Entry<'_, _>, _>| {
            entry.unwrap().path().unwrap().display().to_string()
        };
        entries.map(name).collect::<Vec<_>>()
    };
    for (to, folder, expected) in [
        ("web:/srv", "/srv", ["site/", "site/a"]),
        ("web:/srv/new", "/srv", ["new/", "new/a"]),
    ] {
        server
            .volar(&["cp", site, to])
            .exits(0)
            .says("Copied 2 files and directories, 1 B");
        let (path, archive) = sent.lock().unwrap().pop().unwrap();
        assert_eq!(
            (path.as_str(), names(&archive)),
            (folder, expected.map(str::to_owned).to_vec())
        );
    }
    let output = server
        .command(&["cp", "-", "web:/srv"])
        .write_stdin("archive")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        sent.lock().unwrap().pop().unwrap(),
        ("/srv".to_owned(), b"archive".to_vec())
    );
}

#[test]
fn copies_that_cannot_be_are_told_apart() {
    let (router, sent) = files();
    let server = Server::unix(router);
    let site = server.dir.path().to_str().unwrap().to_owned();
    let table = [
        (["web:/none", "."], 3, "There is no `/none` in VM `web`"),
        (["gone:/none", "."], 3, "There is no VM"),
        (
            [site.as_str(), "web:/srv/file"],
            1,
            "`/srv/file` in VM `web` is no directory",
        ),
        (
            [site.as_str(), "web:/none/x"],
            3,
            "There is no `/none` in VM `web`",
        ),
        (["/nonexistent", "web:/srv"], 1, "/nonexistent"),
        (
            ["web:/srv", "/nonexistent/x"],
            1,
            "There is no directory `/nonexistent`",
        ),
        (["a", "b"], 1, "One side must be in a VM"),
        (["-", "web:/srv/file"], 1, "is no directory"),
    ];
    for (sides, code, words) in table {
        server
            .volar(&["cp", sides[0], sides[1]])
            .exits(code)
            .says(words);
    }
    assert!(sent.lock().unwrap().is_empty());
}
