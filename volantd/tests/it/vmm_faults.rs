//! Every way a VMM can fail, against fakes: the sentence that the user reads, and that nothing is left.

use std::time::Instant;

use volantd::machine::ports::{Vmm, VmmExit, VmmKind};

use crate::vmm::{Host, LONG, SHORT, echo, exit_of, read_some};

const BOTH: [VmmKind; 2] = [VmmKind::CloudHypervisor, VmmKind::Qemu];
const CH: VmmKind = VmmKind::CloudHypervisor;
const QEMU: VmmKind = VmmKind::Qemu;

#[tokio::test]
async fn a_launch_that_fails_says_why_and_leaves_nothing() {
    let die = "Cloud Hypervisor ended with exit code 1 while it was given the VM's configuration: Cannot open hypervisor: No such device";
    let die_qemu = "QEMU ended with exit code 1 while it was started: qemu-system-x86_64: -kernel /x: could not open kernel file '/x': \
                    No such file or directory";
    for (kind, script, expected) in [
        (CH, "die-at-once", die),
        (
            CH,
            "die-on-create",
            "Cloud Hypervisor ended with exit code 2 while it was given the VM's configuration",
        ),
        (CH, "hang", "Cloud Hypervisor did not answer"),
        (CH, "hang-create", "Cloud Hypervisor did not answer"),
        (
            CH,
            "busy",
            "Cloud Hypervisor refused vm.create (status 503)",
        ),
        (
            CH,
            "garbage",
            "The API of Cloud Hypervisor cannot be reached for vm.create",
        ),
        (
            CH,
            "refuse-create",
            "Cloud Hypervisor refused vm.create (status 400): The VM config is not valid: No memory",
        ),
        (QEMU, "die-at-once", die_qemu),
        (
            QEMU,
            "hang",
            "QEMU did not answer within 1500 ms while it was started",
        ),
        (
            QEMU,
            "garbage",
            "QEMU's control socket does not speak QMP: `SSH-2.0-OpenSSH`",
        ),
        (
            QEMU,
            "refuse-capabilities",
            "QEMU refused `qmp_capabilities`: no capabilities today",
        ),
    ] {
        let host = Host::fake(kind, script);
        let launched = host
            .hypervisors(SHORT)
            .spawn(&host.launch(), &host.media())
            .await;
        let error = launched.err().unwrap();
        assert!(error.message.starts_with(expected), "{script}: {error}");
        host.assert_nothing_left(script).await;
    }
}

