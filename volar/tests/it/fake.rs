//! A daemon for tests: any axum router on a unix socket or TCP, and a way to run volar against it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::serve::Listener;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A command of volar that runs longer than this hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// A daemon that is played by a router.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) seen: Seen,
    pub(crate) dir: TempDir,
    runtime: Option<Runtime>,
}

/// Method, path and query of each request, and whether it had a token.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Server {
    pub(crate) fn unix(router: Router) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volantd.sock");
        let (runtime, seen) = (new_runtime(), Seen::default());
        let router = recorded(router, seen.clone());
        let listener = {
            let _guard = runtime.enter();
            tokio::net::UnixListener::bind(&path).unwrap()
        };
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("unix://{}", path.display()),
            seen,
            dir,
            runtime: Some(runtime),
        }
    }

    /// Ends the server and all its connections, as if it was killed, and begins one with another router at the same place.
    pub(crate) fn restart(&mut self, router: Router) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let path = self.dir.path().join("volantd.sock");
        fs_err::remove_file(&path).unwrap();
        let runtime = new_runtime();
        let router = recorded(router, self.seen.clone());
        let listener = {
            let _guard = runtime.enter();
            tokio::net::UnixListener::bind(&path).unwrap()
        };
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
    }

    pub(crate) fn tcp(router: Router) -> Self {
        Self::over("http", router, |listener| listener)
    }

    /// Behind TLS, as `wrap` puts it on.
    pub(crate) fn tls<L: Listener<Addr = SocketAddr>>(
        router: Router,
        wrap: impl FnOnce(TcpListener) -> L,
    ) -> Self {
        Self::over("https", router, wrap)
    }

    fn over<L: Listener<Addr = SocketAddr>>(
        scheme: &str,
        router: Router,
        wrap: impl FnOnce(TcpListener) -> L,
    ) -> Self {
        let (runtime, seen) = (new_runtime(), Seen::default());
        let router = recorded(router, seen.clone());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let listener = wrap(listener);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            seen,
            dir: tempfile::tempdir().unwrap(),
            runtime: Some(runtime),
        }
    }

    /// A server that speaks to each connection as `speak` says, perhaps no HTTP at all.
    pub(crate) fn raw(speak: fn(TcpStream)) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Ends with the test program: it waits for a connection that never comes.
        std::thread::spawn(move || listener.incoming().flatten().for_each(speak));
        Self {
            url,
            seen: Seen::default(),
            dir: tempfile::tempdir().unwrap(),
            runtime: None,
        }
    }

    /// Runs volar against this server, without input.
    pub(crate) fn volar(&self, arguments: &[&str]) -> Ran {
        Ran(self.command(arguments).output().unwrap())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = command();
        command.arg("--api").arg(&self.url).args(arguments);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// volar without any setting from outside.
pub(crate) fn command() -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(program());
    for variable in [
        "VOLANT_API_BASE",
        "VOLANT_API_KEY",
        "VOLANT_TOKEN_FILE",
        "VOLANT_CONTEXT",
        "XDG_CONFIG_HOME",
        "NO_COLOR",
    ] {
        command.env_remove(variable);
    }
    // No contexts of whoever runs the tests.
    command.env("HOME", "/nonexistent");
    command.timeout(PATIENCE);
    command
}

pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_volar")
}

/// What volar did.
#[derive(Debug)]
pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    pub(crate) fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        let err = self.err();
        assert!(err.contains(words), "`{words}` is not in:\n{err}");
        self
    }

    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert_eq!(self.out(), text);
        self
    }
}

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn recorded(router: Router, seen: Seen) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let seen = seen.clone();
        async move {
            let token = request.headers().get("x-volant-api-key");
            let token = token.map(|token| format!(" with {}", token.to_str().unwrap()));
            let line = format!(
                "{} {}{}",
                request.method(),
                request.uri(),
                token.unwrap_or_default()
            );
            seen.0.lock().unwrap().push(line);
            next.run(request).await
        }
    }))
}

/// A VM as volantd describes it, with a member that volar does not know.
pub(crate) fn vm(name: &str, generation: u64, status: &str, step: Option<&str>) -> Value {
    json!({
        "id": 1, "name": name, "status": status, "step": step, "generation": generation, "from_the_future": [1.50],
        "runtime": "caddy", "plugin": "caddy", "ip_address": "192.168.127.10", "mac_address": "02:f9:e8:54:fb:c4",
        "cpu_cores": 1, "memory_mb": 512, "kernel_cmdline": "console=ttyS0", "serial_log": "/var/lib/volant/x.log",
        "health": {"state": "unknown"}, "restarts": {"vm": 0, "workload": 0},
        "created_at": "2026-11-23T10:00:00Z", "updated_at": "2026-11-23T10:00:00Z"
    })
}

/// A VM that is ready.
pub(crate) fn ready(name: &str, generation: u64) -> Value {
    let mut vm = vm(name, generation, "running", None);
    vm["health"] = json!({"state": "healthy"});
    vm["boot"] = json!({"vmm_ms": 20.0, "ready_ms": 812.3});
    vm
}

pub(crate) fn manifest(name: &str) -> Value {
    json!({
        "name": name, "version": "0.1.0", "runtime": "caddy",
        "initramfs": {"url": "/plugins/caddy.cpio.gz"},
        "workload": {"type": "http", "entrypoint": ["/usr/bin/caddy"], "base_url": "http://127.0.0.1:80"}
    })
}

/// An artifact of the plugin caddy.
pub(crate) fn kept_artifact(digest: &str) -> Value {
    json!({
        "ID": 0, "PluginName": "caddy", "Version": "0.1.0", "ArtifactName": "initramfs", "Kind": "initramfs",
        "SourceURL": "/plugins/caddy.cpio.gz", "Checksum": digest, "Format": "", "LocalPath": "", "SizeBytes": 1536,
        "CreatedAt": "2026-11-23T10:00:00Z", "UpdatedAt": "2026-11-23T10:00:00Z", "digest": digest, "pinned": false,
        "signature": "none", "used_by": {"plugins": ["caddy"], "vms": []}
    })
}

/// An answer of volantd that refuses.
pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Response {
    let body = json!({
        "type": format!("https://example.org/errors#{code}"), "title": "No", "status": status, "detail": detail,
        "error": detail, "code": code, "request_id": "req-1"
    });
    let status = StatusCode::from_u16(status).unwrap();
    let headers = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, headers, Body::from(body.to_string())).into_response()
}

/// Writes a file in a directory of the test.
pub(crate) fn write(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    let mut file = fs_err::File::create(&path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    path.to_str().unwrap().to_owned()
}
