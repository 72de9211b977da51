//! A tree with everything that an image can hold, and how trees look once an image of them is mounted: for the tests of the image
//! writers. Knows no format.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{Seek as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::digest::Digest;

use crate::tree::{Attributes, Content, Device, Kind, Node, NodeId, Tree};

/// The time of most of [`everything`], in seconds since 1970.
pub(crate) const TIME_S: i64 = 1_700_000_000;

/// How many entries its largest directory has.
pub(crate) const MANY_ENTRIES: usize = 3000;

/// In which order a tree is put together.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    Forwards,
    Backwards,
}

/// A file in memory, of root's.
pub(crate) fn file(content: impl Into<Vec<u8>>) -> Node {
    Node::file(0o644, Content::Bytes(content.into()))
}

/// Bytes that do not compress and are always the same.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// A tree with every kind of inode, odd names, owners, modes, times, attributes, sizes and hard links. The same in either order.
pub(crate) fn everything(order: Order) -> Tree {
    let mut nodes = Vec::new();
    kinds(&mut nodes);
    sizes(&mut nodes);
    names(&mut nodes);
    owners_and_times(&mut nodes);
    attributes(&mut nodes);
    let links: [(&[u8], &[u8]); 5] = [
        (b"links/file", b"sizes/file-4097"),
        (b"links/another", b"sizes/file-4097"),
        (b"links/empty", b"sizes/file-0"),
        (b"links/symlink", b"kinds/symlink"),
        (b"0-first-of-all", b"kinds/character"),
    ];
    if matches!(order, Order::Backwards) {
        nodes.reverse();
    }
    let mut tree = Tree::default();
    for (path, mut node) in nodes {
        if node.attributes.mtime_s == 0 {
            node.attributes.mtime_s = TIME_S;
        }
        tree.replace(&path, node).unwrap();
    }
    for (path, target) in links {
        tree.hard_link(path, target).unwrap();
    }
    tree.replace(b"links", with(0o755, |_| {})).unwrap();
    tree
}

type Nodes = Vec<(Vec<u8>, Node)>;

fn with(permissions: u32, change: impl FnOnce(&mut Attributes)) -> Node {
    let mut node = Node::directory(permissions);
    node.attributes.mtime_s = TIME_S;
    change(&mut node.attributes);
    node
}

fn kinds(nodes: &mut Nodes) {
    let device = |major, minor| Device { major, minor };
    let kinds = [
        ("symlink", 0o777, Kind::Symlink(b"../sizes/file-1".to_vec())),
        ("symlink-59", 0o777, Kind::Symlink(vec![b'a'; 59])),
        ("symlink-60", 0o777, Kind::Symlink(vec![b'a'; 60])),
        ("symlink-3000", 0o777, Kind::Symlink(vec![b'b'; 3000])),
        ("symlink-4095", 0o777, Kind::Symlink(vec![b'c'; 4095])),
        (
            "symlink-not-text",
            0o777,
            Kind::Symlink(b"/\xff\xfe".to_vec()),
        ),
        ("character", 0o666, Kind::CharacterDevice(device(1, 3))),
        ("block", 0o660, Kind::BlockDevice(device(8, 1))),
        // The largest numbers that Linux has.
        (
            "large-device",
            0o600,
            Kind::CharacterDevice(device(4095, 1_048_575)),
        ),
        (
            "larger-minor",
            0o600,
            Kind::BlockDevice(device(259, 0x1_2345)),
        ),
        ("fifo", 0o640, Kind::Fifo),
        ("socket", 0o755, Kind::Socket),
        ("empty-directory", 0o700, Kind::Directory),
    ];
    for (name, permissions, kind) in kinds {
        let attributes = Attributes::new(permissions);
        nodes.push((
            format!("kinds/{name}").into_bytes(),
            Node { attributes, kind },
        ));
    }
    nodes.push((b"kinds".to_vec(), with(0o755, |_| {})));
}

fn sizes(nodes: &mut Nodes) {
    for bytes in [
        0, 1, 4095, 4096, 4097, 8192, 131_071, 131_072, 131_073, 5_000_003,
    ] {
        nodes.push((
            format!("sizes/file-{bytes}").into_bytes(),
            file(noise(bytes)),
        ));
    }
    nodes.push((b"sizes/zeros".to_vec(), file(vec![0; 3_000_000])));
    let mut spool = tempfile::tempfile().unwrap();
    spool.write_all(&noise(100_000)).unwrap();
    spool.rewind().unwrap();
    let part = Content::Part {
        file: Arc::new(spool),
        offset: 12_345,
        size_bytes: 54_321,
    };
    nodes.push((b"sizes/part".to_vec(), Node::file(0o644, part)));
    nodes.push((b"sizes".to_vec(), with(0o755, |_| {})));
}

