//! One VM's task: it alone changes the VM's phase. Here are its loop, its ears, and how it records and publishes; the work of each
//! phase is in the files below.
//!
//! Requests are decided at once, whatever work is going on: the work either is dropped where that is harmless, or goes on and finds the
//! phase changed when it is done.

mod adopt;
mod launch;
mod pause;
mod supervise;
mod time;
mod unwind;

use std::future::Future;
use std::mem::{Discriminant, discriminant};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use common::agent::AgentStatus;
use common::api::{Failure, Vm};
use common::error_chain::Chain;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::pause::Cpus;
use super::backoff::Backoff;
use super::blueprint::Blueprint;
use super::error::MachineError;
use super::live::{Live, Publisher};
use super::parts::Parts;
use super::plan::word;
use super::ports::{BootMedia, Instance, Launch, VmPaths};
use super::public::{self, Observed};
use super::record::{ConfigVersion, Durability, JournalError, VmRecord};
use super::requests::{Admission, Denial, Request, admit, prioritise};
use super::state::{Event, Next, Phase, State, step};
use super::timeline::Timeline;
use crate::cause::Cause;

/// Requests to one VM that may wait. Each is decided within moments; more callers wait for their turn.
pub(super) const INBOX_REQUESTS: usize = 32;

/// The waits before a VM is launched again, and how long it must have been up for them to begin anew.
const FIRST_RELAUNCH: Duration = Duration::from_secs(1);
const SLOWEST_RELAUNCH: Duration = Duration::from_mins(1);
const STABLE_AFTER: Duration = Duration::from_mins(2);

/// After so many ends in a row without being stable in between, a VM is said to be in a crash loop. As the agent says it of a workload.
const CRASH_LOOP_ENDS: u32 = 5;

/// By how much a new daemon raises generations: more than the one before can have published and not recorded.
const GENERATION_LEAP: u64 = 1000;

/// Something on its way to the driver.
#[derive(Debug)]
pub(super) enum Command {
    /// A request about where the VM should be.
    Ask(Asked),
    /// A new configuration.
    Reconfigure(Box<Reconfigure>),
}

impl Command {
    fn is_delete(&self) -> bool {
        matches!(self, Self::Ask(asked) if asked.request == Request::Delete)
    }
}

/// A request on its way to the driver.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    /// How long the workload may take to end, where that is not as configured.
    pub(super) grace: Option<Duration>,
    /// When it arrived at the API.
    pub(super) arrived: Instant,
    /// Whose it is, for the log.
    pub(super) cause: Cause,
    pub(super) reply: Reply,
}

/// A configuration on its way to the driver: the version after the one that it was made from.
#[derive(Debug)]
pub(super) struct Reconfigure {
    pub(super) version: ConfigVersion,
    /// Whose it is, for the log.
    pub(super) cause: Cause,
    pub(super) reply: oneshot::Sender<Result<Arc<ConfigVersion>, MachineError>>,
}

/// Where the answer goes. A caller that has left is no error.
pub(super) type Reply = oneshot::Sender<Result<Vm, MachineError>>;

/// How a driver begins.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The VM was created just now, by a request that arrived then.
    Created(Instant, Cause),
    /// An earlier daemon left it.
    Recovered,
    /// The driver before this one panicked.
    Panicked,
}

/// One VM's task.
pub(super) struct Driver {
    parts: Arc<Parts>,
    record: VmRecord,
    paths: VmPaths,
    inbox: mpsc::Receiver<Command>,
    publisher: Arc<Publisher>,
    observed: Observed,
    launch: Option<Arc<Launch>>,
    media: Option<Arc<BootMedia>>,
    instance: Option<Arc<dyn Instance>>,
    /// Whether there may be an agent to ask for a graceful end.
    may_have_agent: bool,
    timeline: Option<Timeline>,
    /// When the request that the present launch answers arrived.
    arrived: Instant,
    /// Whose request the VM follows, until it is where that wanted it.
    cause: Cause,
    relaunches: Backoff,
    up_since: Option<Instant>,
    deleters: Vec<Reply>,
    /// How long the guest that ends may still take, where a request said so while it ended.
    hurried: Option<Duration>,
    /// Whether the guest's CPUs stand still, as far as is known.
    cpus: Cpus,
    /// Who waits until they do, or do not any more.
    movers: Vec<(Request, Reply)>,
    /// The agent's last word before its guest was paused.
    last_heard: Option<AgentStatus>,
    origin: Origin,
}

impl Driver {
    pub(super) fn new(
        parts: Arc<Parts>,
        record: VmRecord,
        inbox: mpsc::Receiver<Command>,
        publisher: Arc<Publisher>,
        origin: Origin,
    ) -> Self {
        let paths = parts.settings.paths(&record);
        let (arrived, cause) = match &origin {
            Origin::Created(arrived, cause) => (*arrived, cause.clone()),
            Origin::Recovered | Origin::Panicked => (Instant::now(), Cause::default()),
        };
        Self {
            parts,
            record,
            paths,
            inbox,
            publisher,
            observed: Observed::default(),
            launch: None,
            media: None,
            instance: None,
            may_have_agent: false,
            timeline: None,
            arrived,
            cause,
            relaunches: Backoff::new(FIRST_RELAUNCH, SLOWEST_RELAUNCH),
            up_since: None,
            deleters: Vec::new(),
            hurried: None,
            cpus: Cpus::Going,
            movers: Vec::new(),
            last_heard: None,
            origin,
        }
    }

