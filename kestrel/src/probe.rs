//! Whether the workload is healthy, found out from inside the guest. Decides nothing about it: the host and the user read the verdict.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use common::agent::HealthState;
use common::error_chain::Chain;
use common::manifest::{BaseUrl, DEFAULT_HEALTH_TIMEOUT_MS, Manifest, WorkloadKind};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, Uri};
use tokio::time::Instant;

use crate::command_probe::CommandProbe;
use crate::http_client::{HttpError, authority, connect, send};
use crate::status::StatusBoard;

/// The wait before the first probe: a small server needs about this to bind its port.
const FIRST_WAIT: Duration = Duration::from_millis(2);

/// The longest wait between probes before the time is over.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// The wait between probes of a workload that is late: it may still come, and costs little to ask.
const LATE_WAIT: Duration = Duration::from_secs(1);

/// The longest time of one probe, as in the Go system.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest time of one probe, at the very end of the time for health.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(50);

/// How often the status tells a count of probes when nothing else changed. Each change wakes those who wait for one.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The wait between looks at the guest's own address while nothing accepts there.
const OUTSIDE_WAIT: Duration = Duration::from_secs(2);

/// What makes a workload healthy.
#[derive(Debug, Clone)]
enum Check {
    /// It runs.
    Runs,
    /// Its port accepts a connection.
    Accepts(BaseUrl),
    /// A GET of this path answers 2xx.
    Answers(BaseUrl, String),
    /// A command in the guest ends with exit code 0.
    Succeeds(CommandProbe),
}

/// What is probed, and how long it may take.
#[derive(Debug)]
pub(crate) struct Probe {
    check: Check,
    timeout: Duration,
    max_wait: Duration,
    outside: Option<(Ipv4Addr, u16)>,
}

impl Probe {
    /// The probe that a manifest asks for. `own` is the guest's address, if it has one; `command` is the manifest's health command, ready
    /// to be run.
    pub(crate) fn new(
        manifest: &Manifest,
        own: Option<Ipv4Addr>,
        command: Option<CommandProbe>,
    ) -> Self {
        let workload = &manifest.workload;
        let base = workload.base();
        let health = manifest.health_check.as_ref();
        let endpoint = health.and_then(|check| check.endpoint.as_deref());
        let check = match (command, endpoint, &base, workload.kind) {
            (Some(command), ..) => Check::Succeeds(command),
            (None, Some(endpoint), Some(base), _) => {
                Check::Answers(base.clone(), format!("{}{endpoint}", base.path))
            }
            (None, None, Some(base), WorkloadKind::Http) => Check::Accepts(base.clone()),
            _ => Check::Runs,
        };
        let timeout_ms = health.map_or(DEFAULT_HEALTH_TIMEOUT_MS, |check| check.timeout_ms);
        let interval_ms = health.and_then(|check| check.interval_ms);
        Self {
            check,
            timeout: Duration::from_millis(timeout_ms),
            max_wait: interval_ms.map_or(MAX_WAIT, Duration::from_millis),
            outside: own.zip(base.map(|base| base.port)),
        }
    }

    /// Probes a workload that has just started, and tells the board. Goes on until it is dropped.
    pub(crate) async fn watch(&self, board: &StatusBoard) -> Infallible {
        let probes = self.until_healthy(board).await;
        board.healthy(probes);
        if let Some((address, port)) = self.outside {
            look_from_outside(address, port, board).await;
        }
        std::future::pending().await
    }

    /// Answers with the number of probes so far once one succeeded.
    async fn until_healthy(&self, board: &StatusBoard) -> u64 {
        let mut probes = board.now().health.probes;
        if matches!(self.check, Check::Runs) {
            return probes;
        }
        let deadline = Instant::now() + self.timeout;
        let mut wait = FIRST_WAIT;
        let mut told: Option<(HealthState, String, Instant)> = None;
        loop {
            let late = Instant::now() >= deadline;
            let pause = if late {
                LATE_WAIT.max(self.max_wait)
            } else {
                wait
            };
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(self.max_wait);
            probes += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let bound = if late { PROBE_TIMEOUT } else { left };
            let reason = match self
                .once(bound.clamp(MIN_PROBE_TIMEOUT, PROBE_TIMEOUT))
                .await
            {
                Ok(()) => return probes,
                Err(reason) => reason,
            };
            let state = if Instant::now() >= deadline {
                HealthState::Unhealthy
            } else {
                HealthState::Unknown
            };
            let news = told.as_ref().is_none_or(|(told_state, told_reason, at)| {
                *told_state != state || *told_reason != reason || at.elapsed() >= COUNT_INTERVAL
            });
            if news {
                board.not_healthy(state, reason.clone(), probes);
                told = Some((state, reason, Instant::now()));
            }
        }
    }

