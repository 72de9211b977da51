//! A real volantd in a network namespace of its own, without a VMM, and a client that knows no more of HTTP than it must, so that it can
//! also send what no client would. Every exchange is held against the description of the API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::conformity::{Description, Exchange};
use crate::netns::Namespace;

/// How long the daemon may take to answer, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Where a daemon listens on TCP, in a namespace of its own.
const TCP_ADDRESS: &str = "127.0.0.1:7777";

/// Where a daemon's log goes, in its folder.
const LOG_FILE: &str = "stderr";

/// A daemon of its own; ended when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
    namespace: Option<Namespace>,
    description: Description,
    pub(crate) dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the daemon answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    }

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
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With more of the environment, in which `DIR/` stands for the daemon's folder.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Option<Self> {
        if !crate::netns::can_run("the API of the real daemon") {
            return None;
        }
        let mut command = Command::new("unshare");
        command
            .args(["--net", env!("CARGO_BIN_EXE_volantd")])
            .env("VOLANT_API_LISTEN", "none");
        Some(Self::spawn(command, environment, None))
    }

    /// One that also listens on port 7777 of the namespace, with more of the environment.
    pub(crate) fn start_on_tcp(namespace: Namespace, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_volantd"));
        command.env("VOLANT_API_LISTEN", TCP_ADDRESS);
        Self::spawn(command, environment, Some(namespace))
    }

    fn spawn(
        mut command: Command,
        environment: &[(&str, &str)],
        namespace: Option<Namespace>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/volantd.sock");
        command
            .env("VOLANT_STATE_DIR", dir.path().join("state"))
            .env("VOLANT_RUNTIME_DIR", dir.path().join("run"))
            .env("VOLANT_API_SOCKET", &socket)
            .env("VOLANT_TOKEN_FILE", dir.path().join("run/token"))
            .env("VOLANT_QEMU", "/no/such/qemu")
            .env("VOLANT_CLOUD_HYPERVISOR", "/no/such/cloud-hypervisor")
            .env("VOLANT_KERNEL_VMLINUX", "/no/such/vmlinux")
            .env_remove("NOTIFY_SOCKET")
            .envs(environment.iter().map(|(key, value)| {
                let own = format!("{}/", dir.path().display());
                (*key, value.replace("DIR/", &own))
            }))
            .stdin(Stdio::null())
            .stderr(
                fs_err::File::create(dir.path().join(LOG_FILE))
                    .unwrap()
                    .into_file(),
            );
        let child = match &namespace {
            Some(namespace) => namespace.run(move || async move { command.spawn().unwrap() }),
            None => command.spawn().unwrap(),
        };
        let mut daemon = Self {
            child,
            socket,
            namespace,
            description: Description::load(),
            dir,
        };
        let deadline = Instant::now() + START_LIMIT;
        while UnixStream::connect(&daemon.socket).is_err() {
            assert!(Instant::now() < deadline, "volantd does not answer");
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "volantd ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// What clients over TCP must present.
    pub(crate) fn token(&self) -> String {
        // The socket is there before the token is; a daemon that answers has both.
        assert_eq!(self.call("GET", "/healthz", "").status, 200);
        let file = self.dir.path().join("run/token");
        fs_err::read_to_string(file).unwrap().trim().to_owned()
    }

    /// Sends a request without a body over TCP.
    pub(crate) fn send_over_tcp(&self, request: &str) -> Answer {
        let request = request.to_owned();
        let namespace = self.namespace.as_ref().unwrap();
        namespace.run(move || async move {
            let mut stream = TcpStream::connect(TCP_ADDRESS).unwrap();
            stream.set_read_timeout(Some(START_LIMIT)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            read_answer(&mut stream)
        })
    }

    /// What the daemon has logged so far.
    pub(crate) fn log(&self) -> String {
        fs_err::read_to_string(self.dir.path().join(LOG_FILE)).unwrap()
    }

    /// Asks the daemon to end, and waits until it has.
    pub(crate) fn end(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended:?}: {}", self.log());
    }

    /// Where the daemon keeps its state.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Sends bytes that may be no request at all.
    pub(crate) fn send(&self, request: &[u8]) -> Answer {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(START_LIMIT)).unwrap();
        // The daemon may answer and close before it has read all of a body that is too large.
        drop(stream.write_all(request));
        read_answer(&mut stream)
    }

    /// A request with a JSON body, if any. The answer is as docs/openapi.json says.
    pub(crate) fn call(&self, method: &str, target: &str, body: &str) -> Answer {
        self.call_with_headers(method, target, &[], body)
    }

    /// As [`Daemon::call`], with headers, each with its line break.
    pub(crate) fn call_with(
        &self,
        method: &str,
        target: &str,
        headers: &str,
        body: &str,
    ) -> Answer {
        let headers: Vec<(&str, &str)> = headers
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        self.call_with_headers(method, target, &headers, body)
    }

    /// As [`Daemon::call`], with headers.
    pub(crate) fn call_with_headers(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        let has = |name: &str| {
            headers
                .iter()
                .any(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        if !has("host") {
            request += "Host: localhost\r\n";
        }
        if !body.is_empty() && !has("content-type") {
            request += "Content-Type: application/json\r\n";
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = self.send(request.as_bytes());
        let exchange = Exchange {
            method,
            target,
            request_body: body,
            status: answer.status,
            content_type: &answer.header("content-type").unwrap_or_default(),
            body: &answer.body,
        };
        if let Err(error) = self.description.check(&exchange) {
            panic!("{method} {target}: {error}");
        }
        answer
    }
}

fn read_answer(stream: &mut impl Read) -> Answer {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes));
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Answer {
        status,
        head: head.to_owned(),
        body: if chunked {
            joined(body)
        } else {
            body.to_owned()
        },
    }
}

/// A body that came in chunks (RFC 9112 §7.1).
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some((chunk, rest)) = rest.split_at_checked(size).filter(|_| size > 0) else {
            break;
        };
        body += chunk;
        chunks = rest.strip_prefix("\r\n").unwrap_or(rest);
    }
    body
}
