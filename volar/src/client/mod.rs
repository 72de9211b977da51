//! A typed client of volantd's REST API, over a unix socket or TCP. Prints nothing and reads no setting.
//!
//! It never follows redirects and never goes through a proxy: the API is a host's own, and its token must not leave it unasked.

mod console;
mod endpoint;
mod error;

use std::fmt;
use std::time::{Duration, Instant};

use common::api::{
    API_KEY_HEADER, CreateVm, InstalledPlugin, MAX_LONG_POLL_MS, PluginArtifact, PluginNames,
    Problem, SetEnabled, SystemInfo, Vm,
};
use common::manifest::Manifest;
use common::name::Name;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use console::{Console, ConsoleInput, ConsoleOutput};
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use error::ClientError;

/// How long a connection may take to be made. volantd is on this host or close to it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an ordinary call may take: volantd answers each from memory and its database.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a delete may take: it answers when everything is gone, after the guest had its time to stop.
const DELETE_TIMEOUT: Duration = Duration::from_mins(2);

/// How much longer than volantd a long-poll is waited for, so that its answer comes before our own deadline.
const LONG_POLL_SLACK: Duration = Duration::from_secs(10);

/// How long the daemon's version may take: it is shown by the way, nobody waits for it.
const INFO_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a log that is not followed may be silent. volantd reads it from a file.
const LOG_SILENCE: Duration = Duration::from_secs(30);

/// The largest answer that is read: some ten thousand VMs.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// The largest problem document that is read.
const MAX_PROBLEM_BYTES: usize = 256 * 1024;

/// A token of the API. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token, without the blanks around it. Nothing if it is empty or cannot be in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let usable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        usable.then(|| Self(text.to_owned()))
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// An answer, as a value and as the JSON that it came in.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// What this version of volar understands.
    pub value: T,
    /// All that volantd sent.
    pub json: String,
}

/// A call that was answered, for `--verbose`.
#[derive(Debug)]
pub struct Finished<'a> {
    /// Method and path.
    pub call: &'a str,
    /// The HTTP status, or nothing if there was no answer.
    pub status: Option<u16>,
    /// How long it took until the head of the answer was there.
    pub elapsed: Duration,
}

/// Is told of each call.
pub type Observer = fn(&Finished<'_>);

/// A client of one volantd.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: Option<Token>,
    observer: Option<Observer>,
}

impl Client {
    /// A client. Connects at the first call.
    ///
    /// # Errors
    /// [`ClientError::SetUp`] if the HTTP client cannot be made.
    pub fn new(
        endpoint: Endpoint,
        token: Option<Token>,
        observer: Option<Observer>,
    ) -> Result<Self, ClientError> {
        crate::tls::install_provider();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            // volantd speaks no TLS, and reading the system's certificates would cost each command 20 ms.
            .tls_certs_only(std::iter::empty())
            .http1_only()
            .user_agent(concat!("volar/", env!("CARGO_PKG_VERSION")));
        if let Endpoint::Unix(path) = &endpoint {
            builder = builder.unix_socket(path.as_path());
        }
        Ok(Self {
            http: builder.build().map_err(ClientError::SetUp)?,
            endpoint,
            token,
            observer,
        })
    }

    /// Where it connects to.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The daemon's version and what it runs VMs with.
    pub async fn system_info(&self) -> Result<Answer<SystemInfo>, ClientError> {
        self.get("/api/v1/system/info", INFO_TIMEOUT).await
    }

