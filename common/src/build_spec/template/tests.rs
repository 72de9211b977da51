//! Tables of templates that are accepted, merged and refused.

use proptest::prelude::proptest;

use super::*;
use crate::build_spec::{Compression, FilesystemKind};
use crate::manifest::{RootfsFormat, StopSignal};

const TEMPLATE: &str = r#"
schema_version = "v1"
name = "hello"
version = "1.2.3"
runtime = "hello"

[resources]
cpu_cores = 1
memory_mb = 128

[workload]
type = "http"
entrypoint = "/usr/bin/hello"
args = ["--port", "80"]
base_url = "http://127.0.0.1:80"
restart = "on-failure"

[env]
GREETING = "hi"

[network]
mode = "bridged"

[health_check]
endpoint = "/healthz"
timeout_ms = 5000

[actions.reload]
method = "POST"
path = "/reload"
"#;

#[test]
fn a_template_becomes_a_manifest() {
    let template = ManifestTemplate::from_toml(TEMPLATE).unwrap();
    let manifest = template
        .manifest("plugin.cpio.gz", Some(Digest::of(b"")), &Output::default())
        .unwrap();
    assert_eq!(manifest.name.as_str(), "hello");
    assert_eq!(
        manifest.workload.entrypoint,
        ["/usr/bin/hello", "--port", "80"]
    );
    assert_eq!(manifest.workload.env["GREETING"], "hi");
    assert_eq!(manifest.health_check.as_ref().unwrap().timeout_ms, 5000);
    assert_eq!(manifest.artifact().url, "plugin.cpio.gz");
    assert_eq!(manifest.artifact().checksum, Some(Digest::of(b"")));
    assert_eq!(
        manifest.initramfs.as_ref().unwrap().format.as_deref(),
        Some("cpio.gz")
    );
    assert_eq!(manifest.resources.memory_mb, 128);
}

#[test]
fn a_json_manifest_keeps_all_but_its_artifact() {
    let json = br#"{"$schema": "x", "name": "x", "version": "1", "initramfs": {"url": "/old", "checksum": "bad"},
                    "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"}}"#;
    let manifest = ManifestTemplate::from_json(json)
        .unwrap()
        .manifest("new.gz", None, &Output::default())
        .unwrap();
    assert_eq!(manifest.artifact().url, "new.gz");
    assert_eq!(manifest.artifact().checksum, None);
}

/// A template with everything that it can say.
const WHOLE: &str = r#"
schema_version = "v1"
name = "whole"
version = "1.2.3"
runtime = "app"
enabled = false
openapi = "http://127.0.0.1:80/openapi.json"

[resources]
cpu_cores = 2
memory_mb = 0x200

[workload]
type = "http"
base_url = "http://127.0.0.1:80"
entrypoint = ["/bin/app"]
args = ["-v"]
workdir = "/srv"
user = "app:app"
stop_signal = "SIGQUIT"
restart = "on-failure"
stop_grace_ms = 2000
env = { A = "inner" }

[env]
A = "outer"
B = "outer"

[network]
mode = "bridged"
[[network.expose]]
port = 80
[[network.expose]]
port = 53
protocol = "udp"

[actions.reload]
description = "Read the configuration again"
method = "POST"
path = "/reload"
timeout_ms = 1000

[health_check]
command = ["/bin/app", "check"]
timeout_ms = 3000
interval_ms = 500

[rootfs]
ephemeral = true
writable_mb = 64

[console]
shell = false

[labels]
team = "web"
"#;

fn rootfs(kind: FilesystemKind) -> Output {
    Output::Rootfs(Filesystem {
        kind,
        writable_mb: Some(1024),
        ephemeral: false,
    })
}

fn refusal(text: &str) -> String {
    ManifestTemplate::from_toml(text)
        .map(|_| "it was accepted")
        .unwrap_err()
        .to_string()
}

