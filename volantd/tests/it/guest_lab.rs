//! The API over TCP with a VM whose guest is a router of the test's own: everything is real but VMM, network and guest.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::agent::{AgentStatus, GuestHealth, GuestPhase, HealthState, WorkloadStatus};
use common::api::SystemInfo;
use common::guest_config::Secret;
use fledge::image::initramfs;
use fledge::tree::{Content, Node, Tree};
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use volantd::agent::AgentClient;
use volantd::console::Consoles;
use volantd::event::Events;
use volantd::http::{Door, Gate, TokenCheck, router};
use volantd::limits::Limits;
use volantd::log::Logs;
use volantd::machine::ports::{
    Accelerator, Adopted, BootMedia, BoxFuture, DiskUse, Guest, GuestEndpoint, Instance,
    InstanceRecord, Launch, Lease, Network, SerialStream, StepError, Vmm, VmmExit, VmmKind,
};
use volantd::machine::{self, Pool, Registry, Settings, SystemClock};
use volantd::metrics::Metrics;
use volantd::service::{HostCapacity, Parts, Service};
use volantd::signature::Signatures;
use volantd::store::Store;

use crate::stores::Stores;

/// The token of the API.
pub(crate) const TOKEN: &str = "the-token-of-the-api";

/// The API's unix socket in the daemon's folder.
const SOCKET: &str = "api.sock";

/// The address of the first VM.
const GUEST_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);

pub(crate) struct Lab {
    pub(crate) api: SocketAddr,
    power: watch::Sender<bool>,
    dir: tempfile::TempDir,
}

