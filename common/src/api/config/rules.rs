//! What a configuration must fulfil, as far as it can be seen without the host. All problems are found at once.

use serde_json::Value;

use super::{ConfigExpose, MAX_DISK_NAME_BYTES, MAX_EXTRA_DISKS, VmConfig};
use crate::manifest::{FieldProblem, MAX_WAIT_MS, Manifest};

/// The most labels in `metadata`, and variables in `env`.
const MAX_ENTRIES: usize = 1024;

impl VmConfig {
    /// The first thing that it asks for and that no VM of this version can have: where, and a sentence.
    pub fn not_implemented(&self) -> Option<FieldProblem> {
        let refused = |pointer: &str, what: &str| {
            let detail = format!("{what} is not supported by this version of Volant");
            Some(FieldProblem::new(pointer, detail))
        };
        let passes = |devices: &Value| {
            let wanted = devices.get("pci_passthrough").and_then(Value::as_array);
            wanted.is_some_and(|wanted| !wanted.is_empty())
        };
        if self.devices.as_ref().is_some_and(passes) {
            return refused("/devices/pci_passthrough", "PCI passthrough");
        }
        let documents = |value: &Value| value.as_object().is_none_or(|value| !value.is_empty());
        if self.cloud_init.as_ref().is_some_and(documents) {
            return refused("/cloud_init", "cloud-init");
        }
        let mode = self.network.as_ref().and_then(|network| {
            let mode = network.get("mode").and_then(Value::as_str)?;
            Some(mode.trim().to_ascii_lowercase())
        });
        if !matches!(mode.as_deref(), None | Some("" | "bridged" | "bridge")) {
            return refused("/network/mode", "A network mode other than `bridged`");
        }
        let published = |expose: &ConfigExpose| expose.host_port.is_some_and(|port| port != 0);
        self.expose.iter().position(published).and_then(|index| {
            let what = "Publishing a port on the host (each VM is reached at its own address)";
            refused(&format!("/expose/{index}/host_port"), what)
        })
    }

    /// Everything that is wrong with it, as far as it can be seen without the host.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        let mut wrong = |pointer: String, detail: String| {
            problems.push(FieldProblem::new(pointer, detail));
        };
        if self.initramfs.is_some() && self.rootfs.is_some() {
            let detail = "A VM boots an initramfs or a root file system, not both";
            wrong("/rootfs".to_owned(), detail.to_owned());
        }
        if self.ephemeral == Some(false) && self.effective_manifest().rootfs.is_none() {
            let detail = format!(
                "The plugin `{}` boots an initramfs: what its VMs write is in memory and cannot be kept",
                self.plugin
            );
            wrong("/ephemeral".to_owned(), detail);
        }
        if self.runtime != self.manifest.runtime {
            let (plugin, runtime) = (&self.plugin, &self.manifest.runtime);
            let detail = format!("The plugin `{plugin}` has the runtime `{runtime}`");
            wrong("/runtime".to_owned(), detail);
        }
        if self.manifest.name != self.plugin {
            let detail = format!(
                "This is the manifest of the plugin `{}`",
                self.manifest.name
            );
            wrong("/manifest/name".to_owned(), detail);
        }
        if let Some(api) = &self.api
            && api.host.parse::<std::net::IpAddr>().is_err()
        {
            let detail = "The API's host must be an IP address: a guest has no names yet";
            wrong("/api/host".to_owned(), detail.to_owned());
        }
        if self.stop_grace_ms.is_some_and(|grace| grace > MAX_WAIT_MS) {
            let detail = format!("This must be at most {MAX_WAIT_MS} ms");
            wrong("/stop_grace_ms".to_owned(), detail);
        }
        for (pointer, entries) in [("/metadata", self.metadata.len()), ("/env", self.env.len())] {
            if entries > MAX_ENTRIES {
                let detail = format!("At most {MAX_ENTRIES} entries are kept");
                wrong(pointer.to_owned(), detail);
            }
        }
        for (index, expose) in self.expose.iter().enumerate() {
            if expose.port == 0 {
                let detail = "A port is from 1 to 65535".to_owned();
                wrong(format!("/expose/{index}/port"), detail);
            }
        }
        problems.extend(self.disk_problems());
        problems.extend(self.manifest_problems());
        problems
    }

    /// The JSON pointer of a member of what it boots, wherever that is named.
    pub fn boot_pointer(&self, member: &str) -> String {
        match (&self.rootfs, &self.initramfs) {
            (Some(_), _) => format!("/rootfs/{member}"),
            (None, Some(_)) => format!("/initramfs/{member}"),
            (None, None) => format!("/manifest{}", self.manifest.artifact().kind.pointer(member)),
        }
    }

    fn disk_problems(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if self.disks.len() > MAX_EXTRA_DISKS {
            let detail = format!("A VM can have at most {MAX_EXTRA_DISKS} disks beside its own");
            problems.push(FieldProblem::new("/disks", detail));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let name = &disk.name;
            if name.as_str().len() > MAX_DISK_NAME_BYTES {
                let detail =
                    format!("The name of a disk has at most {MAX_DISK_NAME_BYTES} characters");
                problems.push(FieldProblem::new(format!("/disks/{index}/name"), detail));
            }
            if self.disks[..index].iter().any(|other| other.name == *name) {
                let detail = format!("There are two disks named `{name}`");
                problems.push(FieldProblem::new(format!("/disks/{index}/name"), detail));
            }
        }
        problems
    }

    /// What the manifest's own rules say of the environment and the artifact that are put into it.
    fn manifest_problems(&self) -> Vec<FieldProblem> {
        let effective = self.effective_manifest();
        let Err(refused) = Manifest::from_json(effective.to_json().as_bytes()) else {
            return Vec::new();
        };
        let placed = refused.problems.into_iter().map(|problem| {
            let pointer = match problem.pointer.strip_prefix("/workload/env") {
                Some(rest) => format!("/env{rest}"),
                None if problem.pointer.ends_with("/url") => self.boot_pointer("url"),
                None => format!("/manifest{}", problem.pointer),
            };
            FieldProblem::new(pointer, problem.detail)
        });
        placed.collect()
    }
}