#[tokio::test]
async fn a_boot_that_fails_says_why_and_the_vmm_can_be_ended() {
    for (kind, script, expected) in [
        (
            CH,
            "refuse-boot",
            "Cloud Hypervisor refused vm.boot (status 500): The VM could not boot: Cannot open kernel file",
        ),
        (
            CH,
            "empty-info",
            "Cloud Hypervisor's answer to vm.info is not understood",
        ),
        (
            CH,
            "hang-boot ignore-sigterm",
            "Cloud Hypervisor did not answer",
        ),
        (
            CH,
            "die-on-boot",
            "Cloud Hypervisor ended with exit code 101 while it booted the guest: thread 'vmm' panicked",
        ),
        (
            QEMU,
            "refuse-cont",
            "QEMU refused `cont`: the guest cannot run",
        ),
        (QEMU, "hang-cont ignore-sigterm", "QEMU did not answer"),
        (
            QEMU,
            "die-on-cont",
            "QEMU ended with exit code 4 while it booted the guest",
        ),
    ] {
        let host = Host::fake(kind, script);
        let hypervisors = host.hypervisors(SHORT);
        let instance = hypervisors
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        let error = instance.boot().await.err().unwrap();
        assert!(error.message.starts_with(expected), "{script}: {error}");
        assert_eq!(instance.record().serial, None);
        hypervisors
            .kill_instance(&instance.record().instance)
            .await
            .unwrap();
        exit_of(&*instance).await;
        assert!(hypervisors.living().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn every_end_of_a_guest_is_told_from_the_others() {
    for (kind, script, expected) in [
        (CH, "poweroff", VmmExit::Clean),
        (QEMU, "poweroff event-flood", VmmExit::Clean),
        (CH, "reset", VmmExit::GuestReset),
        (QEMU, "reset", VmmExit::GuestReset),
        (
            CH,
            "crash",
            VmmExit::Failed {
                code: 3,
                stderr: "oh no".to_owned(),
            },
        ),
        (
            QEMU,
            "crash",
            VmmExit::Failed {
                code: 3,
                stderr: "oh no".to_owned(),
            },
        ),
    ] {
        let host = Host::fake(kind, script);
        let instance = host
            .hypervisors(LONG)
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        let mut serial = instance.boot().await.unwrap();
        assert_eq!(read_some(&mut serial, 2).await, b"H\n");
        assert_eq!(exit_of(&*instance).await, expected, "{script}");
        assert_eq!(exit_of(&*instance).await, expected, "asked again");
        // All of this is fine for a process that is gone.
        instance.quit().await.unwrap();
        instance.signal(false).unwrap();
        instance.signal(true).unwrap();
        assert!(
            read_some(&mut serial, 1).await.is_empty(),
            "the line has ended"
        );
    }
}

#[tokio::test]
async fn an_error_inside_the_vmm_is_no_clean_end() {
    for (kind, script) in [(CH, "vcpu-error"), (QEMU, "stop")] {
        let host = Host::fake(kind, script);
        let instance = host
            .hypervisors(LONG)
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        let _serial = instance.boot().await.unwrap();
        let exit = exit_of(&*instance).await;
        assert!(
            matches!(&exit, VmmExit::Failed { stderr, .. } if stderr.contains("error")),
            "{exit:?}"
        );
    }
}

#[tokio::test]
async fn a_vmm_quits_when_asked_and_dies_when_it_does_not() {
    for kind in BOTH {
        let host = Host::fake(kind, "");
        let instance = host
            .hypervisors(LONG)
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        let _serial = instance.boot().await.unwrap();
        instance.quit().await.unwrap();
        assert_eq!(exit_of(&*instance).await, VmmExit::Clean);

        let host = Host::fake(kind, "hang-quit ignore-sigterm");
        let instance = host
            .hypervisors(SHORT)
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        let _serial = instance.boot().await.unwrap();
        let error = instance.quit().await.unwrap_err();
        assert!(error.message.contains("did not answer"), "{error}");
        instance.signal(false).unwrap();
        let ended = tokio::time::timeout(SHORT, instance.exited()).await;
        assert!(ended.is_err(), "it ignores SIGTERM");
        instance.signal(true).unwrap();
        assert_eq!(exit_of(&*instance).await, VmmExit::Signalled { signal: 9 });
    }
}

#[tokio::test]
async fn sigterm_ends_a_vmm_that_listens_to_it() {
    for kind in BOTH {
        let host = Host::fake(kind, "");
        let instance = host
            .hypervisors(LONG)
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        instance.signal(false).unwrap();
        assert_eq!(exit_of(&*instance).await, VmmExit::Signalled { signal: 15 });
    }
}

#[tokio::test]
async fn a_dropped_launch_leaves_nothing() {
    for kind in BOTH {
        let host = Host::fake(kind, "hang ignore-sigterm");
        let hypervisors = host.hypervisors(LONG);
        let (launch, media) = (host.launch(), host.media());
        let dropped = tokio::time::timeout(SHORT, hypervisors.spawn(&launch, &media)).await;
        assert!(dropped.is_err());
        let begun = Instant::now();
        while !hypervisors.living().await.unwrap().is_empty() {
            assert!(begun.elapsed() < LONG);
            tokio::task::yield_now().await;
        }
        host.assert_nothing_left(kind.as_str()).await;
    }
}

#[tokio::test]
async fn a_second_launch_replaces_what_the_first_left() {
    for kind in BOTH {
        let host = Host::fake(kind, "");
        let hypervisors = host.hypervisors(LONG);
        for _ in 0..2 {
            let instance = hypervisors
                .spawn(&host.launch(), &host.media())
                .await
                .unwrap();
            let mut serial = instance.boot().await.unwrap();
            assert_eq!(read_some(&mut serial, 2).await, b"H\n");
            instance.signal(true).unwrap();
            exit_of(&*instance).await;
        }
    }
}

#[tokio::test]
async fn a_vmm_outlives_its_daemon_and_is_adopted() {
    for kind in BOTH {
        let host = Host::fake(kind, "");
        let record = host.boot_in_a_dying_daemon("");
        let hypervisors = host.hypervisors(LONG);
        let living = hypervisors.living().await.unwrap();
        assert_eq!(living, [(record.pid, record.instance.clone())]);
        let adopted = hypervisors.adopt(&record).await.unwrap().unwrap();
        assert_eq!(adopted.instance.record(), record);
        let mut serial = adopted.serial.unwrap();
        echo(&mut serial, b'x').await;
        drop(serial);
        // A daemon that died before it recorded the boot boots again: the guest runs already, and that is fine.
        let mut serial = adopted.instance.boot().await.unwrap();
        echo(&mut serial, b'y').await;
        adopted.instance.quit().await.unwrap();
        assert_eq!(exit_of(&*adopted.instance).await, VmmExit::Clean);
        assert!(hypervisors.adopt(&record).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_guest_that_panics_without_a_daemon_ends_its_vmm() {
    let host = Host::fake(CH, "reset");
    let record = host.boot_in_a_dying_daemon("");
    let hypervisors = host.hypervisors(LONG);
    let begun = Instant::now();
    while !hypervisors.living().await.unwrap().is_empty() {
        assert!(
            begun.elapsed() < LONG,
            "the guest is booted again and again"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(hypervisors.adopt(&record).await.unwrap().is_none());
}

#[tokio::test]
async fn the_end_of_an_adopted_vmm_is_seen() {
    for kind in BOTH {
        let host = Host::fake(kind, "");
        let record = host.boot_in_a_dying_daemon("");
        let hypervisors = host.hypervisors(LONG);
        let adopted = hypervisors.adopt(&record).await.unwrap().unwrap();
        hypervisors.kill_instance(&record.instance).await.unwrap();
        assert_eq!(exit_of(&*adopted.instance).await, VmmExit::Unknown);
    }
}

#[tokio::test]
async fn a_guest_is_paused_and_resumed_as_often_as_anybody_likes() {
    for kind in BOTH {
        let host = Host::fake(kind, "");
        let instance = host
            .hypervisors(LONG)
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        let mut serial = instance.boot().await.unwrap();
        assert_eq!(read_some(&mut serial, 2).await, b"H\n");
        for _ in 0..2 {
            instance.resume().await.unwrap();
            instance.pause().await.unwrap();
            instance.pause().await.unwrap();
            instance.resume().await.unwrap();
        }
        instance.pause().await.unwrap();
        instance.quit().await.unwrap();
        assert_eq!(exit_of(&*instance).await, VmmExit::Clean, "{kind:?}");
    }
}

#[tokio::test]
async fn a_pause_that_is_refused_says_so_and_the_guest_goes_on() {
    for (kind, script, expected) in [
        (
            CH,
            "refuse-pause",
            "Cloud Hypervisor refused vm.pause (status 500): Invalid state transition",
        ),
        (
            QEMU,
            "refuse-stop",
            "QEMU refused `stop`: the guest cannot be stopped",
        ),
    ] {
        let host = Host::fake(kind, script);
        let instance = host
            .hypervisors(LONG)
            .spawn(&host.launch(), &host.media())
            .await
            .unwrap();
        let mut serial = instance.boot().await.unwrap();
        assert_eq!(read_some(&mut serial, 2).await, b"H\n");
        let error = instance.pause().await.unwrap_err();
        assert_eq!(error.message, expected);
        echo(&mut serial, b'x').await;
        instance.quit().await.unwrap();
    }
}
