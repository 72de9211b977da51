//! A Cloud Hypervisor that runs no guest: its API on the inherited socket, its events on the inherited pipe, faults by script.
//!
//! For process tests only; never part of a release.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a fake for tests: it may die as it likes"
)]

mod script;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use fs_err::File;
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use script::{LIFE, Script, hang, ignore_sigterm, inherited};
use serde_json::{Value, json};

struct Fake {
    script: Script,
    events: File,
    config: Option<Value>,
    serial: Option<PtyMaster>,
    booted: bool,
    paused: bool,
}

enum Answer {
    Status(u16, Value),
    Nothing,
    Raw(&'static [u8]),
    Last,
}

fn main() {
    let script = Script::read();
    if std::env::args().any(|arg| arg == "--version") {
        println!("cloud-hypervisor v53.0");
        return;
    }
    let [api, events] = inherited([3, 4]);
    if script.has("ignore-sigterm") {
        ignore_sigterm();
    }
    if script.has("die-at-once") {
        eprintln!(
            "Error: Cloud Hypervisor exited with the following chain of errors:\n  0: Cannot open hypervisor\n  1: No such device"
        );
        std::process::exit(1);
    }
    if script.has("hang") {
        hang();
    }
    let mut fake = Fake {
        script,
        events: File::from_parts(std::fs::File::from(events), "events"),
        config: None,
        serial: None,
        booted: false,
        paused: false,
    };
    fake.event("vmm", "starting");
    let api = UnixListener::from(api);
    loop {
        let (mut stream, _) = api.accept().unwrap();
        let Some((method, path, body)) = request(&stream) else {
            continue;
        };
        let answer = fake.answer(&method, &path, &body);
        let sent = match &answer {
            Answer::Status(status, body) => respond(&stream, *status, &body.to_string()),
            Answer::Nothing | Answer::Last => respond(&stream, 204, ""),
            Answer::Raw(bytes) => stream.write_all(bytes),
        };
        sent.unwrap();
        if matches!(answer, Answer::Last) {
            fake.event("vmm", "shutdown");
            std::process::exit(0);
        }
    }
}

impl Fake {
    fn answer(&mut self, method: &str, path: &str, body: &str) -> Answer {
        if self.script.has("busy") {
            return Answer::Status(503, json!({"error": "Too many open connections"}));
        }
        if self.script.has("garbage") {
            return Answer::Raw(b"\x00\x01 this is not HTTP\r\n\r\n");
        }
        match (method, path) {
            ("PUT", "/api/v1/vm.create") => self.create(body),
            ("PUT", "/api/v1/vm.boot") => self.boot(),
            ("GET", "/api/v1/vm.info") if self.script.has("empty-info") => Answer::Nothing,
            ("GET", "/api/v1/vm.info") => {
                let state = match (self.booted, self.paused) {
                    (false, _) => "Created",
                    (true, false) => "Running",
                    (true, true) => "Paused",
                };
                Answer::Status(200, json!({"config": self.config, "state": state}))
            }
            ("PUT", "/api/v1/vm.pause") => self.turn(true),
            ("PUT", "/api/v1/vm.resume") => self.turn(false),
            ("PUT", "/api/v1/vmm.shutdown") => {
                if self.script.has("hang-quit") {
                    hang();
                }
                Answer::Last
            }
            _ => Answer::Status(404, json!(["Error from API", "No such call"])),
        }
    }

    fn create(&mut self, body: &str) -> Answer {
        if self.script.has("die-on-create") {
            std::process::exit(2);
        }
        if self.script.has("hang-create") {
            hang();
        }
        if self.script.has("refuse-create") {
            return Answer::Status(
                400,
                json!(["Error from API", "The VM config is not valid", "No memory"]),
            );
        }
        let mut config: Value = serde_json::from_str(body).unwrap();
        assert_eq!(config["serial"]["mode"], "Pty");
        let pty = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        grantpt(&pty).unwrap();
        unlockpt(&pty).unwrap();
        config["serial"]["file"] = json!(ptsname_r(&pty).unwrap());
        self.serial = Some(pty);
        self.config = Some(config);
        Answer::Nothing
    }

