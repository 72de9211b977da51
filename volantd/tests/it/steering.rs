//! Configurations, upgrades and waits over the API of the real daemon, with a VMM that runs no guest: VMs are created, and come no further
//! than to their boot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fledge::image::initramfs;
use fledge::tree::{Content, Node, Tree};
use serde_json::{Value, json};

use crate::daemon::{Answer, Daemon};
use crate::stores::kernel;
use crate::vmm::end_vmms_of;

/// A daemon on a fake QEMU; ends its VMMs.
struct Place {
    daemon: Daemon,
}

impl Drop for Place {
    fn drop(&mut self) {
        end_vmms_of(&self.daemon.dir.path().join("state"));
    }
}

impl Place {
    fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// One with more of the environment.
    fn with(environment: &[(&str, &str)]) -> Option<Self> {
        let own = [
            ("VOLANT_QEMU", env!("CARGO_BIN_EXE_fake-qemu")),
            ("VOLANT_HYPERVISOR", "qemu"),
            ("VOLANT_KERNEL_VMLINUX", "DIR/kernels/vmlinux"),
            ("VOLANT_DISK_DIRS", "DIR/disks"),
        ];
        let daemon = Daemon::start_with(&[&own, environment].concat())?;
        let place = Self { daemon };
        for folder in ["kernels", "disks"] {
            fs_err::create_dir(place.path(folder)).unwrap();
        }
        fs_err::write(place.path("kernels/vmlinux"), kernel()).unwrap();
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.daemon.dir.path().join(name)
    }

    /// An archive with this in it.
    fn artifact(&self, content: &str) -> String {
        self.artifact_at(content, content)
    }

    /// As [`Place::artifact`], in the place of one that was there.
    fn artifact_at(&self, name: &str, content: &str) -> String {
        let mut tree = Tree::default();
        let init = Node::file(0o755, Content::Bytes(content.as_bytes().to_vec()));
        tree.replace(b"init", init).unwrap();
        let path = self.path(&format!("{name}.cpio"));
        fs_err::write(&path, initramfs::write(&tree, Vec::new()).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn install(&self, version: &str) {
        self.install_build(version, &format!("plugin-{version}"));
    }

    /// Installs a plugin of this version with this in its archive.
    fn install_build(&self, version: &str, content: &str) {
        let url = self.artifact_at(&format!("plugin-{version}"), content);
        let manifest = json!({
            "name": "x", "version": version, "initramfs": {"url": url}, "resources": {"memory_mb": 128},
            "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1", "env": {"A": "manifest"}}
        });
        let installed = self
            .daemon
            .call("POST", "/api/v1/plugins", &manifest.to_string());
        assert_eq!(installed.status, 201, "{installed:?}");
    }

    /// A VM that is down.
    fn create(&self, body: &Value) {
        let created = self.daemon.call("POST", "/api/v1/vms", &body.to_string());
        assert_eq!(created.status, 201, "{created:?}");
        let name = body["name"].as_str().unwrap();
        let stopped = self.vm(name, "POST", "/stop?wait=stopped&timeout=60s", "");
        assert_eq!(
            (stopped.status, stopped.json()["status"].as_str()),
            (200, Some("stopped")),
            "{stopped:?}"
        );
    }

    fn vm(&self, name: &str, method: &str, rest: &str, body: &str) -> Answer {
        self.daemon
            .call(method, &format!("/api/v1/vms/{name}{rest}"), body)
    }

    fn patch(&self, name: &str, body: &Value) -> Answer {
        self.vm(name, "PATCH", "/config", &body.to_string())
    }

    fn stored(&self) -> BTreeSet<String> {
        let entries = fs_err::read_dir(self.path("state/artifacts")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.len() == 64).collect()
    }
}

#[test]
fn a_configuration_is_read_changed_and_rolled_back() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    place.create(&json!({
        "name": "web", "plugin": "x", "memory_mb": 200, "kernel_cmdline": "debug",
        "config": {"resources": {"cpu_cores": 1, "memory_mb": 150}, "env": {"A": "config"}, "metadata": {"team": "blue"}}
    }));
    let first = place.vm("web", "GET", "/config", "");
    assert!(first.head.contains("etag: \"1\""), "{}", first.head);
    let config = &first.json()["config"];
    assert_eq!(
        config["resources"],
        json!({"cpu_cores": 1, "memory_mb": 200}),
        "the request wins"
    );
    assert_eq!(
        (&config["env"]["A"], &config["metadata"]["team"]),
        (&json!("config"), &json!("blue"))
    );
    assert_eq!(config["kernel_cmdline"], "debug");

