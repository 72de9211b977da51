//! Reads back what is written by `e2fsck`, `debugfs` and Linux.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir};

use super::*;
use crate::image::testing::{
    Mounted, Order, assert_same, everything, expected, file, is_installed, noise, on_host,
};
use crate::tree::{Attributes, Content, Device, Kind};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// The size of a block group.
const GROUP: u64 = 128 * MIB;

/// The time that images are made at.
const TIME_S: u64 = 1_700_000_000;

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn options(size: Size, journal: bool) -> Options {
    Options {
        time_s: TIME_S,
        size,
        journal,
    }
}

fn image(tree: &Tree, options: &Options) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    write(tree, options, file.reopen().unwrap()).unwrap();
    file
}

/// Asserts that `e2fsck` has nothing to say against it.
fn check(file: &NamedTempFile) {
    if !is_installed("e2fsck") {
        return;
    }
    let output = run("e2fsck", &["-f", "-n", text(file.path())]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
}

/// What `debugfs` answers to a request.
fn ask(file: &NamedTempFile, request: &str) -> String {
    let output = run("debugfs", &["-R", request, text(file.path())]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Mounts an image for writing, does something there, and unmounts it; not where mounting does not work.
fn change(image: &NamedTempFile, change: impl FnOnce(&Path)) {
    if Mounted::new(image.path(), "ext4", "noload").is_none() {
        return;
    }
    let at = TempDir::new().unwrap();
    let mounted = run(
        "mount",
        &["-o", "loop", text(image.path()), text(at.path())],
    );
    assert!(mounted.status.success(), "{mounted:?}");
    change(at.path());
    // A process that another test starts has all open files for a moment.
    let unmounted = (0..50).any(|_| {
        let output = run("umount", &[text(at.path())]);
        if !output.status.success() {
            std::thread::sleep(Duration::from_millis(100));
        }
        output.status.success()
    });
    assert!(unmounted);
}

#[test]
fn an_empty_disk_is_clean_at_any_size() {
    let sizes = [
        16 * MIB,
        64 * MIB,
        GROUP - 4 * KIB,
        GROUP,
        GROUP + 4 * KIB,
        GROUP + 3 * MIB,
        8 * GROUP,
        8 * GROUP + 4 * KIB,
        8 * GROUP + 3 * MIB,
        9 * GROUP - 4 * KIB,
        10 * GIB,
        100 * GIB,
    ];
    for size in sizes {
        for journal in [true, false] {
            let file = image(&Tree::default(), &options(Size::Total(size), journal));
            let metadata = file.as_file().metadata().unwrap();
            assert_eq!(metadata.len(), size);
            let written = metadata.blocks() * 512;
            assert!(written < 128 * KIB + size / 10_000, "{written} of {size}");
            check(&file);
        }
    }
}

#[test]
fn an_empty_disk_is_written_to() {
    for (size, journal) in [(GIB, true), (GROUP + 3 * MIB, true), (32 * MIB, false)] {
        let disk = image(&Tree::default(), &options(Size::Total(size), journal));
        change(&disk, |at| {
            for index in 0..2000 {
                let directory = at.join(format!("d{}", index % 20));
                fs_err::create_dir_all(&directory).unwrap();
                fs_err::write(directory.join(format!("f{index}")), noise(index)).unwrap();
            }
            fs_err::write(at.join("large"), noise(5_000_000)).unwrap();
        });
        check(&disk);
        change(&disk, |at| {
            assert_eq!(fs_err::read(at.join("large")).unwrap(), noise(5_000_000));
            assert_eq!(fs_err::read(at.join("d1/f1981")).unwrap(), noise(1981));
        });
    }
}

#[test]
fn linux_sees_everything_as_it_was() {
    let tree = everything(Order::Forwards);
    let image = image(&tree, &options(Size::Automatic, true));
    check(&image);
    let Some(mounted) = Mounted::new(image.path(), "ext4", "noatime") else {
        return;
    };
    let mut found = on_host(&mounted.path());
    assert!(found.remove(&b"lost+found"[..]).is_some());
    let mut expected = expected(&tree);
    // `lost+found` is a link more.
    let root = expected.get_mut(&b""[..]).unwrap();
    let links = tree.subdirectories(b"") + 2;
    *root = root.replace(&format!(" {links} links"), &format!(" {} links", links + 1));
    assert_same(&found, &expected);
}

#[test]
fn a_disk_survives_a_crash() {
    let disk = image(&Tree::default(), &options(Size::Total(GIB), true));
    let torn = NamedTempFile::new().unwrap();
    change(&disk, |at| {
        for index in 0..500 {
            fs_err::create_dir(at.join(format!("d{index}"))).unwrap();
        }
        fs_err::write(at.join("file"), noise(100_000)).unwrap();
        let synced = run("sync", &["-f", text(at)]);
        assert!(synced.status.success(), "{synced:?}");
        // As if the machine stopped now: what the disk holds, with the journal open.
        let sparse = ["--sparse=always", text(disk.path()), text(torn.path())];
        assert!(run("cp", &sparse).status.success());
        let state = ask(&torn, "features");
        assert!(state.contains("needs_recovery"), "{state}");
    });
    if torn.as_file().metadata().unwrap().len() == 0 {
        return;
    }
    change(&torn, |at| {
        assert_eq!(fs_err::read(at.join("file")).unwrap(), noise(100_000));
        assert!(at.join("d499").is_dir());
    });
    check(&torn);
}

#[test]
fn a_large_directory_is_found_by_hash() {
    // Two levels of index: more blocks than the first can list.
    let mut tree = Tree::default();
    for index in 0..12_000 {
        let name = format!("long/{index:0>250}");
        tree.replace(name.as_bytes(), file("")).unwrap();
    }
    for number in 0..2000_u32 {
        let name = [b"bytes/", noise(40).as_slice(), &number.to_be_bytes()].concat();
        let name = name.iter().skip(6).map(|&byte| {
            if byte == 0 || byte == b'/' {
                0x80
            } else {
                byte
            }
        });
        let name: Vec<u8> = b"bytes/".iter().copied().chain(name).collect();
        tree.replace(&name, file("")).unwrap();
    }
    for index in 0..100_000 {
        tree.replace(format!("many/{index}").as_bytes(), file(""))
            .unwrap();
    }
    let image = image(&tree, &options(Size::Automatic, true));
    check(&image);
    assert!(ask(&image, "htree_dump /long").contains("Indirect levels: 1"));
    assert!(ask(&image, "htree_dump /many").contains("Indirect levels: 0"));
    for path in ["/many/0", "/many/77777", &format!("/long/{:0>250}", 11_999)] {
        let found = ask(&image, &format!("stat {path}"));
        assert!(found.contains("Type: regular"), "{path}: {found}");
    }
    change(&image, |at| {
        for index in (0..100_000).step_by(1000) {
            assert!(at.join(format!("many/{index}")).exists(), "{index}");
            fs_err::write(at.join(format!("many/new-{index}")), "new").unwrap();
            fs_err::remove_file(at.join(format!("long/{:0>250}", index / 10))).unwrap();
        }
        assert!(!at.join("many/100000").exists());
    });
    check(&image);
}

#[test]
fn a_file_of_many_extents_is_whole() {
    let host = NamedTempFile::new().unwrap();
    let size_bytes = 9 * GROUP + 12_345;
    host.as_file().set_len(size_bytes).unwrap();
    let marks = [0, GROUP - 1, GROUP + 100, 5 * GROUP + 4095, size_bytes - 7];
    for at in marks {
        host.as_file().write_all_at(b"marked!", at).unwrap();
    }
    let mut tree = Tree::default();
    let content = Content::Host {
        path: host.path().to_path_buf(),
        size_bytes,
    };
    tree.replace(b"large", Node::file(0o600, content)).unwrap();
    tree.replace(b"zz", file("after it")).unwrap();
    let image = image(&tree, &options(Size::Automatic, true));
    check(&image);
    // Where only zeros are, there is nothing: the five marks lie in six blocks.
    if is_installed("debugfs") {
        let stat = ask(&image, "stat /large");
        assert!(stat.contains("Blockcount: 48\n"), "{stat}");
    }
    // Zeros are not written.
    let written = image.as_file().metadata().unwrap().blocks() * 512;
    assert!(written < 16 * MIB, "{written}");
    let Some(mounted) = Mounted::new(image.path(), "ext4", "noatime") else {
        return;
    };
    let large = fs_err::File::open(mounted.path().join("large")).unwrap();
    assert_eq!(large.metadata().unwrap().len(), size_bytes);
    for at in marks {
        let mut found = [0; 7];
        large.file().read_exact_at(&mut found, at).unwrap();
        assert_eq!(&found, b"marked!", "{at}");
    }
    assert_eq!(
        fs_err::read(mounted.path().join("zz")).unwrap(),
        b"after it"
    );
}

#[test]
fn zeros_are_holes_wherever_they_come_from() {
    const BLOCK: usize = 4096;
    let mut content = noise(2 * BLOCK + 5);
    content.resize(1_000_000, 0);
    content.extend(noise(3 * BLOCK));
    content.resize(content.len() + 10 * BLOCK, 0);
    let fragments = [noise(BLOCK), vec![0; BLOCK]].concat().repeat(1000);
    let files = [
        ("mixed", content),
        ("zeros", vec![0; 123_456]),
        ("short", vec![0; 7]),
        ("fragments", fragments),
        ("after", b"after them".to_vec()),
    ];
    let mut tree = Tree::default();
    for (name, content) in &files {
        tree.replace(name.as_bytes(), file(content.clone()))
            .unwrap();
    }
    let mut from_host = Tree::default();
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in &files {
        let path = directory.path().join(name);
        fs_err::write(&path, content).unwrap();
        let size_bytes = u64::try_from(content.len()).unwrap();
        let mut node = file("");
        node.kind = Kind::File(Content::Host { path, size_bytes });
        from_host.replace(name.as_bytes(), node).unwrap();
    }
    for size in [Size::Automatic, Size::Free(0)] {
        let image = image(&tree, &options(size, false));
        check(&image);
        let other = self::image(&from_host, &options(size, false));
        assert_eq!(
            fs_err::read(image.path()).unwrap(),
            fs_err::read(other.path()).unwrap()
        );
        if !is_installed("debugfs") {
            continue;
        }
        for (name, content) in &files {
            let path = directory.path().join("dumped");
            ask(&image, &format!("dump /{name} {}", path.display()));
            assert!(&fs_err::read(&path).unwrap() == content, "{name}");
        }
        // In units of 512 bytes; of the fragments also the tree above 1000 extents.
        for (name, blocks) in [
            ("mixed", 7),
            ("zeros", 0),
            ("short", 0),
            ("fragments", 1003),
        ] {
            let stat = ask(&image, &format!("stat /{name}"));
            let expected = format!("Blockcount: {}\n", blocks * 8);
            assert!(stat.contains(&expected), "{name}: {stat}");
        }
    }
}

#[test]
fn the_size_is_what_was_asked_for() {
    let mut tree = Tree::default();
    tree.replace(b"x", file(noise(10_000_000))).unwrap();
    let free = |image: &NamedTempFile| -> u64 {
        let statistics = ask(image, "stats -h");
        let number = |key: &str| -> u64 {
            let line = statistics
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap();
            line[key.len()..].trim().parse().unwrap()
        };
        assert!(number("Free inodes:") > 1000, "{statistics}");
        number("Free blocks:") * 4 * KIB
    };
    for wanted in [0, 1, MIB, 100 * MIB, GROUP, 3 * GIB] {
        let image = image(&tree, &options(Size::Free(wanted), true));
        check(&image);
        if is_installed("debugfs") {
            let free = free(&image);
            assert!(
                (wanted..=wanted + 24 * MIB).contains(&free),
                "{free} for {wanted}"
            );
        }
    }
    let image = image(&tree, &options(Size::Automatic, false));
    let length = image.as_file().metadata().unwrap().len();
    assert!((74 * MIB..82 * MIB).contains(&length), "{length}");
}

/// A tree of one thing.
fn only(path: &[u8], node: Node) -> Tree {
    let mut tree = Tree::default();
    tree.replace(path, node).unwrap();
    tree
}

/// Why a tree cannot be written.
fn refusal(tree: &Tree, size: Size) -> String {
    let out = std::io::Cursor::new(Vec::new());
    write(tree, &options(size, true), out)
        .unwrap_err()
        .to_string()
}

#[test]
fn what_is_too_large_is_told() {
    let large = only(b"x", file(noise(10_000_000)));
    let huge = Content::Host {
        path: "/nowhere".into(),
        size_bytes: 1 << 44,
    };
    let huge = only(b"a", Node::file(0, huge));
    let small = "is too small for its content";
    let empty = Tree::default();
    let table = [
        (&large, Size::Total(8 * MIB), small),
        (&empty, Size::Total(0), small),
        (&empty, Size::Total(100), small),
        (&empty, Size::Total(4 * MIB), small),
        (&empty, Size::Total(1 << 45), "is too large"),
        (&empty, Size::Total(u64::MAX), "is too large"),
        (&empty, Size::Free((1 << 44) - 1), "more than the 16 TiB"),
        (&empty, Size::Free(u64::MAX), "more than the 16 TiB"),
        (&huge, Size::Automatic, "less than 16 TiB"),
    ];
    for (tree, size, expected) in table {
        let message = refusal(tree, size);
        assert!(message.contains(expected), "{message} for {size:?}");
    }
}

#[test]
fn what_ext4_does_not_have_is_told() {
    let device = |major, minor| Node {
        attributes: file("").attributes,
        kind: Kind::CharacterDevice(Device { major, minor }),
    };
    let with_xattr = |name: &str, bytes: usize| {
        let mut node = file("");
        node.attributes.xattrs.insert(name.into(), noise(bytes));
        only(b"a", node)
    };
    let mut linked = only(b"0", file(""));
    for index in 1..=65_000 {
        linked
            .hard_link(format!("{index}").as_bytes(), b"0")
            .unwrap();
    }
    let table = [
        (only(&[b'x'; 256], file("")), "at most 255 bytes"),
        (only(b"a", device(4096, 0)), "such a large number"),
        (only(b"a", device(0, 1 << 20)), "such a large number"),
        (with_xattr("user.large", 5000), "take 5024 bytes"),
        (with_xattr("system.other", 1), "of a kind that"),
        (with_xattr("user.", 1), "has a name that"),
        (
            with_xattr("system.posix_acl_access", 9),
            "not an access control list",
        ),
        (only(b"lost+found", file("")), "keeps this name"),
        (only(b"a\0b", file("")), "none of them is zero"),
        (only(b"a", Node::symlink("")), "nothing that has a name"),
        (only(b"a", Node::symlink("a\0")), "nothing that has a name"),
        (
            only(b"a", Node::symlink([b'a'; 4096])),
            "at most 4095 bytes",
        ),
        (linked, "65001 hard links"),
    ];
    for (tree, expected) in table {
        let message = refusal(&tree, Size::Automatic);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_tree_may_bring_lost_and_found() {
    let mut tree = Tree::default();
    tree.replace(b"lost+found", Node::directory(0o755)).unwrap();
    tree.replace(b"lost+found/x", file("found")).unwrap();
    let image = image(&tree, &options(Size::Free(MIB), true));
    check(&image);
    if is_installed("debugfs") {
        assert_eq!(ask(&image, "cat /lost+found/x"), "found");
    }
}

#[test]
fn more_subdirectories_than_links_are_allowed() {
    let mut tree = Tree::default();
    for index in 0..65_100 {
        tree.replace(format!("d/{index}").as_bytes(), Node::directory(0o755))
            .unwrap();
    }
    check(&image(&tree, &options(Size::Free(MIB), true)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_clean(
        nodes in proptest::collection::vec((path(), node()), 0..60),
        links in proptest::collection::vec((path(), any::<proptest::sample::Index>()), 0..10),
        free_mib in 0..300_u64,
        journal in any::<bool>(),
    ) {
        let mut tree = Tree::default();
        for (path, node) in nodes {
            tree.replace(&path, node).unwrap();
        }
        for (path, target) in links {
            let targets: Vec<Vec<u8>> = tree.iter().map(|item| item.path.to_vec()).collect();
            if !targets.is_empty() {
                // Not every choice can be linked to.
                let target: &Vec<u8> = target.get(&targets);
                drop(tree.hard_link(&path, target));
            }
        }
        let image = image(&tree, &options(Size::Free(free_mib * MIB), journal));
        check(&image);
        if let Some(mounted) = Mounted::new(image.path(), "ext4", "noatime") {
            let mut found = on_host(&mounted.path());
            found.remove(&b"lost+found"[..]);
            found.remove(&b""[..]);
            let mut expected = expected(&tree);
            expected.remove(&b""[..]);
            assert_same(&found, &expected);
        }
    }
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec("[a-d]|[e-z]{200,255}", 1..4)
        .prop_map(|names| names.join("/").into_bytes())
}

fn node() -> impl Strategy<Value = Node> {
    let device = (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Device { major, minor });
    let kind = prop_oneof![
        3 => Just(Kind::Directory),
        3 => (0..20_000_usize).prop_map(|bytes| Kind::File(Content::Bytes(noise(bytes)))),
        1 => proptest::collection::vec(1..=255_u8, 1..100).prop_map(Kind::Symlink),
        1 => device.clone().prop_map(Kind::CharacterDevice),
        1 => device.prop_map(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ];
    let xattrs = proptest::collection::btree_map("trusted\\.[a-z]{1,20}", ".{0,60}", 0..8);
    let numbers = (
        0..0o10000_u32,
        any::<u32>(),
        any::<u32>(),
        -0x8000_0000..0x3_7fff_ffff_i64,
    );
    (kind, xattrs, numbers).prop_map(|(kind, xattrs, (permissions, uid, gid, mtime_s))| {
        let bytes = |(name, value): (String, String)| (name.into_bytes(), value.into_bytes());
        let attributes = Attributes {
            permissions,
            uid,
            gid,
            mtime_s,
            xattrs: xattrs.into_iter().map(bytes).collect(),
        };
        Node { attributes, kind }
    })
}

#[test]
fn the_time_of_the_image_may_be_any() {
    for time_s in [0, 1 << 32, 1 << 36] {
        let mut options = options(Size::Total(32 * MIB), true);
        options.time_s = time_s;
        check(&image(&Tree::default(), &options));
    }
}

#[test]
fn debugfs_sees_what_was_written() {
    let image = image(
        &everything(Order::Forwards),
        &options(Size::Automatic, true),
    );
    if !is_installed("debugfs") {
        return;
    }
    let dumped = NamedTempFile::new().unwrap();
    ask(
        &image,
        &format!("dump /sizes/file-5000003 {}", text(dumped.path())),
    );
    assert!(fs_err::read(dumped.path()).unwrap() == noise(5_000_003));
    let table = [
        ("stat /sizes/file-4097", "Links: 3 "),
        ("stat /modes/4755-false", "Mode:  04755 "),
        ("stat /owners/65536-0", "User: 65536   Group:     0 "),
        ("stat /kinds/character", "Device major/minor number: 01:03"),
        (
            "stat /kinds/large-device",
            "Device major/minor number: 4095:1048575",
        ),
        ("stat /kinds/symlink-59", "Fast link dest: \"aaaa"),
        ("stat /kinds/fifo", "Type: FIFO"),
        ("stat /kinds/socket", "Type: socket"),
        ("stat /times/-1", "Wed Dec 31 23:59:59 1969"),
        ("stat /times/4294967296", "Sun Feb  7 06:28:16 2106"),
        ("ea_get /xattrs/several user.odd", "odd"),
        ("ea_get -x /xattrs/several user.bytes", "00 01 ff 0a"),
        ("stat <8>", "Size: 4194304"),
        (
            "stats",
            "Filesystem features:      has_journal ext_attr dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum\n",
        ),
        ("stats", "Filesystem state:         clean\n"),
        (
            "stats",
            "Filesystem created:       Tue Nov 14 22:13:20 2023\n",
        ),
    ];
    for (request, expected) in table {
        let answer = ask(&image, request);
        assert!(answer.contains(expected), "{request}: {answer}");
    }
}

#[test]
fn equal_hashes_on_both_sides_of_a_border_are_found() {
    // Names of 255 bytes, of which a block holds 15; two with one hash, of which one is the last in its block.
    let mut names: Vec<(u32, String)> = (0..200_000)
        .map(|index| format!("{index:0>255}"))
        .map(|name| (directory::hash(name.as_bytes()), name))
        .collect();
    names.sort();
    let twins = names
        .windows(2)
        .skip(15)
        .position(|two| two[0].0 == two[1].0);
    let first = twins.unwrap() + 15;
    let chosen = &names[first - 14..first + 100];
    let mut tree = Tree::default();
    for (_, name) in chosen {
        tree.replace(format!("d/{name}").as_bytes(), file(""))
            .unwrap();
    }
    let image = image(&tree, &options(Size::Free(MIB), true));
    check(&image);
    let Some(mounted) = Mounted::new(image.path(), "ext4", "noatime") else {
        return;
    };
    for (_, name) in chosen {
        assert!(mounted.path().join("d").join(name).exists(), "{name}");
    }
}

#[test]
fn the_order_of_insertion_does_not_show() {
    let options = options(Size::Free(8 * MIB), true);
    let bytes = |order| {
        let image = image(&everything(order), &options);
        fs_err::read(image.path()).unwrap()
    };
    assert!(bytes(Order::Forwards) == bytes(Order::Backwards));
}
