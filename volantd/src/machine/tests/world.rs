//! A host that exists in memory: taps, boot media, VMM processes and guests. It outlives the daemons that are tried on it, and
//! can make any call fail, or never return, as if the daemon had been killed there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use common::agent::{
    AgentStatus, GuestHealth, GuestPhase, HealthState, PhaseMark, WorkloadExit, WorkloadStatus,
};
use common::api::{BootTimeline, EventType, Vm};
use common::name::Name;
use hyper::header::HeaderMap;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::cause::{Cause, REQUEST_ID_HEADER};
use crate::event::between;
use crate::machine::plan::Step;
use crate::machine::ports::{
    Accelerator, Adopted, BootMedia, BootSink, BoxFuture, ConsoleSink, EventSink, Guest,
    GuestEndpoint, Instance, InstanceRecord, Launch, Lease, LogSink, Media, Network, SerialStream,
    StepError, VmPaths, Vmm, VmmExit, VmmKind,
};
use crate::machine::record::{
    ConfigVersion, Draft, Durability, Journal, JournalError, Progress, Unreadable, VmRecord,
};
use crate::store::Store;

/// How the next guest behaves.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing of its own that a test turns off"
)]
pub(super) struct Behaviour {
    /// From boot to the agent's first answer; never if none.
    pub(super) boots_after: Option<Duration>,
    /// What the agent says then.
    pub(super) phase: GuestPhase,
    pub(super) health: HealthState,
    pub(super) failure: Option<String>,
    pub(super) reachable_from_outside: Option<bool>,
    /// Whether the host reaches the service.
    pub(super) reach: bool,
    /// Whether a shutdown is obeyed.
    pub(super) obeys: bool,
    /// Whether the VMM pauses its guest.
    pub(super) pauses: bool,
    /// Whether the VMM resumes its guest.
    pub(super) resumes: bool,
    /// The VMM ends like this between its start and its boot.
    pub(super) stillborn: Option<VmmExit>,
    /// The VMM ends like this, so long after its boot.
    pub(super) ends: Option<(Duration, VmmExit)>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            boots_after: Some(Duration::from_millis(400)),
            phase: GuestPhase::Ready,
            health: HealthState::Healthy,
            failure: None,
            reachable_from_outside: None,
            reach: true,
            obeys: true,
            pauses: true,
            resumes: true,
            stillborn: None,
            ends: None,
        }
    }
}

/// When a step that is to fail does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Before it did anything.
    Before,
    /// With its work done.
    After,
}

#[derive(Debug)]
struct Process {
    record: InstanceRecord,
    vm: Name,
    ip: Ipv4Addr,
    memory_mib: u32,
    behaviour: Behaviour,
    booted: Option<Instant>,
    paused: bool,
    status: watch::Sender<AgentStatus>,
    exit: watch::Sender<Option<VmmExit>>,
}

#[derive(Debug, Default)]
struct Inner {
    taps: BTreeSet<String>,
    media: BTreeSet<PathBuf>,
    processes: BTreeMap<u32, Process>,
    last_pid: u32,
    behaviour: Behaviour,
    fault: Option<(Step, Fault)>,
    /// Undoing the network fails while this is set.
    stuck_network: bool,
    /// A panic at the next attachment.
    panics: u32,
    cannot_launch: bool,
    console: String,
    output: String,
    /// The launches whose logs are followed.
    followed: BTreeMap<Name, String>,
    /// The VMs whose logs somebody has opened and nobody removed.
    read_logs: BTreeSet<Name>,
    events: Vec<(Name, EventType)>,
    points: usize,
    dies_at: Option<usize>,
    refused_saves: u32,
    /// The starts that became ready.
    boots: Vec<BootTimeline>,
    /// What the agents were given for their ends.
    graces: Vec<Option<Duration>>,
    /// Whose requests VMMs were started and agents were asked to end for.
    causes: Vec<Option<String>>,
    clocks: usize,
}

/// The host.
#[derive(Debug, Default)]
pub(super) struct World {
    inner: Mutex<Inner>,
    pub(super) daemon_died: Notify,
}

