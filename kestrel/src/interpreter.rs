//! What a program needs to be loaded by: the dynamic loader of an ELF file or the interpreter of a script. Reads no file itself.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// How much of a program is looked at. Linkers put the loader's name right behind the program headers.
pub(crate) const HEAD_BYTES: u64 = 64 * 1024;

/// What loads a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interpreter {
    /// `PT_INTERP` of an ELF file.
    Loader(PathBuf),
    /// The first line of a script.
    Script(PathBuf),
}

impl Interpreter {
    /// Where it should be.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Loader(path) | Self::Script(path) => path,
        }
    }
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Loader(_) => "the dynamic loader",
            Self::Script(_) => "the script interpreter",
        };
        write!(f, "{kind} `{}`", self.path().display())
    }
}

/// The interpreter that the first bytes of a program name, if they name one.
pub(crate) fn of(head: &[u8]) -> Option<Interpreter> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let word = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
        return (!word.is_empty()).then(|| Interpreter::Script(path(word)));
    }
    elf_loader(head).map(|name| Interpreter::Loader(path(name)))
}

fn path(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// The name in the `PT_INTERP` segment of a 64-bit little-endian ELF file (elf(5)): the only kind that this kernel runs.
fn elf_loader(head: &[u8]) -> Option<&[u8]> {
    const ELF64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    const PT_INTERP: u32 = 3;
    if !head.starts_with(ELF64_LITTLE) {
        return None;
    }
    let table = usize::try_from(u64_at(head, 0x20)?).ok()?;
    let entry_bytes = usize::from(u16_at(head, 0x36)?);
    let entries = usize::from(u16_at(head, 0x38)?);
    for index in 0..entries {
        let entry = table.checked_add(index.checked_mul(entry_bytes)?)?;
        if u32_at(head, entry)? == PT_INTERP {
            let begin = usize::try_from(u64_at(head, entry.checked_add(8)?)?).ok()?;
            let bytes = usize::try_from(u64_at(head, entry.checked_add(32)?)?).ok()?;
            let name = head.get(begin..begin.checked_add(bytes)?)?;
            return name.split(|byte| *byte == 0).next();
        }
    }
    None
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elf(loader: Option<&str>) -> Vec<u8> {
        let mut file = vec![0; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x20..0x28].copy_from_slice(&64_u64.to_le_bytes());
        file[0x36..0x38].copy_from_slice(&56_u16.to_le_bytes());
        file[0x38..0x3a].copy_from_slice(&2_u16.to_le_bytes());
        file[64..68].copy_from_slice(&1_u32.to_le_bytes());
        if let Some(loader) = loader {
            let at = 64 + 56;
            file[at..at + 4].copy_from_slice(&3_u32.to_le_bytes());
            let begin = u64::try_from(file.len()).unwrap();
            file[at + 8..at + 16].copy_from_slice(&begin.to_le_bytes());
            let bytes = u64::try_from(loader.len() + 1).unwrap();
            file[at + 32..at + 40].copy_from_slice(&bytes.to_le_bytes());
            file.extend_from_slice(loader.as_bytes());
            file.push(0);
        }
        file
    }

    #[test]
    fn elf_files_name_their_loader() {
        let loader = "/lib64/ld-linux-x86-64.so.2";
        assert_eq!(
            of(&elf(Some(loader))),
            Some(Interpreter::Loader(loader.into()))
        );
        assert_eq!(of(&elf(None)), None);
    }

    #[test]
    fn scripts_name_their_interpreter() {
        let table: &[(&[u8], Option<&str>)] = &[
            (b"#!/bin/sh\necho", Some("/bin/sh")),
            (b"#! /usr/bin/env python3\n", Some("/usr/bin/env")),
            (b"#!/bin/sh", Some("/bin/sh")),
            (b"#!\n/bin/sh", None),
            (b"#!", None),
            (b"echo", None),
            (b"", None),
        ];
        for (head, expected) in table {
            let expected = expected.map(|path| Interpreter::Script(path.into()));
            assert_eq!(of(head), expected, "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tail in proptest::collection::vec(any::<u8>(), 0..256), at in 0_usize..256) {
            let mut file = elf(Some("/lib/ld.so"));
            let at = at.min(file.len() - 1);
            file.splice(at.., tail.iter().copied());
            drop((of(&file), of(&tail)));
        }
    }
}
