//! Values for unit tests. Not compiled into the program.

use common::agent::HealthState;
use common::api::{BootTimeline, Restarts, Vm, VmDesired, VmHealth, VmStatus};

/// A VM that is up and healthy.
pub(crate) fn vm(name: &str) -> Vm {
    Vm {
        id: 1,
        name: name.parse().unwrap(),
        status: VmStatus::Running,
        desired: VmDesired::Running,
        step: None,
        generation: 7,
        runtime: "caddy".to_owned(),
        plugin: "caddy".parse().unwrap(),
        plugin_version: "1.0.0".to_owned(),
        plugin_digest: None,
        upgrade_available: None,
        config_version: 1,
        effective_config_version: Some(1),
        pid: Some(4711),
        ip_address: "192.168.127.10".to_owned(),
        mac_address: "02:f9:e8:54:fb:c4".to_owned(),
        vsock_cid: 3,
        cpu_cores: 1,
        memory_mb: 512,
        kernel_cmdline: "console=ttyS0".to_owned(),
        serial_log: "/var/lib/volant/vms/1/serial.log".to_owned(),
        serial_socket: None,
        hypervisor: Some("qemu".to_owned()),
        accelerator: Some("tcg".to_owned()),
        health: VmHealth {
            state: HealthState::Healthy,
            reason: None,
            last_probe_at: None,
        },
        failure: None,
        restarts: Restarts {
            vm: 1,
            workload: 2,
            crash_loop: false,
            next_at: None,
        },
        last_exit: None,
        oom_kills: 0,
        boot: Some(BootTimeline {
            vmm_ms: Some(20.2),
            kernel_ms: Some(25.0),
            pid1_ms: Some(700.0),
            workload_ms: Some(720.5),
            ready_ms: Some(812.4),
        }),
        created_at: "2026-11-23T10:00:00Z".to_owned(),
        updated_at: "2026-11-23T10:00:02Z".to_owned(),
    }
}