/// What exists on the host for VMs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Snapshot {
    pub(super) taps: BTreeSet<String>,
    pub(super) media: BTreeSet<PathBuf>,
    pub(super) processes: BTreeMap<Name, usize>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let mut processes = BTreeMap::new();
        for process in inner.processes.values() {
            *processes.entry(process.vm.clone()).or_default() += 1;
        }
        Snapshot {
            taps: inner.taps.clone(),
            media: inner.media.clone(),
            processes,
        }
    }

    pub(super) fn boots(&self) -> Vec<BootTimeline> {
        self.lock().boots.clone()
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        self.lock().behaviour = behaviour;
    }

    pub(super) fn fail(&self, fault: Option<(Step, Fault)>) {
        self.lock().fault = fault;
    }

    pub(super) fn stick_network(&self, stuck: bool) {
        self.lock().stuck_network = stuck;
    }

    pub(super) fn panic_next(&self, times: u32) {
        self.lock().panics = times;
    }

    pub(super) fn refuse_launches(&self) {
        self.lock().cannot_launch = true;
    }

    pub(super) fn refuse_saves(&self, count: u32) {
        self.lock().refused_saves = count;
    }

    pub(super) fn write_console(&self, text: &str) {
        self.lock().console = text.to_owned();
    }

    pub(super) fn write_output(&self, text: &str) {
        self.lock().output = text.to_owned();
    }

    /// The launch of a VM whose log is followed.
    pub(super) fn followed(&self, vm: &str) -> Option<String> {
        let inner = self.lock();
        let mut of_vm = inner
            .followed
            .iter()
            .filter(|(name, _)| name.as_str() == vm);
        of_vm.next().map(|(_, launch)| launch.clone())
    }

    /// What was told of a VM so far, in order.
    pub(super) fn told(&self, vm: &str) -> Vec<EventType> {
        let inner = self.lock();
        let of_vm = inner.events.iter().filter(|(name, _)| name.as_str() == vm);
        of_vm.map(|(_, kind)| *kind).collect()
    }

    /// The daemon dies at the `point`th call from now on.
    pub(super) fn die_at(&self, point: Option<usize>) {
        let mut inner = self.lock();
        inner.points = 0;
        inner.dies_at = point;
    }

    /// One place where a daemon can be killed.
    async fn point(&self) {
        let dies = {
            let mut inner = self.lock();
            inner.points += 1;
            inner.dies_at.is_some_and(|at| inner.points >= at)
        };
        if dies {
            self.daemon_died.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn faulty(&self, step: Step, when: Fault) -> Result<(), StepError> {
        if self.lock().fault == Some((step, when)) {
            return Err(StepError::caused(
                format!("The {} failed", step.as_str()),
                std::io::Error::other("On purpose"),
            ));
        }
        Ok(())
    }

    pub(super) fn pid(&self, vm: &str) -> Option<u32> {
        self.lock()
            .processes
            .iter()
            .find(|(_, process)| process.vm.as_str() == vm)
            .map(|(pid, _)| *pid)
    }

    /// The memory that a VM's process was started with.
    pub(super) fn memory(&self, vm: &str) -> u32 {
        let inner = self.lock();
        let mut processes = inner.processes.values();
        let process = processes.find(|process| process.vm.as_str() == vm);
        process.unwrap().memory_mib
    }

    /// How often guests' clocks were set, since this was asked last.
    pub(super) fn clocks(&self) -> usize {
        std::mem::take(&mut self.lock().clocks)
    }

    /// Opens a VM's log, as a reader does.
    pub(super) fn read_log(&self, name: &str) {
        self.lock().read_logs.insert(name.parse().unwrap());
    }

    pub(super) fn is_log_read(&self, name: &str) -> bool {
        self.lock().read_logs.contains(&name.parse().unwrap())
    }

    /// The graces that agents were given for their ends, since this was asked last.
    pub(super) fn graces(&self) -> Vec<Option<Duration>> {
        std::mem::take(&mut self.lock().graces)
    }

    /// The requests for which VMMs were started and agents asked to end, in their order.
    pub(super) fn causes(&self) -> Vec<Option<String>> {
        self.lock().causes.clone()
    }

    fn note_cause(&self) {
        let mut headers = HeaderMap::new();
        Cause::current().mark(&mut headers);
        let id = headers.get(REQUEST_ID_HEADER);
        let id = id.map(|id| id.to_str().unwrap().to_owned());
        self.lock().causes.push(id);
    }

    /// Whether a VM's CPUs stand still.
    pub(super) fn is_paused(&self, vm: &str) -> bool {
        let inner = self.lock();
        let mut processes = inner.processes.values();
        let process = processes.find(|process| process.vm.as_str() == vm);
        process.unwrap().paused
    }

    /// Changes how a VM's process behaves from now on.
    pub(super) fn change(&self, vm: &str, change: impl FnOnce(&mut Behaviour)) {
        let mut inner = self.lock();
        let mut processes = inner.processes.values_mut();
        let process = processes.find(|process| process.vm.as_str() == vm);
        change(&mut process.unwrap().behaviour);
    }

    /// Ends the VM's process as by somebody else.
    pub(super) fn end(&self, vm: &str, exit: VmmExit) {
        if let Some(pid) = self.pid(vm) {
            self.reap(pid, exit);
        }
    }

    fn reap(&self, pid: u32, exit: VmmExit) {
        if let Some(process) = self.lock().processes.remove(&pid) {
            process.exit.send_replace(Some(exit));
        }
    }

    /// All VMMs are gone, as after a power cut, and so are the taps.
    pub(super) fn reboot(&self) {
        let mut inner = self.lock();
        inner.processes.clear();
        inner.taps.clear();
    }

    /// Changes what a VM's agent says.
    pub(super) fn say(&self, vm: &str, change: impl FnOnce(&mut AgentStatus)) {
        let inner = self.lock();
        let process = inner
            .processes
            .values()
            .find(|process| process.vm.as_str() == vm)
            .unwrap();
        process.status.send_modify(|status| {
            change(status);
            status.generation += 1;
        });
    }

    pub(super) fn reach(&self, vm: &str, reach: bool) {
        let mut inner = self.lock();
        let process = inner
            .processes
            .values_mut()
            .find(|process| process.vm.as_str() == vm)
            .unwrap();
        process.behaviour.reach = reach;
    }

    pub(super) fn silence(&self, vm: &str, silent: bool) {
        let mut inner = self.lock();
        let process = inner
            .processes
            .values_mut()
            .find(|process| process.vm.as_str() == vm)
            .unwrap();
        process.behaviour.boots_after = (!silent).then_some(Duration::ZERO);
    }
}

fn first_word(behaviour: &Behaviour) -> AgentStatus {
    AgentStatus {
        version: "0.1.0".to_owned(),
        generation: 1,
        now_us: 400_000,
        phase: behaviour.phase,
        phases: vec![
            PhaseMark {
                phase: GuestPhase::Boot,
                at_us: 100_000,
            },
            PhaseMark {
                phase: GuestPhase::Workload,
                at_us: 150_000,
            },
        ],
        health: GuestHealth {
            state: behaviour.health,
            reason: None,
            probes: 1,
            last_probe_us: None,
            reachable_from_outside: behaviour.reachable_from_outside,
        },
        workload: WorkloadStatus {
            pid: Some(2),
            restarts: 0,
            last_exit: None,
            ..WorkloadStatus::default()
        },
        failure: behaviour.failure.clone(),
    }
}

/// The workload ended and its policy ends the guest.
pub(super) fn done(status: &mut AgentStatus, code: i32) {
    status.phase = GuestPhase::Stopping;
    status.workload.pid = None;
    status.workload.last_exit = Some(WorkloadExit {
        code,
        signal: None,
        at_us: 900_000,
    });
}

/// The daemon's side of the world.
#[derive(Debug, Clone)]
pub(super) struct Host(pub(super) Arc<World>);

impl Media for Host {
    fn prepare<'a>(&'a self, launch: &'a Launch) -> BoxFuture<'a, Result<BootMedia, StepError>> {
        Box::pin(async move {
            self.0.point().await;
            self.0.faulty(Step::Media, Fault::Before)?;
            let initramfs = launch.paths.state_dir.join("initramfs");
            assert!(launch.paths.state_dir.is_dir(), "the folders come first");
            self.0.lock().media.insert(initramfs.clone());
            self.0.point().await;
            self.0.faulty(Step::Media, Fault::After)?;
            Ok(BootMedia {
                kernel: "/kernel".into(),
                initramfs: Some(initramfs),
                disks: Vec::new(),
                cmdline: String::new(),
            })
        })
    }

    fn discard<'a>(&'a self, paths: &'a VmPaths) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            self.0
                .lock()
                .media
                .remove(&paths.state_dir.join("initramfs"));
            self.0.point().await;
            Ok(())
        })
    }
}

