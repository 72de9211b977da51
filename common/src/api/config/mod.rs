//! A VM's configuration: what its user chose beside its plugin's manifest. Versions are counted from 1. Pure: paths are not looked at and
//! nothing is fetched.
//!
//! Names are those of the Go system. What this version cannot do yet (devices, cloud-init, other networks, published ports) is
//! kept and given back as long as it asks for nothing: see [`VmConfig::not_implemented`].

pub(super) mod lenient;
mod patch;
mod rules;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest, Protocol, RestartPolicy, Rootfs, RootfsFormat};
use crate::name::Name;

pub use patch::{ConfigPatch, ResourcesPatch};

/// The most versions of a VM's configuration that are kept. The present one always is.
pub const MAX_CONFIG_VERSIONS: u32 = 50;

/// The most disks that a VM can be given beside its own: each takes a place on the guest's one bus.
pub const MAX_EXTRA_DISKS: usize = 16;

/// The longest name of a disk: the serial number of a virtio disk has 20 bytes (virtio 1.2, 5.2.6.1).
pub const MAX_DISK_NAME_BYTES: usize = 20;

/// A VM's configuration as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmConfig {
    /// The plugin that the VM runs. It never changes.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub plugin: Name,
    /// The plugin's runtime.
    pub runtime: String,
    /// The plugin's manifest as it was when the VM was created or last upgraded.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub manifest: Manifest,
    /// CPU and memory, where they differ from the manifest's.
    #[serde(default)]
    pub resources: ConfigResources,
    /// Arguments added to the kernel command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_cmdline: Option<String>,
    /// Another kernel: an absolute path on the host, in a folder that the daemon allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_override: Option<String>,
    /// An API that the guest may ask for its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ConfigApi>,
    /// Boots this initramfs instead of what the manifest names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<ConfigInitramfs>,
    /// Boots this root file system instead of what the manifest names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<ConfigRootfs>,
    /// Files of the host as further disks, after the VM's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<ConfigDisk>,
    /// Environment of the workload, over the manifest's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Free labels of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Value>))]
    pub metadata: BTreeMap<String, Value>,
    /// What happens when the VM ends by itself; the workload's policy if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub restart_policy: Option<RestartPolicy>,
    /// Whether what the guest writes is lost when it stops, where it boots a root file system; as the manifest says if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// How long the workload may take to end when the VM is stopped, in milliseconds; as the manifest says if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u64>,
    /// Ports that the workload serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<ConfigExpose>,
    /// Devices of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub devices: Option<Value>,
    /// Documents for cloud-init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub cloud_init: Option<Value>,
    /// The kind of network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub network: Option<Value>,
}

/// CPU and memory that a user chose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigResources {
    /// vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<u32>,
    /// Memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
}

/// An API that a guest may ask for its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfigApi {
    /// Its IP address.
    pub host: String,
    /// Its port, as a number or a text; 7777 if not given.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::port"
    )]
    #[cfg_attr(feature = "openapi", schema(schema_with = super::vm::port_schema))]
    pub port: Option<u16>,
}

/// An initramfs instead of the manifest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfigInitramfs {
    /// `http(s)://`, `file://` or an absolute path.
    pub url: String,
    /// The SHA-256 that it must have.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::digest"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub checksum: Option<Digest>,
}

/// A root file system instead of the manifest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfigRootfs {
    /// `http(s)://`, `file://` or an absolute path.
    pub url: String,
    /// The SHA-256 that it must have.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::digest"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub checksum: Option<Digest>,
    /// The file system that it must hold: `erofs`, `ext4` or `squashfs`. The content decides if not given, or if it is `raw`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::format"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub format: Option<RootfsFormat>,
}

