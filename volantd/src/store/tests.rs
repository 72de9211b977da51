//! What is written is read back, on real files, and formats are kept apart.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use common::agent::HealthState;
use common::api::{
    BootTimeline, ConfigApi, ConfigResources, Failure, MAX_CONFIG_VERSIONS, VmConfig, VmHealth,
};
use common::digest::Digest;
use common::guest_config::Secret;
use common::manifest::Manifest;
use common::name::Name;
use jiff::Timestamp;
use tempfile::TempDir;

use super::answers::MAX_KEPT_BYTES;
use super::migrations::run_these;
use super::{
    ANSWER_AGE, ArtifactRecord, KeptAnswer, KeptArtifact, PluginRecord, Store, StoreError,
};
use crate::limits::Limits;
use crate::machine::Pool;
use crate::machine::plan::Step;
use crate::machine::ports::{Accelerator, InstanceRecord, VmmKind};
use crate::machine::record::{ConfigVersion, Draft, Durability, Journal, JournalError, VmRecord};
use crate::machine::state::{Desired, Phase, State};

const MANIFEST: &str = r#"{"schema_version": "1.0", "name": "hello", "version": "1", "initramfs": {"url": "/a.gz"},
    "resources": {"cpu_cores": 1, "memory_mb": 64},
    "workload": {"type": "http", "base_url": "http://127.0.0.1:80", "entrypoint": ["/bin/hello"], "env": {"KEY": "s3cret"}}}"#;

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("volant.db")).unwrap();
    (dir, store)
}

