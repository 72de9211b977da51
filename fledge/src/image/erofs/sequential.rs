//! Writes to something that cannot be rewound, and knows where it is.

use std::io::{self, BufWriter, Write};

use crate::image::WriteError;

/// How much is written at once, in bytes: large enough that the system calls of small files do not count.
const BUFFER_BYTES: usize = 512 * 1024;

/// A buffered writer with a position.
#[derive(Debug)]
pub(super) struct Sequential<W: Write> {
    out: BufWriter<W>,
    position: u64,
}

impl<W: Write> Sequential<W> {
    /// Begins at 0.
    pub(super) fn new(out: W) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            position: 0,
        }
    }

    /// How many bytes were written.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Writes zeros up to `position`.
    pub(super) fn fill_to(&mut self, position: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        debug_assert!(
            self.position <= position,
            "something is longer than planned"
        );
        while self.position < position {
            let left = usize::try_from(position - self.position).unwrap_or(ZEROS.len());
            self.write_all(&ZEROS[..left.min(ZEROS.len())])?;
        }
        Ok(())
    }

    /// Ends it, and returns what is below.
    pub(super) fn finish(self) -> Result<W, WriteError> {
        self.out
            .into_inner()
            .map_err(|error| WriteError::Output(error.into_error()))
    }
}

impl<W: Write> Write for Sequential<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.position += u64::try_from(written).unwrap_or(u64::MAX);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