impl Lab {
    /// A daemon and a VM `web` that runs, whose agent is `agent`.
    pub(crate) async fn new(agent: Router) -> Self {
        let listener = TcpListener::bind((GUEST_IP, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, agent).await.unwrap() });
        let lab = Self::with_agent_at(port).await;
        lab.create("web").await;
        lab
    }

    /// A daemon whose guests have their agents at this port.
    pub(crate) async fn with_agent_at(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let power = watch::Sender::new(true);
        let service = service(dir.path(), port, &power).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let api = listener.local_addr().unwrap();
        let token = TokenCheck(Secret::from_stored(TOKEN.to_owned()));
        let gate = Gate {
            token: Some(token),
            ..Gate::default()
        };
        let limits = Limits::default();
        let token = gate.token.clone();
        let on_unix = router(Arc::clone(&service), limits.requests, Door::Unix(token));
        let unix = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        tokio::spawn(async move { axum::serve(unix, on_unix).await.unwrap() });
        let routes = router(service, limits.requests, Door::Tcp(gate));
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let lab = Self { api, power, dir };
        lab.install().await;
        lab
    }

    /// An archive with this in it.
    pub(crate) fn artifact(&self, content: &str) -> PathBuf {
        let artifact = self.dir.path().join(format!("{content}.cpio"));
        let mut tree = Tree::default();
        let init = Node::file(0o755, Content::Bytes(content.as_bytes().to_vec()));
        tree.replace(b"init", init).unwrap();
        fs_err::write(&artifact, initramfs::write(&tree, Vec::new()).unwrap()).unwrap();
        artifact
    }

    async fn install(&self) {
        let artifact = self.artifact("plugin");
        let manifest = json!({
            "name": "web", "version": "1", "initramfs": {"url": artifact},
            "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"},
            "openapi": "http://127.0.0.1:1/openapi.json",
            "actions": {
                "go": {"method": "POST", "path": "/go", "timeout_ms": 5000},
                "hang": {"method": "POST", "path": "/hang", "timeout_ms": 50},
            },
        });
        let installed = self.post("/api/v1/plugins", manifest).await;
        assert_eq!(installed.status(), StatusCode::CREATED);
    }

    /// Creates a VM and waits until it runs.
    pub(crate) async fn create(&self, name: &str) {
        let created = self
            .post("/api/v1/vms", json!({"name": name, "plugin": "web"}))
            .await;
        assert_eq!(created.status(), StatusCode::CREATED);
        self.until(name, "running").await;
    }

    pub(crate) async fn until(&self, name: &str, status: &str) {
        let mut generation = 0;
        loop {
            let vm = self
                .get_json(&format!("/api/v1/vms/{name}?after={generation}"))
                .await;
            if vm["status"] == status {
                return;
            }
            assert_ne!(vm["status"], "failed", "{vm}");
            generation = vm["generation"].as_u64().unwrap();
        }
    }

    /// Ends all VMMs at once, as a crash does.
    pub(crate) fn cut_power(&self) {
        self.power.send_replace(false);
    }

    /// Makes the VMMs that begin from now on go on.
    pub(crate) fn restore_power(&self) {
        self.power.send_replace(true);
    }

    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.api).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = request;
        let headers = request.headers_mut();
        headers.insert("host", "localhost".parse().unwrap());
        headers.insert("x-volant-api-key", TOKEN.parse().unwrap());
        sender.send_request(request).await.unwrap()
    }

    /// As [`Lab::call`], over the unix socket, with the headers as they are.
    pub(crate) async fn call_on_unix(&self, mut request: Request<Body>) -> Response<Incoming> {
        let stream = UnixStream::connect(self.dir.path().join(SOCKET)).await;
        let io = TokioIo::new(stream.unwrap());
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let headers = request.headers_mut();
        headers.insert("host", "localhost".parse().unwrap());
        sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Incoming> {
        self.call(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response<Incoming> {
        self.call(
            Request::post(path)
                .header("content-type", "application/json")
                .body(Body::from(body.to_string()))
                .unwrap(),
        )
        .await
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        json_of(self.get(path).await).await
    }
}

pub(crate) async fn json_of(response: Response<Incoming>) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

/// Checks that an answer is this problem; gives it back.
pub(crate) async fn is_problem(response: Response<Incoming>, status: u16, code: &str) -> Value {
    let found = response.status().as_u16();
    let problem = json_of(response).await;
    assert_eq!(
        (found, &problem["code"]),
        (status, &json!(code)),
        "{problem}"
    );
    problem
}

async fn service(dir: &Path, port: u16, power: &watch::Sender<bool>) -> Arc<Service> {
    let Stores { media, artifacts } = Stores::open(dir, Signatures::default());
    let (state_dir, subnet) = (dir.join("state"), "127.0.0.0/24".parse().unwrap());
    let artifacts = Arc::new(artifacts);
    let store = Arc::new(Store::open(&dir.join("state.db")).unwrap());
    let limits = Limits::default();
    let consoles = Arc::new(Consoles::default());
    let host = Arc::new(Host(power.clone()));
    let clock = Arc::new(SystemClock);
    let events = Events::open(store.clone(), clock.clone(), limits.events);
    let events = Arc::new(events.await.unwrap());
    let metrics = Arc::new(Metrics::default());
    let agent = AgentClient::with_port(port);
    let logs = Logs::new(
        Arc::new(agent.clone()),
        events.clone(),
        clock.clone(),
        limits.logs,
    );
    let logs = Arc::new(logs);
    let registry = Arc::new(Registry::new(machine::Parts {
        journal: store.clone(),
        media: media.clone(),
        network: host.clone(),
        vmm: host.clone(),
        guest: host,
        console: consoles.clone(),
        logs: logs.clone(),
        events: events.clone(),
        boots: metrics.clone(),
        clock: clock.clone(),
        settings: Settings {
            state_dir: state_dir.clone(),
            run_dir: dir.join("run"),
            pool: Pool {
                subnet,
                host_ip: Ipv4Addr::LOCALHOST,
            },
            boot_deadline: Duration::from_mins(1),
        },
    }));
    Arc::new(Service::new(Parts {
        store,
        artifacts,
        media,
        registry,
        consoles,
        state_dir,
        logs,
        events,
        metrics,
        agent,
        clock,
        capacity: HostCapacity {
            cpu_cores: 2,
            memory_mib: 1024,
        },
        limits,
        info: info(),
    }))
}

fn info() -> SystemInfo {
    serde_json::from_value(json!({
        "status": "ok", "version": "0", "api_listen_addr": "", "api_advertise_addr": "", "host_ip": "",
        "hypervisor": "", "accelerator": "", "hypervisor_reason": "",
    }))
    .unwrap()
}

/// VMM, network and guests: everything works until the power is cut.
#[derive(Debug)]
struct Host(watch::Sender<bool>);

impl Network for Host {
    fn attach<'a>(&'a self, _lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn detach<'a>(&'a self, _lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }
}

impl Vmm for Host {
    fn check(&self) -> Result<(), StepError> {
        Ok(())
    }

    fn spawn<'a>(
        &'a self,
        launch: &'a Launch,
        _media: &'a BootMedia,
    ) -> BoxFuture<'a, Result<Box<dyn Instance>, StepError>> {
        Box::pin(async move {
            let process: Box<dyn Instance> = Box::new(Process {
                instance: launch.instance.clone(),
                power: self.0.subscribe(),
            });
            Ok(process)
        })
    }

    fn adopt<'a>(
        &'a self,
        _record: &'a InstanceRecord,
    ) -> BoxFuture<'a, Result<Option<Adopted>, StepError>> {
        Box::pin(async { Ok(None) })
    }

    fn kill_instance<'a>(&'a self, _instance: &'a str) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A VMM process: this one, as far as the kernel is asked.
