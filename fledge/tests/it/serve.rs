//! `fledge serve` as its clients see it: a real server on a loopback port, spoken to byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::api::Problem;
use serde_json::{Value, json};

use crate::workspace::{SPEC, TEMPLATE, Workspace};

/// What the servers of these tests take as key.
const KEY: &str = "0123456789abcdef";

/// How long anything here may take; builds share the machine with other tests.
const PATIENCE: Duration = Duration::from_mins(2);

/// A server in the directory of a workspace.
struct Server {
    child: Child,
    address: SocketAddr,
}

/// What a server said.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it is a problem with this status and code, and gives its sentence.
    fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(
            self.head.contains("content-type: application/problem+json"),
            "{self:?}"
        );
        let problem: Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(
            (problem.status, problem.code.as_str()),
            (status, code),
            "{self:?}"
        );
        assert_eq!(problem.error, problem.detail);
        assert!(problem.instance.starts_with('/'), "{self:?}");
        problem.detail
    }
}

impl Server {
    /// With the key.
    fn start(workspace: &Workspace, arguments: &[&str]) -> Self {
        Self::with(workspace, arguments, Some(KEY))
    }

    fn with(workspace: &Workspace, arguments: &[&str], key: Option<&str>) -> Self {
        let mut child = command(workspace, arguments)
            .envs(key.map(|key| ("FLEDGE_API_KEY", key)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("Listening on http://");
        let address = address.unwrap_or_else(|| panic!("{line:?}"));
        Self {
            child,
            address: address.parse().unwrap(),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request with the key, and does not wait.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = self.connect();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {KEY}\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        read(self.send(method, path, "", body))
    }

    /// Sends exactly this.
    fn raw(&self, text: &str) -> Answer {
        let mut stream = self.connect();
        // A server that has read enough answers and hangs up.
        drop(stream.write_all(text.as_bytes()));
        read(stream)
    }

    fn submit(&self, body: &Value) -> String {
        let answer = self.ask("POST", "/v1/jobs", &body.to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert!(
            answer
                .head
                .contains(&format!("location: /v1/jobs/{id}\r\n")),
            "{answer:?}"
        );
        id
    }

    fn job(&self, id: &str) -> Value {
        self.ask("GET", &format!("/v1/jobs/{id}"), "").json()
    }

    fn wait_for(&self, id: &str, state: &str) -> Value {
        let begin = Instant::now();
        loop {
            let job = self.job(id);
            if job["state"] == state {
                return job;
            }
            assert!(begin.elapsed() < PATIENCE, "{job}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as systemd does, and gives its exit code.
    fn terminate(mut self) -> Option<i32> {
        signal(&self.child, "-TERM");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fledge"));
    command
        .env_clear()
        .env("XDG_CACHE_HOME", workspace.path("cache"))
        .env("FLEDGE_ADDR", "127.0.0.1:0")
        .current_dir(workspace.path(""))
        .args(["serve"])
        .args(arguments)
        .stderr(Stdio::null());
    command
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
}

fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // What was not read of a request makes the kernel reset the connection behind the answer.
    drop(stream.read_to_end(&mut bytes));
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no answer: {text:?}")),
        head: format!("{head}\r\n"),
        body: body.to_owned(),
    }
}

/// A spec whose build waits for a server that says nothing; its connections are the builds that run.
fn hanging_spec(workspace: &Workspace, name: &str) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let busybox = format!(
        "[source]\nbusybox_url = \"http://127.0.0.1:{port}/b\"\nbusybox_sha256 = \"{}\"\n",
        "0".repeat(64)
    );
    workspace.write(name, format!("{SPEC}{busybox}").as_bytes());
    listener
}

fn files_besides(workspace: &Workspace, known: &[&str]) -> Vec<String> {
    let mut names = workspace.names();
    names.retain(|name| !["app", "conf", "fledge.toml", "kestrel"].contains(&name.as_str()));
    names.retain(|name| !known.contains(&name.as_str()));
    names
}

#[test]
fn a_build_is_answered_as_by_the_go_system() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    fs_err::create_dir(workspace.path("out")).unwrap();
    let server = Server::start(&workspace, &[]);
    let health =
        server.raw("GET /v1/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert_eq!((health.status, health.body.as_str()), (200, "ok"));
    let answer = server.ask("POST", "/v1/build", r#"{"config_path": "fledge.toml"}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    let expected = json!({"output": "plugin.cpio.gz", "manifest": "plugin.cpio.gz.manifest.json"});
    assert_eq!(answer.json(), expected);
    let digest = workspace.digest("plugin.cpio.gz");
    assert_eq!(workspace.manifest().artifact().checksum, Some(digest));
    // From `/` on, as far as it is inside.
    let root = workspace.path("").canonicalize().unwrap();
    let absolute = root.join("out/x.gz").display().to_string();
    let body = json!({"config_path": root.join("fledge.toml"), "output_path": absolute});
    let answer = server.ask("POST", "/v1/build", &body.to_string());
    assert_eq!(answer.json()["output"], absolute, "{answer:?}");
    // The same bytes as from the command line.
    assert_eq!(workspace.digest("out/x.gz"), digest);
    workspace
        .fledge(&["build", "-o", "here.gz"])
        .assert()
        .success();
    assert_eq!(workspace.digest("here.gz"), digest);
}

#[test]
fn what_is_wrong_is_said_in_a_problem() {
    let workspace = Workspace::new();
    workspace.write("bad.toml", b"version = \"2\"\n");
    let server = Server::start(&workspace, &[]);
    let build = |body: &str| server.ask("POST", "/v1/build", body);
    build("{").problem(400, "invalid-request");
    build(r#"{"config": "fledge.toml"}"#).problem(422, "invalid-request");
    let detail = build("[]").problem(422, "invalid-request");
    assert!(!detail.contains("struct"), "{detail}");
    build(r#"{"config_path": "fledge.toml", "output_path": "gone/x"}"#).problem(404, "not-found");
    let detail = build(r#"{"config_path": "missing.toml"}"#).problem(404, "not-found");
    assert_eq!(detail, "There is no build spec at `missing.toml`");
    let detail = build(r#"{"config_path": "bad.toml"}"#).problem(422, "build-failed");
    assert!(detail.contains("bad.toml"), "{detail}");
    let large = format!("{{\"config_path\": \"{}\"}}", "a".repeat(70_000));
    build(&large).problem(413, "too-large");
    server
        .ask("GET", "/v1/build", "")
        .problem(405, "method-not-allowed");
    server
        .ask("PUT", "/v1/jobs", "")
        .problem(405, "method-not-allowed");
    server.ask("GET", "/v1/other", "").problem(404, "not-found");
    for (method, path) in [
        ("GET", "/v1/jobs/x"),
        ("DELETE", "/v1/jobs/x"),
        ("GET", "/v1/jobs/x/events"),
    ] {
        server.ask(method, path, "").problem(404, "not-found");
    }
    assert_eq!(files_besides(&workspace, &["bad.toml"]), [""; 0]);
}

#[test]
fn only_who_has_the_key_may_ask() {
    let workspace = Workspace::new();
    let server = Server::start(
        &workspace,
        &[
            "--cors-origins",
            "https://ci.example.com",
            "--hosts",
            "builds.example.com",
        ],
    );
    let ask = |method: &str, path: &str, headers: &str| {
        server.raw(&format!(
            "{method} {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n"
        ))
    };
    for wrong in [
        "",
        "x-api-key: 0123456789abcdeg\r\n",
        "authorization: Basic 0123456789abcdef\r\n",
    ] {
        let answer = ask("GET", "/v1/jobs", &format!("host: localhost\r\n{wrong}"));
        answer.problem(401, "unauthorized");
        assert!(
            answer.head.contains("www-authenticate: Bearer"),
            "{answer:?}"
        );
    }
    for right in [
        format!("authorization: Bearer {KEY}"),
        format!("x-api-key: {KEY}"),
    ] {
        let answer = ask(
            "GET",
            "/v1/jobs",
            &format!("host: Builds.example.com:80\r\n{right}\r\n"),
        );
        assert_eq!(answer.json(), json!({"jobs": []}));
        let answer = ask(
            "GET",
            "/v1/jobs",
            &format!("host: rebound.example.com\r\n{right}\r\n"),
        );
        answer.problem(403, "forbidden");
        let evil = "origin: https://ci.example.com.evil.example";
        let answer = ask(
            "GET",
            "/v1/jobs",
            &format!("host: localhost\r\n{right}\r\n{evil}\r\n"),
        );
        answer.problem(403, "forbidden");
        assert!(!answer.head.contains("access-control"), "{answer:?}");
    }
    let page = "host: localhost\r\norigin: https://ci.example.com\r\naccess-control-request-method: POST\r\n";
    let answer = ask("OPTIONS", "/v1/build", page);
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(
        answer
            .head
            .contains("access-control-allow-origin: https://ci.example.com\r\n"),
        "{answer:?}"
    );
}

#[test]
fn without_a_key_only_this_machine_is_served() {
    let workspace = Workspace::new();
    let refused = |arguments: &[&str], key: Option<&str>, expected: &str| {
        let output = command(&workspace, arguments)
            .envs(key.map(|key| ("FLEDGE_API_KEY", key)))
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && message.contains(expected),
            "{message}"
        );
    };
    for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        refused(
            &["--addr", addr],
            None,
            "there is no API key to keep them out",
        );
    }
    refused(
        &[],
        Some("short"),
        "The API key in the variable FLEDGE_API_KEY is not one",
    );
    refused(&[], Some(""), "is not one");
    workspace.write("key", b"two words are not one key\n");
    refused(
        &["--api-key-file", "key"],
        None,
        "The API key in `key` is not one",
    );
    refused(
        &["--api-key-file", "missing"],
        None,
        "There is no API key at `missing`",
    );
    refused(&["--api-key", KEY], None, "unexpected argument '--api-key'");
    refused(
        &["--root", "missing"],
        None,
        "Cannot serve the directory `missing`",
    );
    refused(&["--cors-origins", "https://*.example.com"], None, "no `*`");
    workspace.write("key", format!("{KEY}\n").as_bytes());
    fs_err::create_dir(workspace.path("plugins")).unwrap();
    let arguments = [
        "--addr",
        "127.0.0.2:0",
        "--api-key-file",
        "key",
        "--root",
        "plugins",
        "--jobs",
        "2",
    ];
    let server = Server::with(&workspace, &arguments, None);
    assert_eq!(server.ask("GET", "/v1/jobs", "").status, 200);
    let anonymous = "GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    server.raw(anonymous).problem(401, "unauthorized");
    let open = Server::with(&workspace, &[], None);
    assert_eq!(open.raw(anonymous).status, 200);
    let rebound = "GET /v1/jobs HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    open.raw(rebound).problem(403, "forbidden");
}

#[test]
fn nothing_outside_the_root_is_read_or_written() {
    let workspace = Workspace::new();
    for name in ["fledge.toml", "kestrel", "app"] {
        let bytes = fs_err::read(workspace.path(name)).unwrap();
        workspace.write(&format!("root/{name}"), &bytes);
    }
    workspace.write("root/conf/x", b"");
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, workspace.path(name)).unwrap();
    };
    link("..", "root/up");
    link("../fledge.toml", "root/link.toml");
    link("/etc/shadow", "root/shadow");
    let server = Server::start(&workspace, &["--root", "root"]);
    let build = |body: &Value| server.ask("POST", "/v1/build", &body.to_string());
    for body in [
        json!({"config_path": "../fledge.toml"}),
        json!({"config_path": "/etc/fledge.toml"}),
        json!({"config_path": "up/fledge.toml"}),
        json!({"config_path": "link.toml"}),
        json!({"config_path": "fledge.toml", "manifest_path": "shadow"}),
        json!({"config_path": "fledge.toml", "output_path": "../x"}),
        json!({"config_path": "fledge.toml", "output_path": "up/x"}),
        json!({"config_path": "fledge.toml", "output_path": "/tmp/x"}),
    ] {
        let detail = build(&body).problem(403, "outside-root");
        assert!(detail.contains("leads out of the directory"), "{detail}");
    }
    for host in ["/etc/shadow", "../..", "shadow", "up/app", "../app"] {
        let spec = format!("{SPEC}\"{host}\" = \"/x\"\n");
        workspace.write("root/bad.toml", spec.as_bytes());
        let detail = build(&json!({"config_path": "bad.toml"})).problem(403, "outside-root");
        assert!(detail.contains(host), "{detail}");
    }
    // The template beside the spec that nobody named.
    link("/etc/passwd", "root/manifest.toml");
    build(&json!({"config_path": "fledge.toml"})).problem(403, "outside-root");
    fs_err::remove_file(workspace.path("root/manifest.toml")).unwrap();
    // A named pipe is not waited for.
    let made = Command::new("mkfifo")
        .arg(workspace.path("root/pipe"))
        .status();
    assert!(made.unwrap().success());
    build(&json!({"config_path": "pipe"})).problem(422, "invalid-request");
    let answer = build(&json!({"config_path": "fledge.toml"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(workspace.path("root/plugin.cpio.gz").exists());
    assert_eq!(files_besides(&workspace, &["root"]), [""; 0]);
}

#[test]
fn a_job_is_followed_from_any_place() {
    let workspace = Workspace::new();
    workspace.write("manifest.toml", TEMPLATE.as_bytes());
    let server = Server::start(&workspace, &[]);
    let id = server.submit(&json!({"config_path": "fledge.toml", "output_path": "a.gz"}));
    let events = format!("/v1/jobs/{id}/events");
    let all = server.ask("GET", &events, "");
    assert!(
        all.head.contains("content-type: text/event-stream"),
        "{all:?}"
    );
    let names: Vec<&str> = all
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    assert_eq!(names.first(), Some(&"state"), "{all:?}");
    assert_eq!(names.last(), Some(&"end"), "{all:?}");
    assert!(
        names.contains(&"progress") && names.contains(&"result"),
        "{all:?}"
    );
    let data: Vec<Value> = all
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(data[0], json!({"state": "queued"}));
    let result = data.iter().find(|data| {
        data["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("a.gz: "))
    });
    assert_eq!(result.unwrap()["kind"], "result");
    let end = data.last().unwrap();
    assert_eq!(end["state"], "succeeded");
    assert_eq!(end["result"]["manifest"], "a.gz.manifest.json");
    assert_eq!(&server.job(&id), end);
    assert_eq!(
        server.ask("GET", "/v1/jobs", "").json()["jobs"],
        json!([end])
    );
    // From the beginning again, of progress only the latest; and from the second on. Who has all of it need not come again.
    let all = server.ask("GET", &events, "");
    assert!(all.body.contains("event: progress"), "{all:?}");
    assert_eq!(server.ask("GET", &events, "").body, all.body);
    let ids: Vec<&str> = all
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    let rest = read(server.send(
        "GET",
        &events,
        &format!("last-event-id: {}\r\n", ids[1]),
        "",
    ));
    let rest_ids: Vec<&str> = rest
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    assert_eq!(rest_ids, ids[2..]);
    let last = ids.last().unwrap();
    let none = read(server.send("GET", &events, &format!("last-event-id: {last}\r\n"), ""));
    assert_eq!((none.status, none.body.as_str()), (204, ""));
}

#[test]
fn a_job_that_fails_says_why() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[]);
    workspace.write("bad.toml", b"version = \"2\"\n");
    let id = server.submit(&json!({"config_path": "bad.toml"}));
    let events = server.ask("GET", &format!("/v1/jobs/{id}/events"), "");
    assert!(events.body.contains("event: error"), "{events:?}");
    let job = server.job(&id);
    assert_eq!(
        (&job["state"], &job["problem"]["code"]),
        (&json!("failed"), &json!("build-failed"))
    );
}

#[test]
fn jobs_wait_are_refused_and_are_cancelled() {
    let workspace = Workspace::new();
    let builds = hanging_spec(&workspace, "hang.toml");
    let server = Server::start(&workspace, &[]);
    let wanted = json!({"config_path": "hang.toml"});
    let first = server.submit(&wanted);
    let (mut running, _) = builds.accept().unwrap();
    let second = server.submit(&wanted);
    for _ in 0..15 {
        server.submit(&wanted);
    }
    let full = server.ask("POST", "/v1/jobs", &wanted.to_string());
    full.problem(429, "queue-full");
    assert!(full.head.contains("retry-after: "), "{full:?}");
    server
        .ask("POST", "/v1/build", &wanted.to_string())
        .problem(429, "queue-full");
    assert_eq!(server.job(&first)["state"], "running");
    let answer = server.ask("DELETE", &format!("/v1/jobs/{second}"), "");
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (200, &json!("cancelled"))
    );
    let answer = server.ask("DELETE", &format!("/v1/jobs/{first}"), "");
    assert!([200, 202].contains(&answer.status), "{answer:?}");
    let job = server.wait_for(&first, "cancelled");
    assert_eq!(job["problem"]["code"], "cancelled");
    // The build let go of its download.
    running.set_read_timeout(Some(PATIENCE)).unwrap();
    running.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(files_besides(&workspace, &["hang.toml"]), [""; 0]);
}

#[test]
fn a_client_that_goes_away_takes_its_build_with_it() {
    let workspace = Workspace::new();
    let builds = hanging_spec(&workspace, "hang.toml");
    let server = Server::start(&workspace, &[]);
    let client = server.send("POST", "/v1/build", "", r#"{"config_path": "hang.toml"}"#);
    let (mut running, _) = builds.accept().unwrap();
    drop(client);
    running.set_read_timeout(Some(PATIENCE)).unwrap();
    running.read_to_end(&mut Vec::new()).unwrap();
    let jobs = server.ask("GET", "/v1/jobs", "").json();
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    server.wait_for(id, "cancelled");
    // The next one has its turn.
    let answer = server.ask("POST", "/v1/build", r#"{"config_path": "fledge.toml"}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn slow_clients_are_cut_off() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[]);
    let begin = Instant::now();
    let silent = server.connect();
    let mut half_head = server.connect();
    half_head
        .write_all(b"GET /v1/healthz HTTP/1.1\r\nhost: loc")
        .unwrap();
    let mut half_body = server.connect();
    let head = format!(
        "POST /v1/build HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {KEY}\r\ncontent-length: 100\r\n\r\n{{"
    );
    half_body.write_all(head.as_bytes()).unwrap();
    // Meanwhile others are served.
    assert_eq!(server.ask("GET", "/v1/jobs", "").status, 200);
    read(half_body).problem(408, "invalid-request");
    for mut stream in [silent, half_head] {
        drop(stream.read_to_end(&mut Vec::new()));
    }
    assert!(begin.elapsed() < Duration::from_mins(1));
}

#[test]
fn the_end_stops_builds_and_leaves_nothing() {
    let workspace = Workspace::new();
    let builds = hanging_spec(&workspace, "hang.toml");
    // Takes no space, but longer to pack than it takes to stop the server.
    let sparse = fs_err::File::create(workspace.path("conf/large")).unwrap();
    sparse.set_len(256 << 20).unwrap();
    for (spec, ending) in [("hang.toml", "-INT"), ("fledge.toml", "-TERM")] {
        let mut server = Server::start(&workspace, &["--jobs", "2"]);
        if spec == "hang.toml" {
            fs_err::rename(workspace.path("conf/large"), workspace.path("large")).unwrap();
        }
        let waiting = server.send(
            "POST",
            "/v1/build",
            "",
            &json!({"config_path": spec, "output_path": "a"}).to_string(),
        );
        let id = server.submit(&json!({"config_path": spec, "output_path": "b"}));
        server.wait_for(&id, "running");
        let downloads = if spec == "hang.toml" { 2 } else { 0 };
        let _downloads: Vec<_> = (0..downloads).map(|_| builds.accept().unwrap()).collect();
        let events = server.send("GET", &format!("/v1/jobs/{id}/events"), "", "");
        // A request that the server has not read yet is none.
        events.peek(&mut [0]).unwrap();
        let jobs = || server.ask("GET", "/v1/jobs", "").json()["jobs"].clone();
        while jobs().as_array().unwrap().len() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&server.child, ending);
        read(waiting).problem(409, "cancelled");
        let events = read(events);
        assert!(events.body.contains("event: end"), "{events:?}");
        assert!(
            events.body.contains("\"state\":\"cancelled\""),
            "{events:?}"
        );
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
        if spec == "hang.toml" {
            fs_err::rename(workspace.path("large"), workspace.path("conf/large")).unwrap();
        }
    }
    assert_eq!(files_besides(&workspace, &["hang.toml"]), [""; 0]);
}

#[test]
fn the_documentation_is_right() {
    let workspace = Workspace::new();
    if Command::new("curl").arg("--version").output().is_err() {
        println!("SKIPPED: there is no curl");
        return;
    }
    for name in ["fledge.toml", "kestrel", "app"] {
        let bytes = fs_err::read(workspace.path(name)).unwrap();
        workspace.write(&format!("plugins/app/{name}"), &bytes);
    }
    workspace.write("plugins/app/conf/x", b"");
    workspace.write("plugins/app/manifest.toml", TEMPLATE.as_bytes());
    workspace.write("key", KEY.as_bytes());
    let server = Server::with(
        &workspace,
        &["--api-key-file", "key", "--root", "plugins"],
        None,
    );
    let address = server.address.to_string();
    let text = include_str!("../../../docs/fledge-serve.md");
    let commands = text.lines().filter(|line| line.starts_with("curl "));
    let answers: Vec<String> = commands
        .map(|line| {
            let output = Command::new("sh")
                .args(["-c", &line.replace("127.0.0.1:7070", &address)])
                .current_dir(workspace.path(""))
                .output()
                .unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0], "ok");
    let shown = text
        .lines()
        .skip_while(|line| *line != "```json")
        .nth(1)
        .unwrap();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(json(&answers[1]), json(shown));
    let id = json(&answers[2])["id"].clone();
    assert!(
        json(&answers[3])["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .any(|job| job["id"] == id)
    );
}
