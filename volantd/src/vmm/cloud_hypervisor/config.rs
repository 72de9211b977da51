//! What Cloud Hypervisor is told about a VM: a pure translation. Beside `client` the only place that names the client crate's types.

use std::path::Path;

use cloud_hypervisor_client::models::{
    ConsoleConfig, ConsoleMode, CpusConfig, DiskConfig, ImageType, MemoryConfig, NetConfig,
    PayloadConfig, RngConfig, SerialConfig, VmConfig, VsockConfig,
};

use super::Files;
use crate::machine::ports::{BootMedia, Disk, DiskAccess, Launch, StepError};

/// Where the guest's randomness comes from (Cloud Hypervisor's own default).
const RANDOM_SOURCE: &str = "/dev/urandom";

/// The configuration of a VM. The kernel is named by its link in the runtime folder, which goes away once the guest is booted.
pub(super) fn vm_config(
    launch: &Launch,
    media: &BootMedia,
    files: &Files,
) -> Result<VmConfig, StepError> {
    let cpus = i32::try_from(launch.cpu_cores)
        .map_err(|_| StepError::new(format!("{} vCPUs are too many", launch.cpu_cores)))?;
    let mut config = VmConfig::new(PayloadConfig {
        kernel: Some(text(&files.kernel)?),
        initramfs: media.initramfs.as_deref().map(text).transpose()?,
        cmdline: Some(media.cmdline.clone()),
        ..PayloadConfig::default()
    });
    config.cpus = Some(CpusConfig {
        // A guest has no use for hardware virtualization; the default would offer it.
        nested: Some(false),
        ..CpusConfig::new(cpus, cpus)
    });
    config.memory = Some(MemoryConfig::new(
        i64::from(launch.memory_mib) * 1024 * 1024,
    ));
    // No address: those fields would configure the host's end, which is `net`'s.
    config.net = Some(vec![NetConfig {
        tap: Some(launch.lease.tap.clone()),
        mac: Some(launch.lease.mac.clone()),
        ..NetConfig::default()
    }]);
    let disks = media.disks.iter().map(disk);
    config.disks = (!media.disks.is_empty()).then_some(disks.collect::<Result<_, StepError>>()?);
    config.rng = Some(RngConfig::new(RANDOM_SOURCE.to_owned()));
    config.serial = Some(SerialConfig::new(ConsoleMode::Pty));
    config.console = Some(ConsoleConfig::new(ConsoleMode::Off));
    config.vsock = Some(VsockConfig::new(
        i64::from(launch.lease.cid),
        text(&files.vsock)?,
    ));
    Ok(config)
}

/// A disk. `Raw`: what a guest writes onto its disk must never be taken for another format, which may name files of the host.
fn disk(disk: &Disk) -> Result<DiskConfig, StepError> {
    Ok(DiskConfig {
        path: Some(text(&disk.path)?),
        readonly: Some(disk.access == DiskAccess::ReadOnly),
        image_type: Some(ImageType::Raw),
        serial: disk.serial.clone(),
        ..DiskConfig::default()
    })
}

fn text(path: &Path) -> Result<String, StepError> {
    path.to_str().map(ToOwned::to_owned).ok_or_else(|| {
        StepError::new(format!(
            "The path `{}` is not UTF-8, and Cloud Hypervisor takes no other",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::vmm::tests::{launch, media, rootfs_media};

    #[test]
    fn a_vm_is_described_in_full() {
        let launch = launch(Path::new("/run/volant/vms/1"));
        let files = Files::new(&launch.paths.run_dir);
        let config = vm_config(&launch, &media(), &files).unwrap();
        let expected = json!({
            "payload": {
                "kernel": "/run/volant/vms/1/kernel",
                "initramfs": "/state/initramfs",
                "cmdline": "console=ttyS0 quiet",
            },
            "cpus": {"boot_vcpus": 2, "max_vcpus": 2, "nested": false},
            "memory": {"size": 268_435_456},
            "net": [{"tap": "vttap-web", "mac": "02:f9:e8:54:fb:c4"}],
            "rng": {"src": "/dev/urandom"},
            "serial": {"mode": "Pty"},
            "console": {"mode": "Off"},
            "vsock": {"cid": 3, "socket": "/run/volant/vms/1/vsock.sock"},
        });
        assert_eq!(serde_json::to_value(config).unwrap(), expected);
    }

    #[test]
    fn disks_come_in_their_order_and_without_an_initramfs() {
        let launch = launch(Path::new("/run/volant/vms/1"));
        let files = Files::new(&launch.paths.run_dir);
        let config = vm_config(&launch, &rootfs_media(), &files).unwrap();
        let config = serde_json::to_value(config).unwrap();
        let disk = |path: &str, readonly: bool| json!({"path": path, "readonly": readonly, "image_type": "Raw"});
        let expected = json!([
            disk("/store/a,b", true),
            disk("/state/config.img", true),
            disk("/state/writable.ext4", false),
            json!({"path": "/disks/data", "readonly": true, "image_type": "Raw", "serial": "data"}),
        ]);
        assert_eq!(config["disks"], expected);
        assert_eq!(config["payload"].get("initramfs"), None);
    }
}
