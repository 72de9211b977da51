//! All machines of the daemon: makes them, finds them, and passes requests to their drivers. Decides nothing about a VM itself.

mod keeper;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::api::{Vm, VmConfig};
use common::cmdline;
use common::digest::Digest;
use common::error_chain::Chain;
use common::manifest::RootfsFormat;
use common::name::Name;
use common::net::host_name;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use self::keeper::Keeper;
use super::blueprint::Blueprint;
use super::driver::{Asked, Command, INBOX_REQUESTS, Origin, Reconfigure};
use super::error::MachineError;
use super::live::{Live, LiveGuest, Publisher};
use super::parts::Parts;
use super::ports::VmPaths;
use super::public::{self, Observed};
use super::record::{ConfigVersion, Draft, VmRecord};
use super::requests::Request;
use crate::cause::Cause;
use crate::task;
use crate::token::random_secret;

/// How long a new daemon waits to know of all VMs before it serves anybody.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(10);

/// A VM to be created.
#[derive(Debug, Clone)]
pub struct NewVm {
    /// Its name.
    pub name: Name,
    /// What was chosen.
    pub config: VmConfig,
    /// The stored artifact that it boots.
    pub artifact: Digest,
    /// When the request arrived: where the boot timeline begins.
    pub arrived: std::time::Instant,
}

/// The next version of a VM's configuration.
#[derive(Debug, Clone)]
pub struct NewConfig {
    /// What was chosen.
    pub config: VmConfig,
    /// The stored artifact that it boots.
    pub artifact: Digest,
    /// The version that it was made from: it is refused if there is a newer one by now.
    pub from: u64,
}

/// All machines.
///
/// Dropping it, as [`Registry::shutdown`], ends the drivers and leaves the VMs as they are.
#[derive(Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Arc<Parts>,
    machines: Mutex<BTreeMap<Name, Machine>>,
}

/// What the registry holds of one VM.
#[derive(Debug)]
struct Machine {
    id: i64,
    paths: VmPaths,
    inbox: mpsc::Sender<Command>,
    public: watch::Receiver<Arc<Vm>>,
    live: watch::Receiver<Option<Arc<Live>>>,
    /// None once the registry is shut down.
    keeper: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for machine in self.machines().values() {
            if let Some(keeper) = &machine.keeper {
                keeper.abort();
            }
        }
    }
}

