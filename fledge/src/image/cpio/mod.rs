//! The cpio format `newc`, as Linux unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst): a writer, and a reader
//! that trusts nothing. Neither touches a file system, and neither knows of compression.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Entry, Kind, Limits, ReadError, Summary, read_entries};
pub use writer::{Inode, MAX_FILE_BYTES, Writer};

/// What every header begins with.
const MAGIC: &[u8; 6] = b"070701";

/// Magic and 13 numbers of eight hexadecimal digits.
const HEADER_BYTES: usize = 6 + 13 * 8;

/// The name of the entry that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";

/// The longest name with its NUL, in bytes: Linux skips entries with longer ones (`PATH_MAX`).
const MAX_NAME_BYTES: usize = 4096;

/// File types in the upper bits of a mode (stat(2)).
const TYPE_MASK: u32 = 0o170_000;
const TYPE_SOCKET: u32 = 0o140_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_BLOCK_DEVICE: u32 = 0o060_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const TYPE_FIFO: u32 = 0o010_000;

/// How many NULs follow something that ends at `end`, so that the next begins at a multiple of four.
fn padding(end: u64) -> usize {
    usize::try_from(end.wrapping_neg() % 4).unwrap_or(0)
}