#[test]
fn every_key_has_its_place_in_the_manifest() {
    let template = ManifestTemplate::from_complete_toml(WHOLE).unwrap();
    let manifest = template
        .manifest(
            "whole.img",
            Some(Digest::of(b"")),
            &rootfs(FilesystemKind::Erofs),
        )
        .unwrap();
    assert_eq!(manifest.workload.entrypoint, ["/bin/app", "-v"]);
    assert_eq!(manifest.workload.env["A"], "inner");
    assert_eq!(manifest.workload.env["B"], "outer");
    assert_eq!(manifest.workload.user.as_deref(), Some("app:app"));
    assert_eq!(
        manifest.workload.stop_signal,
        "QUIT".parse::<StopSignal>().ok()
    );
    assert_eq!(manifest.workload.stop_grace_ms, 2000);
    assert_eq!(manifest.resources.memory_mb, 512);
    assert_eq!(manifest.network.expose.len(), 2);
    assert_eq!(manifest.actions["reload"].timeout_ms, 1000);
    assert_eq!(
        manifest.health_check.as_ref().unwrap().interval_ms,
        Some(500)
    );
    assert!(!manifest.console.shell && !manifest.enabled);
    assert_eq!(manifest.labels["team"], "web");
    assert_eq!(
        manifest.openapi.as_deref(),
        Some("http://127.0.0.1:80/openapi.json")
    );
    let rootfs = manifest.rootfs.as_ref().unwrap();
    assert!(
        rootfs.ephemeral,
        "the template's word comes before the build spec's"
    );
    assert_eq!(rootfs.writable_mb, Some(64));
    // What is written is what volantd reads, byte for byte.
    let json = manifest.to_json_pretty();
    assert_eq!(
        Manifest::from_json(json.as_bytes())
            .unwrap()
            .to_json_pretty(),
        json
    );
}

#[test]
fn artifacts_are_named_by_their_format() {
    let template = ManifestTemplate::from_toml(TEMPLATE).unwrap();
    for (compression, expected) in [
        (Compression::Gzip, "cpio.gz"),
        (Compression::Zstd, "cpio.zst"),
        (Compression::None, "cpio"),
    ] {
        let manifest = template
            .manifest("x", None, &Output::Initramfs { compression })
            .unwrap();
        assert_eq!(
            manifest.initramfs.unwrap().format.as_deref(),
            Some(expected)
        );
        assert_eq!(manifest.rootfs, None);
    }
    let ext4 = FilesystemKind::Ext4 {
        size_buffer_mb: 0,
        preallocate: false,
    };
    for (kind, expected) in [
        (FilesystemKind::Erofs, RootfsFormat::Erofs),
        (ext4, RootfsFormat::Ext4),
        (
            FilesystemKind::Squashfs {
                compression_level: 15,
            },
            RootfsFormat::Squashfs,
        ),
    ] {
        let manifest = template.manifest("x", None, &rootfs(kind)).unwrap();
        let rootfs = manifest.rootfs.unwrap();
        assert_eq!(rootfs.format, Some(expected));
        assert_eq!(rootfs.writable_mb, Some(1024));
        assert_eq!(manifest.initramfs, None);
    }
}

#[test]
fn what_an_image_says_fills_the_gaps() {
    let image = json!({
        "name": "nginx", "version": "1.29", "labels": {"maintainer": "a"},
        "workload": {
            "entrypoint": ["/docker-entrypoint.sh"], "args": ["nginx", "-g", "daemon off;"],
            "env": {"PATH": "/bin", "NGINX_VERSION": "1.29"}, "workdir": "/", "user": "nginx",
            "base_url": "http://127.0.0.1:80",
        },
        "health_check": {"command": ["curl", "localhost"], "timeout_ms": 5000},
        "network": {"expose": [{"port": 80}]},
    });
    let merged = |text: &str| {
        ManifestTemplate::from_toml(text)
            .unwrap()
            .over(&image)
            .manifest("x", None, &Output::default())
            .unwrap()
    };
    let manifest = merged("");
    assert_eq!(
        manifest.workload.entrypoint,
        ["/docker-entrypoint.sh", "nginx", "-g", "daemon off;"]
    );
    assert_eq!(manifest.network.expose[0].port, 80);
    let manifest =
        merged("name = \"web\"\n[env]\nPATH = \"/sbin\"\nX = \"1\"\n[labels]\nteam = \"a\"");
    assert_eq!(manifest.name.as_str(), "web");
    assert_eq!(manifest.version, "1.29");
    assert_eq!(manifest.workload.env["PATH"], "/sbin");
    assert_eq!(manifest.workload.env["NGINX_VERSION"], "1.29");
    assert_eq!(manifest.workload.env["X"], "1");
    assert_eq!(manifest.labels.len(), 2);
    let entrypoint = |text| merged(text).workload.entrypoint;
    assert_eq!(entrypoint("[workload]\nentrypoint = [\"/a\"]"), ["/a"]);
    assert_eq!(
        entrypoint("[workload]\nargs = [\"-t\"]"),
        ["/docker-entrypoint.sh", "-t"]
    );
    assert_eq!(
        entrypoint("[workload]\nentrypoint = \"/a\"\nargs = [\"-t\"]"),
        ["/a", "-t"]
    );
    let check = merged("[health_check]\nendpoint = \"/\"")
        .health_check
        .unwrap();
    assert_eq!(check.endpoint.as_deref(), Some("/"));
    assert_eq!((check.command, check.timeout_ms), (None, 5000));
    let check = merged("[health_check]\ntimeout_ms = 9000")
        .health_check
        .unwrap();
    assert_eq!((check.command.unwrap().len(), check.timeout_ms), (2, 9000));
}

