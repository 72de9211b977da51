//! Finds out whether a program needs a dynamic loader. Reads ELF headers only, and believes none of their numbers.

use std::io::{self, Read, Seek, SeekFrom};

/// The longest loader path that is read, in bytes: Linux's `PATH_MAX`.
const MAX_INTERPRETER_BYTES: u64 = 4096;

/// More program headers than this are not looked at; real programs have about ten.
const MAX_PROGRAM_HEADERS: u16 = 1024;

/// Program header type of the loader's path (ELF specification, `PT_INTERP`).
const PT_INTERP: u32 = 3;

/// Machine number of x86-64 (`EM_X86_64`), the only one that Volant's guests have.
pub const X86_64: u16 = 62;

/// What a file is to the kernel that should run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// An ELF program that runs by itself.
    Static {
        /// For which machine, as ELF numbers them.
        machine: u16,
    },
    /// An ELF program that a loader must run.
    Dynamic {
        /// For which machine, as ELF numbers them.
        machine: u16,
        /// The loader's path.
        interpreter: Vec<u8>,
    },
    /// A script, with the path of its interpreter.
    Script(Vec<u8>),
    /// Anything else, also a broken ELF file.
    Other,
}

/// Finds out what `file` is.
///
/// # Errors
/// Where it cannot be read; a file that is shorter than its headers say is [`Program::Other`].
pub fn inspect(file: &mut (impl Read + Seek)) -> io::Result<Program> {
    match read_program(file) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Program::Other),
        other => other,
    }
}

fn read_program(file: &mut (impl Read + Seek)) -> io::Result<Program> {
    let mut head = Vec::new();
    file.by_ref().take(256).read_to_end(&mut head)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let words = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut words = words.split(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
        return Ok(words
            .find(|word| !word.is_empty())
            .map_or(Program::Other, |path| Program::Script(path.to_vec())));
    }
    // Class and byte order are the fifth and sixth byte.
    let is_64 = match head.get(..6) {
        Some([0x7f, b'E', b'L', b'F', 2, 1]) => true,
        Some([0x7f, b'E', b'L', b'F', 1, 1]) => false,
        _ => return Ok(Program::Other),
    };
    let (table_at, size_at, count_at) = if is_64 { (32, 54, 56) } else { (28, 42, 44) };
    let Some(machine) = u16_at(&head, 18) else {
        return Ok(Program::Other);
    };
    let table = word_at(&head, table_at, is_64);
    let (Some(table), Some(size), Some(count)) =
        (table, u16_at(&head, size_at), u16_at(&head, count_at))
    else {
        return Ok(Program::Other);
    };
    for index in 0..count.min(MAX_PROGRAM_HEADERS) {
        let Some(at) = table.checked_add(u64::from(index) * u64::from(size)) else {
            return Ok(Program::Other);
        };
        let mut header = [0; 56];
        let header = if is_64 {
            &mut header[..]
        } else {
            &mut header[..32]
        };
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(header)?;
        if u32_at(header, 0) != Some(PT_INTERP) {
            continue;
        }
        let (offset_at, length_at) = if is_64 { (8, 32) } else { (4, 16) };
        let (Some(offset), Some(length)) = (
            word_at(header, offset_at, is_64),
            word_at(header, length_at, is_64),
        ) else {
            return Ok(Program::Other);
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut path = Vec::new();
        file.by_ref()
            .take(length.min(MAX_INTERPRETER_BYTES))
            .read_to_end(&mut path)?;
        let end = path
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(path.len());
        path.truncate(end);
        return Ok(Program::Dynamic {
            machine,
            interpreter: path,
        });
    }
    Ok(Program::Static { machine })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

fn word_at(bytes: &[u8], at: usize, is_64: bool) -> Option<u64> {
    if is_64 {
        bytes
            .get(at..)?
            .first_chunk()
            .copied()
            .map(u64::from_le_bytes)
    } else {
        u32_at(bytes, at).map(u64::from)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use proptest::prelude::{any, proptest};

    use super::*;

    /// A 64-bit ELF file with one program header, and what follows it.
    pub(crate) fn elf64(header_type: u32, content: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        file[18..20].copy_from_slice(&X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&header_type.to_le_bytes());
        file[72..80].copy_from_slice(&120_u64.to_le_bytes());
        file[96..104].copy_from_slice(&u64::try_from(content.len()).unwrap().to_le_bytes());
        file.extend_from_slice(content);
        file
    }

    fn program(bytes: &[u8]) -> Program {
        inspect(&mut Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn programs_are_told_apart() {
        let interpreter = b"/lib64/ld-linux-x86-64.so.2".to_vec();
        let dynamic = elf64(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0rest");
        assert_eq!(
            program(&dynamic),
            Program::Dynamic {
                machine: X86_64,
                interpreter
            }
        );
        assert_eq!(program(&elf64(1, b"")), Program::Static { machine: X86_64 });
        assert_eq!(
            program(b"#! /bin/sh -e\n"),
            Program::Script(b"/bin/sh".to_vec())
        );
        for other in [&b""[..], b"#!", b"\x7fELF", b"text", &dynamic[..80]] {
            assert_eq!(program(other), Program::Other);
        }
    }

    #[test]
    fn a_32_bit_program_is_read_too() {
        let mut file = vec![0; 52 + 32];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1, 1]);
        file[18] = 3;
        file[28] = 52;
        file[42] = 32;
        file[44] = 1;
        file[52] = 3;
        file[56] = 84;
        file[68] = 6;
        file.extend_from_slice(b"/ld.so");
        let interpreter = b"/ld.so".to_vec();
        assert_eq!(
            program(&file),
            Program::Dynamic {
                machine: 3,
                interpreter
            }
        );
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(at in 4..120_usize, bytes in proptest::collection::vec(any::<u8>(), 1..16)) {
            let mut file = elf64(PT_INTERP, b"/ld.so\0");
            let end = file.len().min(at + bytes.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
            inspect(&mut Cursor::new(file)).unwrap();
        }
    }
}