    let body = json!({"resources": {"memory_mb": 300}}).to_string();
    let path = "/api/v1/vms/web/config";
    let changed = place
        .daemon
        .call_with("PATCH", path, "If-Match: \"1\"\r\n", &body);
    assert_eq!(
        (changed.status, changed.json()["version"].as_u64()),
        (200, Some(2)),
        "{changed:?}"
    );
    assert!(changed.head.contains("etag: \"2\""), "{}", changed.head);
    let late = place
        .daemon
        .call_with("PATCH", path, "If-Match: \"1\"\r\n", &body);
    late.is_problem(412, "version-mismatch");
    let vm = place.vm("web", "GET", "", "").json();
    assert_eq!(vm.get("serial_socket"), None, "nothing runs");
    assert_eq!(
        (&vm["memory_mb"], &vm["config_version"]),
        (&json!(300), &json!(2))
    );
    assert_eq!(vm.get("effective_config_version"), None, "nothing runs");

    let back = place.vm("web", "POST", "/config/rollback", r#"{"version": 1}"#);
    assert_eq!(back.json()["version"], 3, "{back:?}");
    assert_eq!(back.json()["config"], first.json()["config"]);
    let history = place.vm("web", "GET", "/config/history?limit=2", "").json();
    let versions: Vec<u64> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions, [3, 2]);
    place
        .vm("web", "POST", "/config/rollback", r#"{"version": 9}"#)
        .is_problem(404, "config-version-not-found");
    place
        .vm("nobody", "GET", "/config", "")
        .is_problem(404, "vm-not-found");
    assert_eq!(place.vm("web", "DELETE", "?wait=gone", "").status, 204);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    place.create(&json!({"name": "web", "plugin": "x"}));
    fs_err::write(place.path("elsewhere"), [0; 1024]).unwrap();
    let elsewhere = place.path("elsewhere");
    let refused = [
        (json!({"memory": 1}), 400, "invalid-request", "/memory"),
        (json!({"plugin": "y"}), 400, "invalid-request", "/plugin"),
        (
            json!({"resources": {"cpu_cores": 0}}),
            400,
            "invalid-request",
            "/resources/cpu_cores",
        ),
        (
            json!({"resources": {"memory_mb": 1}}),
            400,
            "invalid-request",
            "/resources/memory_mb",
        ),
        (json!({"env": {"A=B": "x"}}), 400, "invalid-request", "/env"),
        (
            json!({"kernel_override": elsewhere}),
            400,
            "invalid-request",
            "/kernel_override",
        ),
        (
            json!({"disks": [{"name": "d", "path": elsewhere}]}),
            400,
            "invalid-request",
            "/disks/0/path",
        ),
        (
            json!({"initramfs": {"url": "/no/such/file"}}),
            400,
            "invalid-request",
            "",
        ),
        (
            json!({"kernel_cmdline": "x".repeat(3000)}),
            400,
            "invalid-request",
            "/kernel_cmdline",
        ),
        (
            json!({"cloud_init": {"user_data": "x"}}),
            501,
            "not-implemented",
            "/cloud_init",
        ),
    ];
    for (patch, status, code, pointer) in refused {
        let answer = place.patch("web", &patch);
        answer.is_problem(status, code);
        if !pointer.is_empty() {
            assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{answer:?}");
        }
    }
    assert_eq!(place.vm("web", "GET", "/config", "").json()["version"], 1);
    assert_eq!(place.vm("web", "DELETE", "", "").status, 204);
}

#[test]
fn files_of_allowed_folders_are_given_to_a_vm() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    place.create(&json!({"name": "web", "plugin": "x"}));
    fs_err::write(place.path("disks/data"), [0; 1024]).unwrap();
    let disk = json!({"disks": [{"name": "d", "path": place.path("disks/data")}], "kernel_override": place.path("kernels/vmlinux")});
    let given = place.patch("web", &disk);
    assert_eq!(
        (
            given.status,
            &given.json()["config"]["disks"][0]["readonly"]
        ),
        (200, &json!(true)),
        "{given:?}"
    );
    place
        .vm("web", "POST", "/pause", "")
        .is_problem(409, "wrong-phase");
    place
        .vm("web", "POST", "/resume", "")
        .is_problem(409, "wrong-phase");
    place
        .vm("web", "POST", "/stop?grace_ms=99999999999", "")
        .is_problem(400, "invalid-request");
    assert_eq!(place.vm("web", "DELETE", "", "").status, 204);
}

