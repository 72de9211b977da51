//! An initramfs with everything that one can hold, as other programs read it: what bsdtar lists, and what GNU cpio unpacks, is compared
//! with the tree, line by line and down to the contents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use common::digest::Digest;
use fledge::image::initramfs;
use fledge::tree::{Attributes, Content, Device, Kind, Node, NodeId, Tree};

/// As many files as an image is promised to hold.
const FILES: usize = 100_000;

/// The time of most nodes, in seconds since 1970.
const TIME_S: i64 = 1_700_000_000;

fn node(permissions: u32, kind: Kind) -> Node {
    let mut attributes = Attributes::new(permissions);
    attributes.mtime_s = TIME_S;
    Node { attributes, kind }
}

fn file(content: &[u8]) -> Node {
    node(0o644, Kind::File(Content::Bytes(content.to_vec())))
}

/// Every kind of inode, odd modes, owners, times and names, hard links, a deep directory, and many files.
fn everything(files: usize) -> Tree {
    let mut nodes: Vec<(Vec<u8>, Node)> = Vec::new();
    let device = |major, minor| Device { major, minor };
    for (name, permissions, kind) in [
        ("symlink", 0o777, Kind::Symlink(b"../a b".to_vec())),
        ("long-symlink", 0o777, Kind::Symlink(vec![b'x'; 4000])),
        ("character", 0o666, Kind::CharacterDevice(device(1, 3))),
        ("block", 0o660, Kind::BlockDevice(device(259, 0x1_2345))),
        ("fifo", 0o640, Kind::Fifo),
        ("empty", 0o700, Kind::Directory),
        ("sparse", 0o600, Kind::File(Content::Bytes(vec![0; 70_000]))),
    ] {
        nodes.push((
            format!("kinds/{name}").into_bytes(),
            node(permissions, kind),
        ));
    }
    for permissions in [0, 0o4755, 0o2755, 0o1777, 0o7777] {
        let path = format!("modes/{permissions:o}");
        nodes.push((path.into_bytes(), node(permissions, Kind::Directory)));
        let mut set = file(b"mode");
        set.attributes.permissions = permissions;
        nodes.push((format!("modes/{permissions:o}-file").into_bytes(), set));
    }
    for (uid, gid) in [(1000, 100), (65_536, 0), (0, u32::MAX - 1)] {
        let mut owned = file(b"");
        (owned.attributes.uid, owned.attributes.gid) = (uid, gid);
        nodes.push((format!("owners/{uid}-{gid}").into_bytes(), owned));
    }
    // The first second, the last of 31 bits, and the last that the format has.
    for mtime_s in [0, 2_147_483_647, 4_294_967_295] {
        let mut dated = file(b"time");
        dated.attributes.mtime_s = mtime_s;
        nodes.push((format!("times/{mtime_s}").into_bytes(), dated));
    }
    for name in [
        &b" "[..],
        b"#",
        b"=",
        b"...",
        b"new\nline",
        b"back\\slash",
        b"\xff\xfe",
        &[b'n'; 255],
    ] {
        nodes.push(([b"names/", name].concat(), file(name)));
    }
    nodes.push((
        ["deep/".repeat(200), "bottom".to_owned()]
            .concat()
            .into_bytes(),
        file(b"bottom"),
    ));
    for index in 0..files {
        let path = format!("many/{}/{index}", index / 1000);
        nodes.push((path.into_bytes(), file(index.to_string().as_bytes())));
    }
    let mut tree = Tree::default();
    for (path, node) in nodes {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if tree.get(&path[..end]).is_none() {
                tree.replace(&path[..end], node_of_directory()).unwrap();
            }
        }
        tree.replace(&path, node).unwrap();
    }
    for path in [&b"0-first"[..], b"kinds/hard", b"zz-last"] {
        tree.hard_link(path, b"kinds/sparse").unwrap();
    }
    tree
}

fn node_of_directory() -> Node {
    node(0o755, Kind::Directory)
}

/// As mtree(5) writes names and targets: what is no plain character in octal.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        if byte.is_ascii_graphic() && !b"\\#=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "\\{byte:03o}").unwrap();
        }
    }
    text
}

/// Which of the paths with one inode have its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// In an archive, the last.
    Last,
    /// Unpacked, all.
    All,
}

/// The lines that an mtree must have, by path; their words sorted.
fn expected(tree: &Tree, carries: Carries) -> BTreeMap<String, String> {
    let links = tree.hard_links();
    let mut left: BTreeMap<NodeId, u32> = links.clone();
    let mut lines = BTreeMap::new();
    for item in tree.iter() {
        let Attributes {
            permissions,
            uid,
            gid,
            mtime_s,
            ..
        } = &item.node.attributes;
        let mut words = vec![
            format!("mode={permissions:o}"),
            format!("uid={uid}"),
            format!("gid={gid}"),
            format!("time={mtime_s}.0"),
        ];
        words.extend(links.get(&item.id).map(|count| format!("nlink={count}")));
        let kind = match &item.node.kind {
            Kind::Directory => "dir",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::Symlink(target) => {
                words.push(format!("link={}", escaped(target)));
                "link"
            }
            Kind::CharacterDevice(Device { major, minor }) => {
                words.push(format!("device=native,{major},{minor}"));
                "char"
            }
            Kind::BlockDevice(Device { major, minor }) => {
                words.push(format!("device=native,{major},{minor}"));
                "block"
            }
            Kind::File(content) => {
                let mut bytes = Vec::new();
                let after = left
                    .entry(item.id)
                    .and_modify(|left| *left -= 1)
                    .or_default();
                if *after == 0 || carries == Carries::All {
                    content.copy_to(&mut bytes).unwrap();
                }
                words.push(format!("size={}", bytes.len()));
                words.push(format!("sha256digest={}", Digest::of(&bytes).to_hex()));
                "file"
            }
        };
        words.push(format!("type={kind}"));
        words.sort_unstable();
        lines.insert(escaped(item.path), words.join(" "));
    }
    lines
}

