//! The same image through `umoci unpack`: both file systems must be equal in everything that a file system has.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tar::EntryType;

use super::*;
use crate::tree::{Attributes, Device};

/// What is compared of an inode; paths that share one share their list of paths.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    kind: String,
    attributes: String,
    links: Vec<String>,
}

fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

fn attributes(attributes: &Attributes, has_xattrs: bool) -> String {
    let Attributes {
        permissions,
        uid,
        gid,
        mtime_s,
        xattrs,
    } = attributes;
    let xattrs: Vec<String> = xattrs
        .iter()
        .filter(|_| has_xattrs)
        .map(|(name, value)| format!("{}={}", shown(name), shown(value)))
        .collect();
    format!("{permissions:o} {uid}:{gid} {mtime_s} {xattrs:?}")
}

fn of_tree(tree: &Tree, has_xattrs: bool) -> BTreeMap<String, Seen> {
    let mut links: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for item in tree.iter() {
        links.entry(item.id).or_default().push(shown(item.path));
    }
    let device = |device: &Device| format!("{}:{}", device.major, device.minor);
    let kind = |node: &Node| match &node.kind {
        Kind::Directory => "directory".to_owned(),
        Kind::File(content) => {
            let mut bytes = Vec::new();
            content.copy_to(&mut bytes).unwrap();
            format!("file of {} {}", bytes.len(), Digest::of(&bytes))
        }
        Kind::Symlink(target) => format!("link to {}", shown(target)),
        Kind::CharacterDevice(number) => format!("character {}", device(number)),
        Kind::BlockDevice(number) => format!("block {}", device(number)),
        Kind::Fifo => "fifo".to_owned(),
        Kind::Socket => "socket".to_owned(),
    };
    let mut seen: BTreeMap<_, _> = tree
        .iter()
        .map(|item| {
            let seen = Seen {
                kind: kind(item.node),
                attributes: attributes(&item.node.attributes, has_xattrs),
                links: links[&item.id].clone(),
            };
            (shown(item.path), seen)
        })
        .collect();
    let root = Seen {
        kind: "directory".to_owned(),
        attributes: attributes(tree.root(), has_xattrs),
        links: vec![String::new()],
    };
    seen.insert(String::new(), root);
    seen
}

/// The extended attributes of a file of the host, by getfattr(1).
fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let output = std::process::Command::new("getfattr")
        .args([
            "--no-dereference",
            "--absolute-names",
            "--match=-",
            "--dump",
            "--encoding=hex",
        ])
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once("=0x"))
        .map(|(name, value)| (name.as_bytes().to_vec(), hex(value)))
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len() / 2).map(|at| digit(at * 2)).collect()
}

fn of_host(root: &Path, has_xattrs: bool) -> BTreeMap<String, Seen> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let metadata = fs_err::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            waiting.extend(
                fs_err::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        found.push((path, metadata));
    }
    let name = |path: &Path| shown(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
    let mut links: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (path, metadata) in &found {
        links.entry(metadata.ino()).or_default().push(name(path));
    }
    found
        .iter()
        .map(|(path, metadata)| {
            let number = metadata.rdev();
            let device = format!("{}:{}", major(number), minor(number));
            let kind = match metadata.file_type() {
                kind if kind.is_dir() => "directory".to_owned(),
                kind if kind.is_symlink() => {
                    let target = fs_err::read_link(path).unwrap();
                    format!("link to {}", shown(target.as_os_str().as_bytes()))
                }
                kind if kind.is_char_device() => format!("character {device}"),
                kind if kind.is_block_device() => format!("block {device}"),
                kind if kind.is_fifo() => "fifo".to_owned(),
                _ => {
                    let bytes = fs_err::read(path).unwrap();
                    format!("file of {} {}", bytes.len(), Digest::of(&bytes))
                }
            };
            let mut links = links[&metadata.ino()].clone();
            links.sort();
            let found = Attributes {
                permissions: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                mtime_s: metadata.mtime(),
                xattrs: if has_xattrs {
                    xattrs(path)
                } else {
                    BTreeMap::new()
                },
            };
            let seen = Seen {
                kind,
                attributes: attributes(&found, has_xattrs),
                links,
            };
            (name(path), seen)
        })
        .collect()
}

