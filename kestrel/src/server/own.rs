//! The agent's own answers: that it lives, how the guest is, what it uses and says, what time it is, and the request to stop.

use std::sync::Arc;
use std::time::Duration;

use common::agent::{
    CLOCK_TOLERANCE_MS, MAX_CLOCK_MS, MAX_STATUS_WAIT_MS, MIN_CLOCK_MS, SECRET_HEADER,
};
use common::manifest::MAX_WAIT_MS;
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::body::{AgentBody, empty, json, problem, streamed};
use super::{Agent, query};
use crate::signals::StopReason;
use crate::stats;
use crate::sys::{boot_time, unix_time};

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
    agent.board.oom_kills(stats::oom_kills());
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
        let wait_ms = query::number(query, "timeout_ms")?.unwrap_or(MAX_STATUS_WAIT_MS);
        Ok(Self {
            after: query::number(query, "after")?,
            wait: Duration::from_millis(wait_ms.min(MAX_STATUS_WAIT_MS)),
        })
    }
}

/// What the guest uses.
pub(super) fn stats(agent: &Agent) -> Response<AgentBody> {
    let stats = stats::now();
    agent.board.oom_kills(Some(stats.oom_kills));
    // A structure of numbers always has a JSON form.
    let text = serde_json::to_string(&stats).unwrap_or_default();
    json(StatusCode::OK, text)
}

/// The lines after `after`, and each as it comes.
pub(super) fn logs(agent: &Arc<Agent>, query: &str) -> Response<AgentBody> {
    let after = match query::number(query, "after") {
        Ok(after) => after.unwrap_or(0),
        Err(detail) => return problem(StatusCode::BAD_REQUEST, "invalid-request", &detail),
    };
    let Some(place) = agent.log.place() else {
        let detail = "Too many read this guest's log already";
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too-many-readers", detail);
    };
    // One piece on its way: the next is put together when the reader has taken it.
    let (sender, chunks) = mpsc::channel(1);
    let log = Arc::clone(&agent.log);
    tokio::spawn(async move {
        log.follow(after, sender).await;
        drop(place);
    });
    let unanswered = Some(agent.board.unanswered());
    streamed("application/x-ndjson", chunks, unanswered)
}

/// Sets the guest's clock, if it is wrong.
pub(super) fn clock(agent: &Agent, query: &str) -> Response<AgentBody> {
    let invalid = |detail: &str| problem(StatusCode::BAD_REQUEST, "invalid-request", detail);
    let unix_ms = match query::number(query, "unix_ms") {
        Ok(Some(unix_ms)) if (MIN_CLOCK_MS..=MAX_CLOCK_MS).contains(&unix_ms) => unix_ms,
        Ok(_) => {
            let detail =
                format!("`unix_ms` must be a time between {MIN_CLOCK_MS} and {MAX_CLOCK_MS} ms");
            return invalid(&detail);
        }
        Err(detail) => return invalid(&detail),
    };
    let time = Duration::from_millis(unix_ms);
    if !is_wrong(unix_time(), time) {
        return empty(StatusCode::NO_CONTENT);
    }
    match (agent.set_clock)(time) {
        Ok(()) => empty(StatusCode::NO_CONTENT),
        Err(error) => {
            let detail = format!("The guest's clock cannot be set: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "clock-not-set", &detail)
        }
    }
}

fn is_wrong(clock: Duration, time: Duration) -> bool {
    clock.abs_diff(time) > Duration::from_millis(CLOCK_TOLERANCE_MS)
}

/// Asks the guest to stop.
pub(super) fn shutdown(agent: &Agent, query: &str) -> Response<AgentBody> {
    let grace_ms = match query::number(query, "grace_ms") {
        Ok(grace_ms) => grace_ms,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, "invalid-request", &detail),
    };
    let grace = grace_ms.map(|ms| Duration::from_millis(ms.min(MAX_WAIT_MS)));
    agent.stop.ask_within(StopReason::Request, grace);
    json(StatusCode::ACCEPTED, r#"{"status":"stopping"}"#.to_owned())
}

/// Refuses whoever does not know the guest's secret.
pub(super) fn check_secret(agent: &Agent, headers: &HeaderMap) -> Option<Response<AgentBody>> {
    let Some(presented) = headers.get(SECRET_HEADER) else {
        let detail = format!("This needs the guest's secret in the header `{SECRET_HEADER}`");
        let status = StatusCode::UNAUTHORIZED;
        return Some(problem(status, "secret-missing", &detail));
    };
    let matches = agent
        .secret
        .as_ref()
        .zip(presented.to_str().ok())
        .is_some_and(|(secret, presented)| secret.matches(presented));
    if matches {
        return None;
    }
    let detail = if agent.secret.is_some() {
        "This is not the guest's secret"
    } else {
        "This guest was started without a secret, so nobody can use this part of its agent"
    };
    Some(problem(StatusCode::FORBIDDEN, "secret-wrong", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_beyond_its_tolerance() {
        let at = Duration::from_millis(MIN_CLOCK_MS);
        let tolerance = Duration::from_millis(CLOCK_TOLERANCE_MS);
        let more = tolerance + Duration::from_millis(1);
        let table = [
            (at, false),
            (at + tolerance, false),
            (at.saturating_sub(tolerance), false),
            (at + more, true),
            (at.saturating_sub(more), true),
            (Duration::ZERO, true),
        ];
        for (clock, expected) in table {
            assert_eq!(is_wrong(clock, at), expected, "{clock:?}");
        }
    }

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