    /// One probe, with its failure in one sentence.
    async fn once(&self, bound: Duration) -> Result<(), String> {
        let (what, attempt) = match &self.check {
            Check::Runs => return Ok(()),
            Check::Accepts(base) => {
                let what = format!("Connecting to {}", authority(base));
                (what, tokio::time::timeout(bound, accepts(base)).await)
            }
            Check::Answers(base, path) => {
                let what = format!("GET http://{}{path}", authority(base));
                (what, tokio::time::timeout(bound, answers(base, path)).await)
            }
            Check::Succeeds(command) => return command.once(bound).await,
        };
        match attempt {
            Ok(Ok(Verdict::Good)) => Ok(()),
            Ok(Ok(Verdict::Status(status))) => Err(format!("{what} answered {status}")),
            Ok(Err(error)) => Err(format!("{what}: {}", Chain(&error))),
            Err(_) => Err(format!("{what}: no answer within {} ms", bound.as_millis())),
        }
    }
}

enum Verdict {
    Good,
    Status(u16),
}

async fn accepts(base: &BaseUrl) -> Result<Verdict, HttpError> {
    connect(&base.host, base.port).await.map(|_| Verdict::Good)
}

async fn answers(base: &BaseUrl, path: &str) -> Result<Verdict, HttpError> {
    let stream = connect(&base.host, base.port).await?;
    // The manifest's checks leave only graphic ASCII; a path that is still no URI is asked for as `/`.
    let uri: Uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    if let Ok(host) = authority(base).parse() {
        headers.insert(HOST, host);
    }
    headers.insert(
        USER_AGENT,
        hyper::header::HeaderValue::from_static("kestrel"),
    );
    let status = send(stream, request).await?.status();
    Ok(if status.is_success() {
        Verdict::Good
    } else {
        Verdict::Status(status.as_u16())
    })
}