impl Network for Host {
    fn attach<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            self.0.point().await;
            self.0.faulty(Step::Network, Fault::Before)?;
            let panics = {
                let mut inner = self.0.lock();
                inner.taps.insert(lease.tap.clone());
                inner.panics = inner.panics.saturating_sub(1);
                inner.panics > 0
            };
            assert!(!panics, "on purpose");
            self.0.point().await;
            self.0.faulty(Step::Network, Fault::After)
        })
    }

    fn detach<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            if self.0.lock().stuck_network {
                return Err(StepError::new("The tap is stuck"));
            }
            self.0.lock().taps.remove(&lease.tap);
            self.0.point().await;
            Ok(())
        })
    }
}

impl Vmm for Host {
    fn check(&self) -> Result<(), StepError> {
        if self.0.lock().cannot_launch {
            Err(StepError::new("There is no hypervisor"))
        } else {
            Ok(())
        }
    }

    fn spawn<'a>(
        &'a self,
        launch: &'a Launch,
        media: &'a BootMedia,
    ) -> BoxFuture<'a, Result<Box<dyn Instance>, StepError>> {
        Box::pin(async move {
            self.0.point().await;
            self.0.faulty(Step::Vmm, Fault::Before)?;
            assert!(
                media.initramfs.as_ref().is_some_and(|initramfs| self
                    .0
                    .lock()
                    .media
                    .contains(initramfs)),
                "the media come first"
            );
            assert!(
                self.0.lock().taps.contains(&launch.lease.tap),
                "the network comes first"
            );
            let record = self.0.start_process(launch);
            self.0.note_cause();
            self.0.point().await;
            if let Err(error) = self.0.faulty(Step::Vmm, Fault::After) {
                self.0.reap(record.pid, VmmExit::Signalled { signal: 9 });
                return Err(error);
            }
            let pid = record.pid;
            let instance: Box<dyn Instance> = Box::new(self.0.instance(record));
            let stillborn = self.0.lock().behaviour.stillborn.clone();
            if let Some(exit) = stillborn {
                self.0.reap(pid, exit);
            }
            Ok(instance)
        })
    }

    fn adopt<'a>(
        &'a self,
        record: &'a InstanceRecord,
    ) -> BoxFuture<'a, Result<Option<Adopted>, StepError>> {
        Box::pin(async move {
            self.0.point().await;
            let lives = self
                .0
                .lock()
                .processes
                .get(&record.pid)
                .is_some_and(|process| process.record == *record);
            Ok(lives.then(|| Adopted {
                instance: Box::new(self.0.instance(record.clone())),
                serial: Some(Box::new(tokio::io::duplex(64).0)),
            }))
        })
    }

    fn kill_instance<'a>(&'a self, instance: &'a str) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            let owned = |process: &Process| process.record.instance == instance;
            let pids: Vec<u32> = self
                .0
                .lock()
                .processes
                .iter()
                .filter(|(_, process)| owned(process))
                .map(|(pid, _)| *pid)
                .collect();
            for pid in pids {
                self.0.reap(pid, VmmExit::Signalled { signal: 9 });
            }
            self.0.point().await;
            Ok(())
        })
    }
}

