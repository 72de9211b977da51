//! The versions of the installed plugins, in memory: each VM that is shown is compared with its plugin's, and the database is not asked for
//! that.

use std::cmp::Ordering;
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
            .map(|installed| &installed.version)
            .filter(|installed| {
                **installed == vm.plugin_version || is_newer(installed, &vm.plugin_version)
            })
            .cloned();
        vm
    }
}

/// Whether a VM that runs one version of its plugin is told of the installed one. Versions are free text: of dotted numbers only a newer one
/// is told, of others any that differs.
fn is_newer(installed: &str, running: &str) -> bool {
    if installed == running {
        return false;
    }
    match (Numbered::parse(installed), Numbered::parse(running)) {
        (Some(installed), Some(running)) => installed.cmp(&running).is_gt(),
        _ => true,
    }
}

/// A version as most plugins write it: `[v]1.2.3[-pre][+build]`, with any count of numbers (the order is that of Semantic Versioning 2.0.0, 11).
#[derive(Debug)]
struct Numbered<'a> {
    numbers: Vec<u64>,
    pre_release: Option<&'a str>,
}

impl<'a> Numbered<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text
            .split_once('+')
            .map_or(text, |(version, _build)| version);
        let (numbers, pre_release) = match text.split_once('-') {
            Some((numbers, pre_release)) => (numbers, Some(pre_release)),
            None => (text, None),
        };
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        let mut numbers = numbers
            .split('.')
            .map(number)
            .collect::<Option<Vec<u64>>>()?;
        // `1.0` is `1`.
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        Some(Self {
            numbers,
            pre_release,
        })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let pre_release = match (self.pre_release, other.pre_release) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(own), Some(other)) => identifiers(own).cmp(identifiers(other)),
        };
        self.numbers.cmp(&other.numbers).then(pre_release)
    }
}

/// The parts of a pre-release in an order of their own: numbers count, and come before words.
fn identifiers(pre_release: &str) -> impl Iterator<Item = (bool, u64, &str)> {
    pre_release.split('.').map(|part| match part.parse() {
        Ok(number) => (false, number, ""),
        Err(_) => (true, 0, part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_version_is_told_where_that_can_be_seen() {
        let table = [
            ("1", "9", false),
            ("9", "1", true),
            ("1.10", "1.9", true),
            ("1.9", "1.10", false),
            ("v2.0.0", "1.99.99", true),
            ("1.0", "1", false),
            ("1.0.1", "1", true),
            ("1.0.0-rc.1", "1.0.0", false),
            ("1.0.0", "1.0.0-rc.1", true),
            ("1.0.0-rc.10", "1.0.0-rc.9", true),
            ("1.0.0-beta", "1.0.0-7", true),
            ("1.0.0+b", "1.0.0+a", false),
            ("2", "2", false),
            // Not comparable: another one is all that can be said.
            ("blue", "green", true),
            ("green", "green", false),
            ("nightly", "1.0", true),
            ("1.0", "nightly", true),
            ("", "1", true),
            ("99999999999999999999", "1", true),
        ];
        for (installed, running, expected) in table {
            assert_eq!(
                is_newer(installed, running),
                expected,
                "{installed} installed, {running} runs"
            );
        }
    }
}
