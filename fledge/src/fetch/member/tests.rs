//! Members of archives that others wrote, and of archives that nobody should write.

use std::io::Write;
use std::process::{Command, Stdio};

use ::tar::{EntryType, Header};
use common::digest::Digest;

use super::*;
use crate::tree::Kind;

/// A tar archive in the making.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if name.contains("tool") { 0o4755 } else { 0o640 });
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.add(name, EntryType::Regular, "", content.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn example() -> Tar {
    Tar::new()
        .add("./app-1.2/", EntryType::Directory, "", b"")
        .file("./app-1.2/bin/tool", "the tool")
        .file("app-1.2/README", "read me")
        .add(
            "app-1.2/bin/alias",
            EntryType::Symlink,
            "./../bin//tool",
            b"",
        )
        .add("app-1.2/bin/away", EntryType::Symlink, "/usr/bin/x", b"")
        .add("app-1.2/bin/hard", EntryType::Link, "./app-1.2/README", b"")
        .add(
            "app-1.2/bin/again",
            EntryType::Link,
            "app-1.2/bin/hard",
            b"",
        )
        .add("app-1.2/lib/empty/", EntryType::Directory, "", b"")
        .add("app-1.2/dev/null", EntryType::Char, "", b"")
}

fn fetch(member: &str, path: &str, mode: Option<u32>) -> Fetch {
    Fetch {
        urls: vec!["http://x/app".to_owned()],
        checksum: Digest::of(b""),
        member: (!member.is_empty()).then(|| member.parse().unwrap()),
        path: path.parse().unwrap(),
        mode,
    }
}

fn placed(archive: &[u8], fetch: &Fetch) -> Result<Tree, MemberError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), archive).unwrap();
    let mut tree = Tree::default();
    place(&mut tree, file.path(), fetch).map(|()| tree)
}

/// Paths with permissions and contents.
fn listing(tree: &Tree) -> Vec<String> {
    tree.iter()
        .map(|item| {
            let path = String::from_utf8_lossy(item.path);
            let permissions = item.node.attributes.permissions;
            match &item.node.kind {
                Kind::File(content) => {
                    let mut bytes = Vec::new();
                    content.copy_to(&mut bytes).unwrap();
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    format!("{path} {permissions:o} {text}")
                }
                Kind::Symlink(target) => format!("{path} -> {}", String::from_utf8_lossy(target)),
                _ => format!("{path}/"),
            }
        })
        .collect()
}

fn taken(archive: &[u8], member: &str, path: &str) -> Vec<String> {
    listing(&placed(archive, &fetch(member, path, None)).unwrap())
}

fn refused(archive: &[u8], member: &str) -> String {
    let error = placed(archive, &fetch(member, "/x", None)).unwrap_err();
    common::error_chain::Chain(&error).to_string()
}

/// `bytes` through a program of the system, where it is there.
fn through(program: &str, arguments: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("SKIPPED: `{program}` does not run ({error})");
            return None;
        }
    };
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    Some(output.stdout)
}

#[test]
fn a_file_is_taken_whatever_the_compression() {
    let tar = example().end();
    let archives = [
        Some(tar.clone()),
        through("gzip", &["-c"], &tar),
        through("xz", &["-9", "-c"], &tar),
        through("zstd", &["-c", "-q"], &tar),
        Some(zstd::bulk::compress(&tar, 3).unwrap()),
    ];
    for archive in archives.into_iter().flatten() {
        for member in [
            "app-1.2/bin/tool",
            "./app-1.2//bin/tool",
            "app-1.2/bin/alias",
        ] {
            assert_eq!(
                taken(&archive, member, "/usr/bin/app"),
                ["usr/", "usr/bin/", "usr/bin/app 755 the tool"],
                "{member}"
            );
        }
    }
}

#[test]
fn hard_links_and_modes_are_those_of_the_target() {
    let tar = example().end();
    for member in ["app-1.2/README", "app-1.2/bin/hard", "app-1.2/bin/again"] {
        assert_eq!(taken(&tar, member, "/etc/x"), ["etc/", "etc/x 644 read me"]);
    }
    let with_mode = placed(&tar, &fetch("app-1.2/README", "/etc/x", Some(0o4711))).unwrap();
    assert_eq!(listing(&with_mode)[1], "etc/x 4711 read me");
    // Of several with one name the last one counts, as when an archive is extracted.
    let twice = example().file("app-1.2/README", "newer").end();
    assert_eq!(taken(&twice, "app-1.2/README", "/x"), ["x 644 newer"]);
}

