//! Tables of specs and templates that are accepted and refused.

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;

const SEED: &str = r#"
version = "1"
strategy = "initramfs"                    # RAM-based, fast boot

[agent]
source_strategy = "release"               # Download kestrel from GitHub
version = "latest"

[source]
busybox_url = "https://example.org/busybox"
busybox_sha256 = "5c566ba50a12d8020a391346575534e818a1f5b6f729a53b7b241262fe1d1b4e"

[mappings]
"payload/caddy" = "/usr/bin/caddy"
"payload/Caddyfile" = "/etc/caddy/Caddyfile"
"#;

const HEAD: &str = "version = \"1\"\nstrategy = \"initramfs\"\n";

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(rest: &str) -> Result<BuildSpec, BuildSpecError> {
    BuildSpec::parse(&format!("{HEAD}{rest}"))
}

fn latest() -> Init {
    Init::Agent(AgentSource::Release {
        version: ReleaseVersion::Latest,
        checksum: None,
    })
}

#[test]
fn the_example_of_the_seed_is_read() {
    let spec = BuildSpec::parse(SEED).unwrap();
    assert_eq!(spec.init, latest());
    assert_eq!(spec.busybox.unwrap().url, "https://example.org/busybox");
    let mappings: Vec<_> = spec
        .mappings
        .iter()
        .map(|(host, guest)| (host.as_str(), guest.as_str()))
        .collect();
    assert_eq!(
        mappings,
        [
            ("payload/Caddyfile", "/etc/caddy/Caddyfile"),
            ("payload/caddy", "/usr/bin/caddy")
        ]
    );
}

#[test]
fn init_modes_follow_the_rules() {
    let http = format!(
        "[agent]\nsource_strategy = \"http\"\nurl = \"https://h/k\"\nchecksum = \"{DIGEST}\""
    );
    let table = [
        ("", latest()),
        ("[init]", latest()),
        ("[init]\nnone = false\npath = \"\"", latest()),
        ("[init]\nnone = true", Init::None),
        (
            "[init]\npath = \"my-init\"",
            Init::Custom("my-init".to_owned()),
        ),
        (
            "[agent]\nsource_strategy = \"release\"\nversion = \"v0.1.0\"",
            Init::Agent(AgentSource::Release {
                version: ReleaseVersion::Tag("v0.1.0".to_owned()),
                checksum: None,
            }),
        ),
        (
            "[agent]\nsource_strategy = \"local\"\npath = \"bin/kestrel\"\nchecksum = \"\"",
            Init::Agent(AgentSource::Local {
                path: "bin/kestrel".to_owned(),
                checksum: None,
            }),
        ),
        (
            &http,
            Init::Agent(AgentSource::Http(Download {
                url: "https://h/k".to_owned(),
                checksum: Digest::of(b""),
            })),
        ),
    ];
    for (rest, expected) in table {
        assert_eq!(parse(rest).unwrap().init, expected, "{rest}");
    }
}

#[test]
fn the_default_busybox_needs_no_checksum() {
    let spec = parse(&format!(
        "[source]\nbusybox_url = \"{DEFAULT_BUSYBOX_URL}\""
    ))
    .unwrap();
    assert_eq!(
        spec.busybox.unwrap().checksum.to_hex(),
        DEFAULT_BUSYBOX_SHA256
    );
    assert_eq!(parse("[source]").unwrap().busybox, None);
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let table = [
        ("[init]\nnone = true\npath = \"x\"", "exclude each other"),
        (
            "[init]\nnone = true\n[agent]\nsource_strategy = \"release\"\nversion = \"latest\"",
            "has no meaning with an init",
        ),
        (
            "[init]\npath = \"x\"\n[agent]\nsource_strategy = \"release\"\nversion = \"latest\"",
            "has no meaning with an init",
        ),
        (
            "[agent]\nsource_strategy = \"release\"",
            "needs `agent.version`",
        ),
        (
            "[agent]\nsource_strategy = \"release\"\nversion = \"../x\"",
            "is not a release",
        ),
        ("[agent]\nsource_strategy = \"local\"", "needs `agent.path`"),
        (
            "[agent]\nsource_strategy = \"http\"\nurl = \"https://h/k\"",
            "needs `agent.checksum`",
        ),
        (
            "[agent]\nsource_strategy = \"local\"\npath = \"k\"\nurl = \"https://h/k\"",
            "`agent.url` has no meaning",
        ),
        (
            "[agent]\nsource_strategy = \"magic\"",
            "`magic` is not a `source_strategy`: use \"release\", \"local\" or \"http\"",
        ),
        (
            "[source]\nbusybox_url = \"https://h/b\"",
            "needs `source.busybox_sha256`",
        ),
        (
            "[source]\nbusybox_sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
            "nothing to check",
        ),
        (
            "[source]\nbusybox_url = \"ftp://h/b\"\nbusybox_sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
            "use an https:// or http:// URL",
        ),
        (
            "[source]\nbusybox_sha256 = \"12\"",
            "is not a SHA-256 checksum",
        ),
        (
            "[filesystem]\ntype = \"ext4\"",
            "belongs to strategy `oci_rootfs`",
        ),
        ("[mappings]\n\"a\" = \"usr/bin/a\"", "it must be absolute"),
        (
            "[mappings]\n\"a\" = \"/usr/../../a\"",
            "must not contain `..`",
        ),
        ("[mappings]\n\"\" = \"/a\"", "has no host path"),
        (
            "[mappins]\n\"a\" = \"/a\"",
            "Unknown key `mappins`: did you mean `mappings`?",
        ),
        (
            "surprise = 1",
            "Unknown key `surprise`: known here are `version`",
        ),
    ];
    for (rest, expected) in table {
        let message = parse(rest).unwrap_err().to_string();
        assert!(message.contains(expected), "{rest}: {message}");
    }
}

