//! Named calls into workloads, as manifests list them, and the description of a VM's API. What a workload answers is not understood here.

use std::time::Duration;

use common::api::{Vm, VmStatus};
use common::manifest::Action;
use common::name::Name;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{ErrorKind, GuestWay, Service, ServiceError, Way};
use crate::agent::{GuestBody, Trust};
use crate::outside::Outside;

/// Where the agent passes requests on to the workload.
const WORKLOAD: &str = "/v1";

/// How long an action may take whose manifest sets no limit.
const DEFAULT_ACTION_LIMIT: Duration = Duration::from_mins(2);

/// How long an action may take at most, whatever its manifest says: nobody waits longer for one answer.
const MAX_ACTION_LIMIT: Duration = Duration::from_hours(1);

/// The largest answer of an action, in bytes. The agent's proxy has no limit.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// How long a workload may take to give its own description.
const DESCRIPTION_LIMIT: Duration = Duration::from_secs(5);

/// What a workload answered to an action.
#[derive(Debug, Clone)]
pub struct ActionAnswer {
    /// The VM that was asked.
    pub vm: Name,
    /// The HTTP status.
    pub status: StatusCode,
    /// What kind of content it says it is.
    pub content_type: Option<HeaderValue>,
    /// The content, possibly none.
    pub body: Bytes,
}

/// The description of an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiDescription {
    /// `application/json` or `application/yaml`.
    pub content_type: &'static str,
    /// The document.
    pub document: Bytes,
}

impl Service {
    /// Calls an action of `plugin` in a VM, with the JSON object `input`.
    ///
    /// # Errors
    /// If there is no such VM, plugin or action, the VM does not run or is of another runtime, or the guest does not answer in time. What
    /// the workload refuses is an answer.
    pub async fn call_action(
        &self,
        vm: &Name,
        plugin: &Name,
        action: &str,
        input: Bytes,
    ) -> Result<ActionAnswer, ServiceError> {
        let found = self.get_vm(vm)?;
        let manifest = self.find_plugin(plugin).await?.manifest;
        let called = manifest.actions.get(action).ok_or_else(|| {
            let mut names: Vec<&str> = manifest.actions.keys().map(String::as_str).collect();
            names.truncate(20);
            let message = format!("The plugin `{plugin}` has no action `{action}`");
            let hint = if names.is_empty() {
                "Its manifest names no actions".to_owned()
            } else {
                format!("Its actions: {}", names.join(", "))
            };
            ServiceError::new(ErrorKind::ActionNotFound, message).hint(hint)
        })?;
        if found.runtime != manifest.runtime {
            let message = format!(
                "The plugin `{plugin}` has the runtime `{}`, and the VM `{vm}` is of `{}`",
                manifest.runtime, found.runtime
            );
            return Err(ServiceError::new(ErrorKind::RuntimeMismatch, message));
        }
        let way = self.way(vm, Way::Proxy)?;
        let limit = match called.timeout_ms {
            0 => DEFAULT_ACTION_LIMIT,
            limit_ms => Duration::from_millis(limit_ms).min(MAX_ACTION_LIMIT),
        };
        let answered = timeout(limit, answer(&way, called, input, limit)).await;
        answered.unwrap_or_else(|_| {
            let message = format!(
                "The action `{action}` of `{vm}` did not end within {} ms",
                limit.as_millis()
            );
            Err(ServiceError::new(ErrorKind::GuestTimedOut, message))
        })
    }

    /// Calls an action in the one VM of a plugin that runs.
    ///
    /// # Errors
    /// As [`Service::call_action`]; or if none or several run.
    pub async fn call_plugin_action(
        &self,
        plugin: &Name,
        action: &str,
        input: Bytes,
    ) -> Result<ActionAnswer, ServiceError> {
        self.find_plugin(plugin).await?;
        let running: Vec<Vm> = self
            .list_vms()
            .into_iter()
            .filter(|vm| vm.plugin == *plugin && vm.status == VmStatus::Running)
            .collect();
        if let [vm] = running.as_slice() {
            return self.call_action(&vm.name, plugin, action, input).await;
        }
        let (message, hint) = if running.is_empty() {
            let message = format!("No VM of the plugin `{plugin}` runs that could do it");
            (
                message,
                format!("`volar vms create NAME --plugin {plugin}` starts one"),
            )
        } else {
            let message = format!(
                "{} VMs of the plugin `{plugin}` run, so it is not clear which one is meant",
                running.len()
            );
            let hint = "Name the VM: `POST /api/v1/vms/{name}/actions/{plugin}/{action}`";
            (message, hint.to_owned())
        };
        Err(ServiceError::new(ErrorKind::AmbiguousVm, message).hint(hint))
    }

    /// The description of what a VM's workload serves: its own where it runs and has one, else the one that its manifest names.
    ///
    /// # Errors
    /// If there is no such VM, or no description can be had.
    pub async fn describe_api(&self, name: &Name) -> Result<ApiDescription, ServiceError> {
        let vm = self.get_vm(name)?;
        let named = match self.parts.registry.live(name)? {
            Some(guest) => guest.live.blueprint.manifest.openapi.clone(),
            None => self.find_plugin(&vm.plugin).await?.manifest.openapi,
        };
        let own = named.as_deref().filter(|named| named.starts_with('/'));
        if vm.status == VmStatus::Running {
            for path in ["/openapi"].into_iter().chain(own) {
                if let Some(description) = self.ask_for_description(name, path).await {
                    return Ok(description);
                }
            }
        }
        let Some(url) = named.as_deref().filter(|_| own.is_none()) else {
            let message = format!("Nothing describes the API of the VM `{name}`");
            return Err(ServiceError::new(ErrorKind::OpenapiNotFound, message).hint(
                "A workload serves its description at `/openapi`, or its manifest names an address as `openapi`",
            ));
        };
        let unavailable = || {
            let message =
                format!("The description of the API of `{name}` cannot be had from its address");
            ServiceError::new(ErrorKind::OpenapiUnavailable, message)
        };
        let outside = Outside::new(self.parts.limits.counts.max_openapi_bytes);
        let document = outside.fetch(url).await.map_err(|error| {
            let hint = error.to_string();
            unavailable().hint(hint).caused(error)
        })?;
        let content_type = description_type(&document)
            .ok_or_else(|| unavailable().hint("What is there is no OpenAPI document"))?;
        Ok(ApiDescription {
            content_type,
            document: document.into(),
        })
    }