/// Runs a program on names that are bytes; nothing where it is not installed.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn run(command: &mut Command) -> Option<String> {
    match command.env("LC_ALL", "C").output() {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            assert!(output.stderr.is_empty(), "{output:?}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIPPED: {command:?} cannot be run, it is not installed");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What bsdtar finds: in an archive (`@` and its path) or a folder (`.`).
fn found(folder: &Path, what: &str) -> Option<BTreeMap<String, String>> {
    let words = "!all,type,mode,uid,gid,nlink,size,link,time,device,sha256";
    let listing = run(Command::new("bsdtar")
        .args(["-c", "-f", "-", "--format=mtree", "--options", words, what])
        .current_dir(folder))?;
    let mut found = BTreeMap::new();
    let mut lines = listing.lines();
    assert_eq!(lines.next(), Some("#mtree"));
    for line in lines.filter(|line| !line.starts_with(". ")) {
        let (path, words) = line.split_once(' ').unwrap();
        let mut words: Vec<&str> = words.split(' ').collect();
        words.sort_unstable();
        let path = path.strip_prefix("./").unwrap_or(path).to_owned();
        let again = found.insert(path, words.join(" "));
        assert_eq!(again, None, "listed twice: {line}");
    }
    Some(found)
}

fn assert_same(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    for (path, line) in expected {
        assert_eq!(found.get(path), Some(line), "{path}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn bsdtar_lists_what_the_tree_holds() {
    let tree = everything(FILES);
    let temp = tempfile::tempdir().unwrap();
    let archive = initramfs::write(&tree, Vec::new()).unwrap();
    fs_err::write(temp.path().join("initramfs.cpio"), archive).unwrap();
    let Some(found) = found(temp.path(), "@initramfs.cpio") else {
        return;
    };
    assert_same(&found, &expected(&tree, Carries::Last));
    assert_eq!(found.len(), tree.len());

    // An mtree does not say which paths have one inode; the listing for people does.
    let listing = run(Command::new("bsdtar")
        .args(["-t", "-v", "-f", "initramfs.cpio"])
        .current_dir(temp.path()))
    .unwrap();
    let mut links: Vec<&str> = listing
        .lines()
        .filter(|line| line.contains(" link to "))
        .filter_map(|line| line.rsplit_once("2023 ").map(|(_, names)| names))
        .collect();
    links.sort_unstable();
    assert_eq!(
        links,
        [
            "kinds/hard link to 0-first",
            "kinds/sparse link to 0-first",
            "zz-last link to 0-first",
        ]
    );
}

#[test]
fn gnu_cpio_unpacks_what_the_tree_holds() {
    use std::os::unix::fs::MetadataExt as _;
    let temp = tempfile::tempdir().unwrap();
    if fs_err::metadata(temp.path()).unwrap().uid() != 0 {
        println!("SKIPPED: only root unpacks devices and owners");
        return;
    }
    // Writing them all to a disk would take longer than all other tests.
    let tree = everything(FILES / 100);
    let archive = temp.path().join("initramfs.cpio");
    fs_err::write(&archive, initramfs::write(&tree, Vec::new()).unwrap()).unwrap();
    let unpacked = temp.path().join("unpacked");
    fs_err::create_dir(&unpacked).unwrap();
    let ran = run(Command::new("cpio")
        .args(["-i", "-d", "-m", "--quiet", "-F"])
        .arg(&archive)
        .current_dir(&unpacked));
    let Some(found) = ran.and_then(|_| found(&unpacked, ".")) else {
        return;
    };
    // It sets the time of a directory before it fills it, and of a link never.
    let without_times = |lines: BTreeMap<String, String>| {
        let lines = lines.into_iter().map(|(path, line)| {
            let is_dated = !line.contains("type=dir") && !line.contains("type=link");
            let words = line.split(' ');
            let kept: Vec<&str> = words
                .filter(|word| is_dated || !word.starts_with("time="))
                .collect();
            (path, kept.join(" "))
        });
        lines.collect::<BTreeMap<_, _>>()
    };
    let expected = expected(&tree, Carries::All);
    assert_same(&without_times(found), &without_times(expected));
    let inode = |name: &str| fs_err::metadata(unpacked.join(name)).unwrap().ino();
    for name in ["kinds/hard", "0-first", "zz-last"] {
        assert_eq!(inode(name), inode("kinds/sparse"), "{name}");
    }
}
