//! An archive of format newc: whatever it holds becomes a tree that can be written, and reads back as the same, or a sentence.
#![no_main]

use fledge::image::cpio::Limits;
use fledge::image::initramfs;
use fledge::inspect::cpio::read_cpio;
use fledge::inspect::{Spool, differences};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|archive: &[u8]| {
    let limits = Limits {
        entries: 1000,
        bytes: 1 << 20,
    };
    let spool = || Spool::new(tempfile::tempfile().expect("a temporary file"));
    let Ok(tree) = read_cpio(archive, &limits, &mut spool()) else {
        return;
    };
    let Ok(written) = initramfs::write(&tree, Vec::new()) else {
        return;
    };
    let limits = Limits {
        entries: 10_000,
        bytes: 16 << 20,
    };
    let again = read_cpio(&written[..], &limits, &mut spool()).expect("what we write can be read");
    let mut differences = differences::compare(&tree, &again).expect("contents can be read");
    // The root itself is not written: a guest has one already.
    differences.retain(|difference| difference.path != "/");
    assert!(differences.is_empty(), "{differences:?}");
});