/// Linux's encoding of device numbers (`new_decode_dev` in `include/linux/kdev_t.h`).
fn major(number: u64) -> u64 {
    (number >> 8) & 0xfff
}

fn minor(number: u64) -> u64 {
    (number & 0xff) | ((number >> 12) & 0xf_ff00)
}

fn owned(permissions: u32, uid: u64, mtime_s: u64) -> impl Fn(&mut Header) {
    move |header| {
        header.set_mode(permissions);
        header.set_uid(uid);
        header.set_gid(uid + 1);
        header.set_mtime(mtime_s);
    }
}

/// Everything that a layer can have.
fn made() -> Made {
    let mut low = Tar::default();
    low.add("./", EntryType::Directory, owned(0o751, 0, 1_600_000_000));
    low.add(
        "tmp/",
        EntryType::Directory,
        owned(0o1777, 0, 1_600_000_001),
    );
    low.add("bin/", EntryType::Directory, owned(0o755, 7, 1_600_000_002));
    low.pax(&[("SCHILY.xattr.user.note", b"some\0value")]);
    low.add(
        "bin/su",
        EntryType::Regular,
        owned(0o4755, 0, 1_600_000_003),
    );
    // CAP_NET_BIND_SERVICE, as setcap(8) stores it.
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    low.pax(&[("SCHILY.xattr.security.capability", capability)]);
    low.file("bin/web", b"program");
    low.link("bin/web2", EntryType::Link, "bin/web");
    low.link("sbin", EntryType::Symlink, "/bin");
    low.link("dangling", EntryType::Symlink, "../../no/where");
    let device = |major, minor| {
        move |header: &mut Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
    };
    low.add("null", EntryType::Char, device(1, 3));
    low.add("disk", EntryType::Block, device(259, 700));
    low.add("fifo", EntryType::Fifo, owned(0o622, 1000, 1_600_000_004));
    low.directory("old/");
    low.file("old/a", b"a");
    low.directory("old/deep/");
    low.file("old/deep/b", b"b");
    low.file("gone", b"gone");
    low.file("was-file", b"1");
    low.directory("was-dir/");
    low.file("was-dir/x", b"1");
    low.file("empty", b"");
    let long = format!("{}/{}", "d".repeat(255), "f".repeat(255));
    low.directory(&format!("{}/", "d".repeat(255)));
    low.file(&long, &b"x".repeat(70_000));
    low.pax(&[("path", b"odd \xff\n name")]);
    low.file("odd", b"odd");
    let mut high = Tar::default();
    high.add("old/", EntryType::Directory, owned(0o700, 3, 1_600_000_005));
    high.file("old/new", b"new");
    high.file("old/.wh..wh..opq", b"");
    high.file(".wh.gone", b"");
    high.directory("was-file/");
    high.file("was-file/y", b"2");
    high.file(".wh.was-dir", b"");
    high.file("was-dir", b"2");
    high.file("sbin/through", b"link");
    high.link("web3", EntryType::Link, "sbin/web2");
    Made {
        layers: vec![low.finish(), high.finish()],
        ..Made::default()
    }
}

#[tokio::test]
async fn umoci_gives_the_same_tree() {
    let directory = tempfile::tempdir().unwrap();
    if fs_err::metadata(directory.path()).unwrap().uid() != 0 {
        println!("SKIPPED: only root can make devices and give files away");
        return;
    }
    made().write_layout(&directory.path().join("layout"));
    let output = std::process::Command::new("umoci")
        .args(["unpack", "--image", "layout:latest", "bundle"])
        .current_dir(directory.path())
        .output();
    let Ok(output) = output else {
        println!("SKIPPED: there is no umoci");
        return;
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let has_getfattr = std::process::Command::new("getfattr")
        .arg("--version")
        .output()
        .is_ok();
    if !has_getfattr {
        println!("SKIPPED: extended attributes are not compared, there is no getfattr");
    }
    let image = load("oci:layout", directory.path()).await.unwrap();
    let ours = of_tree(&image.tree, has_getfattr);
    let theirs = of_host(&directory.path().join("bundle/rootfs"), has_getfattr);
    for path in theirs.keys().chain(ours.keys()) {
        assert!(
            theirs.contains_key(path) && ours.contains_key(path),
            "only one has `{path}`"
        );
    }
    for (path, seen) in &ours {
        assert_eq!(seen, &theirs[path], "{path}");
    }
}
