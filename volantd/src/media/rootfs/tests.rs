//! Superblocks by hand, good and bad, and those that other tools write.

use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::{ProptestConfig, proptest};

use super::*;

const KIB_64: usize = 64 * 1024;

/// An image of 64 KiB with `fields` (offset, bytes) in it.
fn image(fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = vec![0; KIB_64];
    for (at, bytes) in fields {
        image[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

fn erofs_image() -> Vec<u8> {
    image(&[
        (1024, b"\xe2\xe1\xf5\xe0"),
        (1024 + 12, &[12]),
        (1024 + 36, &[16]),
    ])
}

fn ext4_image() -> Vec<u8> {
    image(&[
        (1024 + 4, &[16]),
        (1024 + 0x18, &[2]),
        (1024 + 0x38, b"\x53\xef"),
    ])
}

fn squashfs_image() -> Vec<u8> {
    image(&[
        (0, b"hsqs"),
        (12, &[0, 0, 2]),
        (20, &[1]),
        (22, &[17]),
        (28, &[4]),
        (41, &[0xff]),
    ])
}

fn with(mut image: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

fn checked(image: &[u8], wanted: Option<RootfsFormat>) -> Result<RootfsFormat, String> {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("image");
    fs_err::write(&path, image).unwrap();
    check(&path, wanted).map_err(|error| error.to_string())
}

#[test]
fn the_content_decides_and_the_manifest_is_held_to_it() {
    let table = [
        (erofs_image(), RootfsFormat::Erofs),
        (ext4_image(), RootfsFormat::Ext4),
        (squashfs_image(), RootfsFormat::Squashfs),
    ];
    for (image, format) in &table {
        assert_eq!(checked(image, None), Ok(*format));
        for wanted in RootfsFormat::ALL {
            let expected = if wanted == *format {
                Ok(wanted)
            } else {
                Err(format!(
                    "It holds {format}, and the manifest's `rootfs.format` says {wanted}"
                ))
            };
            assert_eq!(checked(image, Some(wanted)), expected);
        }
    }
}

#[test]
fn what_no_guest_mounts_is_refused() {
    let table = [
        (Vec::new(), "neither an EROFS nor an ext4 nor a squashfs"),
        (b"hsqs".to_vec(), "neither"),
        (vec![0; KIB_64], "neither"),
        (image(&[(0, b"XFSB")]), "an xfs file system"),
        (
            image(&[(510, b"\x55\xaa")]),
            "a disk with a partition table",
        ),
        (image(&[(0, b"070701")]), "a cpio archive"),
        (with(vec![0; 0x1_1000], 0x1_0040, b"_BHRfS_M"), "a btrfs"),
        // A good file system behind a beginning that a VMM might follow to other files of the host.
        (with(erofs_image(), 0, b"QFI\xfb"), "a qcow2 image"),
        (with(ext4_image(), 0, b"vhdxfile"), "a VHDX image"),
        (with(ext4_image(), KIB_64 - 512, b"conectix"), "a VHD image"),
        (erofs_image()[..KIB_64 - 1].to_vec(), "is cut off"),
        (ext4_image()[..KIB_64 - 512].to_vec(), "is cut off"),
        (squashfs_image()[..0xff00 - 1].to_vec(), "is cut off"),
        (with(erofs_image(), 1024 + 36, &[0xff; 4]), "is cut off"),
        (with(erofs_image(), 1024 + 12, &[255]), "blocks of a size"),
        (with(erofs_image(), 1024 + 80, &[2]), "is compressed"),
        (with(erofs_image(), 1024 + 80, &[8]), "other devices"),
        (
            with(ext4_image(), 1024 + 0x18, &[0xff; 4]),
            "blocks of a size",
        ),
        (with(ext4_image(), 1024 + 0x60, &[4]), "run e2fsck on it"),
        (with(ext4_image(), 1024 + 0x60, &[8]), "only the journal"),
        (
            with(
                with(ext4_image(), 1024 + 0x60, &[0x80]),
                1024 + 0x150,
                &[0xff; 4],
            ),
            "is cut off",
        ),
        (with(squashfs_image(), 28, &[3]), "not of version 4"),
        (
            with(squashfs_image(), 20, &[2]),
            "use gzip, xz, lz4 or zstd",
        ),
        (with(squashfs_image(), 22, &[31]), "blocks of a size"),
        (with(squashfs_image(), 40, &[0xff; 8]), "is cut off"),
    ];
    for (image, sentence) in table {
        let refused = checked(&image, None).unwrap_err();
        assert!(refused.contains(sentence), "{refused} for {sentence}");
    }
}

#[test]
fn images_of_other_tools_are_accepted() {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    fs_err::create_dir_all(tree.join("bin")).unwrap();
    // Digests do not compress, so every image is longer than its superblock.
    let noise: Vec<u8> = (0..1000_u32)
        .flat_map(|number| {
            common::digest::Digest::of(&number.to_le_bytes())
                .to_hex()
                .into_bytes()
        })
        .collect();
    fs_err::write(tree.join("bin/app"), noise).unwrap();
    let tree = tree.to_str().unwrap();
    let image = |name: &str| -> PathBuf { temp.path().join(name) };
    let path = |name: &str| image(name).to_str().unwrap().to_owned();
    let table = [
        (
            RootfsFormat::Erofs,
            vec!["mkfs.erofs".to_owned(), path("e"), tree.to_owned()],
        ),
        (
            RootfsFormat::Ext4,
            ["mke2fs", "-q", "-t", "ext4", "-d", tree, &path("x"), "16m"]
                .map(str::to_owned)
                .to_vec(),
        ),
        (
            RootfsFormat::Squashfs,
            ["mksquashfs", tree, &path("s"), "-quiet", "-no-progress"]
                .map(str::to_owned)
                .to_vec(),
        ),
    ];
    for ((format, words), name) in table.iter().zip(["e", "x", "s"]) {
        match Command::new(&words[0]).args(&words[1..]).output() {
            Ok(made) => assert!(made.status.success(), "{words:?}: {made:?}"),
            Err(error) => {
                println!("SKIPPED: {} is not tested: {error}", words[0]);
                continue;
            }
        }
        assert_eq!(check(&image(name), Some(*format)).unwrap(), *format);
        // Every beginning of it is refused or cut off, and never a panic.
        let whole = fs_err::read(image(name)).unwrap();
        for length in [0, 1, 511, 1024, 1100, 2048, 4096, whole.len() / 2] {
            assert!(
                checked(&whole[..length], None).is_err(),
                "{format} {length}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_superblock_makes_it_panic(noise in proptest::collection::vec(proptest::num::u8::ANY, 1024), kind in 0_usize..3) {
        let magic: (usize, &[u8]) = [(0, &b"\xe2\xe1\xf5\xe0"[..]), (0x38, b"\x53\xef"), (0, b"hsqs")][kind];
        let mut image = vec![0; 4096];
        let at = if kind == 2 { 0 } else { 1024 };
        image[at..at + 1024].copy_from_slice(&noise);
        image[at + magic.0..at + magic.0 + magic.1.len()].copy_from_slice(magic.1);
        drop(checked(&image, None));
    }
}
