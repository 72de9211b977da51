//! VMs: what a request asks for is checked against plugin and host, then it is the machine's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::api::{ConfigApi, ConfigPatch, CreateVm, Vm, VmConfig, VmStatus};
use common::name::Name;

use super::configs::refuse_other_plugin;
use super::{ErrorKind, Service, ServiceError, VmFilter};
use crate::console::{Access, Console, Watch};
use crate::machine::ports::VmPaths;
use crate::machine::{MachineError, NewVm};
use crate::store::PluginRecord;

impl Service {
    /// Records a VM and begins to launch it. Does not wait for anything to boot.
    ///
    /// # Errors
    /// If the request does not fit plugin or host; nothing is recorded then.
    pub async fn create_vm(
        &self,
        mut request: CreateVm,
        arrived: Instant,
    ) -> Result<Vm, ServiceError> {
        request.config = request.config.map(ConfigPatch::without_empty);
        let created = self.create_chosen(&request, arrived).await;
        created.map_err(|error| error.placed(&request, |pointer| place(&request, pointer)))
    }

    /// As [`Service::create_vm`]; wrong members are named as the configuration has them.
    async fn create_chosen(
        &self,
        request: &CreateVm,
        arrived: Instant,
    ) -> Result<Vm, ServiceError> {
        let plugin = self.find_enabled_plugin(plugin_of(request)?).await?;
        let name = request.name.clone();
        if self.parts.registry.get(&name).is_ok() {
            return Err(MachineError::Exists { name }.into());
        }
        self.check_vm_count()?;
        let config = chosen(request.clone(), &plugin)?;
        self.check_config(&config)?;
        if config.kernel_override.is_none() {
            self.check_kernel()?;
        }
        // Held until the artifact's VM is recorded: nothing collects it in between.
        let (artifact, _held) = self.pin(&config, &[plugin.pinned()]).await?;
        self.check_memory(&config, &artifact)?;
        // Others may have been created while the artifact was on its way.
        self.check_vm_count()?;
        let new = NewVm {
            name,
            config,
            artifact,
            arrived,
        };
        Ok(self.versions.mark(self.parts.registry.create(new).await?))
    }

    /// Refuses a new VM where there are as many as there may be. Those that are being recorded just now are not counted: the limit is there
    /// for clients that never delete any.
    fn check_vm_count(&self) -> Result<(), ServiceError> {
        let limit = self.parts.limits.counts.max_vms;
        if self.parts.registry.count() < limit {
            return Ok(());
        }
        let message = format!("There are {limit} VMs already");
        Err(ServiceError::new(ErrorKind::NoCapacity, message)
            .hint("Delete one, or raise `max_vms` in volantd's configuration"))
    }

    /// A plugin from which VMs can be made.
    pub(super) async fn find_enabled_plugin(
        &self,
        name: &Name,
    ) -> Result<PluginRecord, ServiceError> {
        let plugin = self.find_plugin(name).await?;
        if plugin.enabled {
            return Ok(plugin);
        }
        let message = format!("The plugin `{name}` is switched off");
        let hint = format!("`volar plugins enable {name}` switches it on");
        Err(ServiceError::new(ErrorKind::PluginDisabled, message).hint(hint))
    }

    /// Whether the kernel is there that the next launch of a VM boots. One that its user chose is looked at by the launch.
    async fn check_kernel_of(&self, name: &Name) -> Result<(), ServiceError> {
        match self.newest(name).await?.version.config.kernel_override {
            Some(_) => Ok(()),
            None => self.check_kernel(),
        }
    }

    pub(super) fn check_kernel(&self) -> Result<(), ServiceError> {
        self.parts
            .media
            .check_kernel()
            .map_err(|error| ServiceError::step(ErrorKind::Unavailable, error.into()))
    }

