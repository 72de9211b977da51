//! Calls about plugins.

use std::time::Duration;

use common::api::{InstalledPlugin, PluginArtifact, PluginList, PluginNames, SetEnabled};
use common::manifest::Manifest;
use common::name::Name;
use reqwest::Method;

use super::{Answer, CALL_TIMEOUT, Client, ClientError, Request};

impl Client {
    /// The names of all plugins.
    pub async fn plugins(&self) -> Result<Answer<PluginNames>, ClientError> {
        self.get("/api/v1/plugins", CALL_TIMEOUT).await
    }

    /// All plugins with what is known of each.
    pub async fn installed_plugins(&self) -> Result<Answer<PluginList>, ClientError> {
        self.get("/api/v1/plugins?detail=true", CALL_TIMEOUT).await
    }

    /// A plugin's manifest.
    pub async fn plugin(&self, name: &Name) -> Result<Answer<Manifest>, ClientError> {
        self.get(&format!("/api/v1/plugins/{name}"), CALL_TIMEOUT)
            .await
    }

    /// The artifacts of a plugin.
    pub async fn artifacts(&self, name: &Name) -> Result<Answer<Vec<PluginArtifact>>, ClientError> {
        self.get(&format!("/api/v1/plugins/{name}/artifacts"), CALL_TIMEOUT)
            .await
    }

    /// Installs a plugin; answers when volantd has fetched and verified its artifact, within `limit`.
    pub async fn install_plugin(
        &self,
        manifest: &Manifest,
        limit: Duration,
    ) -> Result<Answer<InstalledPlugin>, ClientError> {
        let request = Request::new(Method::POST, "/api/v1/plugins", limit);
        self.json(request, Some(manifest)).await
    }

    /// Lets VMs be created from a plugin, or no more.
    pub async fn set_plugin_enabled(&self, name: &Name, enabled: bool) -> Result<(), ClientError> {
        let path = format!("/api/v1/plugins/{name}/enabled");
        let request = Request::new(Method::POST, &path, CALL_TIMEOUT);
        self.empty(request, Some(&SetEnabled { enabled })).await
    }

    /// Removes a plugin.
    pub async fn remove_plugin(&self, name: &Name) -> Result<(), ClientError> {
        let path = format!("/api/v1/plugins/{name}");
        let request = Request::new(Method::DELETE, &path, CALL_TIMEOUT);
        self.empty(request, None::<&()>).await
    }
}
