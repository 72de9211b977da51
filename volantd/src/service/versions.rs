//! The versions of the installed plugins, in memory: each VM that is shown is compared with its plugin's, and the database is not asked for
//! that.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use common::api::Vm;
use common::digest::Digest;
use common::name::Name;

use crate::machine::blueprint::build;
use crate::store::PluginRecord;

/// The versions of the installed plugins.
#[derive(Debug, Default)]
pub(super) struct PluginVersions {
    by_name: RwLock<HashMap<Name, Installed>>,
}

/// What is installed.
#[derive(Debug)]
struct Installed {
    version: String,
    /// The digests of a VM that has it, with the plugin's artifact and with one of its user's.
    builds: [Digest; 2],
}

impl Installed {
    fn of(plugin: &PluginRecord) -> Self {
        let manifest = &plugin.manifest;
        Self {
            version: plugin.version.clone(),
            builds: [
                build(manifest, Some(&plugin.artifact.digest)),
                build(manifest, None),
            ],
        }
    }
}

impl PluginVersions {
    /// Takes all plugins up; what was known before is forgotten.
    pub(super) fn learn(&self, plugins: &[PluginRecord]) {
        let known = plugins
            .iter()
            .map(|plugin| (plugin.name.clone(), Installed::of(plugin)));
        // The map is whole after every statement that changes it.
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = known.collect();
    }

    /// A VM with what its plugin could move it to.
    pub(super) fn mark(&self, mut vm: Vm) -> Vm {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        vm.upgrade_available = by_name
            .get(&vm.plugin)
            .filter(|installed| {
                vm.plugin_digest
                    .is_none_or(|has| !installed.builds.contains(&has))
            })
            .map(|installed| installed.version.clone());
        vm
    }
}
