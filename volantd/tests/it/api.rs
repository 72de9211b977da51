//! The API of the real daemon over its unix socket: what good and bad requests get. The daemon runs in a network namespace of its own
//! and has no VMM, so nothing here boots; `cargo xtask e2e` does.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::daemon::Daemon;

pub(crate) fn manifest(url: &Path) -> Value {
    json!({
        "name": "x", "version": "1", "initramfs": {"url": url},
        "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"}
    })
}

/// An artifact that can be installed.
pub(crate) fn plugin(dir: &Path) -> PathBuf {
    let artifact = dir.join("plugin.cpio");
    fs_err::write(&artifact, crate::stores::archive()).unwrap();
    artifact
}

#[test]
fn requests_get_what_the_api_promises() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    assert_eq!(
        daemon.call("GET", "/healthz", "").json(),
        json!({"status": "ok"})
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins", "").json(),
        json!({"plugins": []})
    );
    let vms = daemon.call("GET", "/api/v1/vms", "");
    assert_eq!((vms.status, vms.json()), (200, json!([])));
    assert!(
        vms.head.to_lowercase().contains("x-total-count: 0"),
        "{}",
        vms.head
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/system/summary", "").json()["total_vms"],
        0
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/system/info", "").json()["hypervisor"],
        "none"
    );
}

#[test]
fn bad_requests_get_problem_documents() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    daemon
        .call("GET", "/nothing", "")
        .is_problem(404, "not-found");
    daemon
        .call("PUT", "/api/v1/vms", "")
        .is_problem(405, "method-not-allowed");
    daemon
        .call("GET", "/api/v1/vms/nobody", "")
        .is_problem(404, "vm-not-found");
    daemon
        .call("GET", "/api/v1/vms/..%2f", "")
        .is_problem(404, "not-found");
    daemon
        .call("DELETE", "/api/v1/vms/nobody", "")
        .is_problem(404, "vm-not-found");
    daemon
        .call("GET", "/api/v1/vms/nobody?after=x", "")
        .is_problem(400, "invalid-request");
    daemon
        .call("GET", "/api/v1/vms/nobody/logs?tail=-1", "")
        .is_problem(400, "invalid-request");
    daemon
        .call("POST", "/api/v1/vms", "{")
        .is_problem(400, "invalid-request");
    let wrong = daemon.call("POST", "/api/v1/vms", r#"{"name": "No", "plugin": "x"}"#);
    wrong.is_problem(400, "invalid-request");
    assert_eq!(wrong.json()["errors"][0]["pointer"], "/name");
    daemon
        .call("POST", "/api/v1/vms", r#"{"name": "a", "plugin": "x"}"#)
        .is_problem(404, "plugin-not-found");
    daemon
        .call("POST", "/api/v1/plugins/x/enabled", r#"{"enabled": true}"#)
        .is_problem(404, "plugin-not-found");
    let large = " ".repeat(2 * 1024 * 1024);
    daemon
        .call("POST", "/api/v1/plugins", &large)
        .is_problem(413, "too-large");
    let refused = daemon.call(
        "POST",
        "/api/v1/plugins",
        &manifest(Path::new("/no/such/file")).to_string(),
    );
    refused.is_problem(400, "invalid-request");
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .contains("/no/such/file")
    );
    // What may be there one day is told from what is wrong.
    for (member, value) in [
        ("cloud_init", json!({"user_data": {"content": "x"}})),
        ("network", json!({"mode": "vsock"})),
        ("network", json!({"mode": "dhcp"})),
        ("disks", json!([{"name": "d", "source": "/x"}])),
    ] {
        let mut asked = manifest(Path::new("/no/such/file"));
        asked[member] = value;
        let refused = daemon.call("POST", "/api/v1/plugins", &asked.to_string());
        refused.is_problem(501, "not-implemented");
        asked["version"] = json!("");
        let refused = daemon.call("POST", "/api/v1/plugins", &asked.to_string());
        refused.is_problem(400, "invalid-request");
    }
}

#[test]
fn a_plugin_can_be_installed_where_no_vm_can_run() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let artifact = dir.path().join("plugin.cpio");
    fs_err::write(&artifact, crate::stores::archive()).unwrap();

    let installed = daemon.call("POST", "/api/v1/plugins", &manifest(&artifact).to_string());
    assert_eq!(installed.status, 201, "{installed:?}");
    assert_eq!(installed.json()["artifact"]["pinned"], false);
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins", "").json(),
        json!({"plugins": ["x"]})
    );
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins/x/artifacts", "").json()[0]["Kind"],
        "initramfs"
    );

    let create = daemon.call("POST", "/api/v1/vms", r#"{"name": "a", "plugin": "x"}"#);
    create.is_problem(503, "unavailable");
    assert!(
        create.head.to_lowercase().contains("retry-after"),
        "{}",
        create.head
    );
    for (field, value) in [("cpu_cores", 1_000_000), ("memory_mb", 4_000_000_000_u32)] {
        let body = json!({"name": "a", "plugin": "x", field: value}).to_string();
        let refused = daemon.call("POST", "/api/v1/vms", &body);
        refused.is_problem(400, "invalid-request");
        assert_eq!(refused.json()["errors"][0]["pointer"], format!("/{field}"));
    }
    assert_eq!(
        daemon.call("GET", "/api/v1/vms", "").json(),
        json!([]),
        "nothing was recorded"
    );

    assert_eq!(
        daemon
            .call("POST", "/api/v1/plugins/x/enabled", r#"{"enabled": false}"#)
            .status,
        200
    );
    daemon
        .call("POST", "/api/v1/vms", r#"{"name": "a", "plugin": "x"}"#)
        .is_problem(409, "plugin-disabled");
    daemon
        .call("GET", "/api/v1/plugins/x/manifest", "")
        .is_problem(409, "plugin-disabled");
    assert_eq!(
        daemon.call("GET", "/api/v1/plugins/x", "").json()["enabled"],
        false
    );
    assert_eq!(daemon.call("DELETE", "/api/v1/plugins/x", "").status, 204);
    daemon
        .call("GET", "/api/v1/plugins/x", "")
        .is_problem(404, "plugin-not-found");
}