/// A plain image file of the host that the guest sees as a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfigDisk {
    /// The disk's serial number in the guest (`/sys/block/vd*/serial`), at most [`MAX_DISK_NAME_BYTES`].
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: Name,
    /// The file: an absolute path, in a folder that the daemon allows.
    pub path: String,
    /// Whether the guest only reads it; `true` if not given.
    #[serde(default = "yes")]
    pub readonly: bool,
}

/// A port that the workload serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigExpose {
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP if not given.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub protocol: Protocol,
    /// The port in the guest, from 1.
    pub port: u16,
    /// The port of the host that leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// How it leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Answer of `GET /api/v1/vms/{name}/config`, and of what changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VersionedConfig {
    /// Its number, from 1.
    pub version: u64,
    /// When it was made, RFC 3339.
    pub updated_at: String,
    /// The configuration.
    pub config: VmConfig,
}

/// A row of `GET /api/v1/vms/{name}/config/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigHistoryEntry {
    /// Its number among those of all VMs.
    pub id: i64,
    /// Its number among those of this VM, from 1.
    pub version: u64,
    /// When it was made, RFC 3339.
    pub updated_at: String,
    /// The configuration.
    pub config: VmConfig,
}

/// Body of `POST /api/v1/vms/{name}/config/rollback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RollbackConfig {
    /// The version whose content becomes the newest one.
    pub version: u64,
}

/// Body of `POST /api/v1/vms/{name}/upgrade`. All optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpgradeVm {
    /// The version that the plugin must have; whichever it has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

fn yes() -> bool {
    true
}

impl VmConfig {
    /// The configuration of a VM for which nothing was chosen.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            plugin: manifest.name.clone(),
            runtime: manifest.runtime.clone(),
            manifest,
            resources: ConfigResources::default(),
            kernel_cmdline: None,
            kernel_override: None,
            api: None,
            initramfs: None,
            rootfs: None,
            disks: Vec::new(),
            env: BTreeMap::new(),
            metadata: BTreeMap::new(),
            restart_policy: None,
            ephemeral: None,
            stop_grace_ms: None,
            expose: Vec::new(),
            devices: None,
            cloud_init: None,
            network: None,
        }
    }

    /// Replaces the manifest by that of another version of the plugin.
    pub fn set_manifest(&mut self, manifest: Manifest) {
        self.runtime.clone_from(&manifest.runtime);
        self.manifest = manifest;
    }

    /// The manifest that the guest gets: with what this configuration changes of it.
    pub fn effective_manifest(&self) -> Manifest {
        let mut manifest = self.manifest.clone();
        manifest.workload.env.extend(self.env.clone());
        if let Some(initramfs) = &self.initramfs {
            manifest.rootfs = None;
            manifest.initramfs = Some(Artifact {
                url: initramfs.url.clone(),
                checksum: initramfs.checksum,
                format: None,
            });
        }
        if let Some(rootfs) = &self.rootfs {
            let known = manifest.rootfs.take();
            manifest.initramfs = None;
            manifest.rootfs = Some(Rootfs {
                url: rootfs.url.clone(),
                checksum: rootfs.checksum,
                format: rootfs.format,
                ephemeral: known.as_ref().is_some_and(|known| known.ephemeral),
                writable_mb: known.and_then(|known| known.writable_mb),
            });
        }
        if let (Some(rootfs), Some(ephemeral)) = (&mut manifest.rootfs, self.ephemeral) {
            rootfs.ephemeral = ephemeral;
        }
        manifest
    }

    /// vCPUs and memory in MiB.
    pub fn size(&self) -> (u32, u32) {
        let of_manifest = self.manifest.resources;
        (
            self.resources.cpu_cores.unwrap_or(of_manifest.cpu_cores),
            self.resources.memory_mb.unwrap_or(of_manifest.memory_mb),
        )
    }

    /// What happens when the VM ends by itself.
    pub fn restart_policy(&self) -> RestartPolicy {
        self.restart_policy
            .unwrap_or(self.manifest.workload.restart)
    }
}

#[cfg(test)]
mod tests;
