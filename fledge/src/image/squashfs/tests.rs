//! Images read back by unsquashfs and by Linux itself.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::format::BLOCK_BYTES;
use super::*;
use crate::image::testing::{
    self, Mounted, Order, assert_same, expected, file, is_installed, noise, on_host,
};
use crate::tree::{Attributes, Content, Device, Kind, Node};

const TIME_S: u64 = 1_700_000_000;

fn options(threads: usize) -> Options {
    Options {
        time_s: TIME_S,
        level: 3,
        threads: NonZeroUsize::new(threads).unwrap(),
    }
}

fn image(tree: &Tree) -> Vec<u8> {
    write(tree, &options(2), Cursor::new(Vec::new()))
        .unwrap()
        .into_inner()
}

/// What matters to this format: blocks and fragments of all sizes and both kinds, holes, an index, sets of attributes.
fn borders() -> Tree {
    let mut tree = Tree::default();
    let mut put = |path: &str, node| tree.replace(path.as_bytes(), node).unwrap();
    for (name, bytes) in [
        ("empty", 0),
        ("one", 1),
        ("short", BLOCK_BYTES - 1),
        ("block", BLOCK_BYTES),
        ("more", BLOCK_BYTES + 1),
        ("long", 3 * BLOCK_BYTES + 500),
    ] {
        put(&format!("noise/{name}"), file(noise(bytes)));
        put(
            &format!("text/{name}"),
            file(b"abc".repeat(bytes)[..bytes].to_vec()),
        );
        put(&format!("zeros/{name}"), file(vec![0; bytes]));
    }
    let hole = [
        noise(BLOCK_BYTES),
        vec![0; 2 * BLOCK_BYTES],
        noise(BLOCK_BYTES + 7),
    ];
    put("hole", file(hole.concat()));
    let early = [vec![0; BLOCK_BYTES], noise(10)];
    put("early hole", file(early.concat()));
    for number in 0..2000 {
        put(&format!("large/{number:050}"), file(number.to_string()));
    }
    for number in 0..100 {
        let mut node = file("");
        node.attributes.uid = 100_000 + number;
        let set = number % 7;
        for attribute in 0..set {
            let name = format!("user.name{attribute}").into_bytes();
            let value = vec![b'v'; usize::try_from(set * attribute * 20).unwrap()];
            node.attributes.xattrs.insert(name, value);
        }
        put(&format!("xattrs/{number}"), node);
    }
    tree
}

/// [`testing::everything`] without what this format cannot hold: access lists, and times out of 32 bits.
fn everything(order: Order) -> Tree {
    let mut tree = testing::everything(order);
    for path in [
        "xattrs/acl",
        "xattrs/acl-directory",
        "times/-1",
        "times/-2147483648",
    ] {
        assert!(tree.remove(path.as_bytes()), "{path}");
    }
    tree.clamp_times(u32::MAX.into());
    tree
}

/// Whether files can be given to other owners; says so if not.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    let is_root = id.stdout == b"0\n";
    if !is_root {
        eprintln!("SKIPPED: only root can unpack all owners and devices");
    }
    is_root
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// Unpacks `image` and compares the result with `tree`.
fn comes_back(tree: &Tree, image: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs_err::write(&path, image).unwrap();
    let out = directory.path().join("out");
    run(Command::new("unsquashfs")
        .args(["-no-progress", "-strict-errors", "-d"])
        .args([&out, &path]));
    assert_same(&on_host(&out), &expected(tree));
}

/// Has Linux read an image of `tree` from a loop device and compares; says whether it could.
///
/// Where there are no attributes at all, Linux refuses to list them, so the root has one.
fn linux_reads(mut tree: Tree, look: impl FnOnce(&Path)) -> bool {
    let mut root = Node::directory(0o750);
    let name = b"user.root".to_vec();
    root.attributes.xattrs.insert(name, b"value".to_vec());
    tree.replace(b"", root).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), image(&tree)).unwrap();
    let Some(mounted) = Mounted::new(file.path(), "squashfs", "") else {
        return false;
    };
    assert_same(&on_host(&mounted.path()), &expected(&tree));
    look(&mounted.path());
    true
}

#[test]
fn unsquashfs_gives_the_tree_back() {
    if is_root() && is_installed("unsquashfs") {
        for tree in [Tree::default(), everything(Order::Forwards), borders()] {
            comes_back(&tree, &image(&tree));
        }
    }
}

#[test]
fn linux_reads_it() {
    // More than unsquashfs could put on most file systems.
    let mut large = Tree::default();
    let mut node = file("");
    for (name, bytes) in [("user.a", 65536), ("user.b", 40_000), ("user.c", 0)] {
        let name = name.as_bytes().to_vec();
        node.attributes.xattrs.insert(name, noise(bytes));
    }
    large.replace(b"x", node).unwrap();
    for tree in [
        Tree::default(),
        everything(Order::Backwards),
        borders(),
        large,
    ] {
        if !linux_reads(tree, |_| {}) {
            return;
        }
    }
}