fn name(name: &str) -> Name {
    name.parse().unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn plugin(plugin: &str, content: &[u8]) -> PluginRecord {
    PluginRecord {
        name: name(plugin),
        version: "1".to_owned(),
        enabled: true,
        manifest: Manifest::from_json(MANIFEST.as_bytes()).unwrap(),
        artifact: ArtifactRecord {
            digest: Digest::of(content),
            size_bytes: 5_000_000_000,
        },
        pinned: false,
        source_url: "https://example.com/a.gz".to_owned(),
        installed_at: at(1),
        updated_at: at(2),
    }
}

fn draft(vm: &str, content: &[u8]) -> Draft {
    Draft {
        name: name(vm),
        config: VmConfig {
            resources: ConfigResources {
                cpu_cores: Some(2),
                memory_mb: Some(512),
            },
            kernel_cmdline: Some("debug".to_owned()),
            api: Some(ConfigApi {
                host: "192.168.127.1".to_owned(),
                port: Some(7777),
            }),
            ..VmConfig::new(Manifest::from_json(MANIFEST.as_bytes()).unwrap())
        },
        artifact: Digest::of(content),
        secret: Secret::from_random([3; 32]),
        created_at: at(7),
        pool: Pool {
            subnet: "192.168.127.0/24".parse().unwrap(),
            host_ip: Ipv4Addr::new(192, 168, 127, 1),
        },
    }
}

async fn all(store: &Store) -> Vec<VmRecord> {
    store
        .all()
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[tokio::test]
async fn plugins_are_read_as_they_were_written() {
    let (_dir, store) = store();
    assert_eq!(store.plugin(&name("hello")).await.unwrap(), None);
    store.install_plugin(plugin("hello", b"a")).await.unwrap();
    store.install_plugin(plugin("caddy", b"b")).await.unwrap();
    assert_eq!(
        store.plugin(&name("hello")).await.unwrap(),
        Some(plugin("hello", b"a"))
    );
    let names: Vec<String> = store
        .plugins()
        .await
        .unwrap()
        .iter()
        .map(|plugin| plugin.name.to_string())
        .collect();
    assert_eq!(names, ["caddy", "hello"]);
    let newer = PluginRecord {
        version: "2".to_owned(),
        installed_at: at(90),
        updated_at: at(91),
        ..plugin("hello", b"c")
    };
    store.install_plugin(newer.clone()).await.unwrap();
    let installed = store.plugin(&name("hello")).await.unwrap().unwrap();
    assert_eq!(
        installed,
        PluginRecord {
            installed_at: at(1),
            ..newer
        },
        "it was first installed then"
    );
    assert!(
        store
            .set_plugin_enabled(&name("hello"), false, at(95))
            .await
            .unwrap()
    );
    let disabled = store.plugin(&name("hello")).await.unwrap().unwrap();
    assert_eq!((disabled.enabled, disabled.updated_at), (false, at(95)));
    assert!(store.remove_plugin(&name("hello")).await.unwrap());
    assert!(!store.remove_plugin(&name("hello")).await.unwrap());
    assert!(
        !store
            .set_plugin_enabled(&name("hello"), true, at(96))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn artifacts_of_plugins_and_vms_are_kept() {
    let (_dir, store) = store();
    for (plugin_name, content) in [("one", b"a"), ("two", b"b"), ("three", b"c")] {
        store
            .install_plugin(plugin(plugin_name, content))
            .await
            .unwrap();
    }
    let vm = store.insert(draft("web", b"b")).await.unwrap();
    store.remove_plugin(&name("two")).await.unwrap();
    store.remove_plugin(&name("three")).await.unwrap();
    let used = store.artifacts_in_use().await.unwrap();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), {
        let mut expected = [Digest::of(b"a"), Digest::of(b"b")];
        expected.sort();
        expected
    });
    assert_eq!(
        store.forget_unused_artifacts().await.unwrap(),
        [Digest::of(b"c")]
    );
    store.remove(vm.id).await.unwrap();
    assert_eq!(
        store.forget_unused_artifacts().await.unwrap(),
        [Digest::of(b"b")]
    );
    let left = store.artifacts().await.unwrap();
    assert_eq!(
        left,
        [ArtifactRecord {
            digest: Digest::of(b"a"),
            size_bytes: 5_000_000_000
        }]
    );
}

#[tokio::test]
async fn a_vm_is_read_as_it_was_written() {
    let (dir, store) = store();
    store.install_plugin(plugin("hello", b"a")).await.unwrap();
    let mut record = store.insert(draft("web", b"a")).await.unwrap();
    assert_eq!(record.lease.ip, Ipv4Addr::new(192, 168, 127, 10));
    assert_eq!(all(&store).await, std::slice::from_ref(&record));
    let failure = Failure {
        step: "vmm".to_owned(),
        cause: "x".to_owned(),
        hints: vec!["y".to_owned()],
    };
    let health = VmHealth {
        state: HealthState::Unhealthy,
        reason: Some("slow".to_owned()),
        last_probe_at: None,
    };
    record.progress.state = State {
        phase: Phase::Running { health },
        desired: Desired::Running,
    };
    record.progress.begun = Step::ALL.to_vec();
    record.progress.launch = Some("launch".to_owned());
    record.progress.launched_version = Some(1);
    record.progress.instance = Some(InstanceRecord {
        instance: "launch".to_owned(),
        pid: 4_000_000_000,
        start_ticks: 9,
        boot_id: "b".to_owned(),
        vmm: VmmKind::CloudHypervisor,
        accelerator: Accelerator::Kvm,
        control_socket: "/run/x".into(),
        serial: Some("/dev/pts/3".into()),
        vsock: None,
    });
    record.progress.restarts = 3;
    record.progress.proven = true;
    record.progress.failure = Some(failure.clone());
    record.progress.boot = Some(BootTimeline {
        ready_ms: Some(12.5),
        ..Default::default()
    });
    record.progress.generation = 42;
    record.progress.updated_at = at(99);
    for durability in [Durability::Noted, Durability::Promised] {
        store
            .save(record.id, &record.progress, durability)
            .await
            .unwrap();
        assert_eq!(all(&store).await, std::slice::from_ref(&record));
    }
    record.progress.state = State {
        phase: Phase::Crashed { failure },
        desired: Desired::Running,
    };
    record.progress.begun.clear();
    record.progress.instance = None;
    store
        .save(record.id, &record.progress, Durability::Noted)
        .await
        .unwrap();
    drop(store);
    let again = Store::open(&dir.path().join("volant.db")).unwrap();
    assert_eq!(all(&again).await, [record]);
}

#[tokio::test]
async fn names_are_taken_and_numbers_never_come_back() {
    let (_dir, store) = store();
    store.install_plugin(plugin("hello", b"a")).await.unwrap();
    let first = store.insert(draft("web", b"a")).await.unwrap();
    let twice = store.insert(draft("web", b"a")).await.unwrap_err();
    assert!(matches!(&twice, JournalError::Exists { .. }), "{twice:?}");
    store.remove(first.id).await.unwrap();
    store.remove(first.id).await.unwrap();
    let second = store.insert(draft("web", b"a")).await.unwrap();
    assert!(second.id > first.id);
    assert_eq!(second.lease, first.lease, "the lease was freed");
    let gone = store
        .save(first.id, &first.progress, Durability::Noted)
        .await
        .unwrap_err();
    assert!(matches!(&gone, JournalError::Failed { .. }), "{gone:?}");
}

#[tokio::test]
async fn a_vm_of_an_unknown_artifact_is_refused() {
    let (_dir, store) = store();
    let error = store.insert(draft("web", b"nowhere")).await.unwrap_err();
    assert!(matches!(&error, JournalError::Failed { .. }), "{error:?}");
    assert!(all(&store).await.is_empty());
}

#[tokio::test]
async fn an_unreadable_vm_does_not_hide_the_others_and_keeps_its_lease() {
    let (dir, store) = store();
    store.install_plugin(plugin("hello", b"a")).await.unwrap();
    let broken = store.insert(draft("broken", b"a")).await.unwrap();
    store.insert(draft("web", b"a")).await.unwrap();
    let other = rusqlite::Connection::open(dir.path().join("volant.db")).unwrap();
    other
        .execute(
            "UPDATE vms SET phase = '{\"phase\":\"flying\"}' WHERE id = ?1",
            [broken.id],
        )
        .unwrap();
    let read = store.all().await.unwrap();
    let error = read[0].as_ref().unwrap_err();
    assert_eq!(
        error.to_string(),
        "The record of the VM `broken` cannot be read"
    );
    assert_eq!(read[1].as_ref().unwrap().blueprint.name, name("web"));
    assert_eq!(
        store.insert(draft("third", b"a")).await.unwrap().lease.ip,
        Ipv4Addr::new(192, 168, 127, 12)
    );
}

#[tokio::test]
async fn the_files_are_for_the_daemons_user_only() {
    let (dir, store) = store();
    store.install_plugin(plugin("hello", b"a")).await.unwrap();
    for file in ["volant.db", "volant.db-wal", "volant.db-shm"] {
        let mode = fs_err::metadata(dir.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_database_of_a_later_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volant.db");
    drop(Store::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::TooNew { found: 99, .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("has format 99, and this volantd knows formats up to"),
        "{error}"
    );
    let version: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 99);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volant.db");
    fs_err::write(
        &path,
        "a letter to somebody, long enough to be looked at by anybody who opens it as a database",
    )
    .unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(&error, StoreError::Open { .. }), "{error:?}");
}

#[test]
fn migrations_go_on_from_where_a_database_is_and_fail_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volant.db");
    let mut connection = rusqlite::Connection::open(&path).unwrap();
    let one = "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (1);";
    let two = "CREATE TABLE b (y INTEGER); INSERT INTO b SELECT x FROM a;";
    let broken = "CREATE TABLE c (z INTEGER); INSERT INTO nowhere VALUES (1);";
    run_these(&mut connection, &path, &[one]).unwrap();
    run_these(&mut connection, &path, &[one, two]).unwrap();
    run_these(&mut connection, &path, &[one, two]).unwrap();
    let copied: i64 = connection
        .query_row("SELECT count(*) FROM b", [], |row| row.get(0))
        .unwrap();
    assert_eq!(copied, 1, "each ran once");
    let error = run_these(&mut connection, &path, &[one, two, broken]).unwrap_err();
    assert!(
        matches!(&error, StoreError::Migrate { version: 3, .. }),
        "{error:?}"
    );
    let tables: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_master WHERE name = 'c'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(tables, 0, "nothing of it is left");
    let version: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 2);
}

fn next_version(record: &VmRecord, version: u64, content: &[u8]) -> ConfigVersion {
    let mut config = record.config.config.clone();
    config.kernel_cmdline = Some(format!("version={version}"));
    ConfigVersion {
        version,
        config,
        artifact: Digest::of(content),
        updated_at: at(100),
    }
}

#[tokio::test]
async fn configurations_are_kept_newest_first_and_with_their_artifacts() {
    let (_dir, store) = store();
    for content in [b"a", b"b"] {
        store
            .install_plugin(plugin("hello", content))
            .await
            .unwrap();
    }
    let record = store.insert(draft("web", b"a")).await.unwrap();
    let second = next_version(&record, 2, b"b");
    store.reconfigure(record.id, &second).await.unwrap();
    let twice = store.reconfigure(record.id, &second).await.unwrap_err();
    assert!(matches!(&twice, JournalError::Failed { .. }), "{twice:?}");
    let history = store.vm_configs(record.id, 10).await.unwrap();
    let versions: Vec<u64> = history.iter().map(|row| row.version.version).collect();
    assert_eq!(versions, [2, 1]);
    assert_eq!(history[0].version, second);
    assert_eq!(history[1].version, *record.config);
    assert_eq!(store.vm_configs(record.id, 1).await.unwrap().len(), 1);
    assert_eq!(store.vm_config(record.id, 3).await.unwrap(), None);
    let beyond = store.vm_config(record.id, u64::MAX).await;
    assert_eq!(beyond.unwrap(), None);
    let read = all(&store).await.remove(0);
    assert_eq!(*read.config, second);
    assert_eq!(read.blueprint.extra_cmdline, "version=2");
    assert!(
        store.forget_unused_artifacts().await.unwrap().is_empty(),
        "the old version needs its artifact"
    );
    store.remove(record.id).await.unwrap();
    assert!(store.vm_configs(record.id, 10).await.unwrap().is_empty());
    assert_eq!(
        store.forget_unused_artifacts().await.unwrap(),
        [Digest::of(b"a")]
    );
}

#[tokio::test]
async fn old_configurations_go_but_never_the_one_that_runs() {
    let (_dir, store) = store();
    store.install_plugin(plugin("hello", b"a")).await.unwrap();
    let mut record = store.insert(draft("web", b"a")).await.unwrap();
    record.progress.launched_version = Some(1);
    store
        .save(record.id, &record.progress, Durability::Noted)
        .await
        .unwrap();
    let last = u64::from(MAX_CONFIG_VERSIONS) + 5;
    for version in 2..=last {
        let next = next_version(&record, version, b"a");
        store.reconfigure(record.id, &next).await.unwrap();
    }
    let history = store.vm_configs(record.id, u32::MAX).await.unwrap();
    let versions: Vec<u64> = history.iter().map(|row| row.version.version).collect();
    let mut expected: Vec<u64> = (6..=last).rev().collect();
    expected.push(1);
    assert_eq!(versions, expected);
    let read = all(&store).await.remove(0);
    assert_eq!(read.config.version, last);
    assert_eq!(
        read.blueprint, record.blueprint,
        "what runs is what it was launched with"
    );
}

#[tokio::test]
async fn vms_of_the_first_format_get_their_first_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volant.db");
    let mut connection = rusqlite::Connection::open(&path).unwrap();
    let first = include_str!("migrations/0001_plugins_and_vms.sql");
    run_these(&mut connection, &path, &[first]).unwrap();
    let insert = "INSERT INTO artifacts VALUES (?1, 1, ?3);";
    let (digest, time) = (Digest::of(b"a").to_string(), at(7).to_string());
    connection
        .execute(&insert.replace("?3", "?2"), [&digest, &time])
        .unwrap();
    for (name, launch, cmdline, host, port) in [
        ("up", Some("l"), "debug", Some("10.0.0.1"), Some(80)),
        ("down", None, "", None, None),
    ] {
        connection
            .execute(
                "INSERT INTO vms (name, plugin, manifest, artifact, cpu_cores, memory_mib, extra_cmdline, api_host, api_port, ip, mac,
                     tap, cid, secret, created_at, desired, phase, steps_begun, launch, restarts, proven, generation, updated_at)
                 VALUES (?1, 'hello', ?2, ?3, 2, 512, ?4, ?5, ?6, '10.0.0.' || ?8, ?1, ?1, ?8, 's', ?9, 'running', '{\"phase\":\"pending\"}',
                     '[]', ?7, 0, 0, 1, ?9)",
                rusqlite::params![name, Manifest::from_json(MANIFEST.as_bytes()).unwrap().to_json(), digest, cmdline, host, port, launch,
                    name.len(), time],
            )
            .unwrap();
    }
    connection
        .execute("UPDATE sqlite_sequence SET seq = 40 WHERE name = 'vms'", [])
        .unwrap();
    drop(connection);

    let store = Store::open(&path).unwrap();
    let records = all(&store).await;
    let [up, down] = records.as_slice() else {
        panic!("{records:?}")
    };
    for record in [up, down] {
        assert_eq!(
            (record.config.version, record.config.artifact),
            (1, Digest::of(b"a"))
        );
        assert_eq!(
            (record.blueprint.cpu_cores, record.blueprint.memory_mib),
            (2, 512)
        );
        assert_eq!(record.config.config.runtime, "hello");
        assert_eq!(record.config.config.env, [].into());
        assert_eq!(record.blueprint.manifest.workload.env["KEY"], "s3cret");
    }
    assert_eq!(up.blueprint.extra_cmdline, "debug");
    assert_eq!(up.blueprint.api, Some(("10.0.0.1".to_owned(), 80)));
    assert_eq!(up.progress.launched_version, Some(1));
    assert_eq!(
        (
            down.config.config.kernel_cmdline.as_ref(),
            down.config.config.api.as_ref()
        ),
        (None, None)
    );
    assert_eq!(down.progress.launched_version, None);
    let next = store.insert(draft("new", b"a")).await.unwrap();
    assert_eq!(next.id, 41, "numbers of VMs that are gone stay used");
}

