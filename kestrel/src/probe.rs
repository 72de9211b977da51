//! Whether the workload is healthy, and later still alive, found out from inside the guest. Decides nothing about it: who supervises it does.

mod check;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use common::agent::HealthState;
use common::manifest::{DEFAULT_HEALTH_TIMEOUT_MS, Manifest, WorkloadKind};
use tokio::time::Instant;

use crate::command_probe::Commands;
use crate::http_client::connect;
use crate::status::StatusBoard;
use check::Check;

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

/// The wait between looks at the guest's own address while nothing accepts there.
const OUTSIDE_WAIT: Duration = Duration::from_secs(2);

/// What is probed, and how long it may take.
#[derive(Debug)]
pub(crate) struct Probe {
    check: Check,
    timeout: Duration,
    max_wait: Duration,
    outside: Option<(Ipv4Addr, u16)>,
    liveness: Option<Liveness>,
}

/// What is probed once it is healthy.
#[derive(Debug)]
struct Liveness {
    check: Check,
    interval: Duration,
    timeout: Duration,
    threshold: u32,
}

impl Probe {
    /// The probes that a manifest asks for. `own` is the guest's address, if it has one; `commands` are the manifest's, ready to be run.
    pub(crate) fn new(manifest: &Manifest, own: Option<Ipv4Addr>, commands: Commands) -> Self {
        let workload = &manifest.workload;
        let base = workload.base();
        let places = (base.as_ref(), own);
        let health = manifest.health_check.as_ref();
        let endpoint = health.and_then(|check| check.endpoint.as_deref());
        let tcp_port = health.and_then(|check| check.tcp_port);
        let named = Check::named(endpoint, tcp_port, commands.health, places);
        let check = named.unwrap_or_else(|| match (&base, workload.kind) {
            (Some(base), WorkloadKind::Http) => Check::Accepts(base.clone()),
            _ => Check::Runs,
        });
        let liveness = manifest.liveness.as_ref().and_then(|liveness| {
            let endpoint = liveness.endpoint.as_deref();
            Some(Liveness {
                check: Check::named(endpoint, liveness.tcp_port, commands.liveness, places)?,
                interval: Duration::from_millis(liveness.interval_ms),
                timeout: Duration::from_millis(liveness.timeout_ms),
                threshold: liveness.failure_threshold,
            })
        });
        let timeout_ms = health.map_or(DEFAULT_HEALTH_TIMEOUT_MS, |check| check.timeout_ms);
        let interval_ms = health.and_then(|check| check.interval_ms);
        Self {
            check,
            timeout: Duration::from_millis(timeout_ms),
            max_wait: interval_ms.map_or(MAX_WAIT, Duration::from_millis),
            outside: own.zip(base.map(|base| base.port)),
            liveness,
        }
    }

    /// Probes a workload that has just started, and tells the board. Answers with the last reason if it is not alive any more.
    pub(crate) async fn watch(&self, board: &StatusBoard) -> String {
        self.until_healthy(board).await;
        board.healthy();
        tokio::select! {
            reason = self.until_not_alive(board) => reason,
            never = self.look_from_outside(board) => match never {},
        }
    }

    async fn until_healthy(&self, board: &StatusBoard) {
        if matches!(self.check, Check::Runs) {
            return;
        }
        let deadline = Instant::now() + self.timeout;
        let mut wait = FIRST_WAIT;
        loop {
            let late = Instant::now() >= deadline;
            let pause = if late {
                LATE_WAIT.max(self.max_wait)
            } else {
                wait
            };
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(self.max_wait);
            let left = deadline.saturating_duration_since(Instant::now());
            let bound = if late { PROBE_TIMEOUT } else { left };
            let bound = bound.clamp(MIN_PROBE_TIMEOUT, PROBE_TIMEOUT);
            let found = self.check.once(bound).await;
            board.probed();
            let Err(reason) = found else {
                return;
            };
            let state = if Instant::now() >= deadline {
                HealthState::Unhealthy
            } else {
                HealthState::Unknown
            };
            board.not_healthy(state, reason);
        }
    }

