//! VMs: what a request asks for is checked against plugin and host, then it is the machine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::api::{CreateVm, SystemSummary, Vm, VmStatus};
use common::manifest::Manifest;
use common::name::Name;

use super::{ErrorKind, Service, ServiceError};
use crate::console::Console;
use crate::machine::{MachineError, NewVm};
use crate::store::PluginRecord;

impl Service {
    /// Records a VM and begins to launch it. Does not wait for anything to boot.
    ///
    /// # Errors
    /// If the request does not fit plugin or host; nothing is recorded then.
    pub async fn create_vm(&self, request: CreateVm, arrived: Instant) -> Result<Vm, ServiceError> {
        let plugin = self.find_plugin(&request.plugin).await?;
        if !plugin.enabled {
            let message = format!("The plugin `{}` is switched off", plugin.name);
            return Err(
                ServiceError::new(ErrorKind::PluginDisabled, message).hint(format!(
                    "`volar plugins enable {}` switches it on",
                    plugin.name
                )),
            );
        }
        let new = self.resolve(request, plugin, arrived)?;
        if self.parts.registry.get(&new.name).is_ok() {
            return Err(MachineError::Exists { name: new.name }.into());
        }
        self.check_kernel()?;
        Ok(self.parts.registry.create(new).await?)
    }

    fn resolve(
        &self,
        request: CreateVm,
        plugin: PluginRecord,
        arrived: Instant,
    ) -> Result<NewVm, ServiceError> {
        let mut manifest = plugin.manifest;
        if let Some(ephemeral) = request.ephemeral {
            choose_layer(&mut manifest, ephemeral)?;
        }
        if request
            .runtime
            .as_ref()
            .is_some_and(|runtime| *runtime != manifest.runtime)
        {
            let detail = format!(
                "The plugin `{}` has the runtime `{}`",
                plugin.name, manifest.runtime
            );
            return Err(ServiceError::field("/runtime", detail));
        }
        let (cpu_cores, memory_mib) = self.size(&request, &manifest)?;
        if let Err(error) = self
            .parts
            .media
            .check_memory(&plugin.artifact.digest, memory_mib)
        {
            let hints = error.hints();
            return Err(ServiceError {
                hints,
                ..ServiceError::field("/memory_mb", error.to_string())
            });
        }
        let api = request
            .api_host
            .map(|host| (host, request.api_port.unwrap_or(7777)));
        if api
            .as_ref()
            .is_some_and(|(host, _)| host.parse::<std::net::IpAddr>().is_err())
        {
            return Err(ServiceError::field(
                "/api_host",
                "The API's host must be an IP address: a guest has no names yet",
            ));
        }
        Ok(NewVm {
            name: request.name,
            plugin: plugin.name,
            artifact: plugin.artifact.digest,
            manifest,
            cpu_cores,
            memory_mib,
            extra_cmdline: request.kernel_cmdline.unwrap_or_default(),
            api,
            arrived,
        })
    }

    /// CPUs and memory of a VM, if the host has as much.
    fn size(&self, request: &CreateVm, manifest: &Manifest) -> Result<(u32, u32), ServiceError> {
        let cpu_cores = request.cpu_cores.unwrap_or(manifest.resources.cpu_cores);
        let memory_mib = request.memory_mb.unwrap_or(manifest.resources.memory_mb);
        let host = self.parts.capacity;
        if !(1..=host.cpu_cores).contains(&cpu_cores) {
            let detail = format!(
                "A VM can have 1 to {} CPUs on this host, not {cpu_cores}",
                host.cpu_cores
            );
            return Err(ServiceError::field("/cpu_cores", detail));
        }
        if !(1..=host.memory_mib).contains(&memory_mib) {
            let detail = format!(
                "A VM can have 1 to {} MiB of memory on this host, not {memory_mib}",
                host.memory_mib
            );
            return Err(ServiceError::field("/memory_mb", detail));
        }
        Ok((cpu_cores, memory_mib))
    }

    fn check_kernel(&self) -> Result<(), ServiceError> {
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
        Ok(self.parts.registry.get(name)?)
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
        Ok(self.parts.registry.wait_newer(name, after, wait).await?)
    }

    /// All VMs, oldest first.
    pub fn list_vms(&self) -> Vec<Vm> {
        let mut vms = self.parts.registry.list();
        vms.sort_by_key(|vm| vm.id);
        vms
    }