    /// A workload's own description. None if it has none there.
    async fn ask_for_description(&self, name: &Name, path: &str) -> Option<ApiDescription> {
        let way = self.way(name, Way::Proxy).ok()?;
        let request = Request::get(format!("{WORKLOAD}{path}"))
            .header(ACCEPT, "application/json, application/yaml;q=0.9")
            .body(Full::<Bytes>::default())
            .ok()?;
        let limit = self.parts.limits.counts.max_openapi_bytes;
        let asked = async {
            let answer = way
                .open(Trust::Open, request, DESCRIPTION_LIMIT)
                .await
                .ok()?;
            let is_there = answer.status() == StatusCode::OK;
            let body = Limited::new(answer.into_body(), limit);
            let document = body.collect().await.ok().filter(|_| is_there)?.to_bytes();
            Some(ApiDescription {
                content_type: description_type(&document)?,
                document,
            })
        };
        timeout(DESCRIPTION_LIMIT, asked).await.ok()?
    }
}

/// Calls the action and reads the whole answer.
async fn answer(
    way: &GuestWay,
    action: &Action,
    input: Bytes,
    limit: Duration,
) -> Result<ActionAnswer, ServiceError> {
    let response = way
        .open(Trust::Open, request(action, input)?, limit)
        .await?;
    let (status, content_type) = (
        response.status(),
        response.headers().get(CONTENT_TYPE).cloned(),
    );
    Ok(ActionAnswer {
        vm: way.name().clone(),
        status,
        content_type,
        body: whole(way.name(), response).await?,
    })
}

fn request(action: &Action, input: Bytes) -> Result<Request<Full<Bytes>>, ServiceError> {
    let method = action.method.to_ascii_uppercase();
    // These have no body (RFC 9110 §9.3.1 and §9.3.2).
    let has_body = !matches!(method.as_str(), "GET" | "HEAD");
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap_or(Method::POST))
        .uri(format!("{WORKLOAD}{}", action.path));
    if has_body {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = if has_body { input } else { Bytes::new() };
    request.body(Full::new(body)).map_err(|error| {
        let message = format!("The path `{}` of the action is no path", action.path);
        ServiceError::new(ErrorKind::Invalid, message).caused(error)
    })
}

async fn whole(name: &Name, response: Response<GuestBody>) -> Result<Bytes, ServiceError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let collected = body.collect().await.map_err(|error| {
        let why = if error.is::<LengthLimitError>() {
            format!("answers with more than {MAX_ANSWER_BYTES} bytes")
        } else {
            "broke its answer off".to_owned()
        };
        let message = format!("The workload of `{name}` {why}");
        ServiceError::new(ErrorKind::GuestUnreachable, message)
    })?;
    Ok(collected.to_bytes())
}

/// What kind of description a document is, if it is one: many servers answer every path with some page.
fn description_type(document: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(document).ok()?;
    let members = ["openapi", "swagger"];
    if let Ok(object) = serde_json::from_str::<Map<String, Value>>(text) {
        let is_description = members.iter().any(|member| object.contains_key(*member));
        return is_description.then_some("application/json");
    }
    let is_description = text.lines().any(|line| {
        let key = line
            .split_once(':')
            .map(|(key, _)| key.trim_matches(['"', '\'']));
        key.is_some_and(|key| members.contains(&key))
    });
    is_description.then_some("application/yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_told_from_pages() {
        let table: [(&[u8], Option<&str>); 8] = [
            (br#"{"openapi": "3.1.0"}"#, Some("application/json")),
            (br#"{"swagger": "2.0"}"#, Some("application/json")),
            (br#"{"error": "openapi"}"#, None),
            (b"# A\nopenapi: 3.0.0\n", Some("application/yaml")),
            (b"'swagger': '2.0'\n", Some("application/yaml")),
            (b"<!doctype html>\n  openapi: 3\n", None),
            (b"", None),
            (b"openapi: \xff", None),
        ];
        for (document, expected) in table {
            assert_eq!(description_type(document), expected, "{document:?}");
        }
    }

    #[test]
    fn an_action_is_a_request_to_the_workload() {
        let action = |method: &str| Action {
            description: String::new(),
            method: method.to_owned(),
            path: "/a?b=c".to_owned(),
            timeout_ms: 0,
        };
        let post = request(&action("post"), Bytes::from("{}")).unwrap();
        assert_eq!(
            (post.method(), post.uri().to_string()),
            (&Method::POST, "/v1/a?b=c".to_owned())
        );
        assert!(post.headers().contains_key(CONTENT_TYPE));
        let get = request(&action("GET"), Bytes::from("{}")).unwrap();
        assert!(!get.headers().contains_key(CONTENT_TYPE));
    }
}