impl Registry {
    /// A registry without machines; see [`Registry::recover`].
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts: Arc::new(parts),
                machines: Mutex::default(),
            }),
        }
    }

    /// Takes up all VMs that are recorded: each goes on by itself from where it was. To be called once, before anything else.
    ///
    /// Returns with their number when each has found out whether its VMM lives, or after [`RECOVERY_PATIENCE`]: a slow one comes up by
    /// itself. A record that cannot be read is logged and left alone.
    ///
    /// # Errors
    /// If the records cannot be listed.
    pub async fn recover(&self) -> Result<usize, MachineError> {
        let mut taken_up = Vec::new();
        for record in self.inner.parts.journal.all().await? {
            match record {
                Ok(record) => taken_up.push(self.inner.begin(record, Origin::Recovered)),
                Err(unreadable) => {
                    tracing::error!(error = %Chain(&unreadable), "vm not taken up");
                }
            }
        }
        let count = taken_up.len();
        let all_known = async {
            for mut public in taken_up {
                // The first thing that a driver publishes is what it found; one that is gone by then has found that.
                drop(public.changed().await);
            }
        };
        if timeout(RECOVERY_PATIENCE, all_known).await.is_err() {
            tracing::warn!("not all VMs are known yet");
        }
        Ok(count)
    }

    /// Records a VM and begins to launch it. Returns as soon as it is recorded.
    ///
    /// # Errors
    /// [`MachineError::Exists`], [`MachineError::NoAddress`], [`MachineError::Cmdline`], [`MachineError::CannotLaunch`], or the store's. Nothing is
    /// recorded then.
    pub async fn create(&self, new: NewVm) -> Result<Vm, MachineError> {
        let inner = Arc::clone(&self.inner);
        let name = new.name.clone();
        // In a task of its own: a caller that goes away must not leave a record without a driver.
        let creation = Cause::current().scope(async move { inner.create(new).await });
        let created = task::spawn("create-vm", creation).await;
        created.unwrap_or(Err(MachineError::Interrupted { name }))
    }

    /// A VM.
    ///
    /// # Errors
    /// [`MachineError::NotFound`].
    pub fn get(&self, name: &Name) -> Result<Vm, MachineError> {
        Ok(Vm::clone(&self.watch(name)?.borrow()))
    }

    /// All VMs, by name.
    pub fn list(&self) -> Vec<Arc<Vm>> {
        self.inner
            .machines()
            .values()
            .map(|machine| Arc::clone(&machine.public.borrow()))
            .collect()
    }

    /// How many VMs there are.
    pub fn count(&self) -> usize {
        self.inner.machines().len()
    }

    /// A VM now and whenever it changes. The sender is dropped when the VM is gone.
    ///
    /// # Errors
    /// [`MachineError::NotFound`].
    pub fn watch(&self, name: &Name) -> Result<watch::Receiver<Arc<Vm>>, MachineError> {
        self.inner.find(name, |machine| machine.public.clone())
    }

    /// A VM as soon as its generation is another one than `after`, or as it is after `wait`.
    ///
    /// # Errors
    /// [`MachineError::NotFound`], also if the VM goes meanwhile.
    pub async fn wait_newer(
        &self,
        name: &Name,
        after: u64,
        wait: Duration,
    ) -> Result<Vm, MachineError> {
        let mut public = self.watch(name)?;
        let newer = timeout(wait, public.wait_for(|vm| vm.generation != after)).await;
        match newer {
            Ok(Ok(vm)) => Ok(Vm::clone(&vm)),
            Ok(Err(_)) => Err(MachineError::NotFound { name: name.clone() }),
            Err(_) => self.get(name),
        }
    }

    /// The guest of a VM, if it has one now: its VMM lives, whether or not its agent answers.
    ///
    /// # Errors
    /// [`MachineError::NotFound`].
    pub fn live(&self, name: &Name) -> Result<Option<LiveGuest>, MachineError> {
        let seen = self.inner.find(name, |machine| machine.live.clone())?;
        Ok(LiveGuest::of(seen))
    }

    /// Opens something that is in the folders of a VM, such as its log. The VM cannot go meanwhile, nor another one take its name: what is
    /// opened is this VM's, and closed with it.
    ///
    /// # Errors
    /// [`MachineError::NotFound`].
    pub fn open<T>(
        &self,
        name: &Name,
        open: impl FnOnce(&VmPaths) -> T,
    ) -> Result<T, MachineError> {
        self.inner.find(name, |machine| open(&machine.paths))
    }

    /// Wants a VM up. Returns when that is recorded; a VM that is up or on its way there is fine.
    ///
    /// # Errors
    /// [`MachineError::NotFound`], [`MachineError::Denied`], or the store's.
    pub async fn start(&self, name: &Name) -> Result<Vm, MachineError> {
        self.request(name, Request::Start, None).await
    }

    /// Wants a VM down. Returns when that is recorded; a VM that is down or on its way there is fine.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub async fn stop(&self, name: &Name) -> Result<Vm, MachineError> {
        self.request(name, Request::Stop, None).await
    }

    /// As [`Registry::stop`], with a time for the workload to end that is not as configured.
    ///
    /// # Errors
    /// As there.
    pub async fn stop_within(&self, name: &Name, grace: Duration) -> Result<Vm, MachineError> {
        self.request(name, Request::Stop, Some(grace)).await
    }

    /// Wants a VM down and up again; one that is down is started. Returns when that is recorded.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub async fn restart(&self, name: &Name) -> Result<Vm, MachineError> {
        self.request(name, Request::Restart, None).await
    }

    /// As [`Registry::restart`], with a time for the workload to end that is not as configured.
    ///
    /// # Errors
    /// As there.
    pub async fn restart_within(&self, name: &Name, grace: Duration) -> Result<Vm, MachineError> {
        self.request(name, Request::Restart, Some(grace)).await
    }

    /// Removes a VM. Returns when nothing of it is left.
    ///
    /// # Errors
    /// [`MachineError::NotFound`]; [`MachineError::NotRemoved`] if something resists, which is tried again until it succeeds.
    pub async fn delete(&self, name: &Name) -> Result<(), MachineError> {
        self.request(name, Request::Delete, None).await.map(drop)
    }

    /// Makes the CPUs of a VM that runs stand still. Returns when they do; a VM that is paused is fine.
    ///
    /// # Errors
    /// [`MachineError::NotFound`], [`MachineError::Denied`], [`MachineError::NotMoved`], or the store's.
    pub async fn pause(&self, name: &Name) -> Result<Vm, MachineError> {
        self.request(name, Request::Pause, None).await
    }

    /// Makes the CPUs of a paused VM go on. Returns when they do; a VM that runs is fine.
    ///
    /// # Errors
    /// As [`Registry::pause`].
    pub async fn resume(&self, name: &Name) -> Result<Vm, MachineError> {
        self.request(name, Request::Resume, None).await
    }

    /// Makes a new version of a VM's configuration, which its next launch takes. Returns when it is recorded.
    ///
    /// # Errors
    /// [`MachineError::NotFound`], [`MachineError::VersionMismatch`], [`MachineError::Cmdline`], [`MachineError::Denied`], or the store's.
    pub async fn reconfigure(
        &self,
        name: &Name,
        new: NewConfig,
    ) -> Result<Arc<ConfigVersion>, MachineError> {
        let version = ConfigVersion {
            version: new.from.saturating_add(1),
            config: new.config,
            artifact: new.artifact,
            updated_at: self.inner.parts.clock.now(),
        };
        self.inner.check_cmdline(&Blueprint::of(name, &version))?;
        self.tell(name, |reply| {
            Command::Reconfigure(Box::new(Reconfigure {
                version,
                cause: Cause::current(),
                reply,
            }))
        })
        .await
    }

    /// The number of a VM in the records.
    ///
    /// # Errors
    /// [`MachineError::NotFound`].
    pub fn id(&self, name: &Name) -> Result<i64, MachineError> {
        self.inner.find(name, |machine| machine.id)
    }

    /// Ends all drivers, wherever they are, and leaves the VMs as they are: a new daemon takes them up.
    pub async fn shutdown(&self) {
        let keepers: Vec<JoinHandle<()>> = self
            .inner
            .machines()
            .values_mut()
            .filter_map(|machine| machine.keeper.take())
            .collect();
        for keeper in &keepers {
            keeper.abort();
        }
        for keeper in keepers {
            // It was aborted, or had ended: either is what is wanted.
            drop(keeper.await);
        }
    }

    async fn request(
        &self,
        name: &Name,
        request: Request,
        grace: Option<Duration>,
    ) -> Result<Vm, MachineError> {
        self.tell(name, |reply| {
            Command::Ask(Asked {
                request,
                grace,
                arrived: Instant::now(),
                cause: Cause::current(),
                reply,
            })
        })
        .await
    }

    /// Sends a command to the VM's driver, and waits for the answer.
    async fn tell<T>(
        &self,
        name: &Name,
        command: impl FnOnce(oneshot::Sender<Result<T, MachineError>>) -> Command,
    ) -> Result<T, MachineError> {
        let inbox = self.inner.find(name, |machine| machine.inbox.clone())?;
        let (reply, answer) = oneshot::channel();
        let interrupted = || MachineError::Interrupted { name: name.clone() };
        inbox
            .send(command(reply))
            .await
            .map_err(|_| interrupted())?;
        // A driver that ended while this waited has removed its VM; else it is being replaced.
        let gone = |_| {
            if self.get(name).is_err() {
                MachineError::NotFound { name: name.clone() }
            } else {
                interrupted()
            }
        };
        answer.await.map_err(gone)?
    }
}

