//! Good archives come through whole, hostile ones do not come out of their place.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::symlink;

use proptest::prelude::{prop_assert, proptest};
use tar::{Builder, EntryType, Header};

use super::*;
use crate::copy::pack;

/// An archive of entries: type, name, and content or where a link leads.
fn archive(entries: &[(EntryType, &[u8], &str)]) -> Vec<u8> {
    archive_of_mode(0o4755, entries)
}

fn archive_of_mode(mode: u32, entries: &[(EntryType, &[u8], &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(mode);
        // The crate refuses such names; a guest does not.
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let is_link = matches!(kind, Symlink | Link);
        if is_link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let content = if is_link { "" } else { content };
        header.set_size(content.len().try_into().unwrap());
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

fn target(folder: &Path) -> Target {
    Target {
        folder: folder.to_owned(),
        name: OsString::from("out"),
    }
}

use EntryType::{Directory, Link, Regular, Symlink};

#[test]
fn what_is_packed_comes_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    let long = "n".repeat(120);
    fs::create_dir_all(site.join("a").join(&long)).unwrap();
    fs::write(site.join("a").join(&long).join("deep"), "deep").unwrap();
    fs::write(site.join("run.sh"), "#!/bin/sh").unwrap();
    fs::set_permissions(site.join("run.sh"), Permissions::from_mode(0o750)).unwrap();
    symlink("a", site.join("link")).unwrap();
    symlink("../run.sh", site.join("a/up")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(site.join("socket")).unwrap();
    let mut bytes = Vec::new();
    let packed = pack(&site, OsStr::new("site"), &mut bytes).unwrap();
    assert_eq!((packed.bytes, packed.members), (13, 7));
    assert_eq!(packed.skipped, [site.join("socket")]);

    let done = unpack(bytes.as_slice(), &target(dir.path())).unwrap();
    assert_eq!((done.bytes, done.members, done.skipped.len()), (13, 7, 0));
    let out = dir.path().join("out");
    let deep = out.join("link").join(&long).join("deep");
    assert_eq!(fs::read_to_string(deep).unwrap(), "deep");
    let mode = fs::metadata(out.join("a/up")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("inner");
    fs::create_dir(&dir).unwrap();
    for name in [&b"../x"[..], b"/x", b"a/../../x", b"a/..", b"..", b".", b""] {
        let bytes = archive(&[(Regular, b"a/ok", "1"), (Regular, name, "bad")]);
        let error = unpack(bytes.as_slice(), &target(&dir)).unwrap_err();
        let refused = matches!(error, UnpackError::Member(MemberError::Outside { .. }));
        assert!(refused, "{name:?}: {error}");
    }
    let bytes = archive(&[(Regular, b"a/ok", "1"), (Regular, b"b", "bad")]);
    let error = unpack(bytes.as_slice(), &target(&dir)).unwrap_err();
    assert!(matches!(error, UnpackError::Beside { .. }), "{error}");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn nothing_is_written_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    // One in the archive.
    let bytes = archive(&[
        (Directory, b"a", ""),
        (Symlink, b"a/l", "../secret"),
        (Regular, b"a/l/x", "bad"),
    ]);
    let done = unpack(bytes.as_slice(), &target(dir.path())).unwrap();
    assert_eq!(done.skipped.len(), 1, "{done:?}");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 0);
    // One of an earlier copy, above a file and as the file itself.
    fs::remove_dir_all(dir.path().join("out")).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    symlink(&secret, dir.path().join("out/l")).unwrap();
    symlink(secret.join("file"), dir.path().join("out/f")).unwrap();
    let bytes = archive(&[(Regular, b"a/f", "new"), (Regular, b"a/l/x", "bad")]);
    let error = unpack(bytes.as_slice(), &target(dir.path())).unwrap_err();
    assert!(matches!(error, UnpackError::ThroughLink { .. }), "{error}");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 0);
    let written = fs::symlink_metadata(dir.path().join("out/f")).unwrap();
    assert!(written.is_file());
    assert_eq!(written.permissions().mode() & 0o7777, 0o755);
}

#[test]
fn links_stay_in_what_is_copied() {
    let table = [
        ("a/l", "x", true),
        ("a/b/l", "../x", true),
        ("a/b/l", "..", true),
        ("a/l", "../x", false),
        ("a/l", "/etc/passwd", false),
        ("a/b/l", "c/../..", false),
        ("a/l", "", false),
        ("a", "x", false),
    ];
    for (path, leads_to, expected) in table {
        let found = stays_inside(Path::new(path), Path::new(leads_to));
        assert_eq!(found, expected, "{path} -> {leads_to}");
    }
}

#[test]
fn other_kinds_and_names_of_nothing_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = archive(&[
        (Regular, b"a/f", "1"),
        (EntryType::Char, b"a/null", ""),
        (EntryType::Fifo, b"a/pipe", ""),
        (Link, b"a/same", "a/f"),
        (Link, b"a/none", "a/nothing"),
    ]);
    let done = unpack(bytes.as_slice(), &target(dir.path())).unwrap();
    assert_eq!(done.skipped.len(), 3, "{done:?}");
    assert_eq!(
        fs::read_to_string(dir.path().join("out/same")).unwrap(),
        "1"
    );
    let bytes = archive(&[(Link, b"a", "../../etc/passwd")]);
    assert!(unpack(bytes.as_slice(), &target(dir.path())).is_err());
}

#[test]
fn names_and_records_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(u64::from(u32::MAX));
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&[b'x'; 2048]);
    let error = unpack(bytes.as_slice(), &target(dir.path())).unwrap_err();
    assert!(
        matches!(error, UnpackError::Member(MemberError::LongName)),
        "{error}"
    );

    let mut bytes = Vec::new();
    let mut builder = Builder::new(&mut bytes);
    let name = format!("a/{}f", "b/".repeat(60));
    builder
        .append_pax_extensions([("path", name.as_bytes())])
        .unwrap();
    let mut header = Header::new_gnu();
    header.set_size(1);
    builder
        .append_data(&mut header, "short", &b"1"[..])
        .unwrap();
    drop(builder);
    unpack(bytes.as_slice(), &target(dir.path())).unwrap();
    let deep = dir.path().join("out").join("b/".repeat(60)).join("f");
    assert_eq!(fs::read(deep).unwrap(), b"1");
    assert!(matches!(
        unpack(&b""[..], &target(dir.path())),
        Err(UnpackError::Empty)
    ));
}