/// A workload that listens on 127.0.0.1 only is healthy, and nobody can reach it: the guest's own address shows the difference.
async fn look_from_outside(address: Ipv4Addr, port: u16, board: &StatusBoard) {
    loop {
        let reachable = connect(&address.to_string(), port).await.is_ok();
        board.reachable_from_outside(reachable);
        if reachable {
            return;
        }
        tokio::time::sleep(OUTSIDE_WAIT).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn manifest(kind: &str, base_url: &str, health: &str) -> Manifest {
        let base = if base_url.is_empty() {
            String::new()
        } else {
            format!(r#","base_url":"{base_url}""#)
        };
        let json = format!(
            r#"{{"name":"x","version":"1","initramfs":{{"url":"/x"}},"workload":{{"type":"{kind}","entrypoint":["/x"]{base}}}{health}}}"#
        );
        Manifest::from_json(json.as_bytes()).unwrap()
    }

    const HEALTH: &str = r#","health_check":{"endpoint":"/health","timeout_ms":300}"#;

    /// Answers each connection with the next of `answers`, the last for good; none is a connection that is closed at once.
    async fn server(answers: Vec<Option<u16>>) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut answers = answers.into_iter();
            let mut next = answers.next().unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if let Some(status) = next {
                    let mut head = [0; 1024];
                    let read = stream.read(&mut head).await.unwrap();
                    assert!(head[..read].starts_with(b"GET /base/health HTTP/1.1\r\n"));
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                next = answers.next().unwrap_or(next);
            }
        });
        (url, task)
    }

    fn board() -> Arc<StatusBoard> {
        let board = Arc::new(StatusBoard::new(Duration::ZERO));
        board.workload_started(1);
        board
    }

    async fn until(board: &Arc<StatusBoard>, state: HealthState) -> common::agent::AgentStatus {
        let mut status = board.now();
        while status.health.state != state {
            let next = board.newer_than(status.generation, Duration::from_secs(20));
            let newer = next.await;
            assert!(newer.generation > status.generation, "{newer:?}");
            status = newer;
        }
        status
    }

    #[test]
    fn the_manifest_decides_what_is_probed() {
        let own = Some(Ipv4Addr::new(10, 0, 0, 2));
        let url = "http://127.0.0.1:81/base/";
        let base = manifest("http", url, "").workload.base().unwrap();
        let answers = Check::Answers(base.clone(), "/base/health".to_owned());
        let table = [
            (manifest("http", url, HEALTH), answers.clone(), 300),
            (manifest("exec", url, HEALTH), answers, 300),
            (manifest("http", url, ""), Check::Accepts(base), 10_000),
            (manifest("exec", url, ""), Check::Runs, 10_000),
            (manifest("exec", "", ""), Check::Runs, 10_000),
        ];
        for (manifest, check, timeout_ms) in table {
            let probe = Probe::new(&manifest, own, None);
            assert_eq!(format!("{:?}", probe.check), format!("{check:?}"));
            assert_eq!(probe.timeout, Duration::from_millis(timeout_ms));
            let port = manifest.workload.port();
            assert_eq!(probe.outside, own.zip(port));
        }
    }

    #[tokio::test]
    async fn a_late_answer_makes_it_healthy() {
        let (url, _server) = server(vec![None, Some(503), Some(200)]).await;
        let probe = Probe::new(
            &manifest("http", &format!("{url}/base"), HEALTH),
            None,
            None,
        );
        let board = board();
        let watched = Arc::clone(&board);
        let watching = tokio::spawn(async move { probe.watch(&watched).await });
        let status = until(&board, HealthState::Healthy).await;
        assert_eq!(status.health.probes, 3);
        assert_eq!(status.health.reason, None);
        assert_eq!(status.phase, common::agent::GuestPhase::Ready);
        watching.abort();
    }

    #[tokio::test]
    async fn health_that_does_not_come_is_unhealthy_with_the_reason_and_may_still_come() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let probe = Probe::new(
            &manifest("http", &format!("http://{address}/base"), HEALTH),
            None,
            None,
        );
        let board = board();
        let watched = Arc::clone(&board);
        let watching = tokio::spawn(async move { probe.watch(&watched).await });
        let began = Instant::now();
        let status = until(&board, HealthState::Unhealthy).await;
        assert!(began.elapsed() >= Duration::from_millis(290));
        assert_eq!(
            status.health.reason,
            Some(format!(
                "GET http://{address}/base/health: connection refused"
            ))
        );
        assert_eq!(status.phase, common::agent::GuestPhase::Workload);

        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await.unwrap();
                stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
            }
        });
        let status = until(&board, HealthState::Healthy).await;
        assert_eq!(status.health.reason, None);
        watching.abort();
    }

    #[tokio::test]
    async fn the_reason_names_the_status_or_the_silence() {
        let (url, _server) = server(vec![Some(503)]).await;
        let probe = Probe::new(
            &manifest("http", &format!("{url}/base"), HEALTH),
            None,
            None,
        );
        let reason = probe.once(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(reason, format!("GET {url}/base/health answered 503"));

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let probe = Probe::new(
            &manifest("http", &format!("http://{address}"), HEALTH),
            None,
            None,
        );
        let reason = probe.once(Duration::from_millis(60)).await.unwrap_err();
        assert_eq!(
            reason,
            format!("GET http://{address}/health: no answer within 60 ms")
        );
    }

    #[tokio::test]
    async fn without_a_health_check_the_port_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let own = Some(Ipv4Addr::LOCALHOST);
        let probe = Probe::new(&manifest("http", &url, ""), own, None);
        let board = board();
        let watched = Arc::clone(&board);
        let watching = tokio::spawn(async move { probe.watch(&watched).await });
        let mut status = until(&board, HealthState::Healthy).await;
        if status.health.reachable_from_outside.is_none() {
            status = board
                .newer_than(status.generation, Duration::from_secs(5))
                .await;
        }
        assert_eq!(status.health.reachable_from_outside, Some(true));
        watching.abort();
    }

    #[tokio::test]
    async fn a_port_that_only_loopback_reaches_is_told() {
        // 127.0.0.2 stands for the guest's own address: the server listens on 127.0.0.1 only.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let board = board();
        let looking = look_from_outside(Ipv4Addr::new(127, 0, 0, 2), port, &board);
        let waited = tokio::time::timeout(Duration::from_millis(200), looking).await;
        assert!(waited.is_err());
        assert_eq!(board.now().health.reachable_from_outside, Some(false));
    }
}