    /// The names of all plugins.
    pub async fn plugins(&self) -> Result<Answer<PluginNames>, ClientError> {
        self.get("/api/v1/plugins", CALL_TIMEOUT).await
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

    /// All VMs.
    pub async fn vms(&self) -> Result<Answer<Vec<Vm>>, ClientError> {
        self.get("/api/v1/vms", CALL_TIMEOUT).await
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
        let request = Request::new(Method::POST, "/api/v1/vms", CALL_TIMEOUT);
        self.json(request, Some(vm)).await
    }

    /// Asks for a VM to be started, stopped or started again; answers when that is accepted.
    pub async fn change_vm(&self, name: &Name, change: Change) -> Result<Answer<Vm>, ClientError> {
        let path = format!("/api/v1/vms/{name}/{}", change.as_str());
        let request = Request::new(Method::POST, &path, CALL_TIMEOUT);
        self.json(request, None::<&()>).await
    }

    /// Deletes a VM; answers when everything of it is gone.
    pub async fn delete_vm(&self, name: &Name) -> Result<(), ClientError> {
        let path = format!("/api/v1/vms/{name}");
        let request = Request::new(Method::DELETE, &path, DELETE_TIMEOUT);
        self.empty(request, None::<&()>).await
    }

    /// The serial log of a VM from its last `tail` lines on, all of it if not given.
    pub async fn logs(
        &self,
        name: &Name,
        tail: Option<u32>,
        follow: Follow,
    ) -> Result<LogStream, ClientError> {
        let mut path = format!(
            "/api/v1/vms/{name}/logs?follow={}",
            follow == Follow::Onwards
        );
        if let Some(lines) = tail {
            path.push_str("&tail=");
            path.push_str(&lines.to_string());
        }
        let call = format!("{} {path}", Method::GET);
        // No limit for the body: a log may be followed for days.
        let send = self.send(self.request(Method::GET, &path), &call, CALL_TIMEOUT);
        let response = tokio::time::timeout(CALL_TIMEOUT, send)
            .await
            .map_err(|_| ClientError::Timeout {
                call: call.clone(),
                limit: CALL_TIMEOUT,
            })??;
        Ok(LogStream {
            response: check_status(response, &call).await?,
            silence: (follow == Follow::No).then_some(LOG_SILENCE),
            endpoint: self.endpoint.clone(),
            call,
        })
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<Answer<T>, ClientError> {
        self.json(Request::new(Method::GET, path, limit), None::<&()>)
            .await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: Request<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<Answer<T>, ClientError> {
        let call = request.call();
        let json = self.text(request, body).await?;
        let value =
            serde_json::from_str(&json).map_err(|source| ClientError::Decode { call, source })?;
        Ok(Answer { value, json })
    }

    async fn empty(
        &self,
        request: Request<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<(), ClientError> {
        self.text(request, body).await.map(drop)
    }

    async fn text(
        &self,
        request: Request<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<String, ClientError> {
        let call = request.call();
        let limit = request.limit;
        let mut builder = self.request(request.method, request.path).timeout(limit);
        if let Some(body) = body {
            builder = builder.json(body);
        }
        let response = self.send(builder, &call, limit).await?;
        let response = check_status(response, &call).await?;
        let (bytes, complete) = read_bounded(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|source| ClientError::call(&self.endpoint, &call, limit, source))?;
        if !complete {
            return Err(ClientError::TooLarge {
                call,
                limit_bytes: MAX_ANSWER_BYTES,
            });
        }
        // JSON is UTF-8 (RFC 8259 §8.1): anything else fails to parse, with a position.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!(
            "http://{}{}{path}",
            self.endpoint.authority(),
            self.endpoint.prefix()
        );
        let builder = self.http.request(method, url);
        match &self.token {
            Some(token) => builder.header(API_KEY_HEADER, token.expose()),
            None => builder,
        }
    }

    async fn send(
        &self,
        builder: RequestBuilder,
        call: &str,
        limit: Duration,
    ) -> Result<Response, ClientError> {
        let begun = Instant::now();
        let result = builder.send().await;
        if let Some(observer) = self.observer {
            observer(&Finished {
                call,
                status: result.as_ref().ok().map(|r| r.status().as_u16()),
                elapsed: begun.elapsed(),
            });
        }
        result.map_err(|source| ClientError::call(&self.endpoint, call, limit, source))
    }
}

/// What is asked of a VM that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To run.
    Start,
    /// To be down.
    Stop,
    /// To be down and run again.
    Restart,
}

impl Change {
    /// The word in the path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// Whether a log goes on with what is written later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It ends with what is there.
    No,
    /// It goes on until the VM is deleted.
    Onwards,
}

/// A log that arrives in pieces.
#[derive(Debug)]
pub struct LogStream {
    response: Response,
    silence: Option<Duration>,
    endpoint: Endpoint,
    call: String,
}

impl LogStream {
    /// The next piece, as the guest wrote it; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let limit = self.silence.unwrap_or(Duration::MAX);
        let chunk = self.response.chunk();
        let result = match self.silence {
            Some(silence) => match tokio::time::timeout(silence, chunk).await {
                Ok(result) => result,
                Err(_) => {
                    return Err(ClientError::Timeout {
                        call: self.call.clone(),
                        limit,
                    });
                }
            },
            None => chunk.await,
        };
        match result {
            Ok(bytes) => Ok(bytes.map(|bytes| bytes.to_vec())),
            Err(source) => Err(ClientError::call(&self.endpoint, &self.call, limit, source)),
        }
    }
}

/// One call.
struct Request<'a> {
    method: Method,
    path: &'a str,
    limit: Duration,
}

impl<'a> Request<'a> {
    const fn new(method: Method, path: &'a str, limit: Duration) -> Self {
        Self {
            method,
            path,
            limit,
        }
    }

    fn call(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// Lets a success through; anything else becomes the error that its body describes.
async fn check_status(response: Response, call: &str) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = match read_bounded(response, MAX_PROBLEM_BYTES).await {
        Ok((bytes, _)) => bytes,
        // The status says enough; a body that breaks off adds nothing.
        Err(_) => Vec::new(),
    };
    Err(refused(status.as_u16(), &body, call))
}

/// The error that a status and its body describe.
fn refused(status: u16, body: &[u8], call: &str) -> ClientError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ClientError::Refused(Box::new(Problem { status, ..problem })),
        Err(_) => ClientError::Status {
            call: call.to_owned(),
            status,
        },
    }
}

/// Reads at most `limit` bytes; says whether that was all.
async fn read_bounded(
    mut response: Response,
    limit: usize,
) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > limit {
            return Ok((bytes, false));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, true))
}
