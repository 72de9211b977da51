//! Image formats and what they are made of. Each format is written from a [`crate::tree::Tree`]; none touches the network.

pub mod compression;
pub mod cpio;
pub mod deflate;
pub mod elf;
pub mod erofs;
pub mod ext4;
pub mod gzip;
pub mod hashed;
pub mod initramfs;
mod parallel;
pub mod squashfs;
#[cfg(test)]
pub(crate) mod testing;
mod write_error;
pub mod zstd;

pub use write_error::WriteError;
