//! What the tests of `vmm` launch, and the choice behind `Hypervisors`.

use std::net::Ipv4Addr;
use std::path::Path;

use common::digest::Digest;
use common::guest_config::Secret;
use common::manifest::Manifest;

use super::detect::{DevKvm, Program, Version};
use super::*;
use crate::machine::ports::{Accelerator, Disk, DiskAccess, Lease, VmPaths};

/// A launch of the VM `web` with its runtime folder.
pub(super) fn launch(run_dir: &Path) -> Launch {
    let manifest = r#"{"schema_version": "1.0", "name": "web", "version": "1", "runtime": "web",
        "initramfs": {"url": "/x.cpio.gz"}, "resources": {"cpu_cores": 1, "memory_mb": 128}, "workload": {"entrypoint": ["/x"]}}"#;
    Launch {
        vm: "web".parse().unwrap(),
        instance: uuid::Uuid::now_v7().to_string(),
        cpu_cores: 2,
        memory_mib: 256,
        lease: Lease {
            ip: Ipv4Addr::new(192, 168, 127, 10),
            mac: "02:f9:e8:54:fb:c4".to_owned(),
            tap: "vttap-web".to_owned(),
            cid: 3,
        },
        manifest: Manifest::from_json(manifest.as_bytes()).unwrap(),
        artifact: Digest::of(b"artifact"),
        kernel: None,
        disks: Vec::new(),
        extra_cmdline: String::new(),
        api: None,
        secret: Secret::from_random([7; 32]),
        paths: VmPaths {
            state_dir: run_dir.join("state"),
            run_dir: run_dir.to_owned(),
        },
    }
}

/// Boot media that do not exist.
pub(super) fn media() -> BootMedia {
    BootMedia {
        kernel: "/vmlinux".into(),
        initramfs: Some("/state/initramfs".into()),
        disks: Vec::new(),
        cmdline: "console=ttyS0 quiet".to_owned(),
    }
}

/// Boot media of a root file system that do not exist.
pub(super) fn rootfs_media() -> BootMedia {
    let disk = |path: &str, access| Disk {
        path: path.into(),
        access,
        serial: None,
    };
    BootMedia {
        initramfs: None,
        disks: vec![
            disk("/store/a,b", DiskAccess::ReadOnly),
            disk("/state/config.img", DiskAccess::ReadOnly),
            disk("/state/writable.ext4", DiskAccess::ReadWrite),
            Disk {
                serial: Some("data".to_owned()),
                ..disk("/disks/data", DiskAccess::ReadOnly)
            },
        ],
        ..media()
    }
}

/// A daemon without folders.
pub(super) fn daemon() -> Daemon {
    Daemon {
        search_path: OsString::new(),
        state_root: "/nonexistent".into(),
        deadlines: Deadlines::default(),
    }
}

fn hypervisors(facts: Facts) -> Hypervisors {
    let settings = Settings {
        wish: Wish::Auto,
        cloud_hypervisor: None,
        qemu: None,
        search_path: OsString::new(),
        state_root: "/nonexistent".into(),
        deadlines: Deadlines::default(),
    };
    Hypervisors::with_facts(settings, move || facts.clone())
}

fn missing() -> Program {
    Program::Missing {
        looked: "not in PATH".to_owned(),
    }
}

fn nothing() -> Facts {
    Facts {
        dev_kvm: DevKvm::Missing,
        cpu_virtualization: false,
        cloud_hypervisor: missing(),
        qemu: missing(),
    }
}

#[tokio::test]
async fn without_a_vmm_a_launch_is_refused_with_hints() {
    let folder = tempfile::tempdir().unwrap();
    let hypervisors = hypervisors(nothing());
    let error = hypervisors.check().unwrap_err();
    assert!(error.message.starts_with("No VMM can be used"), "{error}");
    assert_eq!(error.hints.len(), 2);
    let launched = hypervisors.spawn(&launch(folder.path()), &media()).await;
    assert_eq!(launched.err().unwrap().message, error.message);
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(100));
    fs_err::create_dir(&deep).unwrap();
    for kind in [VmmKind::CloudHypervisor, VmmKind::Qemu] {
        let program = Program::Found {
            path: "/bin/false".into(),
            version: Version {
                major: 99,
                minor: 0,
            },
        };
        let mut facts = Facts {
            dev_kvm: DevKvm::Opens,
            cpu_virtualization: true,
            ..nothing()
        };
        match kind {
            VmmKind::CloudHypervisor => facts.cloud_hypervisor = program,
            VmmKind::Qemu => facts.qemu = program,
        }
        let error = hypervisors(facts)
            .spawn(&launch(&deep), &media())
            .await
            .err()
            .unwrap();
        assert!(
            error.message.contains("a socket's path has at most 107"),
            "{error}"
        );
        assert!(error.hints[0].contains("VOLANT_RUNTIME_DIR"));
        assert_eq!(fs_err::read_dir(&deep).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_record_of_a_vanished_process_is_not_adopted() {
    let record = InstanceRecord {
        instance: "x".to_owned(),
        pid: std::process::id(),
        start_ticks: 1,
        boot_id: identity::boot_id().unwrap(),
        vmm: VmmKind::Qemu,
        accelerator: Accelerator::Tcg,
        control_socket: "/nonexistent/vmm.sock".into(),
        serial: None,
        vsock: None,
    };
    assert!(
        hypervisors(nothing())
            .adopt(&record)
            .await
            .unwrap()
            .is_none()
    );
}