impl Inner {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<Name, Machine>> {
        // The map is whole after every statement that changes it, so a panic elsewhere spoils nothing.
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find<T>(&self, name: &Name, take: impl FnOnce(&Machine) -> T) -> Result<T, MachineError> {
        self.machines()
            .get(name)
            .map(take)
            .ok_or_else(|| MachineError::NotFound { name: name.clone() })
    }

    async fn create(self: &Arc<Self>, new: NewVm) -> Result<Vm, MachineError> {
        self.check(&new)?;
        self.parts.vmm.check().map_err(MachineError::CannotLaunch)?;
        let arrived = Instant::from_std(new.arrived);
        let secret = random_secret().map_err(MachineError::Secret)?;
        let draft = Draft {
            name: new.name,
            config: new.config,
            artifact: new.artifact,
            secret,
            created_at: self.parts.clock.now(),
            pool: self.parts.settings.pool,
        };
        let record = self.parts.journal.insert(draft).await?;
        tracing::info!(vm = %record.blueprint.name, plugin = %record.blueprint.plugin, ip = %record.lease.ip, "vm created");
        let vm = public::vm(&record, &Observed::default(), &self.parts.settings);
        self.parts.events.changed(None, Some(&vm));
        drop(self.begin(record, Origin::Created(arrived, Cause::current())));
        Ok(vm)
    }

