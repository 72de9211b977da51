//! The versions of the installed plugins, in memory: each VM that is shown is compared with its plugin's, and the database is not asked for
//! that.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use common::api::Vm;
use common::name::Name;

use crate::store::PluginRecord;

/// The versions of the installed plugins.
#[derive(Debug, Default)]
pub(super) struct PluginVersions {
    by_name: RwLock<HashMap<Name, String>>,
}

impl PluginVersions {
    /// Takes all plugins up; what was known before is forgotten.
    pub(super) fn learn(&self, plugins: &[PluginRecord]) {
        let known = plugins
            .iter()
            .map(|plugin| (plugin.name.clone(), plugin.version.clone()));
        // The map is whole after every statement that changes it.
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = known.collect();
    }

    /// A VM with what its plugin could move it to.
    pub(super) fn mark(&self, mut vm: Vm) -> Vm {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        vm.upgrade_available = by_name
            .get(&vm.plugin)
            .filter(|installed| **installed != vm.plugin_version)
            .cloned();
        vm
    }
}