fn names(nodes: &mut Nodes) {
    let mut names: Vec<Vec<u8>> = [
        &b"-"[..],
        b"!before the dot",
        b".hidden",
        b"...",
        b"a",
        b"a.x",
        b"new\nline",
        b"back\\slash",
        b"\x01\x7f",
        b"not text \xff\xfe",
        "schr\u{f6}dinger".as_bytes(),
    ]
    .map(<[u8]>::to_vec)
    .into();
    names.extend([b'x', 0xff].map(|byte| vec![byte; 255]));
    for name in names {
        let path = [b"names/", name.as_slice()].concat();
        nodes.push((path, file(name)));
    }
    let long = [b"names/d".as_slice(), &[b'd'; 254]].concat();
    nodes.push((
        [&long, b"/".as_slice(), &[b'e'; 255]].concat(),
        file("deep"),
    ));
    nodes.push((long, with(0o755, |_| {})));
    nodes.push((b"names".to_vec(), with(0o755, |_| {})));
    for index in 0..MANY_ENTRIES {
        let path = format!("many/{index}{}", "-".repeat(index % 100));
        nodes.push((path.into_bytes(), file(format!("{}", index / 100))));
    }
    nodes.push((b"many".to_vec(), with(0o755, |_| {})));
    let deep = "deep/".repeat(200);
    for (at, _) in deep.match_indices('/') {
        nodes.push((deep.as_bytes()[..at].to_vec(), with(0o755, |_| {})));
    }
    nodes.push((format!("{deep}bottom").into_bytes(), file("bottom")));
}

fn owners_and_times(nodes: &mut Nodes) {
    for permissions in [0o000, 0o4755, 0o2755, 0o1777, 0o7777] {
        for directory in [false, true] {
            let mut node = with(permissions, |_| {});
            if !directory {
                node.kind = Kind::File(Content::Bytes(b"mode".to_vec()));
            }
            let path = format!("modes/{permissions:o}-{directory}");
            nodes.push((path.into_bytes(), node));
        }
    }
    nodes.push((b"modes".to_vec(), with(0o755, |_| {})));
    for (uid, gid) in [
        (1000, 100),
        (65_535, 65_534),
        (65_536, 0),
        (0, 100_000),
        (u32::MAX - 1, 3_000_000_000),
    ] {
        let node = with(0o750, |attributes| {
            attributes.uid = uid;
            attributes.gid = gid;
        });
        nodes.push((format!("owners/{uid}-{gid}").into_bytes(), node));
    }
    nodes.push((b"owners".to_vec(), with(0o755, |_| {})));
    // Before 1970, the ends of 31 and 32 bits, and the last second that ext4 can hold.
    for mtime_s in [
        -2_147_483_648,
        -1,
        1,
        2_147_483_648,
        4_294_967_295,
        4_294_967_296,
        15_032_385_535,
    ] {
        let mut node = file("time");
        node.attributes.mtime_s = mtime_s;
        nodes.push((format!("times/{mtime_s}").into_bytes(), node));
    }
    nodes.push((b"times".to_vec(), with(0o755, |_| {})));
    let root = with(0o555, |attributes| {
        attributes.uid = 5;
        attributes
            .xattrs
            .insert(b"user.root".to_vec(), b"1".to_vec());
    });
    nodes.push((Vec::new(), root));
}

