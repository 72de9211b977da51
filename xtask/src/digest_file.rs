//! SHA-256 of files too large to hold in memory. Formatting and comparing is left to the caller.

use std::io::Read as _;
use std::path::Path;

use anyhow::Result;
use fs_err as fs;
use sha2::{Digest as _, Sha256};

/// One read; large enough that the hashing dominates.
const CHUNK_BYTES: usize = 1 << 20;

/// Returns the SHA-256 of a file's content as 64 lower-case hexadecimal digits.
pub(crate) fn sha256_hex(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = file.read(&mut chunk)?;
        let Some(read) = chunk.get(..length).filter(|read| !read.is_empty()) else {
            return Ok(hex::encode(hasher.finalize()));
        };
        hasher.update(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_longer_than_one_chunk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zeros");
        fs::write(&path, vec![0; CHUNK_BYTES + 1]).unwrap();
        assert_eq!(
            sha256_hex(&path).unwrap(),
            hex::encode(Sha256::digest(vec![0; CHUNK_BYTES + 1]))
        );
    }
}