    /// Waits until as many liveness probes in a row have failed as the manifest says.
    async fn until_not_alive(&self, board: &StatusBoard) -> String {
        let Some(liveness) = &self.liveness else {
            return std::future::pending().await;
        };
        let mut failures = 0;
        loop {
            tokio::time::sleep(liveness.interval).await;
            let found = liveness.check.once(liveness.timeout).await;
            board.probed();
            let Err(reason) = found else {
                failures = 0;
                board.healthy();
                continue;
            };
            failures += 1;
            if failures >= liveness.threshold {
                board.not_healthy(HealthState::Unhealthy, reason.clone());
                return reason;
            }
            // One failure says little: the verdict stays, and the reason shows what is coming.
            board.not_healthy(HealthState::Healthy, reason);
        }
    }

    /// A workload that listens on 127.0.0.1 only is healthy, and nobody can reach it: the guest's own address shows the difference.
    async fn look_from_outside(&self, board: &StatusBoard) -> Infallible {
        if let Some((address, port)) = self.outside {
            look_from_outside(address, port, board).await;
        }
        std::future::pending().await
    }
}

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
            let probe = Probe::new(&manifest, own, Commands::default());
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
            Commands::default(),
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
            Commands::default(),
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
            Commands::default(),
        );
        let reason = probe.check.once(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(reason, format!("GET {url}/base/health answered 503"));

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let probe = Probe::new(
            &manifest("http", &format!("http://{address}"), HEALTH),
            None,
            Commands::default(),
        );
        let reason = probe
            .check
            .once(Duration::from_millis(60))
            .await
            .unwrap_err();
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
        let probe = Probe::new(&manifest("http", &url, ""), own, Commands::default());
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

    #[test]
    fn a_port_is_looked_for_on_every_address_of_the_guest() {
        let own = Some(Ipv4Addr::new(10, 0, 0, 2));
        let health = r#","health_check":{"tcp_port":5432},"liveness":{"tcp_port":5432,"failure_threshold":2}"#;
        let manifest = manifest("exec", "", health);
        let probe = Probe::new(&manifest, own, Commands::default());
        let check = format!("{:?}", Check::Listens(5432, own));
        assert_eq!(format!("{:?}", probe.check), check);
        let liveness = probe.liveness.unwrap();
        assert_eq!(format!("{:?}", liveness.check), check);
        assert_eq!(liveness.interval, Duration::from_secs(10));
        assert_eq!(liveness.timeout, Duration::from_secs(1));
        assert_eq!(liveness.threshold, 2);
    }

    #[tokio::test]
    async fn a_port_counts_wherever_it_listens() {
        let bound = Duration::from_secs(5);
        for address in ["127.0.0.1:0", "127.0.0.2:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let own = Some(Ipv4Addr::new(127, 0, 0, 2));
            assert_eq!(Check::Listens(port, own).once(bound).await, Ok(()));
            drop(listener);
            let refused = Check::Listens(port, own).once(bound).await;
            let reason = format!("Connecting to port {port}: connection refused");
            assert_eq!(refused, Err(reason));
        }
    }

    const LIVENESS: &str = r#","health_check":{"endpoint":"/health"},
        "liveness":{"endpoint":"/health","interval_ms":100,"timeout_ms":5000,"failure_threshold":3}"#;

    #[tokio::test]
    async fn only_failures_in_a_row_mean_that_it_is_not_alive() {
        let answers = [200, 200, 503, 503, 200, 503, 503, 500];
        let (url, _server) = server(answers.into_iter().map(Some).collect()).await;
        let manifest = manifest("http", &format!("{url}/base"), LIVENESS);
        let probe = Probe::new(&manifest, None, Commands::default());
        let board = board();
        let watched = Arc::clone(&board);
        let watching = tokio::spawn(async move { probe.watch(&watched).await });
        let doubtful = async {
            let mut status = until(&board, HealthState::Healthy).await;
            while status.health.reason.is_none() {
                let next = board.newer_than(status.generation, Duration::from_secs(20));
                status = next.await;
            }
            status
        };
        let status = doubtful.await;
        assert_eq!(status.health.state, HealthState::Healthy);
        assert_eq!(status.phase, common::agent::GuestPhase::Ready);
        let reason = watching.await.unwrap();
        assert_eq!(reason, format!("GET {url}/base/health answered 500"));
        let health = board.now().health;
        assert_eq!((health.state, health.probes), (HealthState::Unhealthy, 8));
        assert!(health.last_probe_us.is_some());
    }
}