fn attributes(nodes: &mut Nodes) {
    // `struct vfs_cap_data` of revision 2: `cap_net_bind_service=ep`.
    let capability = [
        1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0_u8,
    ];
    let mut several = file("xattrs");
    several.attributes.xattrs = BTreeMap::from([
        (b"security.capability".to_vec(), capability.to_vec()),
        (b"trusted.overlay.test".to_vec(), b"y".to_vec()),
        (b"user.empty".to_vec(), Vec::new()),
        (b"user.bytes".to_vec(), vec![0, 1, 0xff, b'\n']),
        (b"user.odd".to_vec(), b"odd".to_vec()),
        (
            [b"user.".as_slice(), &[b'n'; 250]].concat(),
            b"longest name".to_vec(),
        ),
    ]);
    let mut large = file("large value");
    large
        .attributes
        .xattrs
        .insert(b"user.large".to_vec(), noise(3000));
    // `struct posix_acl_xattr_entry`: owner rw-, user 1000 r--, group r--, mask r--, others r--.
    let access: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, 4, 1000),
        (0x04, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 4, u32::MAX),
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in access {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let mut acl_file = file("acl");
    acl_file
        .attributes
        .xattrs
        .insert(b"system.posix_acl_access".to_vec(), acl.clone());
    let acl_directory = with(0o755, |attributes| {
        attributes
            .xattrs
            .insert(b"system.posix_acl_default".to_vec(), acl);
    });
    let mut link = Node::symlink("nowhere");
    link.attributes
        .xattrs
        .insert(b"trusted.link".to_vec(), b"l".to_vec());
    for (path, node) in [
        ("xattrs/several", several),
        ("xattrs/large", large),
        ("xattrs/acl", acl_file),
        ("xattrs/acl-directory", acl_directory),
        ("xattrs/link", link),
        ("xattrs", with(0o755, |_| {})),
    ] {
        nodes.push((path.as_bytes().to_vec(), node));
    }
}

/// How `tree` looks on a mounted image: a line for each path, as [`on_host`] makes them.
pub(crate) fn expected(tree: &Tree) -> BTreeMap<Vec<u8>, String> {
    let mut first: BTreeMap<NodeId, &[u8]> = BTreeMap::new();
    let links = tree.hard_links();
    let mut lines = BTreeMap::new();
    let root = Node {
        attributes: tree.root().clone(),
        kind: Kind::Directory,
    };
    lines.insert(
        Vec::new(),
        line(&root, tree.subdirectories(b"") + 2, b"", &[]),
    );
    for item in tree.iter() {
        let count = if item.node.is_directory() {
            tree.subdirectories(item.path) + 2
        } else {
            links.get(&item.id).copied().unwrap_or(1)
        };
        let group = *first.entry(item.id).or_insert(item.path);
        let mut content = Vec::new();
        if let Kind::File(file) = &item.node.kind {
            file.copy_to(&mut content).unwrap();
        }
        lines.insert(item.path.to_vec(), line(item.node, count, group, &content));
    }
    lines
}

/// What lies in the directory `at` of this machine, by paths within it. The line of a path tells its kind, mode, owners, time,
/// links, content and attributes; of the paths with one inode it names the first.
pub(crate) fn on_host(at: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut lines = BTreeMap::new();
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut xattrs = host_xattrs(at);
    let mut stack = vec![at.to_path_buf()];
    let mut found = Vec::new();
    while let Some(directory) = stack.pop() {
        found.push(directory.clone());
        for entry in fs_err::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if fs_err::symlink_metadata(&path).unwrap().is_dir() {
                stack.push(path);
            } else {
                found.push(path);
            }
        }
    }
    let inside = |path: &Path| {
        path.strip_prefix(at)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec()
    };
    found.sort_by_key(|path| inside(path));
    for path in found {
        let metadata = fs_err::symlink_metadata(&path).unwrap();
        let inner = inside(&path);
        let node = host_node(&path, &metadata, xattrs.remove(&inner).unwrap_or_default());
        let content = match &node.kind {
            Kind::File(_) => fs_err::read(&path).unwrap(),
            _ => Vec::new(),
        };
        let group = first.entry(metadata.ino()).or_insert(inner.clone()).clone();
        let links = u32::try_from(metadata.nlink()).unwrap();
        lines.insert(inner, line(&node, links, &group, &content));
    }
    lines
}

