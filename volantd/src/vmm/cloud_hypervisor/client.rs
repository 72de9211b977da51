//! The calls to a Cloud Hypervisor's API that Volant makes, around the generated client's flaws. Decides nothing about VMs.
//!
//! One call at a time and one connection each: the server admits ten connections, and serves calls one after the other anyway.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloud_hypervisor_client::SocketBasedApiClient;
use cloud_hypervisor_client::apis::configuration::Configuration;
use cloud_hypervisor_client::apis::{self, DefaultApi, DefaultApiClient};
use cloud_hypervisor_client::models::{VmConfig, VmState};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::machine::ports::StepError;

/// The most that is kept of an answer that is not what it should be, in characters.
const SHOWN_CHARS: usize = 300;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Cloud Hypervisor said no.
    #[error("Cloud Hypervisor refused {call} (status {status}): {}", messages.join(": "))]
    Rejected {
        /// The call.
        call: &'static str,
        /// The HTTP status. It says little: most refusals are 500.
        status: u16,
        /// Its causes, outermost first.
        messages: Vec<String>,
    },
    /// The answer is not of this API.
    #[error("Cloud Hypervisor's answer to {call} is not understood: {detail}")]
    Garbled {
        /// The call.
        call: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// There was no answer.
    #[error("The API of Cloud Hypervisor cannot be reached for {call}: {detail}")]
    Unreachable {
        /// The call.
        call: &'static str,
        /// Why.
        detail: String,
    },
    /// There was no answer in time.
    #[error("Cloud Hypervisor did not answer {call} within {} ms", wait.as_millis())]
    Late {
        /// The call.
        call: &'static str,
        /// How long was waited.
        wait: Duration,
    },
}

impl From<ClientError> for StepError {
    fn from(error: ClientError) -> Self {
        Self::new(error.to_string())
    }
}

/// The state of a VM in its VMM, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestState {
    /// Configured, not booted.
    Created,
    /// Booted.
    Running,
    /// Booted, and its CPUs stand still.
    Paused,
    /// Anything else.
    Other,
}

/// What a VMM says of its VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    /// Where it is.
    pub(super) state: GuestState,
    /// The pty of its serial line.
    pub(super) serial: Option<PathBuf>,
}

/// Counters by device and name.
pub(super) type Counters = HashMap<String, HashMap<String, i64>>;

/// A client of one Cloud Hypervisor.
pub(super) struct Client {
    api: Mutex<SocketBasedApiClient>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the API at a socket. Connects with each call.
    pub(super) fn new(socket: &Path) -> Self {
        let client = HyperClient::builder(TokioExecutor::new())
            // An idle connection would count against the server's ten.
            .pool_max_idle_per_host(0)
            .build(hyperlocal::UnixConnector);
        let base: hyper::Uri = hyperlocal::Uri::new(socket, "/api/v1").into();
        let configuration = Configuration {
            base_path: base.to_string(),
            user_agent: None,
            client,
        };
        Self {
            api: Mutex::new(DefaultApiClient::new(Arc::new(configuration))),
        }
    }

    /// Gives the VM its configuration.
    pub(super) async fn create(&self, config: VmConfig, wait: Duration) -> Result<(), ClientError> {
        self.call("vm.create", wait, |api| api.create_vm(config))
            .await
    }

    /// Boots the guest.
    pub(super) async fn boot(&self, wait: Duration) -> Result<(), ClientError> {
        self.call("vm.boot", wait, DefaultApi::boot_vm).await
    }

    /// Where the VM is, and its serial line.
    pub(super) async fn info(&self, wait: Duration) -> Result<Info, ClientError> {
        let info = self.call("vm.info", wait, DefaultApi::vm_info_get).await?;
        Ok(Info {
            state: match info.state {
                VmState::Created => GuestState::Created,
                VmState::Running => GuestState::Running,
                VmState::Paused => GuestState::Paused,
                VmState::Shutdown => GuestState::Other,
            },
            serial: info
                .config
                .serial
                .and_then(|serial| serial.file)
                .map(PathBuf::from),
        })
    }