#[test]
fn templates_without_sense_are_refused() {
    let table = [
        (
            "nam = \"x\"",
            "1:1: Unknown key `nam`: did you mean `name`?",
        ),
        ("[workload]\nentry = \"x\"", "2:1: Unknown key `entry`"),
        ("[resources]\ncpu_cores = -1", "2:13: "),
        (
            "[resources]\ncpu_cores = 0",
            "2:13: A VM needs at least 1 CPU",
        ),
        ("[[network.expose]]\nport = 80\nhost_port = 8080", "3:13: "),
        ("[[network.expose]]\nport = 0", "2:8: "),
        (
            "[network]\nmode = \"vsock\"",
            "2:8: A network mode other than `bridged`",
        ),
        (
            "[cloud_init]\ndatasource = \"NoCloud\"",
            "1:2: cloud-init is not supported",
        ),
        (
            "[devices]\npci_passthrough = [\"0000:01:00.0\"]",
            "2:19: PCI passthrough",
        ),
        (
            "[env]\n\"A=B\" = \"x\"",
            "1:2: `A=B` cannot be an environment variable",
        ),
        (
            "[workload]\nrestart = \"sometimes\"",
            "2:11: `sometimes` is not a `restart`",
        ),
        ("[workload]\nstop_signal = \"SIGNOPE\"", "2:15: "),
        (
            "[initramfs]\nurl = \"x\"",
            "1:2: `initramfs` is filled in by the build",
        ),
        (
            "[rootfs]\nformat = \"erofs\"",
            "2:1: `rootfs.format` is filled in by the build",
        ),
        ("[rootfs]\nwritable_mb = 1", "2:15: "),
        ("name = \"a\"\nname = \"b\"", "2:1: Duplicate key"),
        (
            "[actions.a]\npath = \"/\"",
            "1:10: The key `method` is missing",
        ),
    ];
    for (text, expected) in table {
        let message = refusal(text);
        assert!(message.contains(expected), "{text}:\n{message}");
    }
    for json in ["[]", "1", "{", "{} x"] {
        assert!(
            ManifestTemplate::from_json(json.as_bytes()).is_err(),
            "{json}"
        );
    }
}