#[test]
fn a_directory_is_taken_with_its_links() {
    let tar = example().end();
    assert_eq!(
        taken(&tar, "app-1.2/bin/", "/opt"),
        [
            "opt/",
            "opt/again 644 read me",
            "opt/alias -> ./../bin//tool",
            "opt/away -> /usr/bin/x",
            "opt/hard 644 read me",
            "opt/tool 755 the tool",
        ]
    );
    assert_eq!(taken(&tar, "app-1.2/lib/", "/"), ["empty/"]);
    assert_eq!(taken(&tar, "app-1.2/lib/empty/", "/e"), ["e/"]);
    let whole = Tar::new().file("a", "1").file("b/c", "2").end();
    assert_eq!(
        taken(&whole, "./", "/o"),
        ["o/", "o/a 644 1", "o/b/", "o/b/c 644 2"]
    );
    let with_mode = placed(&whole, &fetch("b/", "/o", Some(0o700))).unwrap();
    assert_eq!(listing(&with_mode), ["o/", "o/c 700 2"]);
}

#[test]
fn without_a_member_the_file_itself_is_taken() {
    let tree = placed(b"#!/bin/sh\n", &fetch("", "/usr/bin/run", None)).unwrap();
    assert_eq!(tree.len(), 3);
    assert_eq!(
        tree.get(b"usr/bin/run").unwrap().attributes.permissions,
        0o755
    );
}

#[test]
fn what_is_missing_is_guessed() {
    let tar = example().end();
    for (member, expected) in [
        (
            "bin/tool",
            "`http://x/app` has no `bin/tool`; did you mean `app-1.2/bin/tool`",
        ),
        (
            "app-1.2/READNE",
            "has no `app-1.2/READNE`; did you mean `app-1.2/README`",
        ),
        (
            "zzzzzzzzzzz",
            "has no `zzzzzzzzzzz`; it begins with `app-1.2/bin/tool`, `app-1.2/README` and ",
        ),
        (
            "app-1.2/bun/",
            "has no `app-1.2/bun/`; did you mean `app-1.2/bin/`",
        ),
        (
            "app-1.2/bin",
            "`app-1.2/bin` of `http://x/app` is a directory; end it with `/`",
        ),
        (
            "app-1.2/README/",
            "`app-1.2/README` of `http://x/app` is not a directory",
        ),
        ("app-1.2/bin/alias/", "is a symbolic link, not a directory"),
        ("app-1.2/bin/away", "is a link to no file of the archive"),
        ("app-1.2/dev/null", "is a device"),
        (
            "app-1.2/dev/",
            "`app-1.2/dev/null` of `http://x/app` is a device",
        ),
    ] {
        let message = refused(&tar, member);
        assert!(message.contains(expected), "{message}, not {expected}");
    }
}

#[test]
fn hostile_archives_are_refused_or_do_no_harm() {
    let far = "../".repeat(20);
    let hostile = Tar::new()
        .file("d/../../../etc/passwd", "hostile")
        .file("/d/absolute", "inside")
        .add("d/loop", EntryType::Symlink, "loop", b"")
        .add("d/far", EntryType::Symlink, &format!("{far}etc"), b"")
        .add("d/self", EntryType::Link, "d/self", b"")
        .end();
    assert_eq!(
        taken(
            &Tar::new().file("d/../x", "no").file("d/y", "yes").end(),
            "d/",
            "/"
        ),
        ["y 644 yes"]
    );
    for (member, expected) in [
        ("d/loop", "a link to no file"),
        ("d/far", "a link to no file"),
        ("d/self", "a link to no file"),
        ("d/", "`d/self` of `http://x/app` is a link to no file"),
        ("etc/passwd", "has no `etc/passwd`"),
    ] {
        let message = refused(&hostile, member);
        assert!(message.contains(expected), "{message}, not {expected}");
    }
    assert_eq!(taken(&hostile, "d/absolute", "/x"), ["x 644 inside"]);
    // What would lie behind a link of the same archive.
    let through_link = Tar::new()
        .add("d/etc", EntryType::Symlink, "/etc", b"")
        .file("d/etc/passwd", "hostile")
        .end();
    let message = refused(&through_link, "d/");
    assert!(
        message.contains("Cannot place `d/etc/passwd` of `http://x/app`: "),
        "{message}"
    );
    let long = Tar::new()
        .add("L", EntryType::GNULongName, "", &vec![b'a'; 2 << 20])
        .file("x", "")
        .end();
    assert!(refused(&long, "x").contains("more than 1 MiB"));
    for record in [
        "5 a=b\n",
        "999 path=x\n",
        "path=x\n",
        "7 pathx\n",
        "-1 a=b\n",
    ] {
        let bad = Tar::new()
            .add("p", EntryType::XHeader, "", record.as_bytes())
            .file("x", "")
            .end();
        assert!(
            refused(&bad, "x").contains("extended header is not as it should be"),
            "{record}"
        );
    }
}

