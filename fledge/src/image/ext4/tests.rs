//! Reads back what is written by `e2fsck`, `debugfs` and Linux.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::{NamedTempFile, TempDir};

use super::*;
use crate::image::testing::{
    Mounted, Order, assert_same, everything, expected, file, is_installed, noise, on_host,
};
use crate::tree::{Content, Device, Kind};

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
    let unmounted = run("umount", &[text(at.path())]);
    assert!(unmounted.status.success(), "{unmounted:?}");
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
        let synced = run("sync", &[]);
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
    let extents = ask(&image, "extents /large");
    assert!(extents.contains(" 0/ 1 "), "{extents}");
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

#[test]
fn the_time_of_the_image_may_be_any() {
    for time_s in [0, 1 << 32, 1 << 36] {
        let mut options = options(Size::Total(32 * MIB), true);
        options.time_s = time_s;
        check(&image(&Tree::default(), &options));
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
