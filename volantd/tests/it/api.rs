//! The API of the real daemon over its unix socket: what good and bad requests get. The daemon runs in a network namespace of its own
//! and has no VMM, so nothing here boots; `cargo xtask e2e` does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long the daemon may take to answer, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    pub(crate) dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["error"], problem["detail"]);
        assert_eq!(problem["status"], status);
        assert!(!problem["request_id"].as_str().unwrap().is_empty());
        assert!(self.head.contains(problem["request_id"].as_str().unwrap()));
    }
}

impl Daemon {
    /// None where no network namespace can be made.
    fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With further environment, in which `DIR/` stands for the daemon's folder.
    pub(crate) fn start_with(env: &[(&str, &str)]) -> Option<Self> {
        if !crate::netns::can_run("the API of the real daemon") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/volantd.sock");
        let child = Command::new("unshare")
            .args(["--net", env!("CARGO_BIN_EXE_volantd")])
            .env("VOLANT_STATE_DIR", dir.path().join("state"))
            .env("VOLANT_RUNTIME_DIR", dir.path().join("run"))
            .env("VOLANT_API_SOCKET", &socket)
            .env("VOLANT_API_LISTEN", "none")
            .env("VOLANT_TOKEN_FILE", dir.path().join("run/token"))
            .env("VOLANT_QEMU", "/no/such/qemu")
            .env("VOLANT_CLOUD_HYPERVISOR", "/no/such/cloud-hypervisor")
            .env("VOLANT_KERNEL_VMLINUX", "/no/such/vmlinux")
            .env_remove("NOTIFY_SOCKET")
            .envs(env.iter().map(|(key, value)| {
                let own = format!("{}/", dir.path().display());
                (*key, value.replace("DIR/", &own))
            }))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, socket, dir };
        let deadline = Instant::now() + START_LIMIT;
        while UnixStream::connect(&daemon.socket).is_err() {
            assert!(Instant::now() < deadline, "volantd does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(daemon)
    }

    fn send(&self, request: &[u8]) -> Answer {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(START_LIMIT)).unwrap();
        // The daemon may answer and close before it has read all of a body that is too large.
        drop(stream.write_all(request));
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.call_with(method, path, "", body)
    }

    /// With further headers, each with its line break.
    pub(crate) fn call_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
        self.send(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
    }
}

fn manifest(url: &Path) -> Value {
    json!({
        "name": "x", "version": "1", "initramfs": {"url": url},
        "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"}
    })
}

#[test]
fn requests_get_what_the_api_promises() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    assert_eq!(
        daemon.call("GET", "/healthz", "").json(),
        json!({"status": "ok"})
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins", "").json(),
        json!({"plugins": []})
    );
    let vms = daemon.call("GET", "/api/v1/vms", "");
    assert_eq!((vms.status, vms.json()), (200, json!([])));
    assert!(
        vms.head.to_lowercase().contains("x-total-count: 0"),
        "{}",
        vms.head
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/system/summary", "").json()["total_vms"],
        0
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/system/info", "").json()["hypervisor"],
        "none"
    );
}

#[test]
fn bad_requests_get_problem_documents() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    daemon
        .call("GET", "/nothing", "")
        .is_problem(404, "not-found");
    daemon
        .call("PUT", "/api/v1/vms", "")
        .is_problem(405, "method-not-allowed");
    daemon
        .call("GET", "/api/v1/vms/nobody", "")
        .is_problem(404, "vm-not-found");
    daemon
        .call("GET", "/api/v1/vms/..%2f", "")
        .is_problem(404, "not-found");
    daemon
        .call("DELETE", "/api/v1/vms/nobody", "")
        .is_problem(404, "vm-not-found");
    daemon
        .call("GET", "/api/v1/vms/nobody?after=x", "")
        .is_problem(400, "invalid-request");
    daemon
        .call("GET", "/api/v1/vms/nobody/logs?tail=-1", "")
        .is_problem(400, "invalid-request");
    daemon
        .call("POST", "/api/v1/vms", "{")
        .is_problem(400, "invalid-request");
    let wrong = daemon.call("POST", "/api/v1/vms", r#"{"name": "No", "plugin": "x"}"#);
    wrong.is_problem(422, "invalid-request");
    assert_eq!(wrong.json()["errors"][0]["pointer"], "/name");
    daemon
        .call("POST", "/api/v1/vms", r#"{"name": "a", "plugin": "x"}"#)
        .is_problem(404, "plugin-not-found");
    daemon
        .call("POST", "/api/v1/plugins/x/enabled", r#"{"enabled": true}"#)
        .is_problem(404, "plugin-not-found");
    let large = " ".repeat(2 * 1024 * 1024);
    daemon
        .call("POST", "/api/v1/plugins", &large)
        .is_problem(413, "too-large");
    let refused = daemon.call(
        "POST",
        "/api/v1/plugins",
        &manifest(Path::new("/no/such/file")).to_string(),
    );
    refused.is_problem(422, "invalid-request");
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .contains("/no/such/file")
    );
}

#[test]
fn a_plugin_can_be_installed_where_no_vm_can_run() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let artifact = dir.path().join("plugin.cpio");
    fs_err::write(&artifact, crate::stores::archive()).unwrap();

    let installed = daemon.call("POST", "/api/v1/plugins", &manifest(&artifact).to_string());
    assert_eq!(installed.status, 201, "{installed:?}");
    assert_eq!(installed.json()["artifact"]["pinned"], false);
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins", "").json(),
        json!({"plugins": ["x"]})
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins/x/artifacts", "").json()[0]["kind"],
        "initramfs"
    );

    let create = daemon.call("POST", "/api/v1/vms", r#"{"name": "a", "plugin": "x"}"#);
    create.is_problem(503, "unavailable");
    assert!(
        create.head.to_lowercase().contains("retry-after"),
        "{}",
        create.head
    );
    for (field, value) in [
        ("cpu_cores", 0),
        ("cpu_cores", 1_000_000),
        ("memory_mb", 0),
        ("memory_mb", 4_000_000_000_u32),
    ] {
        let body = json!({"name": "a", "plugin": "x", field: value}).to_string();
        let refused = daemon.call("POST", "/api/v1/vms", &body);
        refused.is_problem(422, "invalid-request");
        assert_eq!(refused.json()["errors"][0]["pointer"], format!("/{field}"));
    }
    assert_eq!(
        daemon.call("GET", "/api/v1/vms", "").json(),
        json!([]),
        "nothing was recorded"
    );

    assert_eq!(
        daemon
            .call("POST", "/api/v1/plugins/x/enabled", r#"{"enabled": false}"#)
            .status,
        200
    );
    daemon
        .call("POST", "/api/v1/vms", r#"{"name": "a", "plugin": "x"}"#)
        .is_problem(409, "plugin-disabled");
    daemon
        .call("GET", "/api/v1/plugins/x/manifest", "")
        .is_problem(409, "plugin-disabled");
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins/x", "").json()["enabled"],
        false
    );
    assert_eq!(daemon.call("DELETE", "/api/v1/plugins/x", "").status, 204);
    daemon
        .call("GET", "/api/v1/plugins/x", "")
        .is_problem(404, "plugin-not-found");
}