#[test]
fn all_problems_are_shown_at_once() {
    let text = "name = \"My App\"\nversion = 1\n[workload]\nentrypiont = \"/x\"\nworkdir = \"x\"\nstop_grace_ms = \"2 s\"\n";
    let message = refusal(text);
    let places: Vec<&str> = message
        .lines()
        .filter_map(|line| line.split(": ").next())
        .filter(|place| place.starts_with(|c: char| c.is_ascii_digit()) && place.contains(':'))
        .collect();
    assert_eq!(places, ["1:8", "2:11", "4:1", "5:11", "6:17"], "{message}");
    let message = ManifestTemplate::from_complete_toml("[workload]\ntype = \"exec\"\n")
        .unwrap_err()
        .to_string();
    for expected in ["no `version`", "no `entrypoint`", "no `name`"] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_is_missing_is_explained_at_its_place() {
    let table = [
        ("name = \"x\"\nversion = \"1\"", "no `workload`"),
        (
            "name = \"x\"\nversion = \"1\"\n[workload]\ntype = \"exec\"",
            "3:2: The workload has no `entrypoint`",
        ),
        (
            "version = \"1\"\n[workload]\nentrypoint = \"/x\"",
            "no `name`",
        ),
        (
            "name = \"x\"\nversion = \"1\"\n[workload]\nentrypoint = \"/x\"\n[health_check]\nendpoint = \"/\"",
            "6:12: ",
        ),
    ];
    for (text, expected) in table {
        let template = ManifestTemplate::from_toml(text).unwrap();
        let error = template
            .manifest("x.gz", None, &Output::default())
            .unwrap_err();
        let message = template.explain(&error).of_file("m.toml").to_string();
        assert!(
            message.starts_with("m.toml:") && message.contains(expected),
            "{message}"
        );
    }
    let template = ManifestTemplate::from_json(b"{\"name\": \"x\"}").unwrap();
    let error = template
        .manifest("x.gz", None, &Output::default())
        .unwrap_err();
    let message = template.explain(&error).of_file("m.json").to_string();
    assert!(message.contains("m.json: /workload: "), "{message}");
}

#[test]
fn all_that_is_wrong_in_json_is_found_at_once() {
    let json = br#"{"$schema": "x", "name": "A B", "verison": "1", "env": null,
        "resources": {"cpu_cores": "two", "memory_mb": -1}, "workload": {"entrypoint": ["app"]}}"#;
    let Err(TemplateError::Invalid(problems)) = ManifestTemplate::from_complete_json(json) else {
        panic!("it is taken");
    };
    let message = problems.of_file("m.json").to_string();
    for expected in [
        "m.json: /name: ",
        "m.json: /verison: ",
        "`version`",
        "m.json: /version: ",
        "m.json: /resources/cpu_cores: ",
        "m.json: /resources/memory_mb: -1 is too small or too large here: it can be 0 to ",
    ] {
        assert!(message.contains(expected), "no {expected:?} in:\n{message}");
    }
    assert!(
        !message.contains("$schema") && !message.contains("/env"),
        "{message}"
    );
}

/// The manifests of the Go system's two examples, as its builder and its authors wrote them.
#[test]
fn manifests_of_the_go_system_can_be_templates() {
    let go_builder = br#"{
      "schema_version": "v1", "name": "nginx", "version": "1.0.0", "runtime": "nginx",
      "resources": {"cpu_cores": 1, "memory_mb": 256},
      "workload": {"entrypoint": "/docker-entrypoint.sh", "args": ["nginx", "-g", "daemon off;"]},
      "env": {"PATH": "/usr/bin:/bin"}, "network": {"mode": "bridged", "expose": [{"port": 80, "protocol": "tcp"}]},
      "rootfs": {"url": "file://nginx.img", "format": "ext4", "checksum": "sha256:00"}
    }"#;
    let published = br#"{
      "$schema": "https://example.org/plugin-manifest-v1.json", "schema_version": "1.0", "name": "nginx", "version": "0.1.0",
      "runtime": "nginx", "enabled": true, "image": "nginx:latest", "resources": {"cpu_cores": 1, "memory_mb": 1024},
      "rootfs": {"url": "https://example.org/releases/latest/download/nginx.img", "checksum": "", "format": "raw"},
      "initramfs": {"url": ""},
      "workload": {"type": "http", "entrypoint": ["/docker-entrypoint.sh", "nginx", "-g", "daemon off;"],
                   "base_url": "http://127.0.0.1:80", "workdir": "/", "env": {"PATH": "/usr/bin:/bin"}},
      "health_check": {"endpoint": "/", "timeout_ms": 10000}
    }"#;
    for json in [go_builder.as_slice(), published] {
        let manifest = ManifestTemplate::from_json(json)
            .unwrap()
            .manifest(
                "nginx.erofs",
                Some(Digest::of(b"")),
                &rootfs(FilesystemKind::Erofs),
            )
            .unwrap();
        assert_eq!(
            manifest.workload.entrypoint,
            ["/docker-entrypoint.sh", "nginx", "-g", "daemon off;"]
        );
        assert_eq!(manifest.workload.env["PATH"], "/usr/bin:/bin");
        let rootfs = manifest.rootfs.as_ref().unwrap();
        assert_eq!(rootfs.url, "nginx.erofs");
        assert_eq!(rootfs.checksum, Some(Digest::of(b"")));
        let json = manifest.to_json_pretty();
        assert_eq!(Manifest::from_json(json.as_bytes()).unwrap(), manifest);
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}") {
        drop(ManifestTemplate::from_toml(&text));
        drop(ManifestTemplate::from_complete_toml(&text));
    }
}