    /// As the real one: what is so already is refused.
    fn turn(&mut self, pause: bool) -> Answer {
        if !self.booted || self.paused == pause || (pause && self.script.has("refuse-pause")) {
            return Answer::Status(500, json!(["Error from API", "Invalid state transition"]));
        }
        self.paused = pause;
        self.event("vm", if pause { "paused" } else { "resumed" });
        Answer::Nothing
    }

    fn boot(&mut self) -> Answer {
        if self.booted {
            return Answer::Status(
                500,
                json!([
                    "Error from API",
                    "The VM could not boot",
                    "VM is already created"
                ]),
            );
        }
        if self.script.has("die-on-boot") {
            eprintln!("thread 'vmm' panicked");
            std::process::exit(101);
        }
        if self.script.has("hang-boot") {
            hang();
        }
        let kernel = self.config.as_ref().unwrap()["payload"]["kernel"]
            .as_str()
            .unwrap()
            .to_owned();
        if self.script.has("refuse-boot") || File::open(&kernel).is_err() {
            return Answer::Status(
                500,
                json!([
                    "Error from API",
                    "The VM could not boot",
                    "Cannot open kernel file"
                ]),
            );
        }
        self.booted = true;
        self.event("vm", "booted");
        let serial = self.serial.take().unwrap();
        thread::spawn(move || serve_serial(serial));
        let (script, mut events) = (self.script.clone(), self.events.try_clone().unwrap());
        thread::spawn(move || end(&script, &mut events, &kernel));
        Answer::Nothing
    }

    fn event(&mut self, source: &str, event: &str) {
        emit(&mut self.events, source, event);
    }
}

/// Ends the booted fake as it was told to.
fn end(script: &Script, events: &mut File, kernel: &str) {
    thread::sleep(LIFE);
    if script.has("poweroff") {
        emit(events, "vmm", "shutdown");
        std::process::exit(0);
    }
    if script.has("crash") {
        eprintln!("oh no");
        std::process::exit(3);
    }
    if script.has("vcpu-error") {
        eprintln!(
            "cloud-hypervisor:   0.1s: <vcpu0> ERROR:vmm/src/cpu.rs:1460 -- VCPU generated error: x"
        );
        std::process::exit(0);
    }
    if script.has("reset") {
        // As the real one: boots again, for ever, unless the kernel cannot be found.
        while File::open(kernel).is_ok() {
            emit(events, "vm", "rebooting");
            thread::sleep(LIFE);
            emit(events, "vm", "rebooted");
        }
        emit(events, "vm", "rebooting");
        std::process::exit(1);
    }
}

fn emit(events: &mut File, source: &str, event: &str) {
    let record = json!({"timestamp": {"secs": 0, "nanos": 1}, "source": source, "event": event, "properties": null});
    let text = serde_json::to_string_pretty(&record).unwrap();
    let _ignored = events.write_all(format!("{text}\n\n").as_bytes());
}

/// Echoes all but NUL. Without a listener a read fails, and is tried again.
fn serve_serial(mut pty: PtyMaster) {
    pty.write_all(b"H\n").unwrap();
    let mut bytes = [0; 64];
    loop {
        match pty.read(&mut bytes) {
            Ok(count) => {
                let said: Vec<u8> = bytes[..count]
                    .iter()
                    .copied()
                    .filter(|byte| *byte != 0)
                    .collect();
                pty.write_all(&said).unwrap();
            }
            Err(_) => thread::sleep(LIFE),
        }
    }
}

fn request(stream: &UnixStream) -> Option<(String, String, String)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, String::from_utf8(body).ok()?))
}

fn respond(mut stream: &UnixStream, status: u16, body: &str) -> std::io::Result<()> {
    let length = if status == 204 {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let head = format!(
        "HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n{length}\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes())
}
