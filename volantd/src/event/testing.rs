//! A VM and events to test with.

use common::api::{EventType, Restarts, Vm, VmEvent, VmHealth, VmStatus};
use jiff::Timestamp;

pub(crate) fn vm(name: &str) -> Vm {
    let vm = serde_json::json!({
        "id": 1, "name": name, "status": VmStatus::Pending, "generation": 1, "runtime": "r", "plugin": "hello",
        "ip_address": "192.168.127.10", "mac_address": "02:00:00:00:00:01", "cpu_cores": 1, "memory_mb": 64,
        "kernel_cmdline": "", "serial_log": "", "health": VmHealth::default(), "restarts": Restarts::default(),
        "created_at": "", "updated_at": ""
    });
    serde_json::from_value(vm).unwrap()
}

pub(crate) fn event(name: &str, id: u64) -> VmEvent {
    VmEvent {
        id,
        ..VmEvent::new(
            EventType::VmRunning,
            name.parse().unwrap(),
            Timestamp::UNIX_EPOCH,
        )
    }
}