#[test]
fn modes_have_no_more_than_a_file_of_the_user() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("out/there")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(dir.path().join("out/there"), Permissions::from_mode(0o711)).unwrap();
    // Every bit of a mode, for a user whose own files have what is left of 0666 and 0777.
    let plain = dir.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let allowed = mode(&plain);
    let bytes = archive_of_mode(
        0o7777,
        &[
            (Directory, b"a/new", ""),
            (Regular, b"a/new/f", "1"),
            (Directory, b"a/there", ""),
        ],
    );
    unpack(bytes.as_slice(), &target(dir.path())).unwrap();
    let out = dir.path().join("out");
    assert_eq!(mode(&out.join("new")), allowed);
    assert_eq!(mode(&out.join("new/f")), allowed);
    assert_eq!(mode(&out.join("there")), 0o711);
    // Less is less.
    let bytes = archive_of_mode(
        0o500,
        &[(Directory, b"a/less", ""), (Regular, b"a/less/f", "1")],
    );
    unpack(bytes.as_slice(), &target(dir.path())).unwrap();
    assert_eq!(mode(&out.join("less")), 0o500);
    assert_eq!(mode(&out.join("less/f")), 0o500);
}

/// An archive of links without end, each leading as far as a name may.
struct Links(io::Cursor<Vec<u8>>);

impl Read for Links {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if usize::try_from(self.0.position()).unwrap() == self.0.get_ref().len() {
            self.0.set_position(0);
        }
        self.0.read(buffer)
    }
}

#[test]
fn links_without_end_do_not_fill_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x/".repeat(2000);
    let mut bytes = archive(&[
        (EntryType::GNULongLink, b"././@LongLink", &long),
        (Symlink, b"a/l", "x"),
    ]);
    bytes.truncate(bytes.len() - 1024);
    let error = unpack(Links(io::Cursor::new(bytes)), &target(dir.path())).unwrap_err();
    assert!(matches!(error, UnpackError::TooManyNames), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_write_elsewhere(
        noise in proptest::collection::vec((0_usize..1500, proptest::num::u8::ANY), 0..20),
    ) {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("inner");
        fs::create_dir(&dir).unwrap();
        let mut bytes = archive(&[(Regular, b"a/f", "1"), (Symlink, b"a/l", "f"), (Directory, b"a/d", "")]);
        for (at, byte) in noise {
            bytes[at] = byte;
        }
        drop(unpack(bytes.as_slice(), &target(&dir)));
        prop_assert!(fs::read_dir(outer.path()).unwrap().count() == 1);
    }
}
