//! Whether a file is a kernel that both VMMs can boot: an ELF file with a PVH entry. Reads headers only, and believes none of them.

use std::io::{self, Read as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Program header type of notes (ELF specification).
const PT_NOTE: u32 = 4;

/// Machine number of x86-64 (ELF specification).
const EM_X86_64: u16 = 62;

/// The note that holds the PVH entry point: `XEN_ELFNOTE_PHYS32_ENTRY` (include/xen/interface/elfnote.h), owner `Xen`.
const PVH_NOTE: u32 = 18;

/// More program headers than this are not looked at; a kernel has about five.
const MAX_PROGRAM_HEADERS: u16 = 64;

/// The largest segment of notes that is read, in bytes; a kernel's has a few hundred.
const MAX_NOTE_BYTES: u64 = 64 * 1024;

/// A kernel that cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is none.
    #[error("The guest kernel `{}` is missing", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("Cannot read the guest kernel `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("`{}` is not a kernel that can be booted: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// A clause.
        why: &'static str,
    },
}

/// Checks the kernel at `path`.
pub(super) fn check(path: &Path) -> Result<(), KernelError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KernelError::Missing {
            path: path.to_path_buf(),
        },
        _ => KernelError::Read {
            path: path.to_path_buf(),
            source,
        },
    };
    let unusable = |why| KernelError::Unusable {
        path: path.to_path_buf(),
        why,
    };
    if !fs_err::metadata(path).map_err(failed)?.is_file() {
        return Err(unusable("it is not a regular file"));
    }
    let mut file = fs_err::File::open(path).map_err(failed)?;
    match inspect(&mut file) {
        Ok(Verdict::Bootable) => Ok(()),
        Ok(Verdict::NoElf) => Err(unusable(
            "it is not an uncompressed 64-bit x86 ELF file (`vmlinux`, not `bzImage`)",
        )),
        Ok(Verdict::NoPvhEntry) => Err(unusable(
            "it has no PVH entry (it was built without CONFIG_PVH)",
        )),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(unusable("it is cut off"))
        }
        Err(error) => Err(failed(error)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Bootable,
    NoElf,
    NoPvhEntry,
}

fn inspect(file: &mut (impl io::Read + io::Seek)) -> io::Result<Verdict> {
    let mut header = [0; 64];
    let length = read_up_to(file, &mut header)?;
    // Magic, 64 bits, little-endian.
    if length < header.len()
        || !header.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1])
        || u16_at(&header, 18) != EM_X86_64
    {
        return Ok(Verdict::NoElf);
    }
    let (table, size, count) = (
        u64_at(&header, 32),
        u16_at(&header, 54),
        u16_at(&header, 56),
    );
    for index in 0..count.min(MAX_PROGRAM_HEADERS) {
        let Some(at) = table.checked_add(u64::from(index) * u64::from(size)) else {
            return Ok(Verdict::NoPvhEntry);
        };
        let mut segment = [0; 56];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut segment)?;
        if u32_at(&segment, 0) != PT_NOTE {
            continue;
        }
        let (offset, bytes) = (u64_at(&segment, 8), u64_at(&segment, 32));
        let mut notes = Vec::new();
        file.seek(SeekFrom::Start(offset))?;
        file.take(bytes.min(MAX_NOTE_BYTES))
            .read_to_end(&mut notes)?;
        if has_pvh_note(&notes) {
            return Ok(Verdict::Bootable);
        }
    }
    Ok(Verdict::NoPvhEntry)
}

/// Notes are length of the name, length of the content, type, name, content; name and content are padded to four bytes.
fn has_pvh_note(mut notes: &[u8]) -> bool {
    while let Some((head, rest)) = notes.split_at_checked(12) {
        let (name_bytes, content_bytes, kind) = (u32_at(head, 0), u32_at(head, 4), u32_at(head, 8));
        let padded = |bytes: u32| {
            usize::try_from(u64::from(bytes).next_multiple_of(4)).unwrap_or(usize::MAX)
        };
        if kind == PVH_NOTE && rest.starts_with(b"Xen\0") && name_bytes == 4 {
            return true;
        }
        let next = padded(name_bytes).checked_add(padded(content_bytes));
        match next.and_then(|next| rest.get(next..)) {
            Some(next) => notes = next,
            None => return false,
        }
    }
    false
}

fn read_up_to(file: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

// Positions are constants within buffers of known size: what is not there reads as 0.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    /// The smallest file that passes: a header, one segment of notes, an unrelated note and the one that counts.
    pub(crate) fn kernel() -> Vec<u8> {
        let note = |kind: u32, name: &[u8], content: &[u8]| {
            let mut note = Vec::new();
            for number in [name.len(), content.len()] {
                note.extend_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
            }
            note.extend_from_slice(&kind.to_le_bytes());
            for part in [name, content] {
                note.extend_from_slice(part);
                note.resize(note.len().next_multiple_of(4), 0);
            }
            note
        };
        let notes = [
            note(6, b"Xen\0", b"linux"),
            note(PVH_NOTE, b"Xen\0", &[0; 8]),
        ]
        .concat();
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        file[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&PT_NOTE.to_le_bytes());
        file[72..80].copy_from_slice(&120_u64.to_le_bytes());
        file[96..104].copy_from_slice(&u64::try_from(notes.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&notes);
        file
    }

    fn refusal(content: &[u8]) -> String {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("vmlinux");
        fs_err::write(&path, content).unwrap();
        check(&path).unwrap_err().to_string()
    }

    #[test]
    fn a_pvh_kernel_passes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("vmlinux");
        fs_err::write(&path, kernel()).unwrap();
        check(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_booted_is_told_apart() {
        let mut without_note = kernel();
        without_note[120 + 12 + 4 + 8 + 8] = 17;
        assert!(
            refusal(&without_note).contains("CONFIG_PVH"),
            "{}",
            refusal(&without_note)
        );
        assert!(refusal(b"").contains("not an uncompressed"));
        assert!(refusal(&[0x4d; 100]).contains("bzImage"));
        assert!(refusal(&kernel()[..100]).contains("cut off"));
        let missing = check(Path::new("/nonexistent/vmlinux")).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "The guest kernel `/nonexistent/vmlinux` is missing"
        );
        assert!(
            check(Path::new("/"))
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(at in 0..200_usize, bytes in proptest::collection::vec(any::<u8>(), 1..16)) {
            let mut file = kernel();
            let end = file.len().min(at + bytes.len());
            let at = at.min(end);
            file[at..end].copy_from_slice(&bytes[..end - at]);
            drop(inspect(&mut io::Cursor::new(file)));
        }
    }
}