#[test]
fn times_out_of_range_become_the_nearest() {
    let mut tree = Tree::default();
    let mut clamped = Tree::default();
    for (name, mtime_s, nearest) in [("old", -5, 0), ("new", 1 << 32, (1 << 32) - 1)] {
        for (tree, mtime_s) in [(&mut tree, mtime_s), (&mut clamped, nearest)] {
            let mut node = file("");
            node.attributes.mtime_s = mtime_s;
            tree.replace(name.as_bytes(), node).unwrap();
        }
    }
    assert!(image(&tree) == image(&clamped));
}

#[test]
fn the_superblock_says_what_was_asked_for() {
    if !is_installed("unsquashfs") {
        return;
    }
    let path = tempfile::NamedTempFile::new().unwrap();
    for (level, expected) in [(0, ""), (22, "level 22"), (99, "level 22")] {
        let options = Options {
            level,
            ..options(1)
        };
        let image = write(&borders(), &options, Cursor::new(Vec::new())).unwrap();
        assert_eq!(image.position() % IMAGE_ALIGNMENT, 0);
        fs_err::write(path.path(), image.into_inner()).unwrap();
        let text = run(Command::new("unsquashfs").arg("-stat").arg(path.path()));
        // What is usual is not stored.
        let is_said = level == 0 || text.contains(expected);
        assert!(is_said && text.contains("Compression zstd"), "{text}");
        assert!(text.contains("Filesystem is exportable"), "{text}");
        assert!(text.contains("Block size 131072"), "{text}");
        assert!(text.contains("Xattrs are compressed"), "{text}");
        let time = run(Command::new("unsquashfs")
            .arg("-mkfs-time")
            .arg(path.path()));
        assert_eq!(time.trim(), TIME_S.to_string());
    }
}

#[test]
fn threads_and_order_do_not_change_the_bytes() {
    let written = |order, threads| {
        write(
            &everything(order),
            &options(threads),
            Cursor::new(Vec::new()),
        )
        .unwrap()
        .into_inner()
    };
    let one = written(Order::Forwards, 1);
    for threads in [2, 3, 16, 100] {
        assert!(
            written(Order::Backwards, threads) == one,
            "{threads} threads"
        );
    }
}

