//! The API of the real daemon about artifacts, the disk and requests that come twice.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;

use common::digest::Digest;
use fledge::image::initramfs;
use fledge::tree::{Content, Node, Tree};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::netns::{self, Namespace};

/// An initramfs whose content depends on `text`.
fn artifact(folder: &Path, text: &str) -> (PathBuf, Digest) {
    let path = folder.join(format!("{text}.cpio"));
    let mut tree = Tree::default();
    let init = Node::file(0o755, Content::Bytes(text.as_bytes().to_vec()));
    tree.replace(b"init", init).unwrap();
    let bytes = initramfs::write(&tree, Vec::new()).unwrap();
    fs_err::write(&path, &bytes).unwrap();
    (path, Digest::of(&bytes))
}

fn manifest(name: &str, url: &Path) -> String {
    json!({
        "name": name, "version": "2", "initramfs": {"url": url},
        "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"}
    })
    .to_string()
}

#[test]
fn artifacts_are_kept_for_versions_of_plugins() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, digest) = artifact(dir.path(), "one");
    let route = "/api/v1/plugins/x/artifacts";
    daemon
        .call("GET", route, "")
        .is_problem(404, "plugin-not-found");

    let put = json!({"version": "1", "artifact_name": "boot", "local_path": path, "checksum": digest.to_hex()});
    let kept = daemon.call("POST", route, &put.to_string());
    assert_eq!(kept.status, 201, "{kept:?}");
    let kept = kept.json();
    for (member, value) in [
        ("PluginName", json!("x")),
        ("Version", json!("1")),
        ("ArtifactName", json!("boot")),
        ("Kind", json!("initramfs")),
        ("SourceURL", json!(path)),
        ("Checksum", json!(digest)),
        ("pinned", json!(true)),
        ("signature", json!("none")),
        ("used_by", json!({"plugins": ["x"], "vms": []})),
    ] {
        assert_eq!(kept[member], value, "{member}");
    }
    assert!(kept["ID"].as_i64().unwrap() > 0);
    assert!(Path::new(kept["LocalPath"].as_str().unwrap()).exists());

    let listed = |query: &str| daemon.call("GET", &format!("{route}{query}"), "").json();
    assert_eq!(listed(""), json!([kept]));
    assert_eq!(listed("?version=1"), json!([kept]));
    assert_eq!(listed("?version=7"), json!([]));
    let stored = daemon.call("GET", &format!("/api/v1/artifacts/{digest}"), "");
    assert_eq!(stored.json()["pinned"], true);
    let one = daemon.call("GET", &format!("{route}/boot?version=1"), "");
    assert_eq!(one.json(), kept);
    daemon
        .call("GET", &format!("{route}/none?version=1"), "")
        .is_problem(404, "artifact-not-found");

    // The Go system's own names are understood, and the same version and name is replaced.
    let (other, _) = artifact(dir.path(), "two");
    let put = json!({"Version": "1", "ArtifactName": "boot", "LocalPath": other});
    assert_eq!(daemon.call("POST", route, &put.to_string()).status, 201);
    assert_eq!(listed("")[0]["pinned"], false);
    let stored = daemon.call("GET", "/api/v1/artifacts", "").json();
    assert_eq!(stored[0]["pinned"], false);
    daemon
        .call("GET", &format!("/api/v1/artifacts/{digest}"), "")
        .is_problem(404, "artifact-not-found");

    assert_eq!(daemon.call("DELETE", route, "").status, 204);
    assert_eq!(
        daemon.call("GET", "/api/v1/artifacts", "").json(),
        json!([])
    );
}

