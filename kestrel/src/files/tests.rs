//! Trees of files there and back, archives that want out, and a disk that is full.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use proptest::prelude::proptest;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::sys::open_plain;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn archive_of(path: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(path, &mut archive).unwrap();
    archive
}

fn members(archive: &[u8]) -> Vec<String> {
    let mut found: Vec<String> = tar::Archive::new(archive)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    found.sort();
    found
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    open_plain(path).unwrap().set_modified(time).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

#[test]
fn paths_are_absolute_and_name_something() {
    let table: [(&[u8], Option<&str>); 9] = [
        (b"/etc/hosts", Some("/etc/hosts")),
        (b"/etc/./x//", Some("/etc/x")),
        (b"/", Some("/")),
        (b"/a/../b", Some("/a/../b")),
        (b"", None),
        (b"etc", None),
        (b"/a/..", None),
        (b"/a\0b", None),
        (b"..", None),
    ];
    for (bytes, expected) in table {
        let found = path_of(bytes.to_vec()).ok();
        assert_eq!(found, expected.map(PathBuf::from), "{bytes:?}");
    }
}

#[test]
fn what_is_there_is_told() {
    let folder = folder();
    let file = folder.path().join("file");
    fs_err::write(&file, "12345").unwrap();
    set_mode(&file, 0o4711);
    let link = folder.path().join("link");
    symlink("no/where", &link).unwrap();
    let found = stat(&file).unwrap();
    assert_eq!(
        found,
        FileStat {
            name: "file".to_owned(),
            kind: FileKind::File,
            size_bytes: 5,
            mode: 0o4711,
            link_target: None,
        }
    );
    let found = stat(&link).unwrap();
    assert_eq!(found.kind, FileKind::Link);
    assert_eq!(found.link_target.as_deref(), Some("no/where"));
    assert_eq!(stat(Path::new("/")).unwrap().name, "/");
    assert_eq!(stat(folder.path()).unwrap().kind, FileKind::Directory);
    assert_eq!(stat(Path::new("/dev/null")).unwrap().kind, FileKind::Other);
    for missing in [folder.path().join("no"), file.join("below")] {
        let error = stat(&missing).unwrap_err();
        assert!(matches!(error, FileError::Missing { .. }), "{error}");
    }
    let error = directory(&file).unwrap_err();
    assert!(matches!(error, FileError::NotDirectory { .. }), "{error}");
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let (from, to) = (folder(), folder());
    let tree = from.path().join("tree");
    let deep = tree.join("deep").join("d".repeat(200));
    fs_err::create_dir_all(&deep).unwrap();
    let long = deep.join("l".repeat(250));
    let contents: Vec<u8> = (0_u32..50_000).flat_map(u32::to_le_bytes).collect();
    fs_err::write(&long, &contents).unwrap();
    fs_err::write(tree.join("empty"), "").unwrap();
    fs_err::write(tree.join("small"), "small").unwrap();
    set_mode(&tree.join("small"), 0o4755);
    set_mode(&deep, 0o1700);
    symlink("/outside/of/all", tree.join("link")).unwrap();
    nix::unistd::mkfifo(&tree.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    set_time(&tree.join("small"), 1_000_000_000);
    set_time(&deep, 1_100_000_000);
    set_time(&tree.join("deep"), 1_200_000_000);
    set_time(&tree, 1_300_000_000);

    unpack(to.path(), archive_of(&tree).as_slice()).unwrap();
    let back = to.path().join("tree");
    let deep = back.join("deep").join("d".repeat(200));
    assert_eq!(fs_err::read(deep.join("l".repeat(250))).unwrap(), contents);
    assert_eq!(fs_err::read(back.join("empty")).unwrap(), b"");
    assert_eq!(mode(&back.join("small")), 0o4755);
    assert_eq!(mode(&deep), 0o1700);
    assert_eq!(
        fs_err::read_link(back.join("link")).unwrap(),
        Path::new("/outside/of/all")
    );
    assert!(!back.join("pipe").exists());
    for (path, seconds) in [
        (back.join("small"), 1_000_000_000),
        (deep, 1_100_000_000),
        (back.join("deep"), 1_200_000_000),
        (back.clone(), 1_300_000_000),
    ] {
        assert_eq!(
            path.metadata().unwrap().mtime(),
            seconds,
            "{}",
            path.display()
        );
    }
    // Once more over what is there.
    unpack(to.path(), archive_of(&tree).as_slice()).unwrap();
}

#[test]
fn a_file_or_link_alone_is_one_member() {
    let folder = folder();
    let file = folder.path().join("file");
    fs_err::write(&file, "x").unwrap();
    symlink("file", folder.path().join("link")).unwrap();
    assert_eq!(members(&archive_of(&file)), ["file"]);
    assert_eq!(members(&archive_of(&folder.path().join("link"))), ["link"]);
    assert_eq!(members(&archive_of(Path::new("/proc/self/comm"))), ["comm"]);
}

#[test]
fn a_file_that_tells_no_size_is_read() {
    let to = folder();
    unpack(to.path(), archive_of(Path::new("/proc/meminfo")).as_slice()).unwrap();
    let text = fs_err::read_to_string(to.path().join("meminfo")).unwrap();
    assert!(text.contains("MemTotal"), "{text}");
}

#[test]
fn holes_stay_holes() {
    let (from, to) = (folder(), folder());
    let file = from.path().join("sparse");
    let sparse = fs_err::File::create(&file).unwrap();
    sparse.set_len(64 * 1024 * 1024 * 1024).unwrap();
    std::os::unix::fs::FileExt::write_all_at(sparse.file(), b"end", 63 * 1024 * 1024 * 1024)
        .unwrap();
    let archive = archive_of(&file);
    assert!(archive.len() < 1024 * 1024, "{}", archive.len());
    unpack(to.path(), archive.as_slice()).unwrap();
    let back = to.path().join("sparse").metadata().unwrap();
    assert_eq!(back.len(), 64 * 1024 * 1024 * 1024);
    assert!(back.blocks() < 4096, "{}", back.blocks());
}

/// Writes into a file while it is read: the first piece that is taken cuts it.
struct Cutter<'a>(&'a Path);

impl io::Write for Cutter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = fs_err::OpenOptions::new().write(true).open(self.0)?;
        file.set_len(1000)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_shrinks_breaks_the_archive() {
    let folder = folder();
    let file = folder.path().join("file");
    fs_err::write(&file, vec![1; 1_000_000]).unwrap();
    let error = pack(&file, Cutter(&file)).unwrap_err();
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );
}

