//! What a request changes of a VM's configuration. Whether the result can be is in `rules`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{
    ConfigApi, ConfigDisk, ConfigExpose, ConfigInitramfs, ConfigRootfs, VmConfig, lenient,
};
use crate::manifest::{Manifest, RestartPolicy};
use crate::name::Name;

/// Body of `PATCH /api/v1/vms/{name}/config`, and `config` of `POST /api/v1/vms`: what is not named stays. `null` takes a choice back.
///
/// `resources`, `env` and `metadata` are changed member by member, everything else as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ConfigPatch {
    /// Must be the VM's plugin if given, in whatever case.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::plugin"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub plugin: Option<Name>,
    /// Must be the plugin's runtime if given, and not empty.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::text"
    )]
    pub runtime: Option<String>,
    /// See [`VmConfig::manifest`].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub manifest: Option<Manifest>,
    /// See [`VmConfig::resources`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesPatch>,
    /// See [`VmConfig::kernel_cmdline`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub kernel_cmdline: Option<Option<String>>,
    /// See [`VmConfig::kernel_override`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub kernel_override: Option<Option<String>>,
    /// See [`VmConfig::api`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ConfigApi>))]
    pub api: Option<Option<ConfigApi>>,
    /// See [`VmConfig::initramfs`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ConfigInitramfs>))]
    pub initramfs: Option<Option<ConfigInitramfs>>,
    /// See [`VmConfig::rootfs`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ConfigRootfs>))]
    pub rootfs: Option<Option<ConfigRootfs>>,
    /// See [`VmConfig::disks`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<ConfigDisk>>,
    /// See [`VmConfig::env`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Option<String>>,
    /// See [`VmConfig::metadata`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Value>))]
    pub metadata: BTreeMap<String, Option<Value>>,
    /// See [`VmConfig::restart_policy`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub restart_policy: Option<Option<RestartPolicy>>,
    /// See [`VmConfig::ephemeral`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<bool>))]
    pub ephemeral: Option<Option<bool>>,
    /// See [`VmConfig::stop_grace_ms`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub stop_grace_ms: Option<Option<u64>>,
    /// See [`VmConfig::expose`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expose: Option<Vec<ConfigExpose>>,
    /// See [`VmConfig::devices`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub devices: Option<Option<Value>>,
    /// See [`VmConfig::cloud_init`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub cloud_init: Option<Option<Value>>,
    /// See [`VmConfig::network`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub network: Option<Option<Value>>,
}

/// What changes of a VM's resources. `null` is the manifest's again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesPatch {
    /// vCPUs.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub cpu_cores: Option<Option<u32>>,
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub memory_mb: Option<Option<u32>>,
}

/// A member that is there, also where it is `null`.
#[expect(
    clippy::option_option,
    reason = "a member that is not there, `null` and a value are three things"
)]
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl ConfigPatch {
    /// Without what clients of the Go system send for nothing when they create a VM: sizes of 0 and empty addresses. In a change of
    /// a configuration these are mistakes.
    #[must_use]
    pub fn without_empty(mut self) -> Self {
        let is_given = |text: &Option<String>| text.as_ref().is_none_or(|text| !text.is_empty());
        self.resources = self.resources.map(|resources| ResourcesPatch {
            cpu_cores: resources.cpu_cores.filter(|number| *number != Some(0)),
            memory_mb: resources.memory_mb.filter(|number| *number != Some(0)),
        });
        self.kernel_override = self.kernel_override.filter(is_given);
        let names = |api: &Option<ConfigApi>| api.as_ref().is_none_or(|api| !api.host.is_empty());
        self.api = self.api.filter(names);
        let names =
            |boot: &Option<ConfigInitramfs>| boot.as_ref().is_none_or(|boot| !boot.url.is_empty());
        self.initramfs = self.initramfs.filter(names);
        let names =
            |boot: &Option<ConfigRootfs>| boot.as_ref().is_none_or(|boot| !boot.url.is_empty());
        self.rootfs = self.rootfs.filter(names);
        self
    }

    /// Changes `config`. A plugin that is not its own is the caller's to refuse.
    pub fn apply(self, config: &mut VmConfig) {
        #[expect(
            clippy::option_option,
            reason = "a member that is not there, `null` and a value are three things"
        )]
        fn set<T>(target: &mut Option<T>, change: Option<Option<T>>) {
            if let Some(value) = change {
                *target = value;
            }
        }
        fn merge<T>(target: &mut BTreeMap<String, T>, changes: BTreeMap<String, Option<T>>) {
            for (key, change) in changes {
                match change {
                    Some(value) => drop(target.insert(key, value)),
                    None => drop(target.remove(&key)),
                }
            }
        }
        if let Some(manifest) = self.manifest {
            config.set_manifest(manifest);
        }
        if let Some(runtime) = self.runtime {
            config.runtime = runtime;
        }
        if let Some(resources) = self.resources {
            set(&mut config.resources.cpu_cores, resources.cpu_cores);
            set(&mut config.resources.memory_mb, resources.memory_mb);
        }
        set(&mut config.kernel_cmdline, self.kernel_cmdline);
        set(&mut config.kernel_override, self.kernel_override);
        set(&mut config.api, self.api);
        set(&mut config.initramfs, self.initramfs);
        set(&mut config.rootfs, self.rootfs);
        config.disks = self.disks.unwrap_or_else(|| config.disks.clone());
        merge(&mut config.env, self.env);
        merge(&mut config.metadata, self.metadata);
        set(&mut config.restart_policy, self.restart_policy);
        set(&mut config.ephemeral, self.ephemeral);
        set(&mut config.stop_grace_ms, self.stop_grace_ms);
        config.expose = self.expose.unwrap_or_else(|| config.expose.clone());
        set(&mut config.devices, self.devices);
        set(&mut config.cloud_init, self.cloud_init);
        set(&mut config.network, self.network);
    }
}