#[test]
fn artifacts_of_kept_configurations_are_kept() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    place.create(&json!({"name": "web", "plugin": "x"}));
    let own = place.artifact("own");
    let patched = place.patch("web", &json!({"initramfs": {"url": own}}));
    assert_eq!(patched.status, 200, "{patched:?}");
    assert_eq!(place.stored().len(), 2);
    fs_err::remove_file(&own).unwrap();
    let again = place.patch("web", &json!({"env": {"B": "2"}}));
    assert_eq!(
        again.status, 200,
        "what is stored is not fetched again: {again:?}"
    );
    let back = place.vm("web", "POST", "/config/rollback", r#"{"version": 1}"#);
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(
        place.daemon.call("DELETE", "/api/v1/plugins/x", "").status,
        204
    );
    assert_eq!(place.stored().len(), 2, "either can be gone back to");
    assert_eq!(place.vm("web", "DELETE", "", "").status, 204);
    assert!(place.stored().is_empty());
}

#[test]
fn a_vm_is_upgraded_and_goes_back() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    place.create(&json!({"name": "web", "plugin": "x", "config": {"env": {"B": "2"}}}));
    let vm = place.vm("web", "GET", "", "").json();
    assert_eq!(
        (&vm["plugin_version"], vm.get("upgrade_available")),
        (&json!("1"), None)
    );
    let same = place.vm("web", "POST", "/upgrade", "");
    assert_eq!(
        (same.status, &same.json()["config_version"]),
        (200, &json!(1)),
        "{same:?}"
    );

    place.install("2");
    let vm = place.vm("web", "GET", "", "").json();
    assert_eq!(vm["upgrade_available"], "2");
    let listed = place.daemon.call("GET", "/api/v1/vms", "").json();
    assert_eq!(listed[0]["upgrade_available"], "2");
    place
        .vm("web", "POST", "/upgrade", r#"{"version": "3"}"#)
        .is_problem(400, "invalid-request");
    let upgraded = place
        .vm("web", "POST", "/upgrade", r#"{"version": "2"}"#)
        .json();
    assert_eq!(
        (&upgraded["plugin_version"], &upgraded["config_version"]),
        (&json!("2"), &json!(2))
    );
    assert_eq!(upgraded["status"], "stopped", "it was down");
    assert_eq!(upgraded.get("upgrade_available"), None);
    let config = place.vm("web", "GET", "/config", "").json();
    assert_eq!(config["config"]["env"], json!({"B": "2"}), "choices stay");

    let back = place.vm(
        "web",
        "POST",
        "/config/rollback?restart=true",
        r#"{"version": 1}"#,
    );
    assert_eq!(
        back.json()["config"]["manifest"]["version"],
        "1",
        "{back:?}"
    );
    let vm = place.vm("web", "GET", "", "").json();
    assert_eq!(
        (&vm["plugin_version"], &vm["upgrade_available"]),
        (&json!("1"), &json!("2"))
    );
    assert_eq!(place.vm("web", "DELETE", "", "").status, 204);
}

#[test]
fn there_are_no_more_plugins_vms_and_versions_than_configured() {
    let Some(place) = Place::with(&[
        ("VOLANT_MAX_PLUGINS", "1"),
        ("VOLANT_MAX_VMS", "1"),
        ("VOLANT_KEPT_CONFIG_VERSIONS", "2"),
    ]) else {
        return;
    };
    place.install("1");
    place.install("2");
    let other = json!({
        "name": "y", "version": "1", "initramfs": {"url": place.artifact("y")},
        "workload": {"entrypoint": ["/x"], "base_url": "http://127.0.0.1"}
    });
    let refused = place
        .daemon
        .call("POST", "/api/v1/plugins", &other.to_string());
    refused.is_problem(507, "no-capacity");
    place.create(&json!({"name": "web", "plugin": "x"}));
    let second = json!({"name": "second", "plugin": "x"}).to_string();
    let refused = place.daemon.call("POST", "/api/v1/vms", &second);
    refused.is_problem(507, "no-capacity");
    for memory_mb in [200, 300, 400] {
        let changed = place.patch("web", &json!({"resources": {"memory_mb": memory_mb}}));
        assert_eq!(changed.status, 200, "{changed:?}");
    }
    let history = place.vm("web", "GET", "/config/history", "").json();
    assert_eq!(history.as_array().unwrap().len(), 2, "{history}");
    assert_eq!(place.vm("web", "DELETE", "", "").status, 204);
    let created = place.daemon.call("POST", "/api/v1/vms", &second);
    assert_eq!(created.status, 201, "{created:?}");
}

#[test]
fn a_plugin_that_was_built_anew_is_an_upgrade_too() {
    let Some(place) = Place::new() else { return };
    place.install_build("1", "first");
    let own = place.artifact("own");
    place.create(&json!({"name": "web", "plugin": "x"}));
    place.create(&json!({"name": "own", "plugin": "x", "config": {"initramfs": {"url": own}}}));
    let upgrade = |name: &str| {
        let vm = place.vm(name, "GET", "", "").json();
        vm.get("upgrade_available").cloned()
    };
    place.install_build("1", "first");
    assert_eq!(upgrade("web"), None, "nothing changed");
    place.install_build("1", "second");
    assert_eq!(upgrade("web"), Some(json!("1")));
    assert_eq!(upgrade("own"), None, "it boots another artifact");
    let before = place.vm("web", "GET", "", "").json();
    let upgraded = place.vm("web", "POST", "/upgrade", "").json();
    assert_eq!(upgraded["config_version"], 2, "{upgraded}");
    assert_ne!(upgraded["plugin_digest"], before["plugin_digest"]);
    assert_eq!(upgraded.get("upgrade_available"), None, "{upgraded}");
}

#[test]
fn a_vm_with_a_kernel_of_its_own_needs_not_the_daemons() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    place.create(&json!({"name": "web", "plugin": "x"}));
    let own = place.path("kernels/own");
    fs_err::rename(place.path("kernels/vmlinux"), &own).unwrap();
    for rest in ["/start", "/restart"] {
        place
            .vm("web", "POST", rest, "")
            .is_problem(503, "unavailable");
    }
    let changed = place.patch("web", &json!({"kernel_override": own}));
    assert_eq!(changed.status, 200, "{changed:?}");
    for rest in ["/start", "/restart"] {
        let started = place.vm("web", "POST", rest, "");
        assert_eq!(started.status, 200, "{started:?}");
    }
}