    /// Refuses what could never boot, before anything is recorded.
    fn check(&self, new: &NewVm) -> Result<(), MachineError> {
        if self.machines().contains_key(&new.name) {
            return Err(MachineError::Exists {
                name: new.name.clone(),
            });
        }
        let first = ConfigVersion {
            version: 1,
            config: new.config.clone(),
            artifact: new.artifact,
            updated_at: self.parts.clock.now(),
        };
        self.check_cmdline(&Blueprint::of(&new.name, &first))
    }

    fn check_cmdline(&self, blueprint: &Blueprint) -> Result<(), MachineError> {
        let pool = self.parts.settings.pool;
        let longest = cmdline::IpConfig {
            // No address of the subnet is longer than its last one.
            address: pool.subnet.broadcast(),
            gateway: pool.host_ip,
            netmask: pool.subnet.netmask(),
            host_name: host_name(blueprint.name.as_str()),
            device: "eth0".to_owned(),
        };
        let api = blueprint.api.as_ref();
        let request = cmdline::Request {
            ip: &longest,
            extra: &blueprint.extra_cmdline,
            api: api.map(|(host, port)| (host.as_str(), *port)),
            manifest: &blueprint.manifest,
            // No name of a format is longer.
            root_format: Some(RootfsFormat::Squashfs),
        };
        cmdline::build(&request)
            .map(drop)
            .map_err(MachineError::Cmdline)
    }

    /// Gives a recorded VM its driver.
    fn begin(self: &Arc<Self>, record: VmRecord, origin: Origin) -> watch::Receiver<Arc<Vm>> {
        let (inbox, commands) = mpsc::channel(INBOX_REQUESTS);
        let vm = public::vm(&record, &Observed::default(), &self.parts.settings);
        let publisher = Publisher::new(vm);
        let (public, live) = (publisher.subscribe(), publisher.subscribe_live());
        let (id, name) = (record.id, record.blueprint.name.clone());
        let paths = self.parts.settings.paths(&record);
        let keeper = Keeper {
            registry: Arc::downgrade(self),
            parts: Arc::clone(&self.parts),
            id,
            name: name.clone(),
            publisher: Arc::new(publisher),
        };
        // The lock is held until the machine is in the map, so its keeper cannot end before that.
        let seen = public.clone();
        let mut machines = self.machines();
        let keeper = task::spawn("machine-keeper", keeper.keep(record, commands, origin));
        machines.insert(
            name,
            Machine {
                id,
                paths,
                inbox,
                public,
                live,
                keeper: Some(keeper),
            },
        );
        seen
    }

    /// Takes a VM off the list, unless another one has its name by now.
    fn forget(&self, name: &Name, id: i64) {
        let mut machines = self.machines();
        if machines.get(name).is_some_and(|machine| machine.id == id) {
            machines.remove(name);
            // Whoever looked while the VM was removed opened them anew.
            self.parts.logs.remove(name);
            self.parts.console.remove(name);
        }
    }
}