impl World {
    fn start_process(&self, launch: &Launch) -> InstanceRecord {
        let mut inner = self.lock();
        inner.last_pid += 1;
        let record = InstanceRecord {
            instance: launch.instance.clone(),
            pid: inner.last_pid,
            start_ticks: u64::from(inner.last_pid) * 10,
            boot_id: "boot".to_owned(),
            vmm: VmmKind::Qemu,
            accelerator: Accelerator::Tcg,
            control_socket: launch.paths.run_dir.join("control"),
            serial: None,
            vsock: None,
        };
        let behaviour = inner.behaviour.clone();
        let process = Process {
            record: record.clone(),
            vm: launch.vm.clone(),
            ip: launch.lease.ip,
            memory_mib: launch.memory_mib,
            status: watch::Sender::new(first_word(&behaviour)),
            behaviour,
            booted: None,
            paused: false,
            exit: watch::Sender::new(None),
        };
        let pid = inner.last_pid;
        inner.processes.insert(pid, process);
        record
    }

    fn instance(self: &Arc<Self>, record: InstanceRecord) -> FakeInstance {
        let exit = self.lock().processes.get(&record.pid).map_or_else(
            || watch::Sender::new(Some(VmmExit::Unknown)).subscribe(),
            |process| process.exit.subscribe(),
        );
        FakeInstance {
            world: Arc::clone(self),
            record,
            exit,
        }
    }
}

