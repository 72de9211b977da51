//! Clients that go away, and sources that stall: what was begun is finished, and nobody else waits for it.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::stream;
use hyper::Request;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::guest_lab::{Lab, json_of};
use crate::stores::archive;

/// How long a daemon that would give up is left to do so.
const LEAVING: Duration = Duration::from_millis(50);

/// A source of an artifact that begins to answer and goes on only when it is told to.
struct Source {
    url: String,
    asked: Arc<Semaphore>,
    goes_on: Arc<Semaphore>,
}

impl Source {
    async fn new() -> Self {
        let (asked, goes_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let state = (Arc::clone(&asked), Arc::clone(&goes_on));
        let serve = async move || {
            let (asked, goes_on) = state.clone();
            asked.add_permits(1);
            Body::from_stream(stream::once(async move {
                goes_on.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Bytes::from(archive()))
            }))
        };
        let routes = Router::new().route("/x.cpio", get(serve));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/x.cpio", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            url,
            asked,
            goes_on,
        }
    }

    async fn is_asked(&self) {
        self.asked.acquire().await.unwrap().forget();
    }
}

fn manifest(name: &str, url: impl serde::Serialize) -> Value {
    json!({
        "name": name, "version": "1", "initramfs": {"url": url},
        "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"},
    })
}

fn send(lab: &Arc<Lab>, method: &str, path: &str, body: &Value) -> tokio::task::JoinHandle<u16> {
    let request = Request::builder().method(method).uri(path);
    let request = request
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let lab = Arc::clone(lab);
    tokio::spawn(async move { lab.call(request).await.status().as_u16() })
}

async fn until_there(lab: &Lab, path: &str, is_there: impl Fn(&Value) -> bool) {
    while !is_there(&lab.get_json(path).await) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_was_begun_is_finished_without_its_client() {
    let lab = Arc::new(Lab::with_agent_at(1).await);
    let source = Source::new().await;
    let kept = json!({"version": "1", "artifact_name": "a", "source_url": source.url});
    let begun = [
        ("/api/v1/plugins", manifest("other", &source.url)),
        ("/api/v1/plugins/third/artifacts", kept),
    ];
    for (path, body) in begun {
        let client = send(&lab, "POST", path, &body);
        source.is_asked().await;
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        // So that a daemon that takes a client's leaving for the end of the work is seen to do so.
        tokio::time::sleep(LEAVING).await;
        source.goes_on.add_permits(1);
    }
    until_there(&lab, "/api/v1/plugins", |found| {
        found["plugins"]
            .as_array()
            .unwrap()
            .contains(&json!("other"))
    })
    .await;
    until_there(&lab, "/api/v1/plugins/third/artifacts", Value::is_array).await;
}

#[tokio::test]
async fn nobody_waits_for_the_source_of_another() {
    let lab = Arc::new(Lab::new(Router::new()).await);
    let source = Source::new().await;
    let begun = [
        (
            "PATCH",
            "/api/v1/vms/web/config",
            json!({"initramfs": {"url": source.url}}),
            200,
        ),
        (
            "POST",
            "/api/v1/plugins",
            manifest("other", &source.url),
            201,
        ),
    ];
    for (number, (method, path, body, status)) in begun.into_iter().enumerate() {
        let slow = send(&lab, method, path, &body);
        source.is_asked().await;
        let file = lab.artifact(&format!("quick{number}"));
        let quick = lab.post("/api/v1/plugins", manifest("quick", Path::new(&file)));
        assert_eq!(quick.await.status(), 201);
        let pruned = lab.post("/api/v1/system/prune", Value::Null).await;
        assert_eq!(pruned.status(), 200);
        assert_eq!(json_of(pruned).await["dry_run"], false);
        source.goes_on.add_permits(1);
        assert_eq!(slow.await.unwrap(), status, "{path}");
    }
}
