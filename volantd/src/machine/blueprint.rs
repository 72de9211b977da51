//! What one launch of a VM is made of, resolved from a version of its configuration. Pure: no defaults are left, and nothing is looked at.

use std::path::PathBuf;

use common::digest::Digest;
use common::manifest::{Manifest, RestartPolicy};
use common::name::Name;

use super::ports::{DiskAccess, ExtraDisk};
use super::record::ConfigVersion;

/// The port of an API that guests may ask, unless told otherwise.
const DEFAULT_API_PORT: u16 = 7777;

/// What a VM is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blueprint {
    /// Its name.
    pub name: Name,
    /// The plugin that it runs.
    pub plugin: Name,
    /// The manifest that its guest gets.
    pub manifest: Manifest,
    /// The stored artifact that it boots.
    pub artifact: Digest,
    /// What of all this is its plugin's; see [`build`].
    pub build: Digest,
    /// vCPUs.
    pub cpu_cores: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Another kernel than the daemon's.
    pub kernel: Option<PathBuf>,
    /// Arguments that the user added to the kernel command line.
    pub extra_cmdline: String,
    /// An API that the guest may ask for its manifest.
    pub api: Option<(String, u16)>,
    /// Files of the host as further disks.
    pub disks: Vec<ExtraDisk>,
    /// What happens when the VM ends by itself.
    pub restart: RestartPolicy,
    /// How long the workload may take to end, where it is not as its manifest says, in milliseconds.
    pub stop_grace_ms: Option<u64>,
}

impl Blueprint {
    /// What a version of the configuration of the VM `name` comes to.
    pub fn of(name: &Name, chosen: &ConfigVersion) -> Self {
        let config = &chosen.config;
        let (cpu_cores, memory_mib) = config.size();
        let api = config.api.as_ref();
        // One that its user chose is no matter of the plugin.
        let is_chosen = config.initramfs.is_some() || config.rootfs.is_some();
        let own_artifact = (!is_chosen).then_some(&chosen.artifact);
        let disks = config.disks.iter().map(|disk| ExtraDisk {
            name: disk.name.clone(),
            path: PathBuf::from(&disk.path),
            access: if disk.readonly {
                DiskAccess::ReadOnly
            } else {
                DiskAccess::ReadWrite
            },
        });
        Self {
            name: name.clone(),
            plugin: config.plugin.clone(),
            manifest: config.effective_manifest(),
            artifact: chosen.artifact,
            build: build(&config.manifest, own_artifact),
            cpu_cores,
            memory_mib,
            kernel: config.kernel_override.as_ref().map(PathBuf::from),
            extra_cmdline: config.kernel_cmdline.clone().unwrap_or_default(),
            api: api.map(|api| (api.host.clone(), api.port.unwrap_or(DEFAULT_API_PORT))),
            disks: disks.collect(),
            restart: config.restart_policy(),
            stop_grace_ms: config.stop_grace_ms,
        }
    }
}

/// What a plugin is made of, as one digest: its manifest and its artifact, or without an artifact for a VM whose user chose another one.
pub fn build(manifest: &Manifest, artifact: Option<&Digest>) -> Digest {
    // A manifest has only texts for keys, so it can always be written; equal ones are written alike, because their maps are sorted.
    let manifest = serde_json::to_vec(manifest).unwrap_or_default();
    let artifact = artifact.map(Digest::to_string).unwrap_or_default();
    Digest::of(&[artifact.as_bytes(), b"\n", &manifest].concat())
}