    /// A VM.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn get_vm(&self, name: &Name) -> Result<Vm, ServiceError> {
        Ok(self.versions.mark(self.parts.registry.get(name)?))
    }

    /// A VM once it has changed since generation `after`, or as it is after `wait`.
    ///
    /// # Errors
    /// If there is none of this name, also if it goes meanwhile.
    pub async fn wait_vm(
        &self,
        name: &Name,
        after: u64,
        wait: Duration,
    ) -> Result<Vm, ServiceError> {
        let vm = self.parts.registry.wait_newer(name, after, wait).await?;
        Ok(self.versions.mark(vm))
    }

    /// All VMs, oldest first.
    pub fn list_vms(&self) -> Vec<Vm> {
        let mut vms = self.parts.registry.list();
        vms.sort_by_key(|vm| vm.id);
        vms.into_iter().map(|vm| self.shown(&vm)).collect()
    }

    /// A page of the VMs that are wanted, and how many there are on all pages. Only what is on the page is copied.
    pub fn page_of_vms(&self, filter: &VmFilter) -> (Vec<Vm>, usize) {
        let (page, total) = filter.page(self.parts.registry.list());
        (page.iter().map(|vm| self.shown(vm)).collect(), total)
    }

    fn shown(&self, vm: &Vm) -> Vm {
        self.versions.mark(vm.clone())
    }

    /// Wants a VM up.
    ///
    /// # Errors
    /// If there is none of this name, it is being deleted, or no VM can be launched here.
    pub async fn start_vm(&self, name: &Name) -> Result<Vm, ServiceError> {
        self.check_kernel_of(name).await?;
        Ok(self.versions.mark(self.parts.registry.start(name).await?))
    }

    /// Wants a VM down, its workload ended within `grace`, or as configured.
    ///
    /// # Errors
    /// If there is none of this name, or it is being deleted.
    pub async fn stop_vm(&self, name: &Name, grace: Option<Duration>) -> Result<Vm, ServiceError> {
        let vm = match grace {
            Some(grace) => self.parts.registry.stop_within(name, grace).await?,
            None => self.parts.registry.stop(name).await?,
        };
        Ok(self.versions.mark(vm))
    }

    /// Wants a VM down and up again.
    ///
    /// # Errors
    /// As [`Service::start_vm`].
    pub async fn restart_vm(
        &self,
        name: &Name,
        grace: Option<Duration>,
    ) -> Result<Vm, ServiceError> {
        self.check_kernel_of(name).await?;
        let vm = match grace {
            Some(grace) => self.parts.registry.restart_within(name, grace).await?,
            None => self.parts.registry.restart(name).await?,
        };
        Ok(self.versions.mark(vm))
    }

    /// Makes the CPUs of a VM stand still; returns when they do.
    ///
    /// # Errors
    /// If there is none of this name, it does not run, or its VMM refuses.
    pub async fn pause_vm(&self, name: &Name) -> Result<Vm, ServiceError> {
        Ok(self.versions.mark(self.parts.registry.pause(name).await?))
    }

    /// Makes the CPUs of a paused VM go on; returns when they do.
    ///
    /// # Errors
    /// As [`Service::pause_vm`].
    pub async fn resume_vm(&self, name: &Name) -> Result<Vm, ServiceError> {
        Ok(self.versions.mark(self.parts.registry.resume(name).await?))
    }

    /// Removes a VM; returns when nothing of it is left.
    ///
    /// # Errors
    /// If there is none of this name, or something of it resists.
    pub async fn delete_vm(&self, name: &Name) -> Result<(), ServiceError> {
        self.parts.registry.delete(name).await?;
        self.collect_artifacts().await;
        Ok(())
    }

    /// A VM's console.
    ///
    /// # Errors
    /// If there is no such VM.
    pub fn console(&self, name: &Name) -> Result<Arc<Console>, ServiceError> {
        let consoles = &self.parts.consoles;
        let console = |paths: &VmPaths| consoles.open(name, &paths.state_dir);
        Ok(self.parts.registry.open(name, console)?)
    }

    /// Watches the console of a VM that runs: only a guest can answer what is typed.
    ///
    /// # Errors
    /// If there is no such VM, it does not run, or too many watch already.
    pub async fn watch_console(&self, name: &Name, access: Access) -> Result<Watch, ServiceError> {
        let status = self.get_vm(name)?.status;
        if matches!(
            status,
            VmStatus::Running | VmStatus::Paused | VmStatus::Starting | VmStatus::Stopping
        ) {
            let watch = self.console(name)?.watch(access).await;
            watch.map_err(|error| ServiceError::new(ErrorKind::Unavailable, error.to_string()))
        } else {
            let message = format!(
                "The VM `{name}` has no console now: it is {}",
                status.as_str()
            );
            Err(ServiceError::new(ErrorKind::WrongPhase, message)
                .hint(format!("`volar vms logs {name}` shows what it wrote, `volar vms start {name}` starts it")))
        }
    }
}