    /// Wants a VM up.
    ///
    /// # Errors
    /// If there is none of this name, it is being deleted, or no VM can be launched here.
    pub async fn start_vm(&self, name: &Name) -> Result<Vm, ServiceError> {
        self.parts.registry.get(name)?;
        self.check_kernel()?;
        Ok(self.parts.registry.start(name).await?)
    }

    /// Wants a VM down.
    ///
    /// # Errors
    /// If there is none of this name, or it is being deleted.
    pub async fn stop_vm(&self, name: &Name) -> Result<Vm, ServiceError> {
        Ok(self.parts.registry.stop(name).await?)
    }

    /// Wants a VM down and up again.
    ///
    /// # Errors
    /// As [`Service::start_vm`].
    pub async fn restart_vm(&self, name: &Name) -> Result<Vm, ServiceError> {
        self.parts.registry.get(name)?;
        self.check_kernel()?;
        Ok(self.parts.registry.restart(name).await?)
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
        let paths = self.parts.registry.paths(name)?;
        Ok(self.parts.consoles.open(name, &paths.state_dir))
    }

    /// The console of a VM that runs: only a guest can answer what is typed.
    ///
    /// # Errors
    /// If there is no such VM, or it does not run.
    pub fn running_console(&self, name: &Name) -> Result<Arc<Console>, ServiceError> {
        let status = self.get_vm(name)?.status;
        if matches!(
            status,
            VmStatus::Running | VmStatus::Starting | VmStatus::Stopping
        ) {
            self.console(name)
        } else {
            let message = format!(
                "The VM `{name}` has no console now: it is {}",
                status.as_str()
            );
            Err(ServiceError::new(ErrorKind::WrongPhase, message)
                .hint(format!("`volar vms logs {name}` shows what it wrote, `volar vms start {name}` starts it")))
        }
    }

    /// How much of everything there is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn summary(&self) -> Result<SystemSummary, ServiceError> {
        let vms = self.list_vms();
        let plugins = self.parts.store.plugins().await?;
        let count = |key: &dyn Fn(&Vm) -> String| {
            vms.iter().fold(BTreeMap::new(), |mut counts, vm| {
                *counts.entry(key(vm)).or_insert(0) += 1;
                counts
            })
        };
        Ok(SystemSummary {
            total_vms: vms.len(),
            by_status: count(&|vm| vm.status.as_str().to_owned()),
            by_runtime: count(&|vm| vm.runtime.clone()),
            total_plugins: plugins.len(),
            enabled_plugins: plugins.iter().filter(|plugin| plugin.enabled).count(),
        })
    }
}

/// Whether what the guest writes is lost when it stops, as its creator asks.
fn choose_layer(manifest: &mut Manifest, ephemeral: bool) -> Result<(), ServiceError> {
    match &mut manifest.rootfs {
        Some(rootfs) => rootfs.ephemeral = ephemeral,
        // What a guest without a root file system writes is in its memory anyway.
        None if ephemeral => {}
        None => {
            let detail = format!(
                "The plugin `{}` boots an initramfs: what its VMs write is in memory and cannot be kept",
                manifest.name
            );
            return Err(ServiceError::field("/ephemeral", detail));
        }
    }
    Ok(())
}

impl From<MachineError> for ServiceError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Exists { ref name } => {
                let hint = format!("Choose another name, or `volar vms delete {name}` first");
                Self::new(ErrorKind::VmExists, error.to_string()).hint(hint)
            }
            MachineError::NotFound { ref name } => Self::no_vm(name),
            MachineError::Denied { .. } => Self::new(ErrorKind::WrongPhase, error.to_string()),
            MachineError::NoAddress(_) => Self::new(ErrorKind::NoCapacity, error.to_string())
                .hint("Delete a VM, or configure a larger `subnet` for volantd"),
            MachineError::Cmdline(ref source) => Self::field("/kernel_cmdline", source.to_string()),
            MachineError::CannotLaunch(error) => Self::step(ErrorKind::Unavailable, error),
            MachineError::NotRemoved { .. } | MachineError::Interrupted { .. } => {
                Self::new(ErrorKind::Unavailable, error.to_string())
            }
            MachineError::Store { .. } | MachineError::Secret(_) => {
                Self::new(ErrorKind::Internal, error.to_string()).caused(error)
            }
        }
    }
}