fn kept(plugin: &str, version: &str, content: &[u8]) -> KeptArtifact {
    KeptArtifact {
        id: 0,
        plugin: name(plugin),
        version: version.to_owned(),
        name: "boot".to_owned(),
        kind: "initramfs".to_owned(),
        artifact: ArtifactRecord {
            digest: Digest::of(content),
            size_bytes: 7,
        },
        pinned: true,
        source_url: "/a.gz".to_owned(),
        format: String::new(),
        created_at: at(3),
        updated_at: at(3),
    }
}

#[tokio::test]
async fn whoever_needs_an_artifact_is_known_and_keeps_it() {
    let (_dir, store) = store();
    store.install_plugin(plugin("hello", b"a")).await.unwrap();
    store.insert(draft("web", b"a")).await.unwrap();
    for version in ["1", "2"] {
        store
            .keep_artifact(kept("later", version, b"k"))
            .await
            .unwrap();
    }
    let users = store.artifact_users().await.unwrap();
    let of = |content: &[u8]| users[&Digest::of(content)].clone();
    assert_eq!(of(b"a").plugins, [name("hello")]);
    assert_eq!(of(b"a").vms, [name("web")]);
    assert_eq!(of(b"k").plugins, [name("later")], "once, for all versions");
    for content in [b"a", b"k"] {
        assert!(!store.forget_artifact(&Digest::of(content)).await.unwrap());
    }
    assert!(store.forget_unused_artifacts().await.unwrap().is_empty());

    let later = name("later");
    assert_eq!(store.drop_artifacts(&later, Some("1")).await.unwrap(), 1);
    assert!(!store.forget_artifact(&Digest::of(b"k")).await.unwrap());
    assert_eq!(store.drop_artifacts(&later, None).await.unwrap(), 1);
    assert!(store.forget_artifact(&Digest::of(b"k")).await.unwrap());
    assert!(
        !store.forget_artifact(&Digest::of(b"k")).await.unwrap(),
        "gone"
    );
}