    /// Makes the guest's CPUs stand still.
    pub(super) async fn pause(&self, wait: Duration) -> Result<(), ClientError> {
        self.call("vm.pause", wait, DefaultApi::pause_vm).await
    }

    /// Makes the guest's CPUs go on.
    pub(super) async fn resume(&self, wait: Duration) -> Result<(), ClientError> {
        self.call("vm.resume", wait, DefaultApi::resume_vm).await
    }

    /// What it counts of each of its devices.
    pub(super) async fn counters(&self, wait: Duration) -> Result<Counters, ClientError> {
        self.call("vm.counters", wait, DefaultApi::vm_counters_get)
            .await
    }

    /// Ends the VM and the VMM.
    pub(super) async fn shutdown_vmm(&self, wait: Duration) -> Result<(), ClientError> {
        self.call("vmm.shutdown", wait, DefaultApi::shutdown_vmm)
            .await
    }

    async fn call<T, F>(
        &self,
        call: &'static str,
        wait: Duration,
        ask: impl FnOnce(&SocketBasedApiClient) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, apis::Error>>,
    {
        // The wait for an earlier call counts too: it may hang for ever.
        let answer = timeout(wait, async {
            let api = self.api.lock().await;
            ask(&api).await
        });
        answer
            .await
            .map_err(|_| ClientError::Late { call, wait })?
            .map_err(|error| explain(call, error))
    }
}

/// Takes the generated client's error apart: it keeps its causes in its text only.
fn explain(call: &'static str, error: apis::Error) -> ClientError {
    match error {
        apis::Error::Api(answer) => ClientError::Rejected {
            call,
            status: answer.code.as_u16(),
            messages: messages(&answer.body),
        },
        apis::Error::Serde(error) => ClientError::Garbled {
            call,
            detail: error.to_string(),
        },
        apis::Error::HyperClient(error) => ClientError::Unreachable {
            call,
            detail: common::error_chain::Chain(&error).to_string(),
        },
        apis::Error::Hyper(error) => ClientError::Unreachable {
            call,
            detail: common::error_chain::Chain(&error).to_string(),
        },
        apis::Error::Header(error) => ClientError::Garbled {
            call,
            detail: error.to_string(),
        },
        apis::Error::Http(error) => ClientError::Garbled {
            call,
            detail: error.to_string(),
        },
        apis::Error::UriError(error) => ClientError::Garbled {
            call,
            detail: error.to_string(),
        },
    }
}

/// The causes in a refusal: a JSON array of texts, outermost first; the outermost always is `Error from API`.
fn messages(body: &str) -> Vec<String> {
    let mut messages = match serde_json::from_str::<Vec<String>>(body) {
        Ok(messages) if !messages.is_empty() => messages,
        _ if body.trim().is_empty() => vec!["no reason given".to_owned()],
        _ => vec![body.trim().to_owned()],
    };
    if messages.len() > 1 && messages[0] == "Error from API" {
        messages.remove(0);
    }
    for message in &mut messages {
        *message = message
            .chars()
            .filter(|c| !c.is_control())
            .take(SHOWN_CHARS)
            .collect();
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_causes_of_a_refusal_are_taken_apart() {
        let body = r#"["Error from API","The VM could not boot","Cannot open kernel file"]"#;
        assert_eq!(
            messages(body),
            ["The VM could not boot", "Cannot open kernel file"]
        );
        assert_eq!(messages(r#"["Error from API"]"#), ["Error from API"]);
        assert_eq!(messages(" busy\u{1b}\n"), ["busy"]);
        assert_eq!(messages(""), ["no reason given"]);
        assert_eq!(messages("[]"), ["[]"]);
        assert_eq!(messages(&"x".repeat(9999))[0].len(), SHOWN_CHARS);
    }

    #[tokio::test]
    async fn no_server_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(&folder.path().join("none.sock"));
        let error = client.info(Duration::from_secs(5)).await.unwrap_err();
        assert!(
            matches!(
                error,
                ClientError::Unreachable {
                    call: "vm.info",
                    ..
                }
            ),
            "{error}"
        );
    }
}