#[test]
fn waits_answer_when_their_goal_is_reached_or_cannot_be() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    let body = json!({"name": "web", "plugin": "x"}).to_string();
    let late = place
        .daemon
        .call("POST", "/api/v1/vms?wait=ready&timeout=1", &body);
    late.is_problem(504, "wait-timeout");
    assert_eq!(place.vm("web", "GET", "", "").status, 200, "it goes on");
    let down = place
        .vm("web", "POST", "/stop?wait=stopped&timeout=60s", "")
        .json();
    assert_eq!(
        (&down["status"], &down["desired"]),
        (&json!("stopped"), &json!("stopped"))
    );
    place
        .vm("web", "GET", "?wait=ready&timeout=60s", "")
        .is_problem(409, "wrong-phase");
    place
        .vm("web", "GET", "?wait=gone&timeout=1ms", "")
        .is_problem(504, "wait-timeout");
    place
        .vm("web", "GET", "?wait=flying", "")
        .is_problem(400, "invalid-request");
    place
        .vm("web", "GET", "?wait=ready&timeout=2h", "")
        .is_problem(400, "invalid-request");
    place
        .vm("nobody", "GET", "?wait=ready", "")
        .is_problem(404, "vm-not-found");
    assert_eq!(place.vm("nobody", "GET", "?wait=gone", "").status, 204);
    assert_eq!(
        place
            .vm("web", "DELETE", "?wait=gone&timeout=60s", "")
            .status,
        204
    );
    place
        .vm("web", "GET", "", "")
        .is_problem(404, "vm-not-found");
}