#[tokio::test]
async fn an_artifact_of_a_version_and_name_is_replaced() {
    let (_dir, store) = store();
    store.keep_artifact(kept("hello", "1", b"a")).await.unwrap();
    let newer = KeptArtifact {
        updated_at: at(9),
        ..kept("hello", "1", b"b")
    };
    store.keep_artifact(newer.clone()).await.unwrap();
    let found = store.kept_artifacts(&name("hello"), None).await.unwrap();
    assert_eq!(
        found,
        [KeptArtifact {
            id: found[0].id,
            ..newer
        }]
    );
    assert_eq!(
        store.forget_unused_artifacts().await.unwrap(),
        [Digest::of(b"a")]
    );
}

#[tokio::test]
async fn answers_take_only_so_many_bytes() {
    let (_dir, store) = store();
    let half = usize::try_from(MAX_KEPT_BYTES / 2).unwrap();
    for key in ["a", "b", "c"] {
        let answer = KeptAnswer {
            request: key.to_owned(),
            status: 201,
            body: vec![b'x'; half],
        };
        store.keep_answer(key, answer, at(1)).await.unwrap();
    }
    for (key, is_kept) in [("a", false), ("b", true), ("c", true)] {
        let found = store.answer(key, at(1)).await.unwrap();
        assert_eq!(found.is_some(), is_kept, "{key}");
    }
}

