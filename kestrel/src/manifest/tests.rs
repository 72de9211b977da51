//! What a manifest from each source becomes. Fetches only from loopback.

use common::cmdline::{encode_manifest, parse};
use common::error_chain::Chain;
use common::guest_config::{GuestConfig, Secret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn manifest(name: &str) -> Manifest {
    let json = format!(
        r#"{{"name":"{name}","version":"1","initramfs":{{"url":"/x"}},"workload":{{"type":"exec","entrypoint":["/x"],"env":{{"FROM":"manifest"}}}}}}"#
    );
    Manifest::from_json(json.as_bytes()).unwrap()
}

fn config(manifest: Option<Manifest>, env: &[(&str, &str)]) -> GuestConfig {
    GuestConfig {
        secret: Secret::from_stored("s".to_owned()),
        env: env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        manifest,
    }
}

fn facts(line: &str, config: Option<GuestConfig>) -> Facts {
    Facts {
        words: parse(line),
        config,
        ..Facts::default()
    }
}

/// Serves the answers in their order, and says what was asked.
async fn api(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let line = format!("{KEY_API_HOST}=127.0.0.1 {KEY_API_PORT}={port} {KEY_PLUGIN}=caddy");
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            asked.push(String::from_utf8(head[..read].to_vec()).unwrap());
            // The guest may hang up before it has read all.
            drop(stream.write_all(answer.as_bytes()).await);
        }
        asked
    });
    (line, task)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn the_command_line_comes_before_the_guest_config() {
    let line = format!("{KEY_MANIFEST}={}", encode_manifest(&manifest("line")));
    let in_config = || Some(config(Some(manifest("config")), &[]));
    let table = [
        (facts(&line, in_config()), Some("line")),
        (facts("", in_config()), Some("config")),
        (
            facts(&format!("{KEY_MANIFEST}="), in_config()),
            Some("config"),
        ),
        (facts("", Some(config(None, &[]))), None),
        (facts("", None), None),
    ];
    for (facts, expected) in table {
        let found = local(&facts).unwrap();
        assert_eq!(
            found.as_ref().map(|manifest| manifest.name.as_str()),
            expected
        );
    }
}

#[test]
fn the_guest_configs_environment_replaces_the_manifests() {
    let line = format!("{KEY_MANIFEST}={}", encode_manifest(&manifest("line")));
    let given = facts(&line, Some(config(None, &[("KEY", "value")])));
    let env = local(&given).unwrap().unwrap().workload.env;
    assert_eq!(
        env.into_iter().collect::<Vec<_>>(),
        [("KEY".to_owned(), "value".to_owned())]
    );

    let none = facts(&line, Some(config(None, &[])));
    assert_eq!(
        local(&none).unwrap().unwrap().workload.env["FROM"],
        "manifest"
    );
}

#[test]
fn an_undecodable_manifest_is_not_skipped() {
    let facts = facts(
        &format!("{KEY_MANIFEST}=!!!"),
        Some(config(Some(manifest("config")), &[])),
    );
    let error = local(&facts).unwrap_err();
    assert_eq!(
        Chain(&error)
            .to_string()
            .split(": ")
            .take(2)
            .collect::<Vec<_>>(),
        [
            "The manifest on the kernel command line is refused",
            "The encoded manifest is not base64url"
        ]
    );
}

#[tokio::test]
async fn an_api_is_asked_until_it_answers() {
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned();
    let body = manifest("caddy").to_json();
    let (line, task) = api(vec![busy, String::new(), ok(&body)]).await;
    let found = fetch(&facts(&line, Some(config(None, &[("A", "b")]))))
        .await
        .unwrap();
    assert_eq!(found.name.as_str(), "caddy");
    assert_eq!(found.workload.env["A"], "b");
    let asked = task.await.unwrap();
    assert_eq!(asked.len(), 3);
    assert!(asked[0].starts_with("GET /api/v1/plugins/caddy/manifest HTTP/1.1\r\n"));
}

#[tokio::test]
async fn what_will_not_pass_is_not_asked_again() {
    let table = [
        (
            "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "It answered 404",
        ),
        (ok("{}"), "The answer is refused"),
        (
            ok(&"x".repeat(MAX_MANIFEST_BYTES + 1)),
            "The answer has more than 262144 bytes",
        ),
    ];
    for (answer, expected) in table {
        let (line, _task) = api(vec![answer]).await;
        let error = fetch(&facts(&line, None)).await.unwrap_err();
        let chain = Chain(&error).to_string();
        assert!(
            chain.starts_with("Cannot get the manifest from http://127.0.0.1:"),
            "{chain}"
        );
        assert!(chain.contains(expected), "{chain}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_never_answers_is_given_up() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let line = format!("{KEY_API_HOST}=127.0.0.1 {KEY_API_PORT}={port} {KEY_PLUGIN}=caddy");
    let began = Instant::now();
    let error = fetch(&facts(&line, None)).await.unwrap_err();
    assert!(began.elapsed() <= FETCH_BOUND);
    assert!(began.elapsed() >= FETCH_BOUND / 2);
    assert!(Chain(&error).to_string().ends_with("connection refused"));
}

#[test]
fn an_api_must_be_named_in_full() {
    let table = [
        ("", "No manifest"),
        ("volant.api_host=10.0.0.1", "`volant.api_port` is ``"),
        (
            "volant.api_host=10.0.0.1 volant.api_port=99999 volant.plugin=x",
            "`volant.api_port` is `99999`",
        ),
        (
            "volant.api_host=10.0.0.1 volant.api_port=1 volant.plugin=../x",
            "`volant.plugin` is `../x`",
        ),
    ];
    for (line, expected) in table {
        let error = Api::from_words(&parse(line)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