#[test]
fn an_artifact_is_fetched_from_a_server() {
    if !netns::can_run("an artifact of a server over the API") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, digest) = artifact(dir.path(), "one");
    let content = fs_err::read(&path).unwrap();
    let namespace = Namespace::new();
    let listener = namespace.run(async || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let url = format!("http://{}/one.cpio", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
        while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        let length = content.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(&content).unwrap();
    });
    let daemon = Daemon::start_on_tcp(namespace, &[]);
    let put = json!({
        "Version": "1", "ArtifactName": "boot", "Kind": "initramfs", "SourceURL": url, "Checksum": digest, "Format": "raw"
    });
    let kept = daemon.call("POST", "/api/v1/plugins/x/artifacts", &put.to_string());
    assert_eq!(kept.status, 201, "{kept:?}");
    let kept = kept.json();
    assert_eq!(
        (&kept["SourceURL"], &kept["Checksum"], &kept["pinned"]),
        (&json!(url), &json!(digest), &json!(true))
    );
    let stored = fs_err::read(kept["LocalPath"].as_str().unwrap()).unwrap();
    assert_eq!(Digest::of(&stored), digest);
}

#[test]
fn wrong_artifacts_are_refused_and_leave_nothing() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = artifact(dir.path(), "one");
    let route = "/api/v1/plugins/x/artifacts";
    let good = json!({"version": "1", "artifact_name": "boot", "local_path": path});
    for (member, value, code) in [
        ("version", json!(""), "invalid-request"),
        ("kind", json!("kernel"), "invalid-request"),
        ("size_bytes", json!(7), "invalid-request"),
        ("local_path", json!("/no/such"), "invalid-request"),
        ("kind", json!("rootfs"), "invalid-request"),
        ("checksum", json!(Digest::of(b"other")), "checksum-mismatch"),
    ] {
        let mut put = good.clone();
        put[member] = value;
        daemon
            .call("POST", route, &put.to_string())
            .is_problem(if code == "invalid-request" { 400 } else { 422 }, code);
    }
    daemon
        .call("POST", route, r#"{"version": "1"}"#)
        .is_problem(400, "invalid-request");
    assert_eq!(
        daemon.call("GET", "/api/v1/artifacts", "").json(),
        json!([])
    );
}

#[test]
fn what_is_needed_is_not_removed_and_the_rest_is() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, digest) = artifact(dir.path(), "one");
    let installed = daemon.call("POST", "/api/v1/plugins", &manifest("x", &path));
    assert_eq!(installed.status, 201, "{installed:?}");
    let named = daemon.call("GET", "/api/v1/plugins/x/artifacts", "").json();
    assert_eq!(named[0]["ID"], 0);
    assert_eq!(named[0]["ArtifactName"], "initramfs");
    daemon
        .call("DELETE", "/api/v1/plugins/x/artifacts?version=2", "")
        .is_problem(409, "artifact-in-use");
    let route = format!("/api/v1/artifacts/{digest}");
    let refused = daemon.call("DELETE", &route, "");
    refused.is_problem(409, "artifact-in-use");
    assert!(refused.json()["detail"].as_str().unwrap().contains("`x`"));
    assert_eq!(
        daemon.call("GET", &route, "").json()["used_by"],
        json!({"plugins": ["x"], "vms": []})
    );
    daemon
        .call("GET", "/api/v1/artifacts/sha256:7", "")
        .is_problem(404, "not-found");

    // A file whose install was interrupted.
    let stray = Digest::of(b"stray");
    let file = daemon.state_dir().join("artifacts").join(stray.to_hex());
    fs_err::write(&file, "stray").unwrap();
    let expected = json!([{"digest": stray, "size_bytes": 5}]);
    let use_of_disk = daemon.call("GET", "/api/v1/system/df", "").json();
    assert_eq!(use_of_disk["reclaimable_bytes"], 5);
    assert!(use_of_disk["disk_total_bytes"].as_u64().unwrap() > 0);
    for (query, dry_run) in [("?dry_run=true", true), ("", false)] {
        let pruned = daemon.call("POST", &format!("/api/v1/system/prune{query}"), "");
        assert_eq!(
            pruned.json(),
            json!({"dry_run": dry_run, "removed": expected, "freed_bytes": 5})
        );
        assert_eq!(file.exists(), dry_run);
    }
    assert_eq!(daemon.call("GET", &route, "").status, 200);
    let detail = daemon.call("GET", "/api/v1/plugins?detail=true", "").json();
    assert_eq!(detail["plugins"][0]["artifact"]["digest"], json!(digest));
    let summary = daemon.call("GET", "/api/v1/system/summary", "").json();
    assert_eq!(
        summary["plugins"],
        json!([{"name": "x", "version": "2", "enabled": true}])
    );
}