    /// Runs until nothing of the VM is left; gives back whoever waits to hear that.
    pub(super) async fn run(mut self) -> Vec<Reply> {
        match self.origin {
            Origin::Created(..) => {}
            Origin::Recovered => self.resume().await,
            Origin::Panicked => self.give_up().await,
        }
        loop {
            if !matches!(
                self.state().phase,
                Phase::Running { .. } | Phase::Paused { .. }
            ) {
                self.answer_movers(None);
            }
            let cause = self.cause.clone();
            match self.state().phase {
                Phase::Pending => Box::pin(cause.scope(self.launch())).await,
                // Only a launch makes this phase, and it leaves it. A daemon that finds it recorded has made it `Pending`.
                Phase::Preparing => {
                    let failure = bug("A launch was left unfinished");
                    self.apply(Event::Failed(failure)).await;
                }
                Phase::Starting | Phase::Running { .. } => self.supervise().await,
                Phase::Paused { .. } => self.hold().await,
                Phase::Stopping => Box::pin(cause.scope(self.stop())).await,
                Phase::Stopped | Phase::Failed { .. } => self.rest().await,
                Phase::Crashed { .. } => self.back_off().await,
                Phase::Deleting => {
                    Box::pin(cause.scope(self.remove())).await;
                    return self.deleters;
                }
            }
        }
    }

    fn state(&self) -> &State {
        &self.record.progress.state
    }

    fn phase_kind(&self) -> Discriminant<Phase> {
        discriminant(&self.state().phase)
    }

    /// Applies what happened. An event that is late changes nothing.
    async fn apply(&mut self, event: Event) {
        if let Next::To(state) = step(self.state(), event) {
            self.enter(state);
            self.note().await;
        }
    }

    fn enter(&mut self, state: State) {
        let progress = &mut self.record.progress;
        if discriminant(&progress.state.phase) != discriminant(&state.phase) {
            self.observed.activity = None;
            let vm = public::vm(&self.record, &self.observed, &self.parts.settings);
            tracing::debug!(vm = %vm.name, from = vm.status.as_str(), "phase ends");
        }
        let progress = &mut self.record.progress;
        match &state.phase {
            Phase::Failed { failure } => {
                let (step, error) = (&failure.step, &failure.cause);
                tracing::warn!(vm = %self.record.blueprint.name, step, error, "vm failed");
                progress.failure = Some(failure.clone());
            }
            Phase::Crashed { failure } => {
                tracing::warn!(vm = %self.record.blueprint.name, error = failure.cause, "vm crashed");
                progress.failure = Some(failure.clone());
            }
            Phase::Pending
            | Phase::Preparing
            | Phase::Starting
            | Phase::Running { .. }
            | Phase::Paused { .. }
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Deleting => {}
        }
        progress.state = state;
    }

    /// Records and publishes how far the VM is. A store that fails does not stop the VM: it is logged, and the next note is whole again.
    async fn note(&mut self) {
        if let Err(error) = self.save(Durability::Noted).await {
            tracing::error!(vm = %self.record.blueprint.name, error = %Chain(&error), "progress not recorded");
        }
        self.publish();
    }

    /// Records and publishes how far the VM is, or fails: for what must be known before it is done.
    async fn note_or_fail(&mut self) -> Result<(), Failure> {
        let saved = self.save(Durability::Noted).await;
        self.publish();
        saved.map_err(|error| Failure {
            step: word::STORE.to_owned(),
            cause: Chain(&error).to_string(),
            hints: vec!["Check that the disk of the state directory has room".to_owned()],
        })
    }

    async fn save(&mut self, durability: Durability) -> Result<(), JournalError> {
        self.advance();
        self.parts
            .journal
            .save(self.record.id, &self.record.progress, durability)
            .await
    }

    fn advance(&mut self) {
        self.record.progress.generation += 1;
        self.record.progress.updated_at = self.parts.clock.now();
    }

    /// Publishes what is known; only what a new daemon need not know may be published without being recorded.
    fn publish(&self) {
        self.publisher.show_live(self.live());
        let after = Arc::new(self.public());
        let before = self.publisher.send_replace(Arc::clone(&after));
        self.parts.events.changed(Some(&before), Some(&after));
    }

    /// The guest that can be reached, as long as its VMM lives.
    fn live(&self) -> Option<Live> {
        let vmm = self.instance.clone()?;
        Some(Live {
            blueprint: Arc::clone(&self.record.blueprint),
            lease: self.record.lease.clone(),
            endpoint: self.endpoint(),
            record: vmm.record(),
            vmm,
        })
    }

    fn public(&self) -> Vm {
        public::vm(&self.record, &self.observed, &self.parts.settings)
    }

