//! Calls into a guest and about it: what it uses, its API's description, and calls of that API.

use std::time::Duration;

use common::api::VmStats;
use common::name::Name;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{
    Answer, CALL_TIMEOUT, Client, ClientError, MAX_ANSWER_BYTES, check_status, query, read_bounded,
};

/// A call of a workload's API.
#[derive(Debug, Clone)]
pub struct AgentCall {
    /// The method.
    pub method: Method,
    /// The path, beginning with `/`.
    pub path: String,
    /// The query.
    pub query: Vec<(String, String)>,
    /// The body; JSON if it can be read as such.
    pub body: Option<Vec<u8>>,
    /// How long it may take.
    pub limit: Duration,
}

/// What a workload answered.
#[derive(Debug, Clone)]
pub struct CallAnswer {
    /// The HTTP status.
    pub status: u16,
    /// Whether it is JSON, and the workload calls it so.
    pub is_json: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// What a VM uses.
    pub async fn stats(&self, name: &Name) -> Result<Answer<VmStats>, ClientError> {
        self.get(&format!("/api/v1/vms/{name}/stats"), CALL_TIMEOUT)
            .await
    }

    /// What all VMs use that run.
    pub async fn all_stats(&self) -> Result<Answer<Vec<VmStats>>, ClientError> {
        self.get("/api/v1/stats", CALL_TIMEOUT).await
    }

    /// The description of a workload's API.
    pub async fn vm_openapi(&self, name: &Name) -> Result<Answer<Value>, ClientError> {
        self.get(&format!("/api/v1/vms/{name}/openapi"), CALL_TIMEOUT)
            .await
    }

    /// Calls a workload's API through its agent, which takes its `/v1` away. A refusal of the workload is an answer; one of volantd is an
    /// error.
    pub async fn call_workload(
        &self,
        name: &Name,
        call: &AgentCall,
    ) -> Result<CallAnswer, ClientError> {
        let pairs: Vec<(&str, &str)> = call
            .query
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let path = format!("/api/v1/vms/{name}/agent/v1{}{}", call.path, query(&pairs));
        let what = format!("{} {}", call.method, call.path);
        let mut builder = self.request(call.method.clone(), &path).timeout(call.limit);
        if let Some(body) = &call.body {
            let json = serde_json::from_slice::<Value>(body).is_ok();
            let kind = if json {
                "application/json"
            } else {
                "application/octet-stream"
            };
            builder = builder.header(CONTENT_TYPE, kind).body(body.clone());
        }
        let response = self.send(builder, &what, call.limit).await?;
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let (is_json, is_problem) = (kind.contains("json"), kind.contains("problem+json"));
        let status = response.status().as_u16();
        let response = if is_problem {
            check_status(response, &what).await?
        } else {
            response
        };
        let (body, complete) = read_bounded(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|source| ClientError::call(&self.endpoint, &what, call.limit, source))?;
        if !complete {
            return Err(ClientError::TooLarge {
                call: what,
                limit_bytes: MAX_ANSWER_BYTES,
            });
        }
        // The workload may call anything JSON.
        let is_json = is_json && serde_json::from_slice::<IgnoredAny>(&body).is_ok();
        Ok(CallAnswer {
            status,
            is_json,
            body,
        })
    }
}