struct FakeInstance {
    world: Arc<World>,
    record: InstanceRecord,
    exit: watch::Receiver<Option<VmmExit>>,
}

impl FakeInstance {
    async fn turn(&self, pause: bool) -> Result<(), StepError> {
        self.world.point().await;
        {
            let mut inner = self.world.lock();
            let gone = || StepError::new("The process is gone");
            let process = inner.processes.get_mut(&self.record.pid).ok_or_else(gone)?;
            let (pauses, resumes) = (process.behaviour.pauses, process.behaviour.resumes);
            if (pause && !pauses) || (!pause && !resumes) {
                return Err(StepError::new("The VMM refuses"));
            }
            process.paused = pause;
        }
        self.world.point().await;
        Ok(())
    }
}

impl Instance for FakeInstance {
    fn record(&self) -> InstanceRecord {
        self.record.clone()
    }

    fn boot(&self) -> BoxFuture<'_, Result<Box<dyn SerialStream>, StepError>> {
        Box::pin(async move {
            self.world.point().await;
            self.world.faulty(Step::Boot, Fault::Before)?;
            let ends = {
                let mut inner = self.world.lock();
                let gone = || StepError::new("The process is gone");
                let process = inner.processes.get_mut(&self.record.pid).ok_or_else(gone)?;
                process.booted = Some(Instant::now());
                process.behaviour.ends.clone()
            };
            if let Some((after, exit)) = ends {
                let (world, pid) = (Arc::clone(&self.world), self.record.pid);
                tokio::spawn(async move {
                    sleep(after).await;
                    world.reap(pid, exit);
                });
            }
            self.world.point().await;
            self.world.faulty(Step::Boot, Fault::After)?;
            let serial: Box<dyn SerialStream> = Box::new(tokio::io::duplex(64).0);
            Ok(serial)
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(self.turn(true))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(self.turn(false))
    }

    fn exited(&self) -> BoxFuture<'_, VmmExit> {
        let mut exit = self.exit.clone();
        Box::pin(async move {
            exit.wait_for(Option::is_some)
                .await
                .map_or(VmmExit::Unknown, |exit| exit.clone().unwrap())
        })
    }

    fn quit(&self) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async move {
            self.world.point().await;
            self.world.reap(self.record.pid, VmmExit::Clean);
            Ok(())
        })
    }

    fn signal(&self, force: bool) -> Result<(), StepError> {
        let signal = if force { 9 } else { 15 };
        self.world
            .reap(self.record.pid, VmmExit::Signalled { signal });
        Ok(())
    }
}

impl Host {
    /// The agent at an address, once it is up.
    fn agent(&self, ip: Ipv4Addr) -> Option<(u32, Behaviour, watch::Receiver<AgentStatus>)> {
        let inner = self.0.lock();
        let (pid, process) = inner
            .processes
            .iter()
            .find(|(_, process)| process.ip == ip)?;
        let up = !process.paused && process.booted?.elapsed() >= process.behaviour.boots_after?;
        up.then(|| (*pid, process.behaviour.clone(), process.status.subscribe()))
    }
}