#[test]
fn version_and_strategy_are_needed() {
    let table = [
        ("strategy = \"initramfs\"", "The key `version` is missing"),
        ("version = \"1\"", "The key `strategy` is missing"),
        (
            "version = \"2\"\nstrategy = \"initramfs\"",
            "`2` is not a `version`: use \"1\"",
        ),
        (
            "version = \"1\"\nstrategy = \"magic\"",
            "`magic` is not a `strategy`",
        ),
    ];
    for (text, expected) in table {
        let message = BuildSpec::parse(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn mistakes_are_shown_with_line_and_caret() {
    for (rest, expected) in [
        (
            "[mappings]\n\"a\" = \"b\"",
            "4:7: `b` is not a path in the guest: it must be absolute, beginning with `/`\n  |\n4 | \"a\" = \"b\"\n  |       ^^^",
        ),
        ("[mappings]\n\"a\" = ", "4:"),
        (
            "[agent]\nversion = \"latest\"\nsource_strategy = \"http\"",
            "4:1: `agent.version` has no meaning with source_strategy \"http\"\n  |\n4 | version = \"latest\"\n  | ^^^^^^^",
        ),
        (
            "[agent]\nsource_strategy = \"http\"",
            "3:2: Source_strategy \"http\" needs `agent.url`\n  |\n3 | [agent]\n  |  ^^^^^",
        ),
    ] {
        let message = parse(rest).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_spec_beyond_the_limit_is_refused() {
    let text = format!("{HEAD}#{}", "x".repeat(MAX_SPEC_BYTES));
    assert!(matches!(
        BuildSpec::parse(&text),
        Err(BuildSpecError::TooLarge { .. })
    ));
}

#[test]
fn guest_paths_are_made_plain() {
    let table = [
        ("/", "/"),
        ("//a///b/", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a..b/...", "/a..b/..."),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<GuestPath>().unwrap().as_str(), expected);
    }
    let long = format!("/{}", "x".repeat(256));
    let deep = "/x".repeat(2048);
    for bad in [
        "", "a", "./a", "/..", "/a/../b", "/a\0", "/a\nb", &long, &deep,
    ] {
        assert!(bad.parse::<GuestPath>().is_err(), "{bad:?}");
    }
}

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
        .manifest("plugin.cpio.gz", Some(Digest::of(b"")))
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
        .manifest("new.gz", None)
        .unwrap();
    assert_eq!(manifest.artifact().url, "new.gz");
    assert_eq!(manifest.artifact().checksum, None);
}

#[test]
fn templates_without_sense_are_refused() {
    let table = [
        ("nam = \"x\"", "unknown field `nam`"),
        ("[workload]\nentry = \"x\"", "unknown field `entry`"),
        ("[resources]\ncpu_cores = -1", "line 2"),
        ("[[network.expose]]\nport = 80", "publishing ports"),
    ];
    for (text, expected) in table {
        let message = ManifestTemplate::from_toml(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
    for json in ["[]", "1", "{", "{} x"] {
        assert!(
            ManifestTemplate::from_json(json.as_bytes()).is_err(),
            "{json}"
        );
    }
}

#[test]
fn the_manifests_own_rules_hold_for_templates() {
    let table = [
        ("name = \"x\"\nversion = \"1\"", "no `workload`"),
        (
            "name = \"x\"\nversion = \"1\"\n[workload]\ntype = \"exec\"",
            "no `entrypoint`",
        ),
        ("version = \"1\"\n[workload]\nentrypoint = \"/x\"", "/name"),
        (
            "name = \"x\"\nversion = \"1\"\n[network]\nmode = \"vsock\"\n[workload]\nentrypoint = \"/x\"",
            "/network/mode",
        ),
        (
            "name = \"x\"\nversion = \"1\"\n[cloud_init]\ndatasource = \"NoCloud\"\n[workload]\nentrypoint = \"/x\"",
            "/cloud_init",
        ),
    ];
    for (text, expected) in table {
        let template = ManifestTemplate::from_toml(text).unwrap();
        let message = template.manifest("x.gz", None).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}") {
        drop(BuildSpec::parse(&text));
        drop(parse(&text));
        drop(ManifestTemplate::from_toml(&text));
    }

    #[test]
    fn guest_paths_stay_inside(text in "/[a./]{0,40}") {
        if let Ok(path) = text.parse::<GuestPath>() {
            prop_assert!(path.as_str().split('/').all(|name| name != ".." && name != "."));
            prop_assert_eq!(path.as_str().parse::<GuestPath>(), Ok(path.clone()));
        }
    }
}
