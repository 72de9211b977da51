//! Where the contents of an archive go while it is looked at: one file after the other in a file that has no name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::tree::Content;

/// How much is copied at once, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// A file that contents are appended to.
#[derive(Debug)]
pub struct Spool {
    file: Arc<File>,
    end: u64,
    buffer: Vec<u8>,
}

impl Spool {
    /// Takes an empty file that nobody else writes to; one without a name vanishes with the last content.
    pub fn new(file: File) -> Self {
        Self {
            file: Arc::new(file),
            end: 0,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Appends all that `reader` gives.
    ///
    /// # Errors
    /// The first of reading and writing.
    pub fn keep(&mut self, reader: &mut dyn Read) -> io::Result<Content> {
        let offset = self.end;
        loop {
            let count = match reader.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.file.write_all_at(&self.buffer[..count], self.end)?;
            self.end += u64::try_from(count).unwrap_or(0);
        }
        Ok(Content::Part {
            file: Arc::clone(&self.file),
            offset,
            size_bytes: self.end - offset,
        })
    }
}