#[test]
fn holes_take_no_room() {
    let mut tree = Tree::default();
    let backing = tempfile::tempfile().unwrap();
    let size_bytes = 200 * wide(BLOCK_BYTES) + 5;
    backing.set_len(size_bytes).unwrap();
    let content = Content::Part {
        file: std::sync::Arc::new(backing),
        offset: 0,
        size_bytes,
    };
    tree.replace(b"hole", Node::file(0o644, content)).unwrap();
    let image = image(&tree);
    assert!(image.len() <= 4096, "{}", image.len());
    linux_reads(tree, |root| {
        let found = fs_err::symlink_metadata(root.join("hole")).unwrap();
        assert_eq!((found.len(), found.blocks()), (size_bytes, 1));
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    let with_xattr = |name: &str, value: usize| {
        let mut node = file("");
        let name = name.as_bytes().to_vec();
        node.attributes.xattrs.insert(name, vec![0; value]);
        node
    };
    let device = |major, minor| Node {
        attributes: Attributes::new(0o600),
        kind: Kind::BlockDevice(Device { major, minor }),
    };
    let long = "n".repeat(256);
    let table = [
        (long.as_str(), file(""), "a name has at most 255 bytes"),
        ("x", Node::symlink(vec![b'x'; 4096]), "1 to 4095 bytes"),
        ("x", Node::symlink(""), "1 to 4095 bytes"),
        ("x", device(4096, 0), "major number of at most 4095"),
        ("x", device(0, 1 << 20), "minor one of at most 1048575"),
        (
            "x",
            with_xattr("system.posix_acl_access", 4),
            "`/x` cannot be in such an image: squashfs holds attributes of `user`, `trusted` and `security`, and it has \
             `system.posix_acl_access`",
        ),
        ("x", with_xattr("user.", 0), "it has `user.`"),
        ("x", with_xattr("user.x", 65537), "65536 of value"),
    ];
    for (path, node, expected) in table {
        let mut tree = Tree::default();
        tree.replace(path.as_bytes(), node).unwrap();
        let error = write(&tree, &options(1), Cursor::new(Vec::new())).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(expected), "{message}, not {expected}");
    }
    let mut tree = Tree::default();
    for uid in 0..70_000_u32 {
        let mut node = file("");
        node.attributes.uid = uid;
        tree.replace(uid.to_string().as_bytes(), node).unwrap();
    }
    let error = write(&tree, &options(1), Cursor::new(Vec::new())).unwrap_err();
    assert!(
        error.to_string().contains("65535 different owners"),
        "{error}"
    );
}

#[test]
fn errors_of_both_ends_arrive() {
    /// A disk of some bytes.
    struct Full(Cursor<Vec<u8>>, usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.get_ref().len() + bytes.len() > self.1 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl Seek for Full {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let mut tree = Tree::default();
    tree.replace(b"x", file(noise(20 * BLOCK_BYTES))).unwrap();
    for room in [50, 10_000, 20 * BLOCK_BYTES + 200] {
        let full = Full(Cursor::new(Vec::new()), room);
        let error = write(&tree, &options(2), full).map(drop).unwrap_err();
        let WriteError::Output(source) = error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{room}");
    }
    let changed = Content::Host {
        path: "/dev/null".into(),
        size_bytes: 5,
    };
    tree.replace(b"y", Node::file(0o644, changed)).unwrap();
    let error = write(&tree, &options(2), Cursor::new(Vec::new())).unwrap_err();
    assert!(matches!(error, WriteError::Changed { .. }), "{error}");
}

#[test]
fn a_hundred_thousand_files_are_found() {
    let mut tree = Tree::default();
    for number in 0..90_000 {
        let path = format!("one/file number {number}");
        tree.replace(path.as_bytes(), file(number.to_string()))
            .unwrap();
    }
    for number in 0..10_000 {
        let path = format!("many/{}/{}/{number}", number % 10, number % 100);
        tree.replace(path.as_bytes(), file(noise(number % 300)))
            .unwrap();
    }
    let deep = "d/".repeat(1000) + "end";
    tree.replace(deep.as_bytes(), file("deep")).unwrap();
    let image = image(&tree);
    linux_reads(tree, |_| {});
    if is_installed("unsquashfs") {
        let path = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(path.path(), &image).unwrap();
        let list = run(Command::new("unsquashfs").arg("-lc").arg(path.path()));
        assert!(list.lines().count() >= 100_001, "{}", list.lines().count());
    }
}

fn node() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..300)
            .prop_map(|bytes| Kind::File(Content::Bytes(bytes))),
        1 => (any::<u8>(), 0..3 * BLOCK_BYTES)
            .prop_map(|(byte, bytes)| Kind::File(Content::Bytes(vec![byte; bytes]))),
        2 => proptest::collection::vec(1..=255_u8, 1..100).prop_map(Kind::Symlink),
        3 => proptest::strategy::Just(Kind::Directory),
        1 => (0..4096_u32, 0..(1_u32 << 20))
            .prop_map(|(major, minor)| Kind::BlockDevice(Device { major, minor })),
        1 => proptest::strategy::Just(Kind::Fifo),
    ];
    let xattrs = proptest::collection::btree_map(
        "user\\.[a-z]{1,20}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..50),
        0..3,
    );
    let numbers = (0..0o10000_u32, any::<u16>(), any::<u16>(), 0..u32::MAX);
    (kind, numbers, xattrs).prop_map(|(kind, (permissions, uid, gid, mtime_s), xattrs)| {
        // Linux lets only files and directories have attributes of users, and links no permissions.
        let has_xattrs = matches!(kind, Kind::File(_) | Kind::Directory);
        let is_link = matches!(kind, Kind::Symlink(_));
        Node {
            attributes: Attributes {
                permissions: if is_link { 0o777 } else { permissions },
                uid: uid.into(),
                gid: gid.into(),
                mtime_s: mtime_s.into(),
                xattrs: if has_xattrs { xattrs } else { BTreeMap::new() },
            },
            kind,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_trees_come_back(
        nodes in proptest::collection::vec(("[a-c]{1,2}(/[a-c]{1,2}){0,3}", node()), 0..40),
        links in proptest::collection::vec(("[a-c]{1,2}(/[x-z]{1,2}){0,2}", any::<proptest::sample::Index>()), 0..5),
    ) {
        if !is_root() || !is_installed("unsquashfs") {
            return Ok(());
        }
        let mut tree = Tree::default();
        for (path, node) in nodes {
            tree.replace(path.as_bytes(), node).unwrap();
        }
        for (path, index) in links {
            let targets: Vec<Vec<u8>> = tree
                .iter()
                .filter(|item| !item.node.is_directory())
                .map(|item| item.path.to_vec())
                .collect();
            if !targets.is_empty() {
                // The new name may replace the directory that the target is in; then there is no link.
                let target = index.get(&targets[..]);
                drop(tree.hard_link(path.as_bytes(), target));
            }
        }
        comes_back(&tree, &image(&tree));
    }
}
