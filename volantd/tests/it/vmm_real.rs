//! The real VMMs with a guest of some fifty bytes, or with a real kernel where `VOLANT_TEST_KERNEL` and `VOLANT_TEST_INITRAMFS` name one.
//!
//! The guest says `H`, then echoes what it is told; `p` makes it say `bye` and power off, `r` reset, `f` say `f` 20000 times. Needs root (a tap in
//! a network namespace of the test's own thread) and the VMM; skipped with a loud line otherwise.
#![expect(
    clippy::print_stdout,
    reason = "a skipped test says so, and a real boot how long it took"
)]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use volantd::machine::ports::{BootMedia, Instance, SerialStream, Vmm, VmmExit, VmmKind};

use crate::vmm::{Host, LONG, echo, exit_of, find, read_some};

/// A 32-bit PVH guest. Ports: 0x3f8 the serial line, 0x64 the i8042, 0x600 power-off of Cloud Hypervisor, 0x604 that of q35.
#[rustfmt::skip] // one instruction, or a few, a line
const GUEST: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'H', 0xee, // mov al, 'H'; out dx, al
    0xb0, b'\n', 0xee, // mov al, '\n'; out dx, al
    // wait:
    0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, 0xa8, 0x01, // in al, dx; test al, 1
    0x74, 0xf7, // jz wait
    0x66, 0xba, 0xf8, 0x03, 0xec, // mov dx, 0x3f8; in al, dx
    0x84, 0xc0, 0x74, 0xee, // test al, al; jz wait
    0x3c, b'p', 0x74, 0x0b, // cmp al, 'p'; je off
    0x3c, b'r', 0x74, 0x2b, // cmp al, 'r'; je reset
    0x3c, b'f', 0x74, 0x2e, // cmp al, 'f'; je flood
    0xee, // out dx, al
    0xeb, 0xdf, // jmp wait
    // off: mov dx, 0x3f8; "bye\n"
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'b', 0xee, 0xb0, b'y', 0xee, 0xb0, b'e', 0xee, 0xb0, b'\n', 0xee,
    0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, // mov dx, 0x600; mov al, 0x34; out dx, al
    0x66, 0xba, 0x04, 0x06, // mov dx, 0x604
    0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, // mov ax, 0x2000; out dx, ax
    0xf4, 0xeb, 0xfd, // hlt, for ever
    // reset:
    0xb0, 0xfe, 0xe6, 0x64, // mov al, 0xfe; out 0x64, al
    0xf4, 0xeb, 0xfd, // hlt, for ever
    // flood:
    0xb9, 0x20, 0x4e, 0x00, 0x00, // mov ecx, 20000
    0x66, 0xba, 0xfd, 0x03, 0xec, // next: mov dx, 0x3fd; in al, dx
    0xa8, 0x20, 0x74, 0xf7, // test al, 0x20; jz next
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'f', 0xee, // mov al, 'f'; out dx, al
    0xe2, 0xee, // loop next
    0xeb, 0x9b, // jmp wait
];

/// How much `f` makes the guest say.
const FLOOD: usize = 20_000;

/// How often a guest's last words are listened for: losing them is a matter of luck.
const LAST_WORDS_RUNS: usize = 10;

/// Where the guest is loaded: 16 MiB, free in both VMMs.
const LOAD_ADDRESS: u32 = 0x0100_0000;

