//! What images hold, as `inspect`, the tools of others and Linux itself see it.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::image::testing::{
    Mounted, Order, TIME_S, assert_same, everything, expected, file, is_installed, noise, on_host,
};
use crate::inspect::erofs::read_erofs;
use crate::little_endian::u32_at;
use crate::tree::{Content, Device, Node};

const IMAGE_TIME_S: u64 = 1_700_000_000;

fn image(tree: &Tree) -> Vec<u8> {
    write(tree, IMAGE_TIME_S, Vec::new()).unwrap()
}

/// What is in an image, as the tests of all formats compare it. Asserts what no other program checks: the superblock, and that every
/// file can be mapped.
fn lines(image: &[u8]) -> BTreeMap<Vec<u8>, String> {
    check_superblock(image);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    let tree = read_erofs(file, u64::try_from(image.len()).unwrap()).unwrap();
    for item in tree.iter() {
        match &item.node.kind {
            Kind::File(Content::Part { offset, .. }) => assert_eq!(offset % 4096, 0),
            Kind::File(content) => assert_eq!(content.size_bytes(), 0, "in pieces"),
            _ => {}
        }
    }
    expected(&tree)
}

fn check_superblock(image: &[u8]) {
    let superblock = &image[1024..4096];
    assert_eq!(image.len() % (2 * 1024 * 1024), 0);
    assert_eq!(u32_at(superblock, 0), 0xe0f5_e1e2);
    assert_eq!(u32_at(superblock, 8), 3, "compatible features");
    assert_eq!(superblock[12], 12, "size of a block");
    assert_eq!(u32_at(superblock, 80), 0, "incompatible features");
    assert_eq!(u32_at(superblock, 40), 0, "first block of inodes");
    let blocks = usize::try_from(u32_at(superblock, 36)).unwrap();
    assert_eq!((blocks * 4096).next_multiple_of(2 << 20), image.len());
    let mut block = superblock.to_vec();
    block[4..8].fill(0);
    // CRC-32C, bit by bit, without the inversion at its end.
    let mut sum = u32::MAX;
    for byte in block {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
        }
    }
    assert_eq!(u32_at(superblock, 4), sum, "checksum");
}

fn refused(tree: &Tree) -> String {
    write(tree, IMAGE_TIME_S, io::sink())
        .unwrap_err()
        .to_string()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program}: {text}");
    text
}

fn fsck(image: &Path) {
    // Its status is 0 whatever it finds.
    let told = run("fsck.erofs", &["-d3", "--extract", image.to_str().unwrap()]);
    assert!(told.contains("No errors found"), "{told}");
}

/// Writes an image, has it checked where that is possible, and compares what is in it.
fn check(tree: &Tree) {
    let bytes = image(tree);
    assert_same(&lines(&bytes), &expected(tree));
    if is_installed("fsck.erofs") {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        fs_err::write(&path, &bytes).unwrap();
        fsck(&path);
    }
}

#[test]
fn a_tree_with_everything_is_read_back() {
    check(&everything(Order::Forwards));
}

#[test]
fn the_order_of_insertion_does_not_change_the_bytes() {
    let forwards = image(&everything(Order::Forwards));
    assert!(forwards == image(&everything(Order::Backwards)));
}

#[test]
fn linux_mounts_it() {
    let tree = everything(Order::Forwards);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs_err::write(&path, image(&tree)).unwrap();
    if let Some(mounted) = Mounted::new(&path, "erofs", "acl,user_xattr") {
        assert_same(&on_host(&mounted.path()), &expected(&tree));
        // Names are searched, and not only listed.
        for item in tree.iter() {
            let name = std::ffi::OsStr::from_bytes(item.path);
            fs_err::symlink_metadata(mounted.path().join(name)).unwrap();
        }
        assert!(!mounted.path().join("many/none").exists());
    }
}

#[test]
fn fsck_extracts_the_same_contents() {
    if !is_installed("fsck.erofs") {
        return;
    }
    let tree = everything(Order::Forwards);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs_err::write(&path, image(&tree)).unwrap();
    let out = directory.path().join("out");
    let extract = format!("--extract={}", out.display());
    let told = run(
        "fsck.erofs",
        &["-d3", &extract, "--no-preserve", path.to_str().unwrap()],
    );
    assert!(told.contains("Extracted filesystem successfully"), "{told}");
    for item in tree.iter() {
        let found = out.join(std::ffi::OsStr::from_bytes(item.path));
        match &item.node.kind {
            Kind::File(content) => {
                let mut bytes = Vec::new();
                content.copy_to(&mut bytes).unwrap();
                assert!(fs_err::read(&found).unwrap() == bytes, "{found:?}");
            }
            Kind::Symlink(target) => {
                let link = fs_err::read_link(&found).unwrap();
                assert_eq!(link.as_os_str().as_bytes(), target);
            }
            _ => {}
        }
    }
}

