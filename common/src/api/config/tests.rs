//! What patches make of configurations, and which are refused.

use serde_json::json;

use super::*;

const MANIFEST: &str = r#"{"schema_version": "1.0", "name": "hello", "version": "1", "initramfs": {"url": "/a.gz"},
    "resources": {"cpu_cores": 1, "memory_mb": 64},
    "workload": {"entrypoint": ["/x"], "restart": "on-failure", "env": {"A": "1", "B": "2"}}}"#;

fn config() -> VmConfig {
    VmConfig::new(Manifest::from_json(MANIFEST.as_bytes()).unwrap())
}

fn patched(patch: Value) -> VmConfig {
    let mut config = config();
    let patch: ConfigPatch = serde_json::from_value(patch).unwrap();
    patch.apply(&mut config);
    config
}

#[test]
fn a_patch_changes_what_it_names_and_null_takes_back() {
    let mut config = patched(json!({
        "resources": {"cpu_cores": 2, "memory_mb": 256}, "kernel_cmdline": "debug", "env": {"A": "9", "C": "3"},
        "restart_policy": "never", "metadata": {"team": {"id": 7}}, "stop_grace_ms": 5
    }));
    assert_eq!(config.size(), (2, 256));
    assert_eq!(config.restart_policy(), RestartPolicy::Never);
    let again: ConfigPatch = serde_json::from_value(json!({
        "resources": {"memory_mb": null}, "kernel_cmdline": null, "env": {"A": null}, "restart_policy": null
    }))
    .unwrap();
    again.apply(&mut config);
    assert_eq!(config.size(), (2, 64));
    assert_eq!(config.kernel_cmdline, None);
    assert_eq!(config.env, [("C".to_owned(), "3".to_owned())].into());
    assert_eq!(
        config.restart_policy(),
        RestartPolicy::OnFailure,
        "the workload's"
    );
    assert_eq!((config.stop_grace_ms, config.metadata.len()), (Some(5), 1));
}

#[test]
fn what_was_patched_is_read_back() {
    let config = patched(json!({
        "disks": [{"name": "data", "path": "/d"}], "env": {"K": "v"}, "expose": [{"port": 80}], "network": {"mode": "bridged"}
    }));
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<VmConfig>(&text).unwrap(), config);
    assert!(config.disks[0].readonly);
    let patch: ConfigPatch =
        serde_json::from_value(json!({"api": null, "env": {"A": null}})).unwrap();
    assert_eq!(
        serde_json::to_value(&patch).unwrap(),
        json!({"api": null, "env": {"A": null}})
    );
    assert!(serde_json::from_value::<ConfigPatch>(json!({"memory": 1})).is_err());
}

#[test]
fn the_guest_gets_what_was_chosen() {
    let manifest = patched(json!({"env": {"B": "x", "C": "3"}})).effective_manifest();
    let env: Vec<(&str, &str)> = manifest
        .workload
        .env
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(env, [("A", "1"), ("B", "x"), ("C", "3")]);
    let manifest =
        patched(json!({"rootfs": {"url": "/r.erofs"}, "ephemeral": true})).effective_manifest();
    assert_eq!(manifest.artifact().url, "/r.erofs");
    assert!(manifest.initramfs.is_none() && manifest.rootfs.unwrap().ephemeral);
    let manifest = patched(json!({"initramfs": {"url": "/i.gz"}})).effective_manifest();
    assert_eq!(manifest.artifact().url, "/i.gz");
}

#[test]
fn what_cannot_be_is_named() {
    let table = [
        (
            json!({"initramfs": {"url": "/a"}, "rootfs": {"url": "/b"}}),
            "/rootfs",
        ),
        (json!({"ephemeral": false}), "/ephemeral"),
        (json!({"runtime": "other"}), "/runtime"),
        (json!({"api": {"host": "example.com"}}), "/api/host"),
        (json!({"stop_grace_ms": 1_000_000_000}), "/stop_grace_ms"),
        (json!({"expose": [{"port": 0}]}), "/expose/0/port"),
        (json!({"env": {"A=B": "x"}}), "/env"),
        (
            json!({"resources": {"cpu_cores": 1}, "disks": [{"name": "a", "path": "/a"}, {"name": "a", "path": "/b"}]}),
            "/disks/1/name",
        ),
    ];
    assert_eq!(config().problems(), []);
    for (patch, pointer) in table {
        let problems = patched(patch.clone()).problems();
        assert!(
            problems.iter().any(|problem| problem.pointer == pointer),
            "{patch}: {problems:?}"
        );
    }
}

#[test]
fn later_things_are_kept_until_they_would_have_to_act() {
    let kept = [
        json!({"devices": {"pci_passthrough": [], "allowlist": ["x"]}}),
        json!({"cloud_init": {}}),
        json!({"network": {"mode": "Bridged"}}),
        json!({"expose": [{"port": 80, "host_port": 0}]}),
    ];
    for patch in kept {
        assert_eq!(patched(patch.clone()).not_implemented(), None, "{patch}");
    }
    let refused = [
        (
            json!({"devices": {"pci_passthrough": ["0000:01:00.0"]}}),
            "/devices/pci_passthrough",
        ),
        (json!({"cloud_init": {"user_data": "x"}}), "/cloud_init"),
        (json!({"network": {"mode": "dhcp"}}), "/network/mode"),
        (
            json!({"expose": [{"port": 80}, {"port": 81, "host_port": 8081}]}),
            "/expose/1/host_port",
        ),
    ];
    for (patch, pointer) in refused {
        let problem = patched(patch).not_implemented().unwrap();
        assert_eq!(problem.pointer, pointer);
    }
}
