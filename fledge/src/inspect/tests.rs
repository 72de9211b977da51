//! What comes back of images of file systems: of our own, of those that other programs made, and of those that somebody damaged.

use std::fs::File;
use std::io::{Cursor, Read as _, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use common::error_chain::Chain;
use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::sample::Index;

use super::ImageError;
use super::erofs::read_erofs;
use super::ext4::read_ext4;
use super::squashfs::read_squashfs;
use crate::image::testing::{
    self, Order, assert_same, expected, file, is_installed, noise, on_host,
};
use crate::image::{erofs, ext4, squashfs};
use crate::tree::{Content, Kind, Node, Tree};

type Read = fn(File, u64) -> Result<Tree, ImageError>;

/// The time that images are made at.
const TIME_S: u64 = 1_700_000_000;

fn ext4_image(tree: &Tree, size: ext4::Size) -> Vec<u8> {
    let options = ext4::Options {
        time_s: TIME_S,
        size,
        journal: false,
    };
    ext4::write(tree, &options, Cursor::new(Vec::new()))
        .unwrap()
        .into_inner()
}

fn squashfs_image(tree: &Tree) -> Vec<u8> {
    let options = squashfs::Options {
        time_s: TIME_S,
        level: 3,
        threads: NonZeroUsize::MIN,
    };
    squashfs::write(tree, &options, Cursor::new(Vec::new()))
        .unwrap()
        .into_inner()
}

fn read(image: &[u8], reader: Read) -> Result<Tree, ImageError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(image).unwrap();
    reader(file, u64::try_from(image.len()).unwrap())
}

fn said(image: &[u8], reader: Read) -> String {
    Chain(&read(image, reader).unwrap_err()).to_string()
}

/// Without the directory that ext4 has in addition.
fn without_lost_and_found(mut tree: Tree) -> Tree {
    assert!(tree.remove(b"lost+found"));
    tree
}

