//! What archives say, and which are refused.

use std::io::Cursor;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::oci::tests::{Tar, header};

fn read_all(tar: &[u8]) -> Result<Vec<Entry>, LayerError> {
    let size_bytes = u64::try_from(tar.len()).unwrap();
    read(
        Cursor::new(tar),
        size_bytes,
        End::Verified,
        &Budget::default(),
    )
}

fn refusal(tar: &[u8]) -> String {
    match read_all(tar) {
        Ok(entries) => panic!("{entries:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_kind_of_entry_is_read() {
    let mut tar = Tar::default();
    tar.add("./", EntryType::Directory, |header| header.set_mode(0o711));
    tar.file("./etc//motd", b"hello");
    tar.link("usr/bin/x", EntryType::Link, "./etc/motd");
    tar.link("bin", EntryType::Symlink, "/usr/../usr/bin");
    for (name, kind) in [("c", EntryType::Char), ("b", EntryType::Block)] {
        tar.add(name, kind, |header| {
            header.set_device_major(8).unwrap();
            header.set_device_minor(259).unwrap();
        });
    }
    tar.add("fifo", EntryType::Fifo, |header| header.set_mode(0o4777));
    tar.file("d/.wh.gone", b"");
    tar.file("d/.wh..wh..opq", b"");
    tar.file(".wh..wh.plnk/1.2", b"");
    tar.file("d/.wh..wh.aufs", b"");
    let entries = read_all(&tar.finish()).unwrap();
    let device = Device {
        major: 8,
        minor: 259,
    };
    let expected: [(&str, EntryKind); 9] = [
        ("", EntryKind::Directory),
        (
            "etc/motd",
            EntryKind::File {
                offset: 1024,
                size_bytes: 5,
            },
        ),
        ("usr/bin/x", EntryKind::HardLink(b"etc/motd".to_vec())),
        ("bin", EntryKind::Symlink(b"/usr/../usr/bin".to_vec())),
        ("c", EntryKind::CharacterDevice(device)),
        ("b", EntryKind::BlockDevice(device)),
        ("fifo", EntryKind::Fifo),
        ("d/gone", EntryKind::Whiteout),
        ("d", EntryKind::Opaque),
    ];
    assert_eq!(entries.len(), expected.len());
    for (entry, (path, kind)) in entries.iter().zip(expected) {
        assert_eq!(
            (entry.path.as_slice(), &entry.kind),
            (path.as_bytes(), &kind)
        );
    }
    assert_eq!(entries[0].attributes.permissions, 0o711);
    assert_eq!(entries[6].attributes.permissions, 0o4777);
}

#[test]
fn extensions_win_over_headers() {
    let long = "n".repeat(120);
    let deep = format!("{long}/{long}");
    let mut builder = Builder::new(Vec::new());
    let pax: [(&str, &[u8]); 6] = [
        ("path", deep.as_bytes()),
        ("uid", b"3000000"),
        ("gid", b"4294967295"),
        ("mtime", b"1700000000.75"),
        ("SCHILY.xattr.user.a=b", b"\0\n"),
        ("size", b"3"),
    ];
    builder.append_pax_extensions(pax).unwrap();
    let mut raw = header("short", EntryType::Regular, 0);
    raw.set_size(0);
    raw.set_cksum();
    builder.append(&raw, &b""[..]).unwrap();
    // Its content, which the extension knows of.
    builder.get_mut().extend_from_slice(b"abc");
    builder.get_mut().extend_from_slice(&[0; 509]);
    // GNU's long names, as the crate writes them.
    let mut gnu = Header::new_gnu();
    gnu.set_size(0);
    gnu.set_mode(0o644);
    builder
        .append_data(&mut gnu, format!("g/{deep}"), &b""[..])
        .unwrap();
    gnu.set_entry_type(EntryType::Symlink);
    builder
        .append_link(&mut gnu, "l", format!("/{deep}"))
        .unwrap();
    let entries = read_all(&builder.into_inner().unwrap()).unwrap();
    let first = &entries[0];
    assert_eq!(first.path, deep.as_bytes());
    assert!(matches!(first.kind, EntryKind::File { size_bytes: 3, .. }));
    let attributes = &first.attributes;
    assert_eq!((attributes.uid, attributes.gid), (3_000_000, u32::MAX));
    assert_eq!(attributes.mtime_s, 1_700_000_000);
    // The name of an attribute ends at the first `=`, as for everybody else.
    assert_eq!(attributes.xattrs[&b"user.a"[..]], b"b=\0\n");
    assert_eq!(entries[1].path, format!("g/{deep}").as_bytes());
    assert_eq!(
        entries[2].kind,
        EntryKind::Symlink(format!("/{deep}").into_bytes())
    );
}

#[test]
fn hostile_names_are_refused() {
    let long = "n".repeat(256);
    let deep = "d/".repeat(513);
    let endless = format!("{}/", "n".repeat(250)).repeat(17);
    for (name, expected) in [
        (
            "../etc/passwd",
            "`../etc/passwd` leads out of the image through `..`",
        ),
        ("a/../../b", "leads out"),
        ("/a/..", "leads out"),
        ("a\n/../b", "`a\\n/../b` leads out"),
        (long.as_str(), "has a name of more than 255 bytes"),
        (deep.as_str(), "is nested more than 512"),
        (endless.as_str(), "has a path of more than 4095"),
        (".wh.", "is a whiteout of what is no name"),
        ("a/.wh..", "is a whiteout of what is no name"),
        ("a/.wh...", "is a whiteout of what is no name"),
        (".wh.a/b", "reserved for whiteouts"),
    ] {
        let mut tar = Tar::default();
        tar.file(name, b"");
        let message = refusal(&tar.finish());
        assert!(message.contains(expected), "{name}: {message}");
        assert!(message.len() < 400);
    }
    // From the root is from the image's root.
    let mut tar = Tar::default();
    tar.file("//etc/./x", b"");
    assert_eq!(read_all(&tar.finish()).unwrap()[0].path, b"etc/x");
}

#[test]
fn hostile_entries_are_refused() {
    let with = |name: &str, kind: EntryType, change: fn(&mut Header)| {
        let mut tar = Tar::default();
        tar.add(name, kind, change);
        tar.finish()
    };
    let link = |kind, target: &str| {
        let mut tar = Tar::default();
        tar.link("x", kind, target);
        tar.finish()
    };
    let nul = {
        let mut builder = Builder::new(Vec::new());
        builder
            .append_pax_extensions([("path", &b"a\0b"[..])])
            .unwrap();
        builder
            .append(&header("x", EntryType::Regular, 0), &b""[..])
            .unwrap();
        builder.into_inner().unwrap()
    };
    let sparse = {
        let mut builder = Builder::new(Vec::new());
        builder
            .append_pax_extensions([("GNU.sparse.major", &b"1"[..])])
            .unwrap();
        builder
            .append(&header("x", EntryType::Regular, 0), &b""[..])
            .unwrap();
        builder.into_inner().unwrap()
    };
    let huge_extension = {
        let mut header = header("x", EntryType::XHeader, 2 << 20);
        header.set_cksum();
        [header.as_bytes().to_vec(), vec![b' '; 2 << 20]].concat()
    };
    for (tar, expected) in [
        (
            link(EntryType::Link, "../../etc/shadow"),
            "hard link that leads out",
        ),
        (
            link(EntryType::Link, &"n".repeat(256)),
            "hard link to a name",
        ),
        (link(EntryType::Symlink, ""), "symbolic link whose target"),
        (nul, "NUL"),
        (sparse, "sparse file"),
        (huge_extension, "extended header of more than"),
        (with("x", EntryType::GNUSparse, |_| {}), "sparse file"),
        (with("x", EntryType::new(b'V'), |_| {}), "unknown type `V`"),
        (
            with("x", EntryType::Regular, |h| h.set_uid(1 << 40)),
            "owner",
        ),
        (
            with("x", EntryType::Regular, |h| h.set_size(1 << 40)),
            "ends in the middle of `x`",
        ),
        (
            with("x", EntryType::Regular, |h| h.set_size(u64::MAX >> 1)),
            "ends in the middle of `x`",
        ),
        (b"not tar at all".repeat(100), "no valid header at byte 0"),
        (vec![1; 100], "ends in the middle of `its header`"),
    ] {
        let message = refusal(&tar);
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn an_archive_ends_after_an_entry_or_with_zeros() {
    let mut tar = Tar::default();
    tar.file("a", b"1");
    let whole = tar.finish();
    let unverified = |tar: &[u8]| {
        let size_bytes = u64::try_from(tar.len()).unwrap();
        read(
            Cursor::new(tar),
            size_bytes,
            End::Marked,
            &Budget::default(),
        )
    };
    for end in [1024, 1536, whole.len()] {
        assert_eq!(read_all(&whole[..end]).unwrap().len(), 1, "{end}");
    }
    assert_eq!(unverified(&whole[..1536]).unwrap().len(), 1);
    assert_eq!(
        unverified(&whole[..1024]).unwrap_err().to_string(),
        "It ends after 1024 bytes without the mark of an archive's end"
    );
    assert!(unverified(b"").is_err());
    let with_rubbish = [&whole[..], b"rubbish"].concat();
    assert_eq!(read_all(&with_rubbish).unwrap().len(), 1);
    // In the content, in what fills its block, in a header, in the mark.
    for (end, expected) in [
        (512, "ends in the middle of `a`"),
        (513, "ends in the middle of `a`"),
        (1023, "ends in the middle of `a`"),
        (100, "ends in the middle of `its header`"),
        (1025, "ends in the middle of `its header`"),
        (1535, "ends in the middle of `its header`"),
    ] {
        let message = refusal(&whole[..end]);
        assert!(message.contains(expected), "{end}: {message}");
    }
    assert!(read_all(b"").unwrap().is_empty());
}

#[test]
fn an_extended_header_needs_its_entry() {
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([("path", &b"a"[..])])
        .unwrap();
    let marked = builder.into_inner().unwrap();
    let bare = &marked[..1024];
    for (tar, expected) in [
        (&marked[..], "no valid header at byte 1024"),
        (bare, "no valid header at byte 1024"),
        (&bare[..600], "ends in the middle of"),
        (&bare[..512], "ends in the middle of"),
    ] {
        let message = refusal(tar);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_there_is_too_much_of_is_refused() {
    let budget = Budget::default();
    let value = vec![b'x'; 1 << 19];
    let mut last = Ok(Vec::new());
    for at in 0..200 {
        let mut builder = Builder::new(Vec::new());
        let name = format!("SCHILY.xattr.user.{at}");
        builder
            .append_pax_extensions([(name.as_str(), &value[..])])
            .unwrap();
        builder
            .append(&header("x", EntryType::Regular, 0), &b""[..])
            .unwrap();
        let tar = builder.into_inner().unwrap();
        let size_bytes = u64::try_from(tar.len()).unwrap();
        last = read(Cursor::new(tar), size_bytes, End::Verified, &budget);
        if last.is_err() {
            break;
        }
    }
    let message = last.unwrap_err().to_string();
    assert_eq!(
        message,
        "The image's layers have more than 67108864 bytes of extended attributes"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        drop(read_all(&bytes));
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(at in 0_usize..2048, byte: u8, repair: bool) {
        let mut tar = Tar::default();
        tar.file("dir/file", b"content");
        tar.link("link", EntryType::Link, "dir/file");
        let mut tar = tar.finish();
        tar[at] = byte;
        if repair {
            let block = at / 512 * 512;
            let mut sum: u32 = 8 * 32;
            for (offset, &byte) in tar[block..block + 512].iter().enumerate() {
                if !(148..156).contains(&offset) {
                    sum += u32::from(byte);
                }
            }
            tar[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        drop(read_all(&tar));
    }
}