fn host_node(path: &Path, metadata: &Metadata, xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Node {
    let kind = metadata.file_type();
    let number = u32::try_from(metadata.rdev()).unwrap();
    let device = Device::decode(number);
    Node {
        attributes: Attributes {
            permissions: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime_s: metadata.mtime(),
            xattrs,
        },
        kind: match kind {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => {
                Kind::Symlink(fs_err::read_link(path).unwrap().into_os_string().into_vec())
            }
            kind if kind.is_char_device() => Kind::CharacterDevice(device),
            kind if kind.is_block_device() => Kind::BlockDevice(device),
            kind if kind.is_fifo() => Kind::Fifo,
            kind if kind.is_socket() => Kind::Socket,
            _ => Kind::File(Content::Host {
                path: path.to_path_buf(),
                size_bytes: metadata.len(),
            }),
        },
    }
}

/// The extended attributes of everything in `at`, by paths within it, as getfattr(1) tells them.
fn host_xattrs(at: &Path) -> BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>> {
    let output = Command::new("getfattr")
        .args(["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."])
        .current_dir(at)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut found: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    let mut path = Vec::new();
    for line in output.stdout.split(|&byte| byte == b'\n') {
        if let Some(file) = line.strip_prefix(b"# file: ") {
            let file = file.strip_prefix(b"./").unwrap_or(file);
            path = if file == b"." {
                Vec::new()
            } else {
                file.to_vec()
            };
        } else if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
            let (name, value) = line.split_at(equals);
            let digits = std::str::from_utf8(&value[1..]).unwrap();
            let digits = digits.strip_prefix("0x").unwrap();
            let value = (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect();
            found
                .entry(path.clone())
                .or_default()
                .insert(name.to_vec(), value);
        }
    }
    found
}

/// The line of one path; of a directory only its kind and attributes count, and of a file `content` is what is in it.
pub(crate) fn line(node: &Node, links: u32, group: &[u8], content: &[u8]) -> String {
    let attributes = &node.attributes;
    let what = match &node.kind {
        Kind::File(_) => format!("{} bytes {}", content.len(), Digest::of(content)),
        Kind::Symlink(target) => format!("-> {}", target.escape_ascii()),
        Kind::CharacterDevice(device) => format!("c {}:{}", device.major, device.minor),
        Kind::BlockDevice(device) => format!("b {}:{}", device.major, device.minor),
        Kind::Directory | Kind::Fifo | Kind::Socket => node.what().to_owned(),
    };
    let mut line = format!(
        "{what} {:o} {}:{} @{} {links} links",
        attributes.permissions, attributes.uid, attributes.gid, attributes.mtime_s
    );
    if !node.is_directory() && links > 1 {
        line.push_str(&format!(" with {}", group.escape_ascii()));
    }
    for (name, value) in &attributes.xattrs {
        line.push_str(&format!(
            " {}={}",
            name.escape_ascii(),
            value.escape_ascii()
        ));
    }
    line
}

/// Asserts that two such maps are equal, and shows the first few differences: the maps are long.
pub(crate) fn assert_same(found: &BTreeMap<Vec<u8>, String>, expected: &BTreeMap<Vec<u8>, String>) {
    let mut differences = Vec::new();
    for path in found.keys().chain(expected.keys()) {
        let (left, right) = (found.get(path), expected.get(path));
        if left != right {
            let name = String::from_utf8_lossy(path);
            differences.push(format!("{name:.80}\n  is {left:?}\n  not {right:?}"));
        }
    }
    differences.truncate(10);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A loop mount of an image, read-only, which ends with this value.
#[derive(Debug)]
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    /// Mounts the image, or tells why that cannot be here: it needs root, loop devices and a kernel with the file system.
    pub(crate) fn new(image: &Path, file_system: &str, options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", file_system, "-o", &format!("loop,ro,{options}")])
            .args([image, directory.path()])
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self(directory)),
            Ok(output) => {
                let known = fs_err::read_to_string("/proc/filesystems").unwrap();
                let permitted = output.status.code() != Some(1);
                let has_loop = Path::new("/dev/loop-control").exists();
                assert!(
                    !(permitted && has_loop && known.contains(file_system)),
                    "the kernel does not mount it: {output:?}"
                );
                eprintln!("SKIPPED: no loop mount of {file_system} here: {output:?}");
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: there is no mount(8): {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmount = |options: &[&str]| {
            let mut command = Command::new("umount");
            command.args(options).arg(self.0.path()).output().unwrap()
        };
        // Whatever on this machine looks into new mounts makes it busy for a moment; then it ends when they have looked.
        if unmount(&[]).status.success() {
            return;
        }
        let output = unmount(&["--lazy"]);
        if !std::thread::panicking() {
            assert!(output.status.success(), "{output:?}");
        }
    }
}

/// Whether a program that a test compares with can be run; tells it where not.
pub(crate) fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--help").output().is_ok();
    if !found {
        eprintln!("SKIPPED: there is no `{program}` on this machine");
    }
    found
}

mod tests {
    use super::*;

    #[test]
    fn the_order_of_insertion_does_not_show() {
        let forwards = expected(&everything(Order::Forwards));
        let backwards = expected(&everything(Order::Backwards));
        assert_same(&forwards, &backwards);
        assert!(forwards.len() > MANY_ENTRIES);
    }
}