#[test]
fn dump_tells_what_was_written() {
    if !is_installed("dump.erofs") {
        return;
    }
    let tree = everything(Order::Forwards);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs_err::write(&path, image(&tree)).unwrap();
    let path = path.to_str().unwrap();
    let told = run("dump.erofs", &["-s", path]);
    let inodes = tree.len() + 1 - 5; // five paths are hard links
    for expected in [
        "0xE0F5E1E2".to_owned(),
        format!("Filesystem inode count:                       {inodes}"),
        "sb_csum mtime".to_owned(),
        "00000000-0000-0000-0000-000000000000".to_owned(),
    ] {
        assert!(told.contains(&expected), "{expected} in {told}");
    }
    let told = run("dump.erofs", &["--path=/sizes/file-4097", path]);
    for expected in ["Size: 4097", "Links: 3", "Layout: 0", "Inode size: 32"] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
}

#[test]
fn an_empty_tree_is_an_image() {
    let tree = Tree::default();
    assert_eq!(image(&tree).len(), 2 * 1024 * 1024);
    check(&tree);
}

#[test]
fn a_hundred_thousand_files_are_no_matter() {
    let mut tree = Tree::default();
    for index in 0..100_000 {
        let path = format!("{}/{}/{index}", index % 7, index % 1000);
        let mut node = file(index.to_string());
        node.attributes.mtime_s = TIME_S;
        tree.replace(path.as_bytes(), node).unwrap();
    }
    check(&tree);
}

#[test]
fn a_file_of_each_kind_of_content_has_its_blocks() {
    let host = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(host.path(), noise(300_000)).unwrap();
    let mut tree = Tree::default();
    let content = |size_bytes| Content::Host {
        path: host.path().to_path_buf(),
        size_bytes,
    };
    tree.replace(b"host", Node::file(0o644, content(300_000)))
        .unwrap();
    tree.replace(b"none", file("")).unwrap();
    check(&tree);
    tree.replace(b"host", Node::file(0o644, content(300_001)))
        .unwrap();
    assert_eq!(
        refused(&tree),
        "The file behind `/host` changed its size while it was read"
    );
}

/// Names that fill blocks exactly, by one byte too few, and by one too many.
#[test]
fn directories_of_every_fill_are_read_back() {
    let mut tree = Tree::default();
    // `.` and `..` take 27 bytes, and each name here 100 with its entry.
    for last in 0..200_usize {
        for index in 0..40 {
            let path = format!("{last:03}/{index:0>88}");
            tree.replace(path.as_bytes(), file("")).unwrap();
        }
        let path = format!("{last:03}/z{}", "z".repeat(last));
        tree.replace(path.as_bytes(), file("")).unwrap();
    }
    check(&tree);
}

#[test]
fn attributes_of_every_size_are_read_back() {
    let mut tree = Tree::default();
    for bytes in [0, 1, 3900, 3985, 4000, 4032, 4096, 9000, 65_535] {
        for (kind, mut node) in [
            ("file", file("content")),
            ("link", Node::symlink("target")),
            ("long-link", Node::symlink(vec![b'x'; 4095])),
            ("directory", Node::directory(0o755)),
        ] {
            let xattrs = &mut node.attributes.xattrs;
            xattrs.insert(b"trusted.large".to_vec(), noise(bytes));
            xattrs.insert(b"trusted.small".to_vec(), b"1".to_vec());
            let path = format!("{bytes}/{kind}");
            tree.replace(path.as_bytes(), node).unwrap();
            tree.replace(format!("{bytes}/directory/x").as_bytes(), file("x"))
                .unwrap();
        }
    }
    // As much as lies behind an inode.
    let mut node = file("most");
    for index in 0..4 {
        let value = noise(65_518);
        node.attributes
            .xattrs
            .insert(format!("user.{index}").into_bytes(), value);
    }
    tree.replace(b"most", node).unwrap();
    check(&tree);
}