    /// Shows which step runs or is undone, in the phases that are about steps.
    fn show_activity(&mut self, step: &'static str) {
        if matches!(
            self.state().phase,
            Phase::Preparing | Phase::Stopping | Phase::Deleting
        ) {
            self.observed.activity = Some(step);
            self.advance();
            self.publish();
        }
    }

    /// Does `work` to its end, deciding requests meanwhile.
    async fn finish<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                batch = receive(&mut self.inbox) => self.decide(batch).await,
            }
        }
    }

    /// Does `work` for as long as the VM is in the phase that `since` is; then drops it.
    ///
    /// The phase is the caller's to say: it may have changed while the caller did something else.
    async fn until_turned<T>(
        &mut self,
        since: Discriminant<Phase>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        while self.phase_kind() == since {
            tokio::select! {
                biased;
                batch = receive(&mut self.inbox) => self.decide(batch).await,
                done = &mut work => return Some(done),
            }
        }
        None
    }

    async fn decide(&mut self, mut batch: Vec<Command>) {
        prioritise(&mut batch, Command::is_delete);
        for command in batch {
            match command {
                Command::Ask(asked) => asked.cause.clone().scope(self.answer(asked)).await,
                Command::Reconfigure(new) => {
                    new.cause.clone().scope(self.reconfigure(*new)).await;
                }
            }
        }
    }

    /// Records a new configuration. What runs keeps its own until the next launch.
    async fn reconfigure(&mut self, new: Reconfigure) {
        let Reconfigure { version, reply, .. } = new;
        let answer = self.record_config(version).await;
        drop(reply.send(answer));
    }

    async fn record_config(
        &mut self,
        version: ConfigVersion,
    ) -> Result<Arc<ConfigVersion>, MachineError> {
        let name = self.record.blueprint.name.clone();
        if self.state().phase == Phase::Deleting {
            return Err(MachineError::NotReconfigured {
                name,
                reason: Denial::BeingDeleted,
            });
        }
        let present = self.record.config.version;
        if version.version != present + 1 {
            return Err(MachineError::VersionMismatch { name, present });
        }
        self.parts
            .journal
            .reconfigure(self.record.id, &version)
            .await
            .map_err(MachineError::Store)?;
        tracing::info!(vm = %name, version = version.version, "vm configured");
        let config = Arc::new(version);
        self.record.config = Arc::clone(&config);
        if self.record.progress.launched_version.is_none() {
            self.record.blueprint = Arc::new(Blueprint::of(&name, &config));
        }
        self.note().await;
        Ok(config)
    }

    async fn answer(&mut self, command: Asked) {
        self.hurry(&command);
        let answer = match admit(self.state(), command.request) {
            Admission::Accepted(next) => self
                .accept(next, &command)
                .await
                .map_err(MachineError::Store),
            Admission::AlreadySo => Ok(()),
            Admission::Denied(reason) => {
                let name = self.record.blueprint.name.clone();
                Err(MachineError::Denied {
                    name,
                    request: command.request,
                    reason,
                })
            }
        };
        match answer {
            // A delete is answered when it is done, and so is what moves the CPUs.
            Ok(()) if command.request == Request::Delete => self.deleters.push(command.reply),
            Ok(()) if self.is_moving() => self.movers.push((command.request, command.reply)),
            answer => drop(command.reply.send(answer.map(|()| self.public()))),
        }
    }

    /// Takes up a request. It is recorded before anybody is told, and nothing changes if that fails.
    async fn accept(&mut self, next: State, command: &Asked) -> Result<(), JournalError> {
        let before = self.record.progress.clone();
        tracing::info!(vm = %self.record.blueprint.name, request = command.request.as_str(), "request accepted");
        self.enter(next);
        let begins_anew = matches!(command.request, Request::Start | Request::Restart)
            && !matches!(self.state().phase, Phase::Running { .. });
        if begins_anew {
            self.record.progress.failure = None;
            self.record.progress.proven = false;
            self.record.progress.quick_ends = 0;
        }
        let grace_ms = command.grace.map(|grace| grace.as_millis());
        self.record.progress.grace_ms = grace_ms.and_then(|grace| u64::try_from(grace).ok());
        if let Err(error) = self.save(Durability::Promised).await {
            self.record.progress = before;
            return Err(error);
        }
        if begins_anew {
            self.arrived = command.arrived;
            self.relaunches.reset();
            self.observed.crash_loop = false;
        }
        self.cause = command.cause.clone();
        self.publish();
        Ok(())
    }
}

/// The requests that wait, at least one.
async fn receive(inbox: &mut mpsc::Receiver<Command>) -> Vec<Command> {
    let mut batch = Vec::new();
    if inbox.recv_many(&mut batch, INBOX_REQUESTS).await == 0 {
        // The registry is gone, and soon this task as well: the VM stays as it is.
        std::future::pending::<()>().await;
    }
    batch
}

/// A failure that is Volant's own.
fn bug(cause: &str) -> Failure {
    let hints = vec!["This is a bug in Volant; the daemon's log has more".to_owned()];
    Failure {
        step: word::DAEMON.to_owned(),
        cause: cause.to_owned(),
        hints,
    }
}