#[test]
fn only_objects_are_taken_for_objects() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    place.create(&json!({"name": "web", "plugin": "x"}));
    let post = |path: &str, body: &str| place.daemon.call("POST", path, body);
    post("/api/v1/vms", r#"["arr", "x"]"#).is_problem(400, "invalid-request");
    post("/api/v1/plugins", "[]").is_problem(400, "invalid-request");
    post("/api/v1/plugins/x/enabled", "[false]").is_problem(400, "invalid-request");
    for (method, path, body) in [
        ("PATCH", "/config", "[]"),
        ("PATCH", "/config", r#"{"resources": [1, 200]}"#),
        ("PATCH", "/config", r#"{"initramfs": ["/x"]}"#),
        ("POST", "/config/rollback", "[1]"),
        ("POST", "/upgrade", "[]"),
    ] {
        let refused = place.vm("web", method, path, body);
        refused.is_problem(400, "invalid-request");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains("an object") && !detail.contains(" line "),
            "{detail}"
        );
    }
    assert_eq!(place.vm("web", "GET", "/config", "").json()["version"], 1);
    let plugin = place.daemon.call("GET", "/api/v1/plugins/x", "").json();
    assert_eq!(plugin["enabled"], true);
    assert_eq!(place.vm("web", "DELETE", "", "").status, 204);
}

/// What is wrong in a creation, what it is answered, and the place that is named.
fn wrong_members(elsewhere: &Path) -> [(Value, u16, &'static str); 17] {
    [
        (json!({"cpu_cores": 999}), 400, "/cpu_cores"),
        (json!({"memory_mb": 1}), 400, "/memory_mb"),
        (json!({"runtime": "other"}), 400, "/runtime"),
        (
            json!({"kernel_cmdline": "x".repeat(3000)}),
            400,
            "/kernel_cmdline",
        ),
        (json!({"api_host": "name"}), 400, "/api_host"),
        (
            json!({"config": {"resources": {"cpu_cores": 999}}}),
            400,
            "/config/resources/cpu_cores",
        ),
        (
            json!({"cpu_cores": 999, "config": {"resources": {"cpu_cores": 1}}}),
            400,
            "/cpu_cores",
        ),
        (
            json!({"config": {"runtime": "other"}}),
            400,
            "/config/runtime",
        ),
        (json!({"config": {"plugin": "y"}}), 400, "/config/plugin"),
        (json!({"config": {"env": {"A=B": "x"}}}), 400, "/config/env"),
        (
            json!({"config": {"kernel_override": elsewhere}}),
            400,
            "/config/kernel_override",
        ),
        (
            json!({"config": {"disks": [{"name": "d", "path": elsewhere}]}}),
            400,
            "/config/disks/0/path",
        ),
        (
            json!({"config": {"disks": [{"name": "NO", "path": elsewhere}]}}),
            400,
            "/config/disks/0/name",
        ),
        (
            json!({"config": {"initramfs": {"url": "ftp://x"}}}),
            400,
            "/config/initramfs/url",
        ),
        (
            json!({"config": {"network": {"mode": "vsock"}}}),
            501,
            "/config/network/mode",
        ),
        (
            json!({"config": {"expose": [{"port": 80, "host_port": 80}]}}),
            501,
            "/config/expose/0/host_port",
        ),
        (
            json!({"config": {"env": {"a/b~c": 7}}}),
            400,
            "/config/env/a~1b~0c",
        ),
    ]
}

#[test]
fn wrong_members_of_a_creation_are_named_where_they_are() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    let elsewhere = place.path("elsewhere");
    fs_err::write(&elsewhere, [0; 1024]).unwrap();
    for (members, status, pointer) in wrong_members(&elsewhere) {
        let mut body = json!({"name": "web", "plugin": "x"});
        for (name, value) in members.as_object().unwrap() {
            body[name] = value.clone();
        }
        let refused = place.daemon.call("POST", "/api/v1/vms", &body.to_string());
        let code = if status == 501 {
            "not-implemented"
        } else {
            "invalid-request"
        };
        refused.is_problem(status, code);
        assert_eq!(
            refused.json()["errors"][0]["pointer"],
            pointer,
            "{refused:?}"
        );
    }
    let none = place
        .daemon
        .call("POST", "/api/v1/vms", r#"{"name": "web"}"#);
    none.is_problem(400, "invalid-request");
    let refused = place.daemon.call("GET", "/api/v1/vms?limit=x", "");
    refused.is_problem(400, "invalid-request");
    assert_eq!(
        refused.json()["detail"],
        "`limit` must be a number from 0 to 4294967295"
    );
}

#[test]
fn a_vm_is_created_as_clients_of_the_go_system_do() {
    let Some(place) = Place::new() else { return };
    place.install("1");
    let manifest = place.daemon.call("GET", "/api/v1/plugins/x", "").json();
    let bodies = [
        json!({"name": "a", "config": {"plugin": "X"}}),
        json!({"name": "b", "config": {"manifest": manifest}}),
        json!({
            "name": "c", "plugin": "", "runtime": "", "cpu_cores": 0, "memory_mb": 0, "kernel_cmdline": "", "api_host": "", "api_port": "",
            "config": {
                "plugin": "x", "runtime": "", "resources": {"cpu_cores": 0, "memory_mb": 0}, "kernel_override": "",
                "initramfs": {"url": "", "checksum": ""}, "rootfs": {"url": "", "format": "raw"}
            }
        }),
        json!({"name": "d", "plugin": "X", "api_host": "10.0.0.1", "api_port": "7777", "config": {"plugin": "x"}}),
        json!({
            "name": "e", "plugin": "x",
            "config": {"api": {"host": "10.0.0.1", "port": "7777"}, "initramfs": {"url": place.artifact("own"), "checksum": ""}}
        }),
    ];
    for body in &bodies {
        place.create(body);
        let name = body["name"].as_str().unwrap();
        let vm = place.vm(name, "GET", "", "").json();
        assert_eq!(
            (&vm["plugin"], &vm["memory_mb"]),
            (&json!("x"), &json!(128))
        );
    }
    for name in ["d", "e"] {
        let config = place.vm(name, "GET", "/config", "").json();
        let api = json!({"host": "10.0.0.1", "port": 7777});
        assert_eq!(config["config"]["api"], api);
    }
    let read = place.daemon.call_with(
        "GET",
        "/api/v1/vms/d/config",
        "If-None-Match: \"1\"\r\n",
        "",
    );
    assert_eq!((read.status, read.body.as_str()), (304, ""));
    for body in bodies {
        let name = body["name"].as_str().unwrap();
        assert_eq!(place.vm(name, "DELETE", "", "").status, 204);
    }
}
