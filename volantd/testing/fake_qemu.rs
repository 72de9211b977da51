//! A QEMU that runs no guest: QMP and a serial line on the inherited sockets, faults by script.
//!
//! For process tests only; never part of a release.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a fake for tests: it may die as it likes"
)]

mod agent;
mod script;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use script::{LIFE, Script, hang, ignore_sigterm, inherited};
use serde_json::{Value, json};

/// The one client that QMP serves at a time.
type Client = Arc<Mutex<Option<UnixStream>>>;

fn main() {
    let script = Script::read();
    if std::env::args().any(|arg| arg == "--version") {
        println!("QEMU emulator version 7.2.22 (fake)");
        return;
    }
    let [qmp, serial] = inherited([3, 4]);
    if script.has("ignore-sigterm") {
        ignore_sigterm();
    }
    if script.has("die-at-once") {
        eprintln!(
            "qemu-system-x86_64: -kernel /x: could not open kernel file '/x': No such file or directory"
        );
        std::process::exit(1);
    }
    if script.has("hang") {
        hang();
    }
    let connected = Arc::new(AtomicBool::new(false));
    let (serial, seen) = (UnixListener::from(serial), Arc::clone(&connected));
    thread::spawn(move || serve_serial(&serial, &seen));
    let client = Client::default();
    let running = Arc::new(AtomicBool::new(false));
    let qmp = UnixListener::from(qmp);
    loop {
        let (stream, _) = qmp.accept().unwrap();
        *client.lock().unwrap() = Some(stream.try_clone().unwrap());
        serve(&script, &stream, &client, &connected, &running);
        *client.lock().unwrap() = None;
    }
}

fn serve(
    script: &Script,
    stream: &UnixStream,
    client: &Client,
    connected: &AtomicBool,
    running: &Arc<AtomicBool>,
) {
    if script.has("garbage") {
        let _ignored = (&*stream).write_all(b"SSH-2.0-OpenSSH\r\n");
        return;
    }
    say(
        client,
        &json!({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}, "capabilities": ["oob"]}}),
    );
    let mut queries = 0;
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let command: Value = serde_json::from_str(&line).unwrap();
        let id = command.get("id").cloned();
        let answer = match command["execute"].as_str().unwrap() {
            "qmp_capabilities" if script.has("refuse-capabilities") => Err("no capabilities today"),
            "qmp_capabilities" => Ok(json!({})),
            "query-chardev" => {
                queries += 1;
                // The first look always finds it unconnected, as a busy QEMU would.
                let waits = queries == 1 || !connected.load(Ordering::SeqCst);
                let filename = if waits { "disconnected:unix:" } else { "unix:" };
                Ok(
                    json!([{"label": "qmp0", "filename": "unix:"}, {"label": "serial0", "filename": filename}]),
                )
            }
            "cont" if script.has("refuse-cont") => Err("the guest cannot run"),
            "cont" if script.has("hang-cont") => hang(),
            "cont" if script.has("die-on-cont") => std::process::exit(4),
            "cont" => {
                if !running.swap(true, Ordering::SeqCst) {
                    let (script, client) = (script.clone(), Arc::clone(client));
                    thread::spawn(move || end(&script, &client));
                }
                for _ in 0..if script.has("event-flood") { 5000 } else { 1 } {
                    say(
                        client,
                        &json!({"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}),
                    );
                }
                Ok(json!({}))
            }
            "stop" if script.has("refuse-stop") => Err("the guest cannot be stopped"),
            "stop" => {
                say(client, &json!({"event": "STOP"}));
                Ok(json!({}))
            }
            "quit" if script.has("hang-quit") => hang(),
            "quit" => {
                shutdown(client, false, "host-qmp-quit");
                std::process::exit(0);
            }
            _ => Err("The command has not been found"),
        };
        let mut answer = match answer {
            Ok(result) => json!({"return": result}),
            Err(reason) => json!({"error": {"class": "GenericError", "desc": reason}}),
        };
        if let Some(id) = id {
            answer["id"] = id;
        }
        say(client, &answer);
    }
}

/// Ends the running fake as it was told to.
fn end(script: &Script, client: &Client) {
    if script.has("agent") {
        // As a guest that powers off does.
        let client = Arc::clone(client);
        agent::serve(&Arc::new(move || {
            shutdown(&client, true, "guest-shutdown");
            std::process::exit(0);
        }));
    }
    thread::sleep(LIFE);
    if script.has("poweroff") {
        shutdown(client, true, "guest-shutdown");
        std::process::exit(0);
    }
    if script.has("reset") {
        shutdown(client, true, "guest-reset");
        std::process::exit(0);
    }
    if script.has("crash") {
        eprintln!("oh no");
        std::process::exit(3);
    }
    if script.has("stop") {
        say(client, &json!({"event": "STOP"}));
    }
}

fn shutdown(client: &Client, guest: bool, reason: &str) {
    say(
        client,
        &json!({"event": "SHUTDOWN", "data": {"guest": guest, "reason": reason}}),
    );
}

fn say(client: &Client, message: &Value) {
    if let Some(stream) = &mut *client.lock().unwrap() {
        let _ignored = stream.write_all(format!("{message}\r\n").as_bytes());
    }
}

fn serve_serial(listener: &UnixListener, connected: &AtomicBool) {
    let mut first = true;
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        connected.store(true, Ordering::SeqCst);
        if std::mem::take(&mut first) {
            stream.write_all(b"H\n").unwrap();
        }
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..count]).unwrap();
        }
        connected.store(false, Ordering::SeqCst);
    }
}