/// A member whose name is written as it is, without the checks of a well-meaning writer.
fn hostile(name: &str, kind: EntryType, link: &str, contents: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(u64::try_from(contents.len()).unwrap());
    header.set_mode(0o777);
    header.set_cksum();
    let mut archive = Builder::new(Vec::new());
    archive.append(&header, contents).unwrap();
    let mut bytes = archive.into_inner().unwrap();
    // Without its end, so that another can follow.
    bytes.truncate(bytes.len() - 1024);
    bytes
}

#[test]
fn nothing_is_written_outside() {
    let outside = folder();
    let victim = outside.path().join("victim");
    fs_err::write(&victim, "whole").unwrap();
    set_mode(&victim, 0o600);
    let out = outside.path().to_str().unwrap();
    let file = EntryType::Regular;
    let (link, hard) = (EntryType::Symlink, EntryType::Link);
    let through = |kind| {
        let mut archive = hostile("way", link, out, b"");
        archive.extend(hostile("way/victim", kind, "", b"bad"));
        archive
    };
    let table = [
        hostile("../victim", file, "", b"bad"),
        hostile("a/../../victim", file, "", b"bad"),
        hostile(victim.to_str().unwrap(), file, "", b"bad"),
        hostile("stolen", hard, victim.to_str().unwrap(), b""),
        hostile("stolen", hard, "../victim", b""),
        through(file),
        through(EntryType::Directory),
        hostile("disk", EntryType::Block, "", b""),
        hostile("pipe", EntryType::Fifo, "", b""),
        hostile("odd", EntryType::new(b'7' + 100), "", b""),
    ];
    for archive in table {
        let parent = folder();
        let to = parent.path().join("to");
        fs_err::create_dir(&to).unwrap();
        let error = unpack(&to, archive.as_slice()).unwrap_err();
        assert!(
            matches!(error, FileError::Member { .. } | FileError::Unpack { .. }),
            "{error:?}"
        );
        assert_eq!(fs_err::read_dir(parent.path()).unwrap().count(), 1);
        assert_eq!(fs_err::read_to_string(&victim).unwrap(), "whole");
        assert_eq!(fs_err::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(victim.metadata().unwrap().nlink(), 1);
    }
    // A link itself may lead anywhere, and replacing it leaves alone what it leads to.
    let to = folder();
    let mut archive = hostile("way", link, victim.to_str().unwrap(), b"");
    archive.extend(hostile("way", file, "", b"mine"));
    unpack(to.path(), archive.as_slice()).unwrap();
    assert_eq!(
        fs_err::read_to_string(to.path().join("way")).unwrap(),
        "mine"
    );
    assert_eq!(fs_err::read_to_string(&victim).unwrap(), "whole");
    assert_eq!(mode(&victim), 0o600);
}

/// Puts links that lead out in the place of a directory, and the directory back, again and again.
fn swap(inside: &Path, outside: &Path, stop: &AtomicBool) {
    let links = [outside, Path::new("../outside")].map(|target| {
        let link = inside.join(format!("link{}", target.is_absolute()));
        symlink(target, &link).unwrap();
        link
    });
    let exchange = |link: &Path| {
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, link, AT_FDCWD, &inside.join("way"), flags).unwrap();
    };
    while !stop.load(Ordering::Relaxed) {
        for link in &links {
            exchange(link);
            exchange(link);
        }
    }
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    const MEMBERS: usize = 200;
    const ROUNDS: usize = 10;
    let mut archive = Vec::new();
    for number in 0..MEMBERS {
        let [file, folder, same] =
            ["file", "folder", "same"].map(|name| format!("way/{name}{number}"));
        archive.extend(hostile(&file, EntryType::Regular, "", b"bad"));
        archive.extend(hostile(&folder, EntryType::Directory, "", b""));
        archive.extend(hostile(&same, EntryType::Link, "base", b""));
    }
    let room = folder();
    let (inside, outside) = (room.path().join("inside"), room.path().join("outside"));
    fs_err::create_dir_all(inside.join("way")).unwrap();
    fs_err::write(inside.join("base"), "base").unwrap();
    fs_err::create_dir_all(outside.join("folder0")).unwrap();
    fs_err::write(outside.join("file0"), "whole").unwrap();
    set_mode(&outside.join("folder0"), 0o700);
    let before = outside.metadata().unwrap().modified().unwrap();

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&inside, &outside, &stop));
        for _ in 0..ROUNDS {
            // It may fail: what counts is where nothing is.
            drop(unpack(&inside, archive.as_slice()));
            for number in 0..MEMBERS {
                // There may be none yet, or no way to it just now.
                drop(fs_err::remove_file(
                    inside.join(format!("way/same{number}")),
                ));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut left: Vec<_> = fs_err::read_dir(&outside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["file0", "folder0"]);
    assert_eq!(
        fs_err::read_to_string(outside.join("file0")).unwrap(),
        "whole"
    );
    assert_eq!(mode(&outside.join("folder0")), 0o700);
    assert_eq!(outside.metadata().unwrap().modified().unwrap(), before);
    // Left alone, all of it comes in.
    fs_err::remove_dir_all(inside.join("way")).unwrap();
    unpack(&inside, archive.as_slice()).unwrap();
    assert_eq!(
        fs_err::read_dir(inside.join("way")).unwrap().count(),
        3 * MEMBERS
    );
}

#[test]
fn links_that_stay_inside_are_followed() {
    let to = folder();
    let inside = fs_err::canonicalize(to.path()).unwrap();
    fs_err::create_dir_all(inside.join("deep/real")).unwrap();
    symlink("deep/real", inside.join("relative")).unwrap();
    symlink("../deep", inside.join("deep/up")).unwrap();
    symlink(inside.join("deep"), inside.join("absolute")).unwrap();
    for (member, lies_at) in [
        ("relative/a", "deep/real/a"),
        ("relative/new/b", "deep/real/new/b"),
        ("deep/up/c", "deep/c"),
        ("absolute/real/d", "deep/real/d"),
    ] {
        let archive = hostile(member, EntryType::Regular, "", b"text");
        unpack(&inside, archive.as_slice()).unwrap();
        let text = fs_err::read_to_string(inside.join(lies_at)).unwrap();
        assert_eq!(text, "text", "{member}");
    }
}

#[test]
fn hard_links_are_made_of_what_is_inside() {
    let to = folder();
    let mut archive = hostile("a/file", EntryType::Regular, "", b"text");
    archive.extend(hostile("a/same", EntryType::Link, "a/file", b""));
    archive.extend(hostile("b/./same", EntryType::Link, "./a/../a/same", b""));
    unpack(to.path(), archive.as_slice()).unwrap();
    for name in ["a/same", "b/same"] {
        assert_eq!(
            to.path().join(name).metadata().unwrap().nlink(),
            3,
            "{name}"
        );
    }
    let archive = hostile("none", EntryType::Link, "a/missing", b"");
    let error = unpack(to.path(), archive.as_slice()).unwrap_err();
    assert!(matches!(error, FileError::Unpack { .. }), "{error:?}");
}

#[test]
fn failures_are_told_in_the_words_of_the_kernel() {
    let to = folder();
    fs_err::create_dir_all(to.path().join("there/below")).unwrap();
    let archive = hostile("there", EntryType::Regular, "", b"text");
    let error = unpack(to.path(), archive.as_slice()).unwrap_err();
    let text = common::error_chain::Chain(&error).to_string();
    assert!(
        text.contains("Is a directory") && !text.contains("/proc"),
        "{text}"
    );
}

#[test]
fn archives_that_end_early_or_are_none_are_refused() {
    let folder = folder();
    let file = folder.path().join("file");
    fs_err::write(&file, vec![1; 200_000]).unwrap();
    let archive = archive_of(&file);
    let to = tempfile::tempdir().unwrap();
    for bytes in [&archive[..100_000], &archive[..300], &[7; 2000][..]] {
        assert!(unpack(to.path(), bytes).is_err());
    }
    // Nothing at all is an archive without members.
    unpack(to.path(), io::empty()).unwrap();
}

#[test]
fn a_name_without_end_is_refused() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = io::Read::chain(&header.as_bytes()[..], io::repeat(b'x'));
    let error = unpack(folder().path(), endless).unwrap_err();
    assert!(matches!(error, FileError::Archive(_)), "{error:?}");
}

