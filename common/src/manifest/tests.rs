//! Tables of manifests that are accepted and refused.

use proptest::prelude::{prop_assert_eq, proptest};
use serde_json::json;

use super::*;

const CADDY: &str = r#"{
  "$schema": "https://example.org/plugin-manifest-v1.json",
  "schema_version": "1.0", "name": "caddy", "version": "0.1.0", "runtime": "caddy", "enabled": true,
  "initramfs": {"url": "https://example.org/plugin.cpio.gz",
                "checksum": "deba6998b5852a4fbdc07f47b52be03fe1479233f9f12775d6c9a14705139ba7"},
  "resources": {"cpu_cores": 1, "memory_mb": 512},
  "workload": {"type": "http", "entrypoint": ["/usr/bin/caddy", "run"], "base_url": "http://127.0.0.1:80",
               "workdir": "/", "env": {"PATH": "/usr/bin:/bin"}},
  "health_check": {"endpoint": "/", "timeout_ms": 10000}
}"#;

fn minimal() -> serde_json::Value {
    json!({
        "name": "x", "version": "1", "initramfs": {"url": "/x.cpio.gz"},
        "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"}
    })
}

fn parse(value: &serde_json::Value) -> Result<Manifest, ManifestError> {
    Manifest::from_json(value.to_string().as_bytes())
}

#[test]
fn the_published_example_is_read() {
    let manifest = Manifest::from_json(CADDY.as_bytes()).unwrap();
    assert_eq!(manifest.name.as_str(), "caddy");
    assert_eq!(
        manifest.initramfs.checksum.unwrap().to_hex()[..8],
        *"deba6998"
    );
    assert_eq!(manifest.workload.port(), Some(80));
    assert_eq!(manifest.health_check.unwrap().timeout_ms, 10_000);
    assert!(manifest.console.shell);
}

#[test]
fn defaults_are_those_that_users_expect() {
    let manifest = parse(&minimal()).unwrap();
    assert!(manifest.enabled, "a missing `enabled` means enabled");
    assert_eq!(manifest.runtime, "x");
    assert_eq!(manifest.workload.kind, WorkloadKind::Http);
    assert_eq!(manifest.workload.restart, RestartPolicy::Always);
    assert_eq!(
        manifest.resources,
        Resources {
            cpu_cores: 1,
            memory_mb: 256
        }
    );
    assert_eq!(manifest.initramfs.checksum, None);
}

#[test]
fn the_dialect_of_the_go_builder_is_read() {
    let manifest = parse(&json!({
        "schema_version": "v1", "name": "x", "version": "1", "runtime": "x",
        "resources": {"cpu_cores": 2, "memory_mb": 128}, "env": {"A": "1", "B": "1"},
        "workload": {"entrypoint": "/bin/x", "args": ["-v"], "env": {"B": "2"}},
        "network": {"mode": "bridged", "expose": [{"port": 80}]},
        "initramfs": {"url": "file:///x.cpio.gz", "format": "cpio.gz", "checksum": ""}
    }))
    .unwrap();
    assert_eq!(manifest.workload.entrypoint, ["/bin/x", "-v"]);
    assert_eq!(manifest.workload.kind, WorkloadKind::Exec);
    assert_eq!(manifest.workload.env["A"], "1");
    assert_eq!(
        manifest.workload.env["B"], "2",
        "the inner environment wins"
    );
}

#[test]
fn what_is_written_is_read_back() {
    let manifest = Manifest::from_json(CADDY.as_bytes()).unwrap();
    assert_eq!(
        Manifest::from_json(manifest.to_json().as_bytes()),
        Ok(manifest.clone())
    );
    assert_eq!(
        Manifest::from_json(manifest.to_json_pretty().as_bytes()),
        Ok(manifest)
    );
}

#[test]
fn each_fault_is_named_by_its_member() {
    let table = [
        ("/name", json!("No")),
        ("/version", json!("")),
        ("/schema_version", json!("2")),
        ("/initramfs/url", json!("")),
        ("/initramfs/checksum", json!("abc")),
        ("/workload/type", json!("grpc")),
        ("/workload/entrypoint", json!([])),
        ("/workload/entrypoint", json!([""])),
        ("/workload/base_url", json!("https://127.0.0.1")),
        ("/workload/base_url", json!("http://:80")),
        ("/workload/base_url", json!("http://h:99999")),
        ("/workload/workdir", json!("tmp")),
        ("/workload/env", json!({"A=B": "x"})),
        ("/workload/restart", json!("sometimes")),
        ("/resources/cpu_cores", json!(0)),
        ("/resources/memory_mb", json!(0)),
        ("/resources/memory_mb", json!(-1)),
        ("/health_check/endpoint", json!("health")),
        ("/health_check/timeout_ms", json!(3_600_001)),
        ("/disks", json!([{"name": "data"}])),
        ("/network/mode", json!("vsock")),
        ("/actions/go/path", json!("go")),
    ];
    for (pointer, value) in table {
        let mut manifest = minimal();
        manifest["health_check"] = json!({"endpoint": "/"});
        manifest["actions"] = json!({"go": {"method": "GET", "path": "/go"}});
        let mut place = &mut manifest;
        for key in pointer[1..].split('/') {
            place = &mut place[key];
        }
        *place = value;
        let error = parse(&manifest).expect_err(pointer);
        assert_eq!(error.problems[0].pointer, pointer, "{error}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = parse(&json!({"name": "-"})).unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
}

#[test]
fn a_secret_never_shows_in_a_message() {
    let mut manifest = minimal();
    manifest["workload"]["env"] = json!({"TOKEN": "hunter2\0"});
    assert!(
        !parse(&manifest)
            .unwrap_err()
            .to_string()
            .contains("hunter2")
    );
}

#[test]
fn a_rootfs_plugin_is_told_why_it_is_refused() {
    let mut manifest = minimal();
    manifest["initramfs"] = json!({"url": ""});
    manifest["rootfs"] = json!({"url": "/x.img", "format": "raw"});
    assert!(
        parse(&manifest)
            .unwrap_err()
            .to_string()
            .contains("only a `rootfs`")
    );
}

#[test]
fn base_urls_are_taken_apart() {
    let table = [
        ("http://127.0.0.1", "127.0.0.1", 80, ""),
        ("http://127.0.0.1:8080/", "127.0.0.1", 8080, ""),
        ("http://localhost:1/a/b/", "localhost", 1, "/a/b"),
        ("http://[::1]:9", "[::1]", 9, ""),
        ("http://[::1]", "[::1]", 80, ""),
    ];
    for (url, host, port, path) in table {
        let mut manifest = minimal();
        manifest["workload"]["base_url"] = json!(url);
        let base = parse(&manifest).unwrap().workload.base().unwrap();
        assert_eq!(
            (base.host.as_str(), base.port, base.path.as_str()),
            (host, port, path),
            "{url}"
        );
    }
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        drop(Manifest::from_json(&bytes));
    }

    #[test]
    fn environments_survive(key in "[A-Z_]{1,20}", value in "[^\u{0}]{0,60}", word in "[^\u{0}]{1,40}") {
        let mut manifest = minimal();
        manifest["workload"]["env"] = json!({ key: value });
        manifest["workload"]["entrypoint"] = json!(["/x", word]);
        let parsed = parse(&manifest).unwrap();
        prop_assert_eq!(Manifest::from_json(parsed.to_json().as_bytes()), Ok(parsed));
    }
}