#[test]
fn times_of_their_own_cost_what_they_need() {
    let mut tree = everything(Order::Forwards);
    let count = |bytes: &[u8]| {
        let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
        end / 4096
    };
    tree.clamp_times(TIME_S);
    let same = image(&tree);
    let other = write(&tree, IMAGE_TIME_S + 1, Vec::new()).unwrap();
    assert!(count(&same) < count(&other));
    assert_same(&lines(&other), &lines(&same));
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let with = |path: &[u8], kind| {
        let mut tree = Tree::default();
        let attributes = crate::tree::Attributes::new(0o644);
        tree.replace(path, Node { attributes, kind }).unwrap();
        refused(&tree)
    };
    let device = |major, minor| Kind::CharacterDevice(Device { major, minor });
    let huge = |size_bytes| {
        let path = "/nowhere".into();
        Kind::File(Content::Host { path, size_bytes })
    };
    let long = [b'n'; 256];
    let found = with(&long, Kind::Fifo);
    assert!(
        found.ends_with("does not fit: a name has at most 255 bytes, not 256"),
        "{found}"
    );
    assert_eq!(
        with(b"d/a\0b", Kind::Fifo),
        "`/d/a\\0b` does not fit: a name has no NUL"
    );
    assert_eq!(
        with(b"d/..", Kind::Fifo),
        "`/d/..` does not fit: no file can have this name"
    );
    for target in [vec![], vec![b'x'; 4096], b"a\0b".to_vec()] {
        assert_eq!(
            with(b"l", Kind::Symlink(target)),
            "`/l` does not fit: a link's target has 1 to 4095 bytes, none of them NUL"
        );
    }
    for device in [device(4096, 0), device(0, 1 << 20)] {
        let found = with(b"dev/x", device);
        assert!(
            found.starts_with("`/dev/x` cannot be in such an image: Linux has no device"),
            "{found}"
        );
    }
    for size_bytes in [1 << 44, u64::MAX, u64::MAX - 5000] {
        assert_eq!(
            with(b"huge", huge(size_bytes)),
            "The files have more than 16 TiB together, which is more than an EROFS image can hold"
        );
    }
}

#[test]
fn errors_of_the_output_arrive() {
    #[derive(Debug)]
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = write(&everything(Order::Forwards), 0, Full).unwrap_err();
    assert!(
        matches!(&error, WriteError::Output(source) if source.kind() == io::ErrorKind::StorageFull),
        "{error:?}"
    );
}

/// A node of any kind, with any attributes, and where it lies.
fn any_entry() -> impl Strategy<Value = (Vec<u8>, Node)> {
    let name = || {
        prop_oneof![
            4 => proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'-'), Just(b'.')], 3..5),
            2 => proptest::collection::vec(prop_oneof![1..=b'.', b'0'..=0xff], 3..60),
            1 => proptest::collection::vec(Just(b'n'), 200..=255),
        ]
        .prop_filter("no name", |name| name != b"." && name != b"..")
    };
    let path = proptest::collection::vec(name(), 1..6).prop_map(|names| names.join(&b'/'));
    let device =
        (0..=4095_u32, 0..=0xf_ffff_u32).prop_map(|(major, minor)| Device { major, minor });
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        3 => proptest::collection::vec(any::<u8>(), 0..9000)
            .prop_map(|bytes| Kind::File(Content::Bytes(bytes))),
        2 => proptest::collection::vec(1..=u8::MAX, 1..4096).prop_map(Kind::Symlink),
        1 => device.clone().prop_map(Kind::CharacterDevice),
        1 => device.prop_map(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ];
    let xattrs = proptest::collection::btree_map(
        "(user|trusted|security)\\.[a-z]{1,100}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..3000),
        0..4,
    );
    let owner = || prop_oneof![Just(0), 0..=65_536_u32, any::<u32>()];
    let time = prop_oneof![Just(TIME_S), any::<i32>().prop_map(i64::from), any::<i64>()];
    let attributes = (0..=0o7777_u32, owner(), owner(), time, xattrs).prop_map(
        |(permissions, uid, gid, mtime_s, xattrs)| crate::tree::Attributes {
            permissions,
            uid,
            gid,
            mtime_s,
            xattrs,
        },
    );
    (path, attributes, kind).prop_map(|(path, attributes, kind)| (path, Node { attributes, kind }))
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let links = proptest::collection::vec((any::<prop::sample::Index>(), any::<u16>()), 0..4);
    (proptest::collection::vec(any_entry(), 1..60), links).prop_map(|(entries, links)| {
        let mut tree = Tree::default();
        for (path, node) in entries {
            tree.replace(&path, node).unwrap();
        }
        for (index, name) in links {
            let paths: Vec<Vec<u8>> = tree.iter().map(|item| item.path.to_vec()).collect();
            let name = format!("links/{name}");
            // Not of directories.
            let target = &paths[index.index(paths.len())];
            drop(tree.hard_link(name.as_bytes(), target));
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_is_read_back(tree in any_tree()) {
        assert_same(&lines(&image(&tree)), &expected(&tree));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_tree_passes_fsck(tree in any_tree()) {
        check(&tree);
    }
}
