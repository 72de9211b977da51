//! The writer against the reader, the `cpio` crate and the system's cpio; the reader against broken archives.

use std::io::Read;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::image::WriteError;
use crate::tree::{Attributes, Content, Kind as NodeKind};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sample {
    Directory(u32),
    File(u32, Vec<u8>),
    Symlink(Vec<u8>),
}

type Samples = Vec<(Vec<u8>, Sample)>;

fn write(entries: &[(Vec<u8>, Sample)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (number, (path, sample)) in (1..).zip(entries) {
        let (permissions, kind, links) = match sample {
            Sample::Directory(mode) => (*mode, NodeKind::Directory, 2),
            Sample::File(mode, content) => {
                (*mode, NodeKind::File(Content::Bytes(content.clone())), 1)
            }
            Sample::Symlink(target) => (0o777, NodeKind::Symlink(target.clone()), 1),
        };
        let mut attributes = Attributes::new(permissions);
        attributes.mtime_s = 7;
        let inode = Inode {
            number,
            links,
            kind: &kind,
            carries_content: true,
        };
        writer.entry(path, &attributes, &inode).unwrap();
    }
    writer.finish().unwrap()
}

/// Why an entry cannot be written.
fn refusal(path: &[u8], kind: &NodeKind) -> WriteError {
    let inode = Inode {
        number: 1,
        links: 1,
        kind,
        carries_content: true,
    };
    Writer::new(Vec::new())
        .entry(path, &Attributes::new(0o644), &inode)
        .unwrap_err()
}

fn read(archive: &[u8], limits: &Limits) -> Result<(Samples, Summary), ReadError> {
    let mut entries = Vec::new();
    let summary = read_entries(archive, limits, |entry, content| {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(ReadError::Input)?;
        let sample = match &entry.kind {
            Kind::Directory => Sample::Directory(entry.permissions),
            Kind::Symlink { target } => Sample::Symlink(target.clone()),
            _ => Sample::File(entry.permissions, bytes),
        };
        entries.push((entry.path.clone(), sample));
        Ok::<_, ReadError>(())
    })?;
    Ok((entries, summary))
}

fn message(archive: &[u8]) -> String {
    read(archive, &Limits::default()).unwrap_err().to_string()
}

fn example() -> Vec<(Vec<u8>, Sample)> {
    vec![
        (b"bin".to_vec(), Sample::Directory(0o755)),
        (b"bin/sh".to_vec(), Sample::Symlink(b"busybox".to_vec())),
        (b"etc/x".to_vec(), Sample::File(0o644, b"hello".to_vec())),
    ]
}

#[test]
fn headers_hold_what_the_format_says() {
    let archive = write(&[(b"a".to_vec(), Sample::File(0o4755, b"xyz".to_vec()))]);
    let expected = "070701\
        00000001000089ed000000000000000000000001000000070000000300000000000000000000000000000000\
        0000000200000000a\0";
    assert_eq!(&archive[..112], expected.as_bytes());
    assert_eq!(&archive[112..116], b"xyz\0");
    assert_eq!(archive.len() % 512, 0);
}

#[test]
fn concatenated_archives_with_padding_are_one() {
    let archive = write(&example());
    let both = [&archive[..], &[0; 4096], &archive].concat();
    let (entries, summary) = read(&both, &Limits::default()).unwrap();
    assert_eq!(entries, [example(), example()].concat());
    let bytes = u64::try_from(both.len()).unwrap();
    assert_eq!(
        summary,
        Summary {
            archives: 2,
            entries: 6,
            bytes
        }
    );
}

#[test]
fn every_cut_is_noticed() {
    let archive = write(&example());
    let end = archive
        .windows(TRAILER.len())
        .position(|w| w == TRAILER)
        .unwrap()
        + TRAILER.len()
        + 1;
    for length in 0..end {
        assert!(message(&archive[..length]).contains("cut off"), "{length}");
    }
}

#[test]
fn broken_archives_are_refused() {
    let entry = |path: &str, mode: u32, size: u32, content: &[u8]| {
        let mut bytes = format!("070701{:08x}{mode:08x}", 1).into_bytes();
        for number in [
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            u32::try_from(path.len()).unwrap() + 1,
            0,
        ] {
            bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let mut bad_number = entry("x", TYPE_FILE, 0, b"");
    bad_number[10] = b'+';
    let mut bad_name = entry("xx", TYPE_FILE, 0, b"");
    bad_name[110] = 0;
    let long = "x".repeat(4096);
    let table = [
        (entry("../x", TYPE_FILE, 0, b""), "`..`"),
        (entry("a/../x", TYPE_FILE, 0, b""), "`..`"),
        (entry(".", TYPE_FILE, 0, b""), "replaces the root"),
        (entry("x", 0, 0, b""), "no known type"),
        (entry("x", TYPE_DIRECTORY, 4, b"1234"), "is no file"),
        (entry("x", TYPE_SYMLINK, 0, b""), "empty or overlong target"),
        (entry("x", TYPE_SYMLINK, 4, b"a\0bc"), "holds a NUL"),
        (entry("TRAILER!!!", 0, 4, b"abcd"), "trailer with content"),
        (entry(&long, TYPE_FILE, 0, b""), "more than 4095 bytes"),
        (bad_number, "not hexadecimal"),
        (bad_name, "does not end where it should"),
        (b"\x1f\x8b\x08 not an archive".to_vec(), "no cpio header"),
        (b"070702".to_vec(), "no cpio header"),
        (b"\0\0\x00070701".to_vec(), "no cpio header"),
        (
            [write(&example()), b"junkjunk".to_vec()].concat(),
            "no cpio header",
        ),
        (Vec::new(), "cut off"),
        (vec![0; 100], "cut off"),
    ];
    for (archive, expected) in table {
        let message = message(&archive);
        assert!(message.contains(expected), "{message}, not {expected}");
    }
}

#[test]
fn limits_hold() {
    let archive = write(&example());
    let few = Limits {
        entries: 2,
        ..Limits::default()
    };
    let short = Limits {
        bytes: 400,
        ..Limits::default()
    };
    assert!(
        read(&archive, &few)
            .unwrap_err()
            .to_string()
            .contains("more than 2 entries")
    );
    assert!(
        read(&archive, &short)
            .unwrap_err()
            .to_string()
            .contains("more than 400 bytes")
    );
}

#[test]
fn unread_content_is_skipped() {
    let archive = write(&[
        (b"a".to_vec(), Sample::File(0o644, vec![1; 100_001])),
        (b"b".to_vec(), Sample::Directory(0o755)),
    ]);
    let mut paths = Vec::new();
    read_entries(&archive[..], &Limits::default(), |entry, _| {
        paths.push(entry.path.clone());
        Ok::<_, ReadError>(())
    })
    .unwrap();
    assert_eq!(paths, [b"a", b"b"]);
}

#[test]
fn a_file_that_changes_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), "abc").unwrap();
    for size_bytes in [4, 2, 0] {
        let content = Content::Host {
            path: file.path().to_path_buf(),
            size_bytes,
        };
        let error = refusal(b"x", &NodeKind::File(content));
        assert!(
            matches!(error, WriteError::Changed { .. }),
            "{size_bytes}: {error}"
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let long = vec![b'x'; 4096];
    let empty = NodeKind::File(Content::Bytes(Vec::new()));
    let huge = NodeKind::File(Content::Host {
        path: "/dev/null".into(),
        size_bytes: MAX_FILE_BYTES + 1,
    });
    for (path, kind, expected) in [
        (&long[..], &empty, "at most 4095 bytes"),
        (b"x", &NodeKind::Symlink(long.clone()), "at most 4095 bytes"),
        (b"x", &huge, "less than 4 GiB"),
    ] {
        let message = refusal(path, kind).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_systems_cpio_reads_it() {
    let mut child = match std::process::Command::new("cpio")
        .args(["--list", "--quiet", "--verbose", "--numeric-uid-gid"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => {
            println!("SKIPPED: the system has no cpio to compare with ({error})");
            return;
        }
    };
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &write(&example())).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let listing = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = listing.lines().collect();
    assert_eq!(lines.len(), 3, "{listing}");
    assert!(
        lines[0].starts_with("drwxr-xr-x   2 0        0") && lines[0].ends_with("bin"),
        "{listing}"
    );
    assert!(
        lines[1].starts_with("lrwxrwxrwx") && lines[1].ends_with("bin/sh -> busybox"),
        "{listing}"
    );
    assert!(
        lines[2].starts_with("-rw-r--r--") && lines[2].ends_with("etc/x"),
        "{listing}"
    );
}

fn sample() -> impl Strategy<Value = Sample> {
    prop_oneof![
        (0..0o10000_u32).prop_map(Sample::Directory),
        (
            0..0o10000_u32,
            proptest::collection::vec(any::<u8>(), 0..600)
        )
            .prop_map(|(mode, content)| Sample::File(mode, content)),
        "[a-z/.]{1,40}".prop_map(|target| Sample::Symlink(target.into_bytes())),
    ]
}

fn samples() -> impl Strategy<Value = Vec<(Vec<u8>, Sample)>> {
    let path = "[a-z0-9_]{1,12}(/[a-z0-9_]{1,12}){0,4}".prop_map(String::into_bytes);
    proptest::collection::vec((path, sample()), 0..20)
}

proptest! {
    #[test]
    fn archives_come_back(entries in samples()) {
        let (found, _) = read(&write(&entries), &Limits::default()).unwrap();
        prop_assert_eq!(found, entries);
    }

    #[test]
    fn the_cpio_crate_reads_the_same(entries in samples()) {
        let mut rest = &write(&entries)[..];
        for (path, sample) in &entries {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            let header = reader.entry().clone();
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            rest = reader.finish().unwrap();
            let (mode, expected) = match sample {
                Sample::Directory(mode) => (TYPE_DIRECTORY | mode, &[][..]),
                Sample::File(mode, content) => (TYPE_FILE | mode, &content[..]),
                Sample::Symlink(target) => (TYPE_SYMLINK | 0o777, &target[..]),
            };
            prop_assert_eq!(header.name().as_bytes(), &path[..]);
            prop_assert_eq!((header.mode(), header.uid(), header.gid(), header.mtime()), (mode, 0, 0, 7));
            prop_assert_eq!(content, expected);
        }
        prop_assert!(cpio::newc::Reader::new(rest).unwrap().entry().is_trailer());
    }

    #[test]
    fn archives_of_the_cpio_crate_are_read(content in proptest::collection::vec(any::<u8>(), 0..600), mode in 0..0o10000_u32) {
        let size = u32::try_from(content.len()).unwrap();
        let mut writer = cpio::newc::Builder::new("./a/b").mode(TYPE_FILE | mode).write(Vec::new(), size);
        std::io::Write::write_all(&mut writer, &content).unwrap();
        let archive = cpio::newc::trailer(writer.finish().unwrap()).unwrap();
        let (found, _) = read(&archive, &Limits::default()).unwrap();
        prop_assert_eq!(found, vec![(b"a/b".to_vec(), Sample::File(mode, content))]);
    }

    #[test]
    fn no_bytes_make_it_panic(at in 0..1500_usize, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut archive = write(&example());
        let end = archive.len().min(at + bytes.len());
        let at = at.min(end);
        archive[at..end].copy_from_slice(&bytes[..end - at]);
        drop(read(&archive, &Limits::default()));
        drop(read(&bytes, &Limits::default()));
    }
}
