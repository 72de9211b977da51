//! Calls about the daemon itself, its files and the store of artifacts.

use std::time::Duration;

use common::api::{DiskUse, PluginArtifact, Pruned, PutArtifact, StoredArtifact, SystemInfo};
use common::digest::Digest;
use common::name::Name;
use reqwest::Method;

use super::{Answer, CALL_TIMEOUT, Client, ClientError, Request, query};

/// How long the daemon's version may take: it is shown by the way, nobody waits for it.
const INFO_TIMEOUT: Duration = Duration::from_secs(3);

/// How long removing files may take: artifacts are large, and a disk may be slow.
const REMOVE_TIMEOUT: Duration = Duration::from_mins(5);

impl Client {
    /// The daemon's version and what it runs VMs with.
    pub async fn system_info(&self) -> Result<Answer<SystemInfo>, ClientError> {
        self.get("/api/v1/system/info", INFO_TIMEOUT).await
    }

    /// What its files take of the disk.
    pub async fn disk_usage(&self) -> Result<Answer<DiskUse>, ClientError> {
        self.get("/api/v1/system/df", CALL_TIMEOUT).await
    }

    /// Removes the artifacts that nothing needs, or tells what it would remove.
    pub async fn prune(&self, dry_run: bool) -> Result<Answer<Pruned>, ClientError> {
        let path = format!("/api/v1/system/prune?dry_run={dry_run}");
        let request = Request::new(Method::POST, &path, REMOVE_TIMEOUT);
        self.json(request, None::<&()>).await
    }

    /// Removes an artifact that nothing needs.
    pub async fn remove_artifact(&self, digest: &Digest) -> Result<(), ClientError> {
        let path = format!("/api/v1/artifacts/{digest}");
        let request = Request::new(Method::DELETE, &path, REMOVE_TIMEOUT);
        self.empty(request, None::<&()>).await
    }

    /// All artifacts in the store.
    pub async fn all_artifacts(&self) -> Result<Answer<Vec<StoredArtifact>>, ClientError> {
        self.get("/api/v1/artifacts", CALL_TIMEOUT).await
    }

    /// Makes an artifact known to a plugin; answers when volantd has fetched and verified it, within `limit`.
    pub async fn add_artifact(
        &self,
        plugin: &Name,
        artifact: &PutArtifact,
        limit: Duration,
    ) -> Result<Answer<PluginArtifact>, ClientError> {
        let path = format!("/api/v1/plugins/{plugin}/artifacts");
        let request = Request::new(Method::POST, &path, limit);
        self.json(request, Some(artifact)).await
    }

    /// Removes the artifacts of a plugin, of one version only if given.
    pub async fn remove_artifacts(
        &self,
        plugin: &Name,
        version: Option<&str>,
    ) -> Result<(), ClientError> {
        let pairs: Vec<(&str, &str)> = version.map(|text| ("version", text)).into_iter().collect();
        let path = format!("/api/v1/plugins/{plugin}/artifacts{}", query(&pairs));
        let request = Request::new(Method::DELETE, &path, CALL_TIMEOUT);
        self.empty(request, None::<&()>).await
    }
}
