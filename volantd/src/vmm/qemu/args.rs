//! QEMU's command line for one VM: a pure translation. The sockets are not on it: they are handed down as numbers.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use common::cmdline::MAX_CMDLINE_BYTES;

use super::{QMP_FD, SERIAL_FD};
use crate::machine::ports::{Accelerator, BootMedia, Disk, DiskAccess};
use crate::vmm::launch::Order;

/// The machine: PCI Express, and nothing on it that a guest of ours has a driver for or would have to probe. The i8042 stays: it is how the
/// kernel resets (`reboot=k`). Not `graphics=off`: it has the firmware talk on the serial line.
const MACHINE: &str = "q35,sata=off,smbus=off,usb=off,vmport=off,hpet=off";

/// QEMU's own seccomp filter, as tight as it goes for a VM that starts no helper programs.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The arguments of a launch.
pub(super) fn args(order: &Order<'_>, media: &BootMedia) -> Vec<OsString> {
    let launch = order.launch;
    let (accelerator, cpu) = match order.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // One host thread a vCPU, as with KVM.
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
    };
    let lease = &launch.lease;
    let mut args: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
    option("-name", launch.vm.as_str().into());
    option("-machine", MACHINE.into());
    option("-accel", accelerator.into());
    option("-cpu", cpu.into());
    option("-smp", launch.cpu_cores.to_string().into());
    option("-m", format!("{}M", launch.memory_mib).into());
    option("-kernel", media.kernel.clone().into());
    if let Some(initramfs) = &media.initramfs {
        option("-initrd", initramfs.into());
    }
    option(
        "-append",
        command_line(&media.cmdline, order.accelerator).into(),
    );
    // `script=no`: the tap is made, and put on its bridge, before QEMU starts.
    option(
        "-netdev",
        format!("tap,id=net0,ifname={},script=no,downscript=no", lease.tap).into(),
    );
    // No option ROM: nothing boots from the network, and loading it takes time.
    option(
        "-device",
        format!("virtio-net-pci,netdev=net0,mac={},romfile=", lease.mac).into(),
    );
    option("-device", "virtio-rng-pci".into());
    // In their order: QEMU gives each the next place on the bus, and the guest numbers them by it.
    for (number, disk) in media.disks.iter().enumerate() {
        option("-drive", drive(number, disk));
        // A name has no comma.
        let serial = disk.serial.as_ref();
        let serial = serial.map_or_else(String::new, |serial| format!(",serial={serial}"));
        let device = format!("virtio-blk-pci,drive=disk{number}{serial}");
        option("-device", device.into());
    }
    option(
        "-chardev",
        format!("socket,id=serial0,fd={SERIAL_FD},server=on,wait=off").into(),
    );
    option("-serial", "chardev:serial0".into());
    option(
        "-chardev",
        format!("socket,id=qmp0,fd={QMP_FD},server=on,wait=off").into(),
    );
    option("-mon", "chardev=qmp0,mode=control".into());
    option("-display", "none".into());
    option("-vga", "none".into());
    option("-sandbox", SANDBOX.into());
    // No devices and no configuration but these; not started before it is told to; a guest's reset ends it.
    args.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-S"].map(Into::into));
    args
}

/// The file behind a disk. `raw`: what a guest writes onto its disk must never be taken for another format, which may name files of
/// the host. A comma in the path is doubled, as QEMU's options want it.
fn drive(number: usize, disk: &Disk) -> OsString {
    let readonly = match disk.access {
        DiskAccess::ReadOnly => "on",
        DiskAccess::ReadWrite => "off",
    };
    let mut bytes =
        format!("if=none,id=disk{number},format=raw,readonly={readonly},file=").into_bytes();
    for byte in disk.path.as_os_str().as_bytes() {
        let count = if *byte == b',' { 2 } else { 1 };
        bytes.extend(std::iter::repeat_n(*byte, count));
    }
    OsString::from_vec(bytes)
}

/// The guest's line; with software emulation also what keeps its clock right. A kernel that calibrates the TSC against a timer while
/// the host is busy gets it wrong by far, and the timer check waits for what emulation gives late. Left out where it does not fit.
fn command_line(line: &str, accelerator: Accelerator) -> String {
    const EMULATED_CLOCK: &str = " tsc=unstable no_timer_check";
    let fits = line.len() + EMULATED_CLOCK.len() <= MAX_CMDLINE_BYTES;
    match accelerator {
        Accelerator::Tcg if fits => format!("{line}{EMULATED_CLOCK}"),
        Accelerator::Tcg | Accelerator::Kvm => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::vmm::tests::{daemon, launch, media, rootfs_media};

    fn line(accelerator: Accelerator, media: &BootMedia) -> String {
        let launch = launch(Path::new("/run/volant/vms/1"));
        let order = Order {
            program: Path::new("/qemu"),
            accelerator,
            daemon: &daemon(),
            launch: &launch,
            media,
        };
        let args: Vec<String> = args(&order, media)
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect();
        args.join(" ")
    }

    #[test]
    fn a_vm_is_described_in_full() {
        let expected = "-name web -machine q35,sata=off,smbus=off,usb=off,vmport=off,hpet=off -accel kvm -cpu host -smp 2 -m 256M \
                        -kernel /vmlinux -initrd /state/initramfs -append console=ttyS0 quiet \
                        -netdev tap,id=net0,ifname=vttap-web,script=no,downscript=no \
                        -device virtio-net-pci,netdev=net0,mac=02:f9:e8:54:fb:c4,romfile= -device virtio-rng-pci \
                        -chardev socket,id=serial0,fd=4,server=on,wait=off -serial chardev:serial0 \
                        -chardev socket,id=qmp0,fd=3,server=on,wait=off -mon chardev=qmp0,mode=control -display none -vga none \
                        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
                        -nodefaults -no-user-config -no-reboot -S";
        assert_eq!(line(Accelerator::Kvm, &media()), expected);
    }

    #[test]
    fn software_emulation_has_its_own_cpu() {
        assert!(line(Accelerator::Tcg, &media()).contains("-accel tcg,thread=multi -cpu max "));
    }

    #[test]
    fn disks_come_in_their_order_and_without_an_initramfs() {
        let line = line(Accelerator::Kvm, &rootfs_media());
        assert!(!line.contains("-initrd"), "{line}");
        let expected = "-device virtio-rng-pci \
            -drive if=none,id=disk0,format=raw,readonly=on,file=/store/a,,b -device virtio-blk-pci,drive=disk0 \
            -drive if=none,id=disk1,format=raw,readonly=on,file=/state/config.img -device virtio-blk-pci,drive=disk1 \
            -drive if=none,id=disk2,format=raw,readonly=off,file=/state/writable.ext4 -device virtio-blk-pci,drive=disk2 \
            -drive if=none,id=disk3,format=raw,readonly=on,file=/disks/data -device virtio-blk-pci,drive=disk3,serial=data \
            -chardev";
        assert!(line.contains(expected), "{line}");
    }
}
