//! Reads sections of ELF programs by name: compilers leave there what a program is made of. Only 64-bit little-endian files, as
//! Volant's guests run; believes none of their numbers. Offsets are those of the ELF-64 object file format.

use std::io::{self, Read, Seek, SeekFrom};

use crate::little_endian::{u16_at, u32_at, u64_at};

/// More sections than this are not looked at; programs have about forty, object files with one for each function more.
const MAX_SECTIONS: u16 = 8192;

/// The most that is read of the section names, in bytes.
const MAX_NAMES_BYTES: u64 = 1 << 20;

/// The largest section that is read, in bytes: a program with 1000 modules has 200 KB.
const MAX_SECTION_BYTES: u64 = 16 << 20;

/// Bytes of a section header.
const HEADER_BYTES: usize = 64;

/// Magic, 64-bit, little-endian.
const IDENT: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];

/// The contents of the sections with these names, in their order; nothing for one that is not there, and for a file that is no such
/// program or contradicts itself.
pub(super) fn read<const N: usize>(
    file: &mut (impl Read + Seek),
    names: [&str; N],
) -> io::Result<[Option<Vec<u8>>; N]> {
    match read_sections(file, names) {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([const { None }; N]),
        Err(error) => Err(error),
    }
}

fn read_sections<const N: usize>(
    file: &mut (impl Read + Seek),
    names: [&str; N],
) -> io::Result<[Option<Vec<u8>>; N]> {
    let mut found = [const { None }; N];
    let mut head = [0; 64];
    file.read_exact(&mut head)?;
    if !head.starts_with(&IDENT) {
        return Ok(found);
    }
    // e_shoff, e_shentsize, e_shnum and e_shstrndx.
    let table = u64_at(&head, 40);
    let size = u16_at(&head, 58);
    let count = u16_at(&head, 60).min(MAX_SECTIONS);
    let names_index = usize::from(u16_at(&head, 62));
    if usize::from(size) != HEADER_BYTES || table == 0 {
        return Ok(found);
    }
    let mut headers = vec![0; usize::from(count) * HEADER_BYTES];
    file.seek(SeekFrom::Start(table))?;
    file.read_exact(&mut headers)?;
    let headers: Vec<&[u8]> = headers.chunks(HEADER_BYTES).collect();
    let Some(strings) = headers.get(names_index) else {
        return Ok(found);
    };
    let strings = content(file, strings, MAX_NAMES_BYTES)?;
    for header in headers {
        let name = usize::try_from(u32_at(header, 0)).unwrap_or(usize::MAX);
        let name = strings.get(name..).unwrap_or_default();
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        for (wanted, found) in names.iter().zip(&mut found) {
            if name == wanted.as_bytes() && found.is_none() {
                *found = Some(content(file, header, MAX_SECTION_BYTES)?);
            }
        }
    }
    Ok(found)
}

/// The content of the section with this header, no more than `limit_bytes` of it.
fn content(file: &mut (impl Read + Seek), header: &[u8], limit_bytes: u64) -> io::Result<Vec<u8>> {
    let (offset, size) = (u64_at(header, 24), u64_at(header, 32));
    let mut bytes = Vec::new();
    // A file of the host refuses offsets beyond its signed 64 bits.
    if i64::try_from(offset).is_ok() {
        file.seek(SeekFrom::Start(offset))?;
        file.by_ref()
            .take(size.min(limit_bytes))
            .read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use proptest::prelude::{any, proptest};

    use super::*;

    /// An ELF file with one section of this name and content.
    pub(in crate::sbom) fn elf_with(name: &str, content: &[u8]) -> Vec<u8> {
        let names = [b"\0", name.as_bytes(), b"\0"].concat();
        let names_at = 64 + 2 * HEADER_BYTES;
        let content_at = names_at + names.len();
        let mut file = vec![0; names_at];
        file[..6].copy_from_slice(&IDENT);
        file[40..48].copy_from_slice(&64_u64.to_le_bytes());
        file[58] = 64;
        file[60] = 2;
        let header = |file: &mut Vec<u8>, index: usize, name: u8, at: usize, size: usize| {
            let header = &mut file[64 + index * HEADER_BYTES..];
            header[0] = name;
            header[24..32].copy_from_slice(&u64::try_from(at).unwrap().to_le_bytes());
            header[32..40].copy_from_slice(&u64::try_from(size).unwrap().to_le_bytes());
        };
        header(&mut file, 0, 0, names_at, names.len());
        header(&mut file, 1, 1, content_at, content.len());
        file.extend_from_slice(&names);
        file.extend_from_slice(content);
        file
    }

    #[test]
    fn sections_are_found_by_name() {
        let file = elf_with(".dep-v0", b"content");
        let found = read(&mut Cursor::new(&file), [".other", ".dep-v0"]).unwrap();
        assert_eq!(found, [None, Some(b"content".to_vec())]);
        for other in [&b""[..], b"text", &file[..80], &[0x7f; 100]] {
            let found = read(&mut Cursor::new(other), [".dep-v0"]).unwrap();
            assert_eq!(found, [None]);
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(at in 6..220_usize, bytes in proptest::collection::vec(any::<u8>(), 1..16)) {
            let mut file = elf_with(".dep-v0", b"content");
            let end = file.len().min(at + bytes.len());
            let at = at.min(end);
            file[at..end].copy_from_slice(&bytes[..end - at]);
            read(&mut Cursor::new(file), [".dep-v0"]).unwrap();
        }
    }
}
