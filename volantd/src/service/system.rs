//! The daemon about itself: how busy its host is, how much there is of everything, and what takes the disk.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use common::api::{DiskItem, DiskUse, PluginState, SystemStatus, SystemSummary, Vm};

use super::{ErrorKind, Service, ServiceError};

/// How many files are counted: as many as nobody has, so that the answer comes.
const MAX_FILES: u64 = 1_000_000;

/// How deep folders are looked into; ours are flat.
const MAX_DEPTH: usize = 8;

/// What a block of [`std::os::unix::fs::MetadataExt::blocks`] is, in bytes (stat(2)).
const BLOCK_BYTES: u64 = 512;

impl Service {
    /// Whether the daemon works, and how busy its host is.
    ///
    /// # Errors
    /// If the host does not say.
    pub fn status(&self) -> Result<SystemStatus, ServiceError> {
        let percent = self.host_use.look().map_err(|error| {
            ServiceError::new(ErrorKind::Internal, "The host's load cannot be read").caused(error)
        })?;
        Ok(SystemStatus {
            status: "ok".to_owned(),
            vm_count: self.parts.registry.list().len(),
            cpu_percent: percent.cpu,
            mem_percent: percent.memory,
        })
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
            plugins: plugins
                .into_iter()
                .map(|plugin| PluginState {
                    name: plugin.name,
                    version: plugin.version,
                    enabled: plugin.enabled,
                })
                .collect(),
        })
    }

    /// What takes the disk.
    ///
    /// # Errors
    /// If the state folder or the database cannot be read.
    pub async fn disk_use(&self) -> Result<DiskUse, ServiceError> {
        let failed = |error: io::Error| {
            ServiceError::new(ErrorKind::Internal, "The state folder cannot be read").caused(error)
        };
        let reclaimable = self.unneeded().await?;
        let folder = self.parts.state_dir.clone();
        let counted = tokio::task::spawn_blocking(move || {
            let disk = nix::sys::statvfs::statvfs(folder.as_path())?;
            Ok((count(&folder)?, disk))
        });
        let counted = counted.await.map_err(io::Error::other).flatten();
        let (items, disk) = counted.map_err(failed)?;
        let block_bytes = disk.fragment_size();
        Ok(DiskUse {
            items,
            reclaimable_bytes: reclaimable.iter().map(|artifact| artifact.size_bytes).sum(),
            disk_total_bytes: disk.blocks().saturating_mul(block_bytes),
            disk_free_bytes: disk.blocks_available().saturating_mul(block_bytes),
        })
    }
}

/// What is in the state folder, by kind. Links are not followed; what goes meanwhile is not there.
fn count(state_dir: &Path) -> io::Result<Vec<DiskItem>> {
    let mut items: BTreeMap<&'static str, DiskItem> = BTreeMap::new();
    let mut left = MAX_FILES;
    let mut folders = vec![(state_dir.to_path_buf(), 0, None)];
    while let Some((folder, depth, kind)) = folders.pop() {
        let entries = match fs_err::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let kind = kind.unwrap_or_else(|| kind_of(&entry.file_name().to_string_lossy()));
            if found.is_dir() {
                if depth < MAX_DEPTH {
                    folders.push((entry.path(), depth + 1, Some(kind)));
                }
                continue;
            }
            let Some(less) = left.checked_sub(1) else {
                return Ok(items.into_values().collect());
            };
            left = less;
            let item = items.entry(kind).or_insert_with(|| DiskItem {
                kind: kind.to_owned(),
                files: 0,
                size_bytes: 0,
            });
            item.files += 1;
            item.size_bytes += found.blocks().saturating_mul(BLOCK_BYTES);
        }
    }
    Ok(items.into_values().collect())
}

/// What a file or folder of the state folder is.
fn kind_of(name: &str) -> &'static str {
    match name {
        "artifacts" => "artifacts",
        "media" => "media",
        "vms" => "vms",
        name if name.starts_with("state.db") => "database",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["artifacts/.partial", "vms/1"] {
            fs_err::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs_err::write(dir.path().join("state.db"), "x").unwrap();
        fs_err::write(dir.path().join("state.db-wal"), "x").unwrap();
        fs_err::write(dir.path().join("artifacts/.partial/a"), vec![1; 100_000]).unwrap();
        let sparse = fs_err::File::create(dir.path().join("vms/1/disk")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        fs_err::os::unix::fs::symlink("/", dir.path().join("vms/1/link")).unwrap();

        let items = count(dir.path()).unwrap();
        let of = |kind: &str| items.iter().find(|item| item.kind == kind).unwrap();
        assert_eq!(of("database").files, 2);
        assert!(of("artifacts").size_bytes >= 100_000);
        assert_eq!(of("vms").files, 2, "the link is not followed");
        assert!(of("vms").size_bytes < 1 << 20, "a hole takes no space");
        assert_eq!(items.len(), 3);
    }
}
