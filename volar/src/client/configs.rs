//! Calls about the configurations of VMs.

use std::time::Duration;

use common::api::{ConfigHistoryEntry, ConfigPatch, RollbackConfig, VersionedConfig};
use common::name::Name;
use reqwest::Method;
use reqwest::header::IF_MATCH;
use serde::Deserialize as _;
use serde_json::Value;

use super::{Answer, CALL_TIMEOUT, Client, ClientError, Request};

/// How long a call may take that names an artifact: volantd answers when it has fetched it.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_mins(10);

/// Whether volantd may have to fetch something for this configuration.
pub fn names_artifact(config: &ConfigPatch) -> bool {
    config.manifest.is_some()
        || matches!(config.initramfs, Some(Some(_)))
        || matches!(config.rootfs, Some(Some(_)))
}

impl Client {
    /// The newest configuration of a VM.
    pub async fn config(&self, name: &Name) -> Result<Answer<VersionedConfig>, ClientError> {
        self.get(&format!("/api/v1/vms/{name}/config"), CALL_TIMEOUT)
            .await
    }

    /// Changes a VM's configuration. With `expected`, only if that is still its version.
    pub async fn patch_config(
        &self,
        name: &Name,
        patch: &Value,
        expected: Option<u64>,
        restart: bool,
    ) -> Result<Answer<VersionedConfig>, ClientError> {
        let suffix = if restart { "?restart=true" } else { "" };
        let path = format!("/api/v1/vms/{name}/config{suffix}");
        // What this version does not understand is volantd's to refuse.
        let limit = match ConfigPatch::deserialize(patch) {
            Ok(patch) if names_artifact(&patch) => FETCH_TIMEOUT,
            _ => CALL_TIMEOUT,
        };
        let mut request = Request::new(Method::PATCH, &path, limit);
        if let Some(version) = expected {
            request.header = Some((IF_MATCH, format!("\"{version}\"")));
        }
        self.json(request, Some(patch)).await
    }

    /// The versions of a VM's configuration, newest first.
    pub async fn config_history(
        &self,
        name: &Name,
        limit: u32,
    ) -> Result<Answer<Vec<ConfigHistoryEntry>>, ClientError> {
        let path = format!("/api/v1/vms/{name}/config/history?limit={limit}");
        self.get(&path, CALL_TIMEOUT).await
    }

    /// Makes an older version the newest one.
    pub async fn rollback_config(
        &self,
        name: &Name,
        version: u64,
    ) -> Result<Answer<VersionedConfig>, ClientError> {
        let path = format!("/api/v1/vms/{name}/config/rollback");
        let request = Request::new(Method::POST, &path, CALL_TIMEOUT);
        self.json(request, Some(&RollbackConfig { version })).await
    }
}
