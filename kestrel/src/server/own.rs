//! The agent's own answers: that it lives, how the guest is, and the request to stop.

use std::sync::Arc;
use std::time::Duration;

use common::agent::{MAX_STATUS_WAIT_MS, SECRET_HEADER};
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};

use super::Agent;
use super::body::{AgentBody, json, problem};
use crate::signals::StopReason;
use crate::sys::boot_time;

pub(super) fn healthz(agent: &Agent) -> Response<AgentBody> {
    let uptime = boot_time().saturating_sub(agent.began).as_secs();
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(r#"{{"status":"ok","uptime":"{uptime}s","version":"{version}"}}"#);
    json(StatusCode::OK, text)
}

/// Answers at once, or with `after` when the generation is newer.
pub(super) async fn status(agent: &Agent, query: &str) -> Response<AgentBody> {
    let wanted = match Wanted::from_query(query) {
        Ok(wanted) => wanted,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, "invalid-request", &detail),
    };
    let unanswered = Some(agent.board.unanswered());
    let status = match wanted.after {
        Some(generation) => agent.board.newer_than(generation, wanted.wait).await,
        None => agent.board.now(),
    };
    // A structure of strings and numbers always has a JSON form.
    let text = serde_json::to_string(&status).unwrap_or_default();
    let mut response = json(StatusCode::OK, text);
    if let AgentBody::Own {
        unanswered: place, ..
    } = response.body_mut()
    {
        *place = unanswered;
    }
    response
}

/// What a status request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    after: Option<u64>,
    wait: Duration,
}

impl Wanted {
    fn from_query(query: &str) -> Result<Self, String> {
        let (mut after, mut wait_ms) = (None, MAX_STATUS_WAIT_MS);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("`{key}` must be a whole number"))
            };
            match key {
                "after" => after = Some(number()?),
                "timeout_ms" => wait_ms = number()?.min(MAX_STATUS_WAIT_MS),
                // Callers of later versions may say more.
                _ => {}
            }
        }
        Ok(Self {
            after,
            wait: Duration::from_millis(wait_ms),
        })
    }
}

/// Asks the guest to stop, for whoever knows its secret.
pub(super) fn shutdown(agent: &Arc<Agent>, headers: &HeaderMap) -> Response<AgentBody> {
    let Some(presented) = headers.get(SECRET_HEADER) else {
        let detail =
            format!("Stopping this guest needs its secret in the header `{SECRET_HEADER}`");
        return problem(StatusCode::UNAUTHORIZED, "secret-missing", &detail);
    };
    let matches = agent
        .secret
        .as_ref()
        .zip(presented.to_str().ok())
        .is_some_and(|(secret, presented)| secret.matches(presented));
    if !matches {
        let detail = if agent.secret.is_some() {
            "This is not the guest's secret"
        } else {
            "This guest was started without a secret, so nobody can stop it through its agent"
        };
        return problem(StatusCode::FORBIDDEN, "secret-wrong", detail);
    }
    agent.stop.ask(StopReason::Request);
    json(StatusCode::ACCEPTED, r#"{"status":"stopping"}"#.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_and_bounded() {
        let longest = Duration::from_millis(MAX_STATUS_WAIT_MS);
        let wanted = |after, wait| Ok(Wanted { after, wait });
        let table = [
            ("", wanted(None, longest)),
            ("after=7", wanted(Some(7), longest)),
            (
                "after=7&timeout_ms=20",
                wanted(Some(7), Duration::from_millis(20)),
            ),
            ("timeout_ms=999999999&after=0", wanted(Some(0), longest)),
            ("other=1&&x", wanted(None, longest)),
            ("after=", Err("`after` must be a whole number".to_owned())),
            ("after=-1", Err("`after` must be a whole number".to_owned())),
            (
                "timeout_ms=1s",
                Err("`timeout_ms` must be a whole number".to_owned()),
            ),
        ];
        for (query, expected) in table {
            assert_eq!(Wanted::from_query(query), expected, "{query}");
        }
    }
}
