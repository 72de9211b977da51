//! The root of a guest that boots a read-only disk: a writable layer is put over it, before anything else is mounted.
//!
//! ```text
//! kernel: / is the disk (erofs, ext4, squashfs)      here: / is an overlay of the disk and a layer (ext4 or tmpfs)
//! ```
//!
//! A guest without [`KEY_WRITABLE`] on its command line keeps the root that it has: it is an initramfs, and memory already.

use std::io;
use std::path::Path;

use common::cmdline::{KEY_WRITABLE, Writable, parse};

use crate::boot::{BootError, Facts};
use crate::cmdline::MAX_PROC_CMDLINE_BYTES;
use crate::sys::{Mount, Sys};

/// Where the new root is put together: the one directory that every image has, because the kernel has just run the agent from it.
/// What is in it is hidden meanwhile, and only in the old root.
const STAGE: &str = "/bin";

/// The layer's file system. Upper and work directory must both be on it (Documentation/filesystems/overlayfs.rst).
const LAYER: &str = "/bin/layer";
const UPPER: &str = "/bin/layer/upper";
const WORK: &str = "/bin/layer/work";

/// The new root.
const ROOT: &str = "/bin/root";

/// Mode of `/`, and of what only the kernel looks into.
const ROOT_MODE: u32 = 0o755;
const PRIVATE_MODE: u32 = 0o700;

/// Puts the layer over the root and moves there. On error the guest cannot go on: what it writes would be lost, or nothing could be.
pub(crate) fn assemble(sys: &dyn Sys, _facts: &mut Facts) -> Result<(), BootError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| BootError::Root { what, source }
    };
    let Some(value) = asked_for(sys).map_err(failed("Cannot read the kernel command line"))? else {
        return Ok(());
    };
    let Some(writable) = Writable::from_value(&value) else {
        return Err(BootError::BadWritable { value });
    };
    sys.mount(&plain("tmpfs", "tmpfs", STAGE, "mode=0700"))
        .map_err(failed("Cannot make room for the writable layer"))?;
    mount_layer(sys, &writable)?;
    let unusable = format!("The writable layer on {writable} cannot be used");
    for (directory, mode) in [(UPPER, ROOT_MODE), (WORK, PRIVATE_MODE), (ROOT, ROOT_MODE)] {
        sys.make_dir(Path::new(directory), mode)
            .map_err(failed(&unusable))?;
    }
    let layers = format!("lowerdir=/,upperdir={UPPER},workdir={WORK}");
    sys.mount(&plain("overlay", "overlay", ROOT, &layers))
        .map_err(failed(&unusable))?;
    if matches!(writable, Writable::Disk(_)) {
        sys.keep_layer(Path::new(LAYER))
            .map_err(failed(&unusable))?;
    }
    sys.change_root(Path::new(ROOT))
        .map_err(failed("Cannot change to the root with the writable layer"))?;
    Ok(())
}

/// What the command line says of a layer. It is in /proc, which an image need not have.
fn asked_for(sys: &dyn Sys) -> io::Result<Option<String>> {
    let stage = Path::new(STAGE);
    sys.make_dir(stage, ROOT_MODE)?;
    sys.mount(&plain("proc", "proc", STAGE, ""))?;
    let line = sys.read(&stage.join("cmdline"), MAX_PROC_CMDLINE_BYTES);
    sys.unmount(stage)?;
    Ok(parse(&String::from_utf8_lossy(&line?)).remove(KEY_WRITABLE))
}

fn mount_layer(sys: &dyn Sys, writable: &Writable) -> Result<(), BootError> {
    let memory_options = |size_mb: Option<u32>| match size_mb {
        Some(size_mb) => format!("mode=0755,size={size_mb}m"),
        None => "mode=0755".to_owned(),
    };
    let options;
    let (what, spec) = match writable {
        Writable::Disk(device) => (
            format!("Cannot mount the writable disk {device}"),
            // A fault in its structures must not be written over: the guest ends, and volantd says so.
            plain(device, "ext4", LAYER, "errors=panic"),
        ),
        Writable::Memory { size_mb } => {
            options = memory_options(*size_mb);
            let what = "Cannot mount the writable layer in memory".to_owned();
            (what, plain("tmpfs", "tmpfs", LAYER, &options))
        }
    };
    sys.make_dir(Path::new(LAYER), PRIVATE_MODE)
        .and_then(|()| sys.mount(&spec))
        .map_err(|source| BootError::Root { what, source })
}

fn plain<'a>(source: &'a str, kind: &'a str, target: &'a str, data: &'a str) -> Mount<'a> {
    Mount {
        source,
        kind,
        target,
        denies: &[],
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::fake::FakeSys;

    fn guest(value: &str) -> FakeSys {
        let line = format!("root=/dev/vda ro volant.writable={value} volant.plugin=x\n");
        FakeSys::default().with_file("/bin/cmdline", &line)
    }

    const DISK: [&str; 13] = [
        "make_dir /bin 755",
        "mount proc /bin",
        "read /bin/cmdline",
        "unmount /bin",
        "mount tmpfs /bin mode=0700",
        "make_dir /bin/layer 700",
        "mount ext4 /bin/layer errors=panic from /dev/vdc",
        "make_dir /bin/layer/upper 755",
        "make_dir /bin/layer/work 700",
        "make_dir /bin/root 755",
        "mount overlay /bin/root lowerdir=/,upperdir=/bin/layer/upper,workdir=/bin/layer/work",
        "keep_layer /bin/layer",
        "change_root /bin/root",
    ];

    #[test]
    fn a_disk_is_put_over_the_root() {
        let sys = guest("/dev/vdc");
        let mut facts = Facts::default();
        assemble(&sys, &mut facts).unwrap();
        assert_eq!(sys.acts(), DISK);
    }

    #[test]
    fn memory_is_put_over_the_root() {
        for (value, act) in [
            ("tmpfs", "mount tmpfs /bin/layer mode=0755"),
            ("tmpfs:64", "mount tmpfs /bin/layer mode=0755,size=64m"),
        ] {
            let sys = guest(value);
            assemble(&sys, &mut Facts::default()).unwrap();
            let acts = sys.acts();
            assert!(acts.iter().any(|found| found == act), "{acts:#?}");
            // There is nothing to keep clean.
            assert!(!acts.iter().any(|act| act.starts_with("keep_layer")));
        }
    }

    #[test]
    fn an_initramfs_keeps_its_root() {
        let sys = FakeSys::default().with_file("/bin/cmdline", "quiet volant.plugin=x");
        let mut facts = Facts::default();
        assemble(&sys, &mut facts).unwrap();
        assert_eq!(sys.acts(), DISK[..4]);
    }

    #[test]
    fn each_fault_ends_the_boot_in_one_sentence() {
        for act in DISK {
            let sys = guest("/dev/vdc").failing(act, io::ErrorKind::StorageFull);
            let error = assemble(&sys, &mut Facts::default()).expect_err(act);
            assert!(matches!(error, BootError::Root { .. }), "{act}: {error}");
            assert_eq!(
                sys.acts().last().map(String::as_str),
                Some(if act == "read /bin/cmdline" {
                    "unmount /bin"
                } else {
                    act
                })
            );
        }
        let full = guest("/dev/vdc").failing(DISK[7], io::ErrorKind::StorageFull);
        let error = assemble(&full, &mut Facts::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The writable layer on /dev/vdc cannot be used"
        );
        let error = assemble(&guest("floppy"), &mut Facts::default()).unwrap_err();
        assert!(
            error.to_string().contains("`volant.writable=floppy`"),
            "{error}"
        );
    }
}
