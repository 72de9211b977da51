//! Two layers of a container image, one over the other: whatever their archives hold becomes a tree that can be written, or a sentence.
#![no_main]

use fledge::image::{erofs, initramfs};
use fledge::oci;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|layers: (&[u8], &[u8])| {
    if let Ok(tree) = oci::tree_of(&[layers.0, layers.1]) {
        drop(initramfs::write(&tree, std::io::sink()));
        drop(erofs::write(&tree, 0, std::io::sink()));
    }
});