#[test]
fn what_is_no_archive_is_said_so() {
    let tar = example().end();
    let gzip = crate::image::gzip::compress(Vec::new(), std::num::NonZeroUsize::MIN, |input| {
        input.write_all(b"only a file")
    });
    for bytes in [
        b"\x7fELF".to_vec(),
        Vec::new(),
        vec![1; 5000],
        gzip.unwrap(),
    ] {
        let message = refused(&bytes, "x");
        assert!(message.contains("is neither a tar archive"), "{message}");
    }
    for (bytes, expected) in [
        (tar[..1500].to_vec(), "has no"),
        (tar[..1024 + 3].to_vec(), "Cannot unpack `http://x/app`"),
        (b"\x1f\x8b\x08\x00".to_vec(), "Cannot unpack"),
        (b"PK\x03\x04 and more".to_vec(), "Cannot unpack"),
        (b"\x28\xb5\x2f\xfd\x00\x00".to_vec(), "Cannot unpack"),
        (b"\xfd7zXZ\0\x00\x00".to_vec(), "Cannot unpack"),
    ] {
        let message = refused(&bytes, "zzz");
        assert!(
            message.contains(expected) || message.contains("Cannot unpack"),
            "{message}"
        );
    }
    let cut = Tar::new().file("x", &"x".repeat(3000)).0;
    let message = refused(&cut[..2000], "x");
    assert!(message.contains("Cannot unpack"), "{message}");
}

#[test]
fn archives_of_other_programs_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let long = "n".repeat(120);
    let inner = format!("{long}/{long}");
    fs_err::create_dir_all(directory.path().join(&inner)).unwrap();
    fs_err::write(directory.path().join(format!("{inner}/file")), "content").unwrap();
    std::os::unix::fs::symlink(
        format!("{inner}/file"),
        directory.path().join(format!("{long}/link")),
    )
    .unwrap();
    for (program, format) in [
        ("tar", "gnu"),
        ("tar", "posix"),
        ("bsdtar", "pax"),
        ("bsdtar", "gnutar"),
        ("bsdtar", "zip"),
    ] {
        let path = directory.path().to_str().unwrap();
        let arguments = ["-C", path, "--format", format, "-cf", "-", &long];
        let Some(archive) = through(program, &arguments, b"") else {
            continue;
        };
        let member = format!("{inner}/file");
        assert_eq!(
            taken(&archive, &member, "/x"),
            ["x 644 content"],
            "{program} {format}"
        );
        let link = format!("link -> {inner}/file");
        assert!(
            taken(&archive, &format!("{long}/"), "/").contains(&link),
            "{program} {format}"
        );
    }
}

#[test]
fn zip_archives_are_read() {
    use ::zip::write::SimpleFileOptions;
    use ::zip::{CompressionMethod, ZipWriter};
    let mut writer = ZipWriter::new(io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let options = stored
        .compression_method(CompressionMethod::Deflated)
        .unix_permissions(0o755);
    writer.add_directory("app/", stored).unwrap();
    writer.start_file("app/tool", options).unwrap();
    writer.write_all(&b"tool".repeat(1000)).unwrap();
    writer.start_file("app/data", stored).unwrap();
    writer.write_all(b"data").unwrap();
    writer.add_symlink("app/link", "tool", stored).unwrap();
    let archive = writer.finish().unwrap().into_inner();
    let tool = format!("x 755 {}", "tool".repeat(1000));
    assert_eq!(taken(&archive, "app/tool", "/x")[0], tool);
    assert_eq!(taken(&archive, "app/link", "/x")[0], tool);
    let all = taken(&archive, "app/", "/");
    assert_eq!(all[..2], ["data 644 data", "link -> tool"]);
    assert!(refused(&archive, "app/tol").contains("did you mean `app/tool`"));
    let mut broken = archive.clone();
    let at = archive
        .windows(4)
        .position(|bytes| bytes == b"data")
        .unwrap();
    let at = at
        + archive[at + 4..]
            .windows(4)
            .position(|bytes| bytes == b"data")
            .unwrap()
        + 4;
    broken[at] ^= 1;
    assert!(refused(&broken, "app/data").contains("Cannot unpack"));
}

#[test]
fn likeness_prefers_the_same_file_elsewhere() {
    let mut names = names::Names::new(b"bin/caddy");
    for name in ["LICENSE", "caddy-linux/caddy", "bin/cadd", "caddy"] {
        names.see(name.as_bytes());
    }
    assert_eq!(
        names.clause(),
        "; did you mean `caddy`, `caddy-linux/caddy` or `bin/cadd`?"
    );
    assert_eq!(names::Names::new(b"x").clause(), "");
}