/// An ELF file with one loaded segment and the note that makes it a PVH kernel (`XEN_ELFNOTE_PHYS32_ENTRY`, 18).
fn pvh_kernel(code: &[u8]) -> Vec<u8> {
    let (header, program_header, note_size) = (64_u64, 56_u64, 20_u64);
    let note_at = header + 2 * program_header;
    let code_at = note_at + note_size;
    let code_size = u64::try_from(code.len()).unwrap();
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (value, size) in [
        (2, 2),
        (62, 2),
        (1, 4),
        (u64::from(LOAD_ADDRESS), 8),
        (header, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (2, 2),
        (0, 2),
        (0, 2),
        (0, 2),
    ] {
        elf.extend_from_slice(&value.to_le_bytes()[..size]);
    }
    let address = u64::from(LOAD_ADDRESS);
    for (kind, flags, offset, at, size) in [
        (1_u32, 7_u32, code_at, address, code_size),
        (4, 4, note_at, address, note_size),
    ] {
        elf.extend_from_slice(&kind.to_le_bytes());
        elf.extend_from_slice(&flags.to_le_bytes());
        for value in [offset, at, at, size, size, 4] {
            elf.extend_from_slice(&u64::to_le_bytes(value));
        }
    }
    for value in [4_u32, 4, 18] {
        elf.extend_from_slice(&value.to_le_bytes());
    }
    elf.extend_from_slice(b"Xen\0");
    elf.extend_from_slice(&LOAD_ADDRESS.to_le_bytes());
    elf.extend_from_slice(code);
    elf
}

/// What is needed for a real VMM, or nothing and a loud line. The tap is in a network namespace of this thread.
fn host(kind: VmmKind) -> Option<(Host, BootMedia)> {
    let program = match kind {
        VmmKind::CloudHypervisor => find("cloud-hypervisor", "VOLANT_CLOUD_HYPERVISOR"),
        VmmKind::Qemu => find("qemu-system-x86_64", "VOLANT_QEMU"),
    };
    let obstacle = match &program {
        None => Some("it was not found"),
        Some(_) if !nix::unistd::geteuid().is_root() => Some("only root can make a tap"),
        Some(_) if kind == VmmKind::CloudHypervisor && fs_err::File::open("/dev/kvm").is_err() => {
            Some("/dev/kvm does not open")
        }
        Some(_) => None,
    };
    if let Some(obstacle) = obstacle {
        println!("SKIPPED: {} is not tested: {obstacle}", kind.as_str());
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let made = Command::new("ip")
        .args(["tuntap", "add", "dev", "vttap-web", "mode", "tap"])
        .status()
        .unwrap();
    assert!(made.success());
    let host = Host::real(kind, &program?);
    fs_err::write(host.root.join("vmlinux"), pvh_kernel(GUEST)).unwrap();
    let mut media = host.media();
    if let (Some(kernel), Some(initramfs)) = (
        std::env::var_os("VOLANT_TEST_KERNEL"),
        std::env::var_os("VOLANT_TEST_INITRAMFS"),
    ) {
        media.kernel = PathBuf::from(kernel);
        media.initramfs = Some(PathBuf::from(initramfs));
    }
    Some((host, media))
}

async fn boot(host: &Host, media: &BootMedia) -> (Box<dyn Instance>, Box<dyn SerialStream>) {
    let begun = Instant::now();
    let instance = host
        .hypervisors(LONG)
        .spawn(&host.launch(), media)
        .await
        .unwrap();
    let spawned = begun.elapsed();
    let mut serial = instance.boot().await.unwrap();
    let booted = begun.elapsed();
    assert_eq!(read_some(&mut serial, 2).await, b"H\n");
    println!(
        "{}: spawned after {spawned:?}, booted after {booted:?}, first byte after {:?}",
        host.kind.as_str(),
        begun.elapsed()
    );
    (instance, serial)
}

async fn a_guest_ends(kind: VmmKind) {
    let Some((host, media)) = host(kind) else {
        return;
    };
    for (word, expected) in [(b"p", VmmExit::Clean), (b"r", VmmExit::GuestReset)] {
        let (instance, mut serial) = boot(&host, &media).await;
        echo(&mut serial, b'x').await;
        serial.write_all(word).await.unwrap();
        assert_eq!(exit_of(&*instance).await, expected);
        let mut rest = Vec::new();
        serial.read_to_end(&mut rest).await.unwrap();
    }
    for force in [false, true] {
        let (instance, _serial) = boot(&host, &media).await;
        instance.signal(force).unwrap();
        let expected = if force {
            VmmExit::Signalled { signal: 9 }
        } else {
            VmmExit::Clean
        };
        assert_eq!(exit_of(&*instance).await, expected);
    }
    let (instance, mut serial) = boot(&host, &media).await;
    if std::env::var_os("VOLANT_TEST_KERNEL").is_none() {
        serial.write_all(b"f").await.unwrap();
        assert!(
            read_some(&mut serial, FLOOD).await == vec![b'f'; FLOOD],
            "every byte arrives"
        );
    }
    instance.quit().await.unwrap();
    assert_eq!(exit_of(&*instance).await, VmmExit::Clean);
}

#[tokio::test]
async fn a_guest_of_cloud_hypervisor_ends() {
    a_guest_ends(VmmKind::CloudHypervisor).await;
}

#[tokio::test]
async fn a_guest_of_qemu_ends() {
    a_guest_ends(VmmKind::Qemu).await;
}

async fn a_guest_outlives_its_daemon(kind: VmmKind) {
    let Some((host, _media)) = host(kind) else {
        return;
    };
    for (word, expected) in [(b"p", VmmExit::Clean), (b"r", VmmExit::GuestReset)] {
        let record = host.boot_in_a_dying_daemon("");
        let hypervisors = host.hypervisors(LONG);
        let adopted = hypervisors.adopt(&record).await.unwrap().unwrap();
        let mut serial = adopted.serial.unwrap();
        echo(&mut serial, b'x').await;
        serial.write_all(word).await.unwrap();
        assert_eq!(exit_of(&*adopted.instance).await, expected);
        assert!(hypervisors.living().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_guest_of_cloud_hypervisor_outlives_its_daemon() {
    a_guest_outlives_its_daemon(VmmKind::CloudHypervisor).await;
}

#[tokio::test]
async fn a_guest_of_qemu_outlives_its_daemon() {
    a_guest_outlives_its_daemon(VmmKind::Qemu).await;
}

#[tokio::test]
async fn the_last_words_of_a_guest_are_heard() {
    let Some((host, media)) = host(VmmKind::CloudHypervisor) else {
        return;
    };
    for _ in 0..LAST_WORDS_RUNS {
        let (instance, mut serial) = boot(&host, &media).await;
        serial.write_all(b"p").await.unwrap();
        assert_eq!(exit_of(&*instance).await, VmmExit::Clean);
        // Not read before the VMM has ended.
        let mut rest = Vec::new();
        serial.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye\n");
    }
}

#[tokio::test]
async fn cloud_hypervisor_keeps_what_the_guest_says_while_there_is_no_daemon() {
    let Some((host, _media)) = host(VmmKind::CloudHypervisor) else {
        return;
    };
    let record = host.boot_in_a_dying_daemon("f");
    let adopted = host
        .hypervisors(LONG)
        .adopt(&record)
        .await
        .unwrap()
        .unwrap();
    let mut serial = adopted.serial.unwrap();
    assert!(
        read_some(&mut serial, FLOOD).await == vec![b'f'; FLOOD],
        "every byte arrives"
    );
}

#[tokio::test]
async fn real_vmms_name_what_they_miss() {
    for (kind, says) in [
        (VmmKind::CloudHypervisor, "Cannot open kernel file"),
        (VmmKind::Qemu, "could not open kernel file"),
    ] {
        let Some((host, mut media)) = host(kind) else {
            continue;
        };
        media.kernel = host.root.join("no-such-kernel");
        let hypervisors = host.hypervisors(Duration::from_secs(30));
        let message = match hypervisors.spawn(&host.launch(), &media).await {
            Err(error) => error.message,
            Ok(instance) => {
                let error = instance.boot().await.err().unwrap();
                hypervisors
                    .kill_instance(&instance.record().instance)
                    .await
                    .unwrap();
                error.message
            }
        };
        assert!(message.contains(says), "{message}");
    }
}

async fn a_guest_stands_still(kind: VmmKind) {
    let Some((host, media)) = host(kind) else {
        return;
    };
    let (instance, mut serial) = boot(&host, &media).await;
    echo(&mut serial, b'x').await;
    instance.pause().await.unwrap();
    instance.pause().await.unwrap();
    serial.write_all(b"y").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(300), read_some(&mut serial, 1));
    assert!(answer.await.is_err(), "a guest that stands still is silent");
    instance.resume().await.unwrap();
    assert_eq!(read_some(&mut serial, 1).await, b"y", "it goes on");
    instance.pause().await.unwrap();
    instance.quit().await.unwrap();
    assert_eq!(exit_of(&*instance).await, VmmExit::Clean);
}

#[tokio::test]
async fn a_guest_of_cloud_hypervisor_stands_still() {
    a_guest_stands_still(VmmKind::CloudHypervisor).await;
}

#[tokio::test]
async fn a_guest_of_qemu_stands_still() {
    a_guest_stands_still(VmmKind::Qemu).await;
}