struct Process {
    instance: String,
    power: watch::Receiver<bool>,
}

impl Instance for Process {
    fn pause(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn record(&self) -> InstanceRecord {
        let stat = fs_err::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        InstanceRecord {
            instance: self.instance.clone(),
            pid: std::process::id(),
            start_ticks: fields[19].parse().unwrap(),
            boot_id: String::new(),
            vmm: VmmKind::Qemu,
            accelerator: Accelerator::Tcg,
            control_socket: "/none".into(),
            serial: None,
            vsock: None,
        }
    }

    fn boot(&self) -> BoxFuture<'_, Result<Box<dyn SerialStream>, StepError>> {
        let (near, far) = tokio::io::duplex(1024);
        let mut power = self.power.clone();
        tokio::spawn(async move {
            drop(power.wait_for(|on| !on).await);
            drop(far);
        });
        let near: Box<dyn SerialStream> = Box::new(near);
        Box::pin(async move { Ok(near) })
    }

    fn exited(&self) -> BoxFuture<'_, VmmExit> {
        let mut power = self.power.clone();
        Box::pin(async move {
            drop(power.wait_for(|on| !on).await);
            VmmExit::Signalled { signal: 9 }
        })
    }

    fn quit(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn signal(&self, _force: bool) -> Result<(), StepError> {
        Ok(())
    }

    fn disks(&self) -> BoxFuture<'_, Result<Vec<DiskUse>, StepError>> {
        Box::pin(async {
            Ok(vec![DiskUse {
                name: "disk0".to_owned(),
                read_bytes: 1,
                ..DiskUse::default()
            }])
        })
    }
}

impl Guest for Host {
    fn status<'a>(
        &'a self,
        _guest: &'a GuestEndpoint,
        after: Option<u64>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<AgentStatus, StepError>> {
        Box::pin(async move {
            if after.is_some() {
                tokio::time::sleep(wait).await;
            }
            Ok(AgentStatus {
                version: "0".to_owned(),
                generation: 1,
                now_us: 1,
                phase: GuestPhase::Ready,
                phases: Vec::new(),
                health: GuestHealth {
                    state: HealthState::Healthy,
                    reason: None,
                    probes: 1,
                    last_probe_us: None,
                    reachable_from_outside: None,
                },
                workload: WorkloadStatus::default(),
                failure: None,
            })
        })
    }

    fn shutdown<'a>(
        &'a self,
        _guest: &'a GuestEndpoint,
        _grace: Option<Duration>,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async {
            self.0.send_replace(false);
            Ok(())
        })
    }

    fn set_clock<'a>(
        &'a self,
        _guest: &'a GuestEndpoint,
        _now: jiff::Timestamp,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn reach(
        &self,
        _ip: Ipv4Addr,
        _port: u16,
        _wait: Duration,
    ) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }
}
