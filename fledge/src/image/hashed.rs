//! Hashes what passes through to a writer. Does not compare: callers know what they expect.

use std::io::{self, Write};

use common::digest::Digest;
use sha2::{Digest as _, Sha256};

/// A writer that remembers the SHA-256 and the number of the bytes written.
#[derive(Debug)]
pub struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    /// Hashes what is written to `inner` from now on.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// How many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The writer, and the digest of all that was written.
    pub fn finish(self) -> (W, Digest) {
        (self.inner, Digest::from_bytes(self.hash.finalize().into()))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += u64::try_from(written).unwrap_or(u64::MAX);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_hashed() {
        let mut writer = Hashed::new(Vec::new());
        writer.write_all(b"ab").unwrap();
        writer.write_all(b"c").unwrap();
        assert_eq!(writer.bytes(), 3);
        assert_eq!(writer.finish(), (b"abc".to_vec(), Digest::of(b"abc")));
    }
}
