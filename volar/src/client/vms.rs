//! Calls about VMs as a whole.

use std::time::Duration;

use common::api::{CreateVm, MAX_LONG_POLL_MS, UpgradeVm, Vm};
use common::name::Name;
use reqwest::Method;

use super::configs::{FETCH_TIMEOUT, names_artifact};
use super::{Answer, CALL_TIMEOUT, Client, ClientError, Request, query};

/// How long a delete may take: it answers when everything is gone, after the guest had its time to stop.
const DELETE_TIMEOUT: Duration = Duration::from_mins(2);

/// How much longer than volantd a long-poll is waited for, so that its answer comes before our own deadline.
const LONG_POLL_SLACK: Duration = Duration::from_secs(10);

/// What is asked of a VM that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To run.
    Start,
    /// To be down, after this time at most; as its configuration says if not given.
    Stop(Option<Duration>),
    /// To be down and run again.
    Restart,
    /// To stand still.
    Pause,
    /// To go on.
    Resume,
}

impl Change {
    fn path(self) -> String {
        match self {
            Self::Start => "start".to_owned(),
            Self::Stop(None) => "stop".to_owned(),
            Self::Stop(Some(grace)) => format!("stop?grace_ms={}", grace.as_millis()),
            Self::Restart => "restart".to_owned(),
            Self::Pause => "pause".to_owned(),
            Self::Resume => "resume".to_owned(),
        }
    }
}

/// Which VMs are listed, and in which order.
#[derive(Debug, Clone, Default)]
pub struct VmFilter {
    /// In one of these states.
    pub statuses: Vec<String>,
    /// Of this plugin.
    pub plugin: Option<String>,
    /// With this in name, address or runtime.
    pub search: Option<String>,
    /// By this member.
    pub sort: Option<String>,
    /// Backwards.
    pub descending: bool,
    /// At most so many.
    pub limit: Option<u32>,
}

impl VmFilter {
    fn query(&self) -> String {
        let statuses = self.statuses.join(",");
        let limit = self.limit.map(|limit| limit.to_string());
        let pairs = [
            (
                "status",
                (!statuses.is_empty()).then_some(statuses.as_str()),
            ),
            ("plugin", self.plugin.as_deref()),
            ("q", self.search.as_deref()),
            ("sort", self.sort.as_deref()),
            ("order", self.descending.then_some("desc")),
            ("limit", limit.as_deref()),
        ];
        let given: Vec<(&str, &str)> = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        query(&given)
    }
}

impl Client {
    /// The VMs that `filter` lets through.
    pub async fn vms(&self, filter: &VmFilter) -> Result<Answer<Vec<Vm>>, ClientError> {
        self.get(&format!("/api/v1/vms{}", filter.query()), CALL_TIMEOUT)
            .await
    }

    /// A VM as it is.
    pub async fn vm(&self, name: &Name) -> Result<Answer<Vm>, ClientError> {
        self.get(&format!("/api/v1/vms/{name}"), CALL_TIMEOUT).await
    }

    /// A VM as soon as it is newer than `generation`, or as it is after `wait` (at most [`MAX_LONG_POLL_MS`]).
    pub async fn vm_after(
        &self,
        name: &Name,
        generation: u64,
        wait: Duration,
    ) -> Result<Answer<Vm>, ClientError> {
        let wait = wait.min(Duration::from_millis(MAX_LONG_POLL_MS));
        let path = format!(
            "/api/v1/vms/{name}?after={generation}&timeout_ms={}",
            wait.as_millis()
        );
        self.get(&path, wait + LONG_POLL_SLACK).await
    }

    /// Creates a VM; answers when it is recorded, not when it runs.
    pub async fn create_vm(&self, vm: &CreateVm) -> Result<Answer<Vm>, ClientError> {
        let limit = if vm.config.as_ref().is_some_and(names_artifact) {
            FETCH_TIMEOUT
        } else {
            CALL_TIMEOUT
        };
        let request = Request::new(Method::POST, "/api/v1/vms", limit);
        self.json(request, Some(vm)).await
    }

    /// Asks for a change of a VM; answers when that is accepted.
    pub async fn change_vm(&self, name: &Name, change: Change) -> Result<Answer<Vm>, ClientError> {
        let path = format!("/api/v1/vms/{name}/{}", change.path());
        let request = Request::new(Method::POST, &path, CALL_TIMEOUT);
        self.json(request, None::<&()>).await
    }

    /// Moves a VM to what its plugin is now, which must be `version` if given.
    pub async fn upgrade_vm(
        &self,
        name: &Name,
        version: Option<String>,
    ) -> Result<Answer<Vm>, ClientError> {
        let path = format!("/api/v1/vms/{name}/upgrade");
        let request = Request::new(Method::POST, &path, CALL_TIMEOUT);
        self.json(request, Some(&UpgradeVm { version })).await
    }

    /// Deletes a VM; answers when everything of it is gone.
    pub async fn delete_vm(&self, name: &Name) -> Result<(), ClientError> {
        let path = format!("/api/v1/vms/{name}");
        let request = Request::new(Method::DELETE, &path, DELETE_TIMEOUT);
        self.empty(request, None::<&()>).await
    }
}