/// [`testing::everything`] without what squashfs cannot hold.
fn everything_in_squashfs() -> Tree {
    let mut tree = testing::everything(Order::Forwards);
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

#[test]
fn our_own_images_come_back() {
    let tree = testing::everything(Order::Forwards);
    let lines = expected(&tree);
    let image = erofs::write(&tree, TIME_S, Vec::new()).unwrap();
    assert_same(&expected(&read(&image, read_erofs).unwrap()), &lines);
    let image = ext4_image(&tree, ext4::Size::Free(0));
    let back = without_lost_and_found(read(&image, read_ext4).unwrap());
    assert_same(&expected(&back), &lines);
    let tree = everything_in_squashfs();
    let back = read(&squashfs_image(&tree), read_squashfs).unwrap();
    assert_same(&expected(&back), &expected(&tree));
}

#[test]
fn an_empty_image_is_an_empty_tree() {
    let tree = Tree::default();
    assert_eq!(
        read(&squashfs_image(&tree), read_squashfs).unwrap().len(),
        0
    );
    let image = ext4_image(&tree, ext4::Size::Total(4 << 20));
    assert_eq!(read(&image, read_ext4).unwrap().len(), 1);
}

/// Files that squashfs has whole blocks, ends and holes of.
#[test]
fn blocks_fragments_and_holes_are_put_together() {
    let mut tree = Tree::default();
    let block = 1 << 17;
    for (name, bytes) in [
        ("short", block - 1),
        ("block", block),
        ("more", 3 * block + 5),
    ] {
        let put = |tree: &mut Tree, kind: &str, bytes: Vec<u8>| {
            let path = format!("{kind}/{name}");
            tree.replace(path.as_bytes(), file(bytes)).unwrap();
        };
        put(&mut tree, "noise", noise(bytes));
        put(&mut tree, "zeros", vec![0; bytes]);
        put(
            &mut tree,
            "hole",
            [noise(block), vec![0; block], noise(bytes)].concat(),
        );
    }
    for number in 0..2000 {
        let path = format!("small/{number}");
        tree.replace(path.as_bytes(), file(noise(number))).unwrap();
    }
    let back = read(&squashfs_image(&tree), read_squashfs).unwrap();
    assert_same(&expected(&back), &expected(&tree));
    let Kind::File(content) = &back.get(b"hole/more").unwrap().kind else {
        panic!("no file");
    };
    let mut reader = content.open().unwrap();
    std::io::Seek::seek(&mut reader, std::io::SeekFrom::End(-7)).unwrap();
    let mut end = Vec::new();
    reader.read_to_end(&mut end).unwrap();
    assert_eq!(end, noise(3 * block + 5)[3 * block - 2..]);
}

/// Makes a directory of this machine with what anybody may make.
fn host_directory(at: &Path) {
    let put = |path: &str, bytes: &[u8]| {
        let path = at.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    };
    for bytes in [0, 1, 4095, 4096, 4097, 131_072, 131_073, 2_000_003] {
        put(&format!("sizes/{bytes}"), &noise(bytes));
    }
    put("text", &b"some text\n".repeat(50_000));
    for number in 0..1500 {
        put(&format!("many/{number:050}"), &noise(number % 50));
    }
    put(&format!("names/{}", "n".repeat(255)), b"long");
    put("names/schr\u{f6}dinger \n", b"odd");
    put(&format!("{}bottom", "deep/".repeat(100)), b"deep");
    fs_err::create_dir(at.join("empty")).unwrap();
    fs_err::hard_link(at.join("text"), at.join("sizes/text")).unwrap();
    for (name, target) in [("short", "text".to_owned()), ("long", "x/".repeat(500))] {
        fs_err::os::unix::fs::symlink(target, at.join(name)).unwrap();
    }
    let sparse = fs_err::File::create(at.join("sparse")).unwrap();
    sparse.set_len(9_000_000).unwrap();
    sparse.file().write_all_at(b"middle", 5_000_000).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(at)
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    assert!(run("mkfifo", &["pipe"]));
    assert!(run("chmod", &["4751", "text"]));
    // Not every file system here has attributes, and only root may make devices.
    run("setfattr", &["-n", "user.short", "-v", "value", "text"]);
    let long = "v".repeat(300);
    run("setfattr", &["-n", "user.long", "-v", &long, "sizes/1"]);
    run("mknod", &["null", "c", "1", "3"]);
    run("chown", &["100000:70000", "sizes/1"]);
    run(
        "touch",
        &["-h", "-d", "@1234567890", "text", "short", "many"],
    );
}

/// Runs a program that makes an image.
fn make(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn images_of_mke2fs_come_back() {
    if !is_installed("mke2fs") || !is_installed("getfattr") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    host_directory(&from);
    let image = directory.path().join("image");
    let lines = on_host(&from);
    for more in [
        &["-b", "4096"][..],
        &["-b", "1024"],
        &["-b", "2048", "-I", "128", "-O", "^64bit,^metadata_csum"],
        &["-O", "^has_journal,^dir_index,^flex_bg"],
    ] {
        let (from, image) = (from.to_str().unwrap(), image.to_str().unwrap());
        let common = ["-q", "-F", "-t", "ext4", "-d", from];
        let arguments = [&common[..], more, &[image, "64M"]].concat();
        make("mke2fs", &arguments);
        let file = fs_err::File::open(image).unwrap().into_file();
        let back = without_lost_and_found(read_ext4(file, 64 << 20).unwrap());
        let mut found = expected(&back);
        // It is made by mke2fs itself.
        found.remove(&b""[..]);
        let mut lines = lines.clone();
        lines.remove(&b""[..]);
        assert_same(&found, &lines);
        fs_err::remove_file(image).unwrap();
    }
}

#[test]
fn images_of_mksquashfs_come_back() {
    if !is_installed("mksquashfs") || !is_installed("getfattr") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    host_directory(&from);
    let image = directory.path().join("image");
    let lines = on_host(&from);
    for more in [
        &["-comp", "gzip"][..],
        &["-comp", "zstd", "-b", "1M"],
        &["-comp", "xz", "-b", "4K"],
        &["-comp", "xz", "-Xbcj", "x86"],
        &["-no-fragments", "-no-exports"],
        &["-always-use-fragments", "-noI", "-noD", "-noF", "-noX"],
    ] {
        let (from, path) = (from.to_str().unwrap(), image.to_str().unwrap());
        let common = [from, path, "-quiet", "-no-progress", "-processors", "1"];
        make("mksquashfs", &[&common[..], more].concat());
        let file = fs_err::File::open(&image).unwrap().into_file();
        let bytes = file.metadata().unwrap().len();
        let back = read_squashfs(file, bytes).unwrap();
        assert_same(&expected(&back), &lines);
        fs_err::remove_file(&image).unwrap();
    }
}

#[test]
fn what_is_not_read_is_a_sentence() {
    let tree = Tree::default();
    let good = ext4_image(&tree, ext4::Size::Total(4 << 20));
    let with = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        said(&image, read_ext4)
    };
    // Incompatible features are at 0x60 of the superblock, its block size at 0x18.
    for (at, bytes, expected) in [
        (
            0x60,
            0x2c6_u32,
            "a journal with changes that were not carried out",
        ),
        (
            0x60,
            0x82c2,
            "contents within inodes (feature `inline_data`)",
        ),
        (
            0x60,
            0x8000_02c2,
            "features that this program does not know",
        ),
        (0x18, 6, "blocks of more than 4 KiB"),
        (0x28, 0, "no inodes in its groups"),
        (0x58, 0, "inodes of no possible length"),
    ] {
        let said = with(1024 + at, &bytes.to_le_bytes());
        assert!(said.contains(expected), "{said}");
        assert!(said.starts_with("The image is not read: It has "), "{said}");
    }
    let good = squashfs_image(&tree);
    for (at, byte, expected) in [
        (20, 5, "compression with lz4"),
        (28, 3, "another version of squashfs"),
        (22, 9, "blocks of no possible size"),
        (43, 1, "behind the end of the image"),
    ] {
        let mut image = good.clone();
        image[at] = byte;
        let said = said(&image, read_squashfs);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_block_map_is_a_sentence() {
    if !is_installed("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    make(
        "mke2fs",
        &["-q", "-F", "-t", "ext3", image.to_str().unwrap(), "8M"],
    );
    let said = said(&fs_err::read(&image).unwrap(), read_ext4);
    assert!(
        said.contains("in a block map, as in ext2 and ext3"),
        "{said}"
    );
}

/// A tree that has a little of everything, so that its image is small.
fn little() -> Tree {
    let mut tree = Tree::default();
    let mut node = file(noise(5000));
    node.attributes.xattrs = [
        (b"user.a".to_vec(), b"b".to_vec()),
        (b"user.long".to_vec(), noise(500)),
    ]
    .into();
    tree.replace(b"usr/bin/app", node).unwrap();
    tree.hard_link(b"app", b"usr/bin/app").unwrap();
    tree.replace(b"long", Node::symlink(vec![b'x'; 100]))
        .unwrap();
    tree.replace(b"short", Node::symlink("usr")).unwrap();
    for number in 0..150 {
        let path = format!("many/{number:040}");
        tree.replace(path.as_bytes(), file(path.as_bytes()))
            .unwrap();
    }
    tree
}

/// Whatever an image says, reading it ends: in a tree, of which something is read, or in an error.
fn ends(file: &File, bytes: u64, reader: Read) {
    let Ok(tree) = reader(file.try_clone().unwrap(), bytes) else {
        return;
    };
    for item in tree.iter() {
        if let Kind::File(content) = &item.node.kind {
            let mut some = content.open().unwrap().take(1 << 16);
            drop(std::io::copy(&mut some, &mut std::io::sink()));
        }
    }
}

/// An image to damage.
struct Victim {
    image: Vec<u8>,
    reader: Read,
    /// What says something: most of an image is zeros.
    places: Vec<usize>,
}

impl Victim {
    fn new(image: Vec<u8>, reader: Read) -> Self {
        let places = (0..image.len()).filter(|&at| image[at] != 0).collect();
        Self {
            image,
            reader,
            places,
        }
    }

    fn file(&self) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.image).unwrap();
        file
    }

    fn bytes(&self) -> u64 {
        u64::try_from(self.image.len()).unwrap()
    }
}

/// One of each writer, and one of squashfs in which nothing is compressed if `mksquashfs` is there.
fn victims() -> &'static [Victim] {
    static VICTIMS: OnceLock<Vec<Victim>> = OnceLock::new();
    VICTIMS.get_or_init(|| {
        let tree = little();
        let erofs = erofs::write(&tree, TIME_S, Vec::new()).unwrap();
        let mut victims = vec![
            Victim::new(erofs, read_erofs),
            Victim::new(ext4_image(&tree, ext4::Size::Free(0)), read_ext4),
            Victim::new(squashfs_image(&tree), read_squashfs),
        ];
        if is_installed("mksquashfs") {
            let directory = tempfile::tempdir().unwrap();
            let from = directory.path().join("from");
            fs_err::create_dir(&from).unwrap();
            for item in tree.iter() {
                let path = from.join(std::str::from_utf8(item.path).unwrap());
                match &item.node.kind {
                    Kind::Directory => fs_err::create_dir_all(path).unwrap(),
                    Kind::File(Content::Bytes(bytes)) => fs_err::write(path, bytes).unwrap(),
                    _ => {}
                }
            }
            let image = directory.path().join("image");
            let (from, path) = (from.to_str().unwrap(), image.to_str().unwrap());
            let plain = ["-noI", "-noD", "-noF", "-noX", "-quiet", "-no-progress"];
            make("mksquashfs", &[&[from, path][..], &plain].concat());
            victims.push(Victim::new(fs_err::read(&image).unwrap(), read_squashfs));
        }
        victims
    })
}

