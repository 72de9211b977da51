//! A VM that is paused, goes on and is restarted over the API, with what a follower of events is told of it.

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;

use crate::guest_lab::{Lab, is_problem, json_of};

/// What a follower is told.
struct Told {
    body: Incoming,
    text: String,
}

impl Told {
    async fn of(lab: &Lab) -> Self {
        let answer: Response<Incoming> = lab.get("/api/v1/events/vms?vm=web").await;
        assert_eq!(answer.status(), 200);
        let (body, text) = (answer.into_body(), String::new());
        Self { body, text }
    }

    /// The next event's type and data.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let line = |key: &str| event.lines().find_map(|line| line.strip_prefix(key));
                let read = line("event: ")
                    .zip(line("data: "))
                    .map(|(kind, data)| (kind.to_owned(), serde_json::from_str(data).unwrap()));
                let past = self.text.len() - rest.len();
                self.text.drain(..past);
                match read {
                    Some(read) => return read,
                    None => continue,
                }
            }
            let frame = self.body.frame().await.unwrap().unwrap();
            let bytes = frame.into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// The types of all events up to the first of this type; with phases, the phase is in the place of the type.
    async fn until(&mut self, last: &str) -> Vec<String> {
        let mut kinds = Vec::new();
        loop {
            let (kind, data) = self.next().await;
            kinds.push(match &data["phase"] {
                Value::String(phase) => format!("phase {phase}"),
                _ => kind.clone(),
            });
            if kind == last {
                return kinds;
            }
        }
    }
}

async fn post(lab: &Lab, rest: &str) -> Value {
    let path = format!("/api/v1/vms/web{rest}");
    let answer = lab.call(Request::post(path).body(Body::empty()).unwrap());
    let answer = answer.await;
    assert_eq!(answer.status(), 200, "{rest}");
    json_of(answer).await
}

#[tokio::test]
async fn a_vm_is_paused_and_goes_on() {
    let lab = Lab::new(Router::new()).await;
    let mut told = Told::of(&lab).await;
    for _ in 0..2 {
        let paused = post(&lab, "/pause").await;
        assert_eq!(paused["status"], "paused", "{paused}");
        assert_eq!(paused["desired"], "running", "{paused}");
    }
    assert_eq!(lab.get_json("/api/v1/vms/web").await["status"], "paused");
    let through = lab.get("/api/v1/vms/web/agent/v1/x").await;
    is_problem(through, 409, "wrong-phase").await;
    for _ in 0..2 {
        let resumed = post(&lab, "/resume").await;
        assert_eq!(resumed["status"], "running", "{resumed}");
    }
    post(&lab, "/pause").await;
    assert_eq!(post(&lab, "/start").await["desired"], "running");
    lab.until("web", "running").await;
    let mut seen = told.until("VM_RESUMED").await;
    seen.extend(told.until("VM_RESUMED").await);
    seen.retain(|kind| !kind.starts_with("phase"));
    assert_eq!(
        seen,
        ["VM_PAUSED", "VM_RESUMED", "VM_PAUSED", "VM_RESUMED"],
        "each once, however often it was asked for"
    );
}

#[tokio::test]
async fn a_restart_is_told_as_an_end_and_a_start_and_each_phase_once() {
    let lab = Lab::new(Router::new()).await;
    let mut told = Told::of(&lab).await;
    post(&lab, "/restart").await;
    let mut down = told.until("VM_STOPPED").await;
    lab.restore_power();
    let mut up = told.until("VM_RUNNING").await;
    for phases in [&mut down, &mut up] {
        phases.retain(|kind| kind.starts_with("phase"));
        let mut known = phases.clone();
        known.sort();
        known.dedup();
        assert_eq!(known.len(), phases.len(), "{phases:?}");
    }
}