#[test]
fn a_request_that_comes_twice_is_done_once() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = artifact(dir.path(), "one");
    let key = [("Idempotency-Key", "7f3c")];
    let body = manifest("x", &path);
    let first = daemon.call_with_headers("POST", "/api/v1/plugins", &key, &body);
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(daemon.call("DELETE", "/api/v1/plugins/x", "").status, 204);
    let second = daemon.call_with_headers("POST", "/api/v1/plugins", &key, &body);
    assert_eq!((second.status, &second.body), (201, &first.body));
    assert_eq!(
        second.header("idempotent-replayed").as_deref(),
        Some("true")
    );
    let none: Value = json!({"plugins": []});
    assert_eq!(daemon.call("GET", "/api/v1/plugins", "").json(), none);
    daemon
        .call_with_headers("POST", "/api/v1/plugins", &key, &manifest("y", &path))
        .is_problem(422, "idempotency-mismatch");
    let long = "k".repeat(300);
    daemon
        .call_with_headers(
            "POST",
            "/api/v1/plugins",
            &[("Idempotency-Key", &long)],
            &body,
        )
        .is_problem(400, "invalid-request");

    // What failed may be tried again with the same key.
    let key = [("Idempotency-Key", "8a")];
    let vm = r#"{"name": "a", "plugin": "x"}"#;
    for _ in 0..2 {
        let refused = daemon.call_with_headers("POST", "/api/v1/vms", &key, vm);
        refused.is_problem(404, "plugin-not-found");
    }
}

#[test]
fn what_is_not_there_yet_says_so() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    for (method, path) in [
        ("POST", "/api/v1/mcp"),
        ("GET", "/api/v1/deployments"),
        ("PATCH", "/api/v1/deployments/web"),
        ("POST", "/api/v1/vfio/devices/bind"),
        ("DELETE", "/api/v1/drift/routes/tcp/80"),
        ("GET", "/ws/v1/vms/web/devtools/browser/1"),
    ] {
        let answer = daemon.call(method, path, "");
        answer.is_problem(501, "not-implemented");
    }
}

#[test]
fn bodies_and_queries_that_cannot_be_meant_are_refused() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    for query in ["limit=x", "offset=-1", "status=up", "sort=ip", "order=up"] {
        daemon
            .call("GET", &format!("/api/v1/vms?{query}"), "")
            .is_problem(400, "invalid-request");
    }
    let page = daemon.call(
        "GET",
        "/api/v1/vms?limit=5&offset=1&status=running,failed&q=a",
        "",
    );
    assert_eq!(page.header("x-total-count").as_deref(), Some("0"));
    for kind in ["text/plain", "application/x-www-form-urlencoded", "x"] {
        let headers = [("Content-Type", kind)];
        daemon
            .call_with_headers(
                "POST",
                "/api/v1/vms",
                &headers,
                r#"{"name": "a", "plugin": "x"}"#,
            )
            .is_problem(415, "unsupported-media-type");
    }
    let headers = [(
        "Content-Type",
        "application/merge-patch+json; charset=utf-8",
    )];
    daemon
        .call_with_headers(
            "POST",
            "/api/v1/vms",
            &headers,
            r#"{"name": "a", "plugin": "x"}"#,
        )
        .is_problem(404, "plugin-not-found");
    let status = daemon.call("GET", "/api/v1/system/status", "").json();
    assert_eq!(status["vm_count"], 0);
    assert!(status["mem_percent"].as_f64().unwrap() > 0.0, "{status}");
    assert_eq!(
        daemon.call("GET", "/openapi", "").body,
        daemon.call("GET", "/openapi.json", "").body
    );
}
