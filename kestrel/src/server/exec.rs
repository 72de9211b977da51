//! `POST /agent/exec`: the change of protocol into a session. What a session is, is `session`.

use std::sync::Arc;

use common::agent::session::PROTOCOL;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::Agent;
use super::body::{AgentBody, empty, problem};
use super::passthrough::{set_upgrade, wanted_upgrade};

/// Answers, and runs the session once the connection is there.
pub(super) fn exec(agent: &Arc<Agent>, mut request: Request<Incoming>) -> Response<AgentBody> {
    let protocol = HeaderValue::from_static(PROTOCOL);
    if wanted_upgrade(request.headers()).is_none_or(|wanted| wanted != protocol) {
        let detail = format!("A command needs the connection: ask for an upgrade to `{PROTOCOL}`");
        let mut response = problem(StatusCode::UPGRADE_REQUIRED, "upgrade-required", &detail);
        response.headers_mut().insert(UPGRADE, protocol);
        return response;
    }
    let Some(place) = agent.sessions.place() else {
        let detail = "Too many commands run in this guest already";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return problem(status, "too-many-sessions", detail);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        if let Ok(connection) = upgrade.await {
            agent.sessions.serve(TokioIo::new(connection)).await;
        }
        drop(place);
    });
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    set_upgrade(response.headers_mut(), protocol);
    response
}
