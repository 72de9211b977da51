//! Tells whether a program is static, from its ELF program headers. It knows 64-bit little-endian files only, the ones
//! that Volant makes and runs, and nothing of sections or symbols.

use anyhow::{Result, bail};

/// Bytes of the file header, and of one program header, as the ELF-64 format has them.
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// The program header that names the dynamic linker; only a program that needs one has it.
const PT_INTERP: u32 = 3;
/// 64-bit, little-endian, version 1.
const IDENTITY: &[u8] = b"\x7fELF\x02\x01\x01";

/// Returns the dynamic linker that a program asks for, `None` if it is static.
///
/// # Errors
/// When the file is not a 64-bit little-endian ELF file, or ends early.
pub(crate) fn interpreter(file: &[u8]) -> Result<Option<String>> {
    if file.len() < HEADER_BYTES || !file.starts_with(IDENTITY) {
        bail!("Not a 64-bit little-endian ELF file");
    }
    let table = usize::try_from(number(file, 32, 8)?)?;
    let size = usize::try_from(number(file, 54, 2)?)?;
    let count = usize::try_from(number(file, 56, 2)?)?;
    if size < PROGRAM_HEADER_BYTES && count > 0 {
        bail!("The program headers are {size} bytes long, which no ELF-64 file has");
    }
    for index in 0..count {
        let header = index
            .checked_mul(size)
            .and_then(|offset| offset.checked_add(table))
            .unwrap_or(usize::MAX);
        if number(file, header, 4)? == u64::from(PT_INTERP) {
            let offset = usize::try_from(number(file, header.saturating_add(8), 8)?)?;
            let length = usize::try_from(number(file, header.saturating_add(32), 8)?)?;
            let name = bytes(file, offset, length)?;
            let name = String::from_utf8_lossy(name);
            return Ok(Some(name.trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

fn number(file: &[u8], offset: usize, length: usize) -> Result<u64> {
    let mut value = 0;
    for byte in bytes(file, offset, length)?.iter().rev() {
        value = value << 8 | u64::from(*byte);
    }
    Ok(value)
}

fn bytes(file: &[u8], offset: usize, length: usize) -> Result<&[u8]> {
    let end = offset.checked_add(length);
    match end.and_then(|end| file.get(offset..end)) {
        Some(bytes) => Ok(bytes),
        None => bail!("The ELF file ends before byte {offset} + {length}"),
    }
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    /// A file of one program header of the given kind, pointing at `name` behind it.
    fn elf(kind: u8, name: &[u8]) -> Vec<u8> {
        let mut file = vec![0; HEADER_BYTES + PROGRAM_HEADER_BYTES];
        file[..IDENTITY.len()].copy_from_slice(IDENTITY);
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = kind;
        file[64 + 8] = 64 + 56;
        file[64 + 32] = u8::try_from(name.len()).unwrap();
        file.extend_from_slice(name);
        file
    }

    #[test]
    fn the_interpreter_is_named() {
        let file = elf(3, b"/lib64/ld-linux-x86-64.so.2\0");
        assert_eq!(
            interpreter(&file).unwrap().as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(interpreter(&elf(1, b"code")).unwrap(), None);
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let file = elf(3, b"/lib64/ld-linux-x86-64.so.2\0");
        for length in 0..file.len() {
            assert!(interpreter(&file[..length]).is_err(), "{length} bytes");
        }
        assert!(interpreter(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn offsets_beyond_every_file_are_refused() {
        let mut file = elf(3, b"/lib");
        file[32..40].fill(0xff);
        assert!(interpreter(&file).is_err());
    }

    #[test]
    fn this_test_itself_is_dynamic() {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(interpreter(&program).unwrap().is_some());
    }
}
