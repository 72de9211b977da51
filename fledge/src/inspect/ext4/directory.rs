//! The names in a directory, block by block. An index says nothing more: to those who know none, its blocks are unused entries.
//! Source: Linux `fs/ext4/ext4.h`, `struct ext4_dir_entry_2`.

use crate::inspect::walk::{Flaw, damaged};
use crate::little_endian::{u16_at, u32_at};

/// The length of an entry without its name, in bytes.
const HEADER_LEN: usize = 8;

/// Names and inodes, without the directory itself and the one above.
pub(super) fn entries(data: &[u8], block_len: usize) -> Result<Vec<(Vec<u8>, u64)>, Flaw> {
    let bad = || damaged("is a damaged directory");
    let mut found = Vec::new();
    for mut rest in data.chunks(block_len) {
        while !rest.is_empty() {
            let length = usize::from(u16_at(rest, 4));
            let name_length = rest.get(6).copied().map(usize::from).ok_or_else(bad)?;
            if length < HEADER_LEN + name_length || !length.is_multiple_of(4) {
                return Err(bad());
            }
            let (entry, after) = rest.split_at_checked(length).ok_or_else(bad)?;
            rest = after;
            let name = &entry[HEADER_LEN..HEADER_LEN + name_length];
            let inode = u32_at(entry, 0);
            // Unused room has none, and so has the checksum at the end.
            if inode != 0 && name != b"." && name != b".." {
                found.push((name.to_vec(), inode.into()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(inode: u32, length: u16, name: &[u8]) -> Vec<u8> {
        let mut entry = vec![0; usize::from(length)];
        entry[..4].copy_from_slice(&inode.to_le_bytes());
        entry[4..6].copy_from_slice(&length.to_le_bytes());
        entry[6] = u8::try_from(name.len()).unwrap();
        entry[8..8 + name.len()].copy_from_slice(name);
        entry
    }

    #[test]
    fn unused_entries_are_passed_over() {
        let blocks = [
            entry(2, 12, b"."),
            entry(2, 12, b".."),
            entry(11, 40, b"a"),
            entry(0, 64, b"deleted"),
            entry(12, 128, b"b"),
        ];
        let found = entries(&blocks.concat(), 128).unwrap();
        assert_eq!(found, [(b"a".to_vec(), 11), (b"b".to_vec(), 12)]);
    }

    #[test]
    fn damage_is_refused() {
        let too_long = entry(11, 64, b"a");
        for block in [
            vec![0; 64],
            vec![1; 64],
            too_long[..60].to_vec(),
            vec![0; 3],
        ] {
            assert!(entries(&block, 64).is_err(), "{block:?}");
        }
        let mut name = entry(11, 12, b"a");
        name[6] = 5;
        assert!(entries(&name, 64).is_err());
    }
}
