//! A layer of a container image, applied twice, so that its whiteouts find something: whatever its archive holds becomes a tree that
//! can be written, or a sentence.
#![no_main]

use fledge::image::{erofs, initramfs};
use fledge::oci;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|archive: &[u8]| {
    if let Ok(tree) = oci::tree_of(&[archive, archive]) {
        drop(initramfs::write(&tree, std::io::sink()));
        drop(erofs::write(&tree, 0, std::io::sink()));
    }
});