#[test]
fn a_full_disk_is_told() {
    let folder = folder();
    let flags = nix::mount::MsFlags::empty();
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        folder.path(),
        Some("tmpfs"),
        flags,
        Some("size=64k"),
    );
    if let Err(error) = mounted {
        println!("SKIPPED: only root can mount a small disk: {error}");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let file = source.path().join("large");
    fs_err::write(&file, vec![1; 500_000]).unwrap();
    let found = unpack(folder.path(), archive_of(&file).as_slice());
    nix::mount::umount(folder.path()).unwrap();
    let error = found.unwrap_err();
    assert!(matches!(error, FileError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("`large`"), "{error}");
}

/// What the fuzzer begins with, and what it once found: see CONTRIBUTING.md.
#[test]
fn the_corpus_stays_inside() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/unpack");
    let refused = fs_err::read_dir(corpus).unwrap().filter(|entry| {
        let input = fs_err::read(entry.as_ref().unwrap().path()).unwrap();
        let room = hostile::Room::new();
        let unpacked = unpack(&room.inside(), hostile::of_input(&input).as_slice());
        room.check();
        unpacked.is_err()
    });
    assert!(refused.count() >= 2);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000)) {
        drop(unpack(folder().path(), bytes.as_slice()));
    }

    #[test]
    fn nothing_gets_out(members in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
        let room = hostile::Room::new();
        drop(unpack(&room.inside(), hostile::archive(&members).as_slice()));
        room.check();
    }
}