#[tokio::test]
async fn answers_are_kept_for_a_day_and_not_without_end() {
    let (_dir, store) = store();
    let answer = KeptAnswer {
        request: "sha256:x".to_owned(),
        status: 201,
        body: b"{}".to_vec(),
    };
    let day = i64::try_from(ANSWER_AGE.as_secs()).unwrap();
    store.keep_answer("a", answer.clone(), at(1)).await.unwrap();
    assert_eq!(
        store.answer("a", at(day)).await.unwrap(),
        Some(answer.clone())
    );
    assert_eq!(store.answer("a", at(day + 1)).await.unwrap(), None);
    assert_eq!(store.answer("b", at(1)).await.unwrap(), None);

    let filled = store.run("fill", |transaction| {
        for number in 0..Limits::default().store.idempotency_keys {
            transaction.execute(
                "INSERT INTO answers (key, request, status, body, answered_at_ms) VALUES (?1, '', 201, x'', ?2)",
                rusqlite::params![format!("k{number}"), 2000 + i64::from(number)],
            )?;
        }
        Ok(())
    });
    filled.await.unwrap();
    store.keep_answer("last", answer, at(9)).await.unwrap();
    for (key, is_kept) in [("a", false), ("k0", false), ("k1", true), ("last", true)] {
        let found = store.answer(key, at(9)).await.unwrap();
        assert_eq!(found.is_some(), is_kept, "{key}");
    }
}
