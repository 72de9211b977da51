//! Archives that try to get out of the directory that they are unpacked into, and what lies beside it to be found as it was. For tests
//! and fuzzing only.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// Names of members, and what links lead to.
const NAMES: [&str; 16] = [
    "a",
    "b",
    "a/b",
    "a/b/c",
    "./a",
    "a/",
    "a/../b",
    "..",
    "../outside",
    "../outside/secret",
    "a/../../outside/secret",
    "/proc/self/cwd/x",
    "a/secret",
    "b/secret",
    ".",
    "",
];

/// Kinds of members; the last two are never unpacked.
const KINDS: [EntryType; 8] = [
    EntryType::Regular,
    EntryType::Directory,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Continuous,
    EntryType::GNUSparse,
    EntryType::Fifo,
    EntryType::Char,
];

/// Bytes for each member: kind, name, target, mode.
const MEMBER_BYTES: usize = 4;

/// What is seen of a file: name, mode, number of links, time.
type Seen = (PathBuf, u32, u64, (i64, i64));

/// A directory to unpack into, and one beside it with a secret.
pub(super) struct Room {
    dir: TempDir,
    before: Vec<Seen>,
}

impl Room {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs_err::create_dir(&outside).unwrap();
        fs_err::write(outside.join("secret"), "secret").unwrap();
        fs_err::create_dir(dir.path().join("inside")).unwrap();
        let before = beside(dir.path());
        Self { dir, before }
    }

    /// The directory to unpack into.
    pub(super) fn inside(&self) -> PathBuf {
        self.dir.path().join("inside")
    }

    /// Panics if anything beside the directory is not as it was.
    pub(super) fn check(&self) {
        assert_eq!(beside(self.dir.path()), self.before);
        let secret = self.dir.path().join("outside/secret");
        assert_eq!(fs_err::read(secret).unwrap(), b"secret");
    }
}

fn beside(room: &Path) -> Vec<Seen> {
    let mut found = Vec::new();
    for folder in [room.to_owned(), room.join("outside")] {
        for entry in fs_err::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            found.push(if path.ends_with("inside") {
                // Its own mode and time are the archive's.
                (path, 0, 0, (0, 0))
            } else {
                let time = (about.mtime(), about.mtime_nsec());
                (path, about.mode(), about.nlink(), time)
            });
        }
    }
    found.sort();
    found
}

/// The archive in an input of the fuzzer: the first byte says whether the others are one, or members of one.
pub(super) fn of_input(bytes: &[u8]) -> Vec<u8> {
    match bytes.split_first() {
        Some((first, archive)) if first % 2 == 0 => archive.to_vec(),
        Some((_, members)) => archive(members),
        None => Vec::new(),
    }
}

/// An archive of members that `bytes` choose, [`MEMBER_BYTES`] each.
pub(super) fn archive(bytes: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for member in bytes.chunks_exact(MEMBER_BYTES) {
        let name = |byte: u8| NAMES[usize::from(byte) % NAMES.len()];
        let kind = KINDS[usize::from(member[0]) % KINDS.len()];
        let mut header = Header::new_gnu();
        // The methods refuse what is to be tried.
        let gnu = header.as_gnu_mut().unwrap();
        put(&mut gnu.name, name(member[1]));
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            put(&mut gnu.linkname, name(member[2]));
        }
        header.set_entry_type(kind);
        header.set_mode(u32::from(member[3]) << 4);
        header.set_mtime(u64::from(member[3]));
        let content: &[u8] = match kind {
            EntryType::Regular | EntryType::Continuous => b"content",
            _ => b"",
        };
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn put(field: &mut [u8], text: &str) {
    field[..text.len()].copy_from_slice(text.as_bytes());
}
