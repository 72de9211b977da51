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
        manifest.artifact().checksum.unwrap().to_hex()[..8],
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
    assert_eq!(manifest.artifact().checksum, None);
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
        ("/rootfs/url", json!("/x.erofs")),
        ("/workload/user", json!("a b")),
        ("/workload/user", json!("1:2:3")),
        ("/workload/user", json!("1000:")),
        ("/workload/user", json!("4294967295")),
        ("/workload/stop_signal", json!("SIGNOPE")),
        ("/workload/entrypoint", json!(["/x", "w".repeat(131_072)])),
        ("/workload/env", json!({"A": "w".repeat(131_071)})),
        ("/health_check/command", json!(["/x"])),
        ("/health_check/interval_ms", json!(3_600_001)),
        ("/health_check/tcp_port", json!(80)),
        ("/liveness", json!({})),
        ("/liveness", json!({"interval_ms": 500})),
        ("/liveness/endpoint", json!("alive")),
        ("/liveness/tcp_port", json!(70_000)),
        ("/liveness/tcp_port", json!(81)),
        ("/liveness/command", json!(["/x"])),
        ("/liveness/interval_ms", json!(99)),
        ("/liveness/interval_ms", json!(3_600_001)),
        ("/liveness/timeout_ms", json!(3_600_001)),
        ("/liveness/failure_threshold", json!(1001)),
        ("/liveness/failure_threshold", json!(-1)),
        ("/network/expose/0/port", json!(0)),
        ("/network/expose/0/port", json!(70_000)),
        ("/network/expose/0/protocol", json!("icmp")),
        ("/network/expose/0/host_port", json!(8080)),
    ];
    for (pointer, value) in table {
        let mut manifest = minimal();
        manifest["health_check"] = json!({"endpoint": "/"});
        manifest["liveness"] = json!({"endpoint": "/"});
        manifest["actions"] = json!({"go": {"method": "GET", "path": "/go"}});
        manifest["network"] = json!({"expose": [{"port": 80}]});
        manifest["rootfs"] = json!({"url": ""});
        let mut place = &mut manifest;
        for key in pointer[1..].split('/') {
            place = match key.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[key],
            };
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

fn rootfs(member: &serde_json::Value) -> serde_json::Value {
    let mut manifest = minimal();
    manifest["initramfs"] = json!({"url": ""});
    manifest["rootfs"] = member.clone();
    manifest
}

#[test]
fn root_file_systems_of_both_dialects_are_read() {
    let table = [
        (json!({"url": "/x.img", "format": "raw"}), None),
        (json!({"url": "file:///x.img"}), None),
        (
            json!({"url": "file://x.img", "format": "squashfs", "checksum": ""}),
            Some(RootfsFormat::Squashfs),
        ),
        (
            json!({"url": "https://h/x", "format": "EXT4"}),
            Some(RootfsFormat::Ext4),
        ),
        (
            json!({"url": "/x", "format": "erofs", "ephemeral": true, "writable_mb": 64}),
            Some(RootfsFormat::Erofs),
        ),
    ];
    for (member, format) in table {
        let manifest = parse(&rootfs(&member)).unwrap();
        assert_eq!(manifest.artifact().kind, ArtifactKind::Rootfs(format));
        assert_eq!(manifest.artifact().url, member["url"]);
        assert_eq!(manifest.initramfs, None);
        assert_eq!(
            Manifest::from_json(manifest.to_json().as_bytes()),
            Ok(manifest)
        );
    }
}

#[test]
fn root_file_systems_that_cannot_boot_are_refused() {
    let table = [
        (
            json!({"url": "/x", "format": "xfs"}),
            "/rootfs/format",
            "`xfs` is not a root file system that Volant boots",
        ),
        (
            json!({"url": "/x", "format": "btrfs"}),
            "/rootfs/format",
            "use `erofs`, `ext4` or `squashfs`",
        ),
        (
            json!({"url": "/x", "format": "qcow2"}),
            "/rootfs/format",
            "`qcow2`",
        ),
        (
            json!({"url": "/x", "checksum": "abc"}),
            "/rootfs/checksum",
            "abc",
        ),
        (
            json!({"url": "/x", "writable_mb": 1}),
            "/rootfs/writable_mb",
            "from 16 to 1048576 MiB",
        ),
        (
            json!({"url": "", "format": "erofs"}),
            "/initramfs/url",
            "names nothing to boot",
        ),
    ];
    for (member, pointer, sentence) in table {
        let error = parse(&rootfs(&member)).unwrap_err();
        assert_eq!(error.problems[0].pointer, pointer, "{error}");
        assert!(error.to_string().contains(sentence), "{error}");
    }
    let mut both = rootfs(&json!({"url": "/x"}));
    both["initramfs"]["url"] = json!("/y");
    let error = parse(&both).unwrap_err();
    assert!(error.to_string().contains("exactly one of them"), "{error}");
}

#[test]
fn what_an_image_says_about_its_process_is_read() {
    let mut value = minimal();
    value["workload"]["user"] = json!("www-data:100");
    value["workload"]["stop_signal"] = json!("quit");
    value["health_check"] = json!({"command": ["/bin/sh", "-c", "true"], "interval_ms": 500});
    value["network"] = json!({"mode": "bridged", "expose": [{"port": 53, "protocol": "UDP", "host_port": 0}, {"port": 80}]});
    let manifest = parse(&value).unwrap();
    let user = UserName {
        user: "www-data",
        group: Some("100"),
    };
    assert_eq!(manifest.workload.user_name(), Some(user));
    assert_eq!(manifest.workload.stop_signal().number(), 3);
    assert_eq!(
        parse(&minimal()).unwrap().workload.stop_signal().number(),
        15
    );
    let check = manifest.health_check.as_ref().unwrap();
    assert_eq!(
        (check.endpoint.as_deref(), check.interval_ms),
        (None, Some(500))
    );
    assert_eq!(check.command.as_ref().unwrap().len(), 3);
    let ports: Vec<(u16, Protocol)> = manifest
        .network
        .expose
        .iter()
        .map(|e| (e.port, e.protocol))
        .collect();
    assert_eq!(ports, [(53, Protocol::Udp), (80, Protocol::Tcp)]);
    assert_eq!(
        Manifest::from_json(manifest.to_json().as_bytes()),
        Ok(manifest)
    );
}

#[test]
fn there_are_three_ways_to_probe() {
    let ways = [
        json!({"endpoint": "/alive"}),
        json!({"tcp_port": 5432}),
        json!({"command": ["/bin/true"]}),
    ];
    for way in ways {
        let mut value = minimal();
        value["health_check"] = way.clone();
        value["liveness"] = way.clone();
        let manifest = parse(&value).unwrap();
        let check = manifest.health_check.as_ref().unwrap();
        let liveness = manifest.liveness.as_ref().unwrap();
        assert_eq!(
            (&check.endpoint, check.tcp_port, &check.command),
            (&liveness.endpoint, liveness.tcp_port, &liveness.command)
        );
        assert_eq!(
            (
                liveness.interval_ms,
                liveness.timeout_ms,
                liveness.failure_threshold
            ),
            (10_000, 1_000, 3)
        );
        assert_eq!(
            Manifest::from_json(manifest.to_json().as_bytes()),
            Ok(manifest)
        );
    }
    let mut value = minimal();
    value["workload"] = json!({"entrypoint": ["/x"]});
    value["liveness"] = json!({"endpoint": "/"});
    let error = parse(&value).unwrap_err();
    assert_eq!(error.problems[0].pointer, "/liveness/endpoint");
    value["liveness"] = json!({"tcp_port": 0});
    let error = parse(&value).unwrap_err();
    assert_eq!(error.problems[0].pointer, "/liveness/tcp_port");
    value["liveness"] =
        json!({"tcp_port": 1, "interval_ms": 100, "timeout_ms": 7, "failure_threshold": 1});
    let liveness = parse(&value).unwrap().liveness.unwrap();
    assert_eq!(
        (
            liveness.interval_ms,
            liveness.timeout_ms,
            liveness.failure_threshold
        ),
        (100, 7, 1)
    );
}

#[test]
fn manifests_that_the_first_release_stored_are_read() {
    let stored = r#"{"schema_version":"1.0","name":"web","version":"1","runtime":"web","initramfs":{"url":"/a.gz","checksum":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","format":"cpio.gz"},"resources":{"cpu_cores":1,"memory_mb":64},"health_check":{"endpoint":"/","timeout_ms":5000},"workload":{"type":"http","base_url":"http://127.0.0.1:80","entrypoint":["/x"],"stop_grace_ms":1000},"enabled":true}"#;
    let manifest: Manifest = serde_json::from_str(stored).unwrap();
    assert_eq!(manifest.to_json(), stored);
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