#[test]
fn images_that_end_early_are_no_matter() {
    for victim in victims() {
        let file = victim.file();
        let mut bytes = victim.bytes();
        while bytes > 0 {
            bytes = (bytes - 1) / 4096 * 4096;
            // First the file is whole and the size a lie, then it ends there.
            ends(&file, bytes, victim.reader);
            file.set_len(bytes).unwrap();
            ends(&file, bytes, victim.reader);
        }
        assert!((victim.reader)(file, 0).is_err());
    }
}

/// Reads each image with other bytes at some places, which are chosen among those that say something.
fn damage(changes: &[(Index, Vec<u8>)]) {
    for victim in victims() {
        let file = victim.file();
        for (index, bytes) in changes {
            let at = *index.get(&victim.places);
            let end = victim.image.len().min(at + bytes.len());
            let place = u64::try_from(at).unwrap();
            file.write_all_at(&bytes[..end - at], place).unwrap();
        }
        ends(&file, victim.bytes(), victim.reader);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_bytes_make_it_panic(
        changes in proptest::collection::vec((any::<Index>(), proptest::collection::vec(any::<u8>(), 1)), 1..12),
    ) {
        damage(&changes);
    }

    #[test]
    fn no_table_makes_it_panic(
        at in any::<Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 1..60),
    ) {
        damage(&[(at, bytes)]);
    }
}