/// The plugin that a creator means.
fn plugin_of(request: &CreateVm) -> Result<&Name, ServiceError> {
    let config = request.config.as_ref();
    let in_config = || config.and_then(|config| config.plugin.as_ref());
    let in_manifest = || config.and_then(|config| Some(&config.manifest.as_ref()?.name));
    let named = request.plugin.as_ref();
    named
        .or_else(in_config)
        .or_else(in_manifest)
        .ok_or_else(|| {
            let detail = "The VM runs no plugin: name one as `plugin` or `config.plugin`";
            ServiceError::field("", detail)
        })
}

/// Where a request to create a VM has a member of the configuration: itself, or in its `config`.
fn place(request: &CreateVm, pointer: &str) -> String {
    let own = match pointer {
        "/resources/cpu_cores" => request.cpu_cores.map(|_| "/cpu_cores"),
        "/resources/memory_mb" => request.memory_mb.map(|_| "/memory_mb"),
        "/runtime" => request.runtime.as_ref().map(|_| "/runtime"),
        "/kernel_cmdline" => request.kernel_cmdline.as_ref().map(|_| "/kernel_cmdline"),
        "/ephemeral" => request.ephemeral.map(|_| "/ephemeral"),
        "/api/host" => request.api_host.as_ref().map(|_| "/api_host"),
        _ => None,
    };
    own.map_or_else(|| format!("/config{pointer}"), str::to_owned)
}

/// The configuration that a creator chose: the request, else its `config`, else the plugin's manifest.
fn chosen(request: CreateVm, plugin: &PluginRecord) -> Result<VmConfig, ServiceError> {
    let mut config = VmConfig::new(plugin.manifest.clone());
    if let Some(patch) = request.config {
        refuse_other_plugin(&config, &patch, "/plugin")?;
        patch.apply(&mut config);
    }
    let resources = &mut config.resources;
    resources.cpu_cores = request.cpu_cores.or(resources.cpu_cores);
    resources.memory_mb = request.memory_mb.or(resources.memory_mb);
    config.runtime = request.runtime.unwrap_or(config.runtime);
    config.kernel_cmdline = request.kernel_cmdline.or(config.kernel_cmdline);
    config.ephemeral = request.ephemeral.or(config.ephemeral);
    if let Some(host) = request.api_host {
        let port = request.api_port;
        config.api = Some(ConfigApi { host, port });
    }
    Ok(config)
}

impl From<MachineError> for ServiceError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Exists { ref name } => {
                let hint = format!("Choose another name, or `volar vms delete {name}` first");
                Self::new(ErrorKind::VmExists, error.to_string()).hint(hint)
            }
            MachineError::NotFound { ref name } => Self::no_vm(name),
            MachineError::Denied { .. } | MachineError::NotReconfigured { .. } => {
                Self::new(ErrorKind::WrongPhase, error.to_string())
            }
            MachineError::VersionMismatch { .. } => {
                Self::new(ErrorKind::VersionMismatch, error.to_string())
                    .hint("Read the configuration again, and change that one")
            }
            MachineError::NoAddress(_) => Self::new(ErrorKind::NoCapacity, error.to_string())
                .hint("Delete a VM, or configure a larger `subnet` for volantd"),
            MachineError::Cmdline(ref source) => Self::field("/kernel_cmdline", source.to_string()),
            MachineError::CannotLaunch(error) => Self::step(ErrorKind::Unavailable, error),
            MachineError::NotMoved { ref failure, .. } => Self {
                hints: failure.hints.clone(),
                ..Self::new(ErrorKind::Unavailable, error.to_string())
            },
            MachineError::NotRemoved { .. } | MachineError::Interrupted { .. } => {
                Self::new(ErrorKind::Unavailable, error.to_string())
            }
            MachineError::Store { .. } | MachineError::Secret(_) => {
                Self::new(ErrorKind::Internal, error.to_string()).caused(error)
            }
        }
    }
}