impl Guest for Host {
    fn status<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        after: Option<u64>,
        wait: Duration,
    ) -> BoxFuture<'a, Result<AgentStatus, StepError>> {
        Box::pin(async move {
            // A packet takes its time, and time must go on in a test that waits.
            sleep(Duration::from_millis(1)).await;
            let Some((_, _, mut status)) = self.agent(guest.ip) else {
                return Err(StepError::new("No answer"));
            };
            if let Some(after) = after {
                drop(timeout(wait, status.wait_for(|status| status.generation != after)).await);
            }
            let status = status.borrow().clone();
            // A guest that went away meanwhile answers nothing, unless it just had.
            if after == Some(status.generation) && self.agent(guest.ip).is_none() {
                return Err(StepError::new("The connection broke"));
            }
            Ok(status)
        })
    }

    fn shutdown<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        grace: Option<Duration>,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            self.0.point().await;
            self.0.lock().graces.push(grace);
            self.0.note_cause();
            let (pid, behaviour, _) = self
                .agent(guest.ip)
                .ok_or_else(|| StepError::new("No answer"))?;
            if behaviour.obeys {
                let world = Arc::clone(&self.0);
                tokio::spawn(async move {
                    sleep(Duration::from_millis(200)).await;
                    world.reap(pid, VmmExit::Clean);
                });
            }
            Ok(())
        })
    }

    fn set_clock<'a>(
        &'a self,
        guest: &'a GuestEndpoint,
        _now: Timestamp,
    ) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            self.agent(guest.ip)
                .ok_or_else(|| StepError::new("No answer"))?;
            self.0.lock().clocks += 1;
            Ok(())
        })
    }

    fn reach(
        &self,
        ip: Ipv4Addr,
        _port: u16,
        _wait: Duration,
    ) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async move {
            sleep(Duration::from_millis(1)).await;
            let reached = self
                .agent(ip)
                .is_some_and(|(_, behaviour, _)| behaviour.reach);
            if reached {
                Ok(())
            } else {
                Err(StepError::new("Connection refused"))
            }
        })
    }
}

impl BootSink for Host {
    fn booted(&self, boot: &BootTimeline) {
        self.0.lock().boots.push(*boot);
    }
}

impl ConsoleSink for Host {
    fn attach(&self, _vm: &Name, paths: &VmPaths, _stream: Box<dyn SerialStream>) {
        fs_err::write(paths.state_dir.join("console.log"), "a line").unwrap();
    }

    fn detach(&self, _vm: &Name) {}

    fn remove(&self, _vm: &Name) {}

    fn tail(&self, _vm: &Name, _state_dir: &Path, _lines: usize) -> String {
        self.0.lock().console.clone()
    }
}

impl LogSink for Host {
    fn begin(&self, vm: &Name, state_dir: &Path, launch: &str, _endpoint: GuestEndpoint) {
        assert!(state_dir.is_dir(), "the folders come first");
        let mut inner = self.0.lock();
        inner.followed.insert(vm.clone(), launch.to_owned());
    }

    fn end(&self, vm: &Name) {
        self.0.lock().followed.remove(vm);
    }

    fn remove(&self, vm: &Name) {
        self.end(vm);
        self.0.lock().read_logs.remove(vm);
    }

    fn tail(&self, _vm: &Name, _state_dir: &Path, _lines: usize) -> String {
        self.0.lock().output.clone()
    }
}

impl EventSink for Host {
    fn changed(&self, before: Option<&Vm>, after: Option<&Vm>) {
        let events = between(before, after, Timestamp::UNIX_EPOCH);
        let told = events.into_iter().map(|event| (event.name, event.kind));
        self.0.lock().events.extend(told);
    }
}

/// The real store, in which a daemon can die before and after each write.
#[derive(Debug)]
pub(super) struct MortalJournal {
    pub(super) store: Store,
    pub(super) world: Arc<World>,
}

impl Journal for MortalJournal {
    fn insert(&self, draft: Draft) -> BoxFuture<'_, Result<VmRecord, JournalError>> {
        Box::pin(async move {
            self.world.point().await;
            let record = self.store.insert(draft).await;
            self.world.point().await;
            record
        })
    }

    fn all(&self) -> BoxFuture<'_, Result<Vec<Result<VmRecord, Unreadable>>, JournalError>> {
        self.store.all()
    }

    fn save<'a>(
        &'a self,
        id: i64,
        progress: &'a Progress,
        durability: Durability,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(async move {
            self.world.point().await;
            let refused = {
                let mut inner = self.world.lock();
                let refused = inner.refused_saves > 0;
                inner.refused_saves = inner.refused_saves.saturating_sub(1);
                refused
            };
            if refused {
                let source = Box::new(std::io::Error::other("The disk is full"));
                return Err(JournalError::Failed {
                    doing: "write",
                    source,
                });
            }
            self.store.save(id, progress, durability).await?;
            self.world.point().await;
            Ok(())
        })
    }

    fn reconfigure<'a>(
        &'a self,
        id: i64,
        config: &'a ConfigVersion,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(async move {
            self.world.point().await;
            self.store.reconfigure(id, config).await?;
            self.world.point().await;
            Ok(())
        })
    }

    fn remove(&self, id: i64) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            self.world.point().await;
            self.store.remove(id).await?;
            self.world.point().await;
            Ok(())
        })
    }
}
