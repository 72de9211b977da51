//! Reads artifacts back: as a tree, whatever their format. Changes nothing, and believes nothing that an artifact says of itself.

#[cfg(feature = "cli")]
mod artifact;
pub mod cpio;
#[cfg(feature = "cli")]
pub mod differences;
#[cfg(feature = "cli")]
pub mod erofs;
#[cfg(feature = "cli")]
pub mod ext4;
#[cfg(feature = "cli")]
pub mod listing;
#[cfg(feature = "cli")]
mod pieces;
#[cfg(feature = "cli")]
pub mod report;
mod spool;
#[cfg(feature = "cli")]
pub mod squashfs;
#[cfg(feature = "cli")]
mod walk;

#[cfg(feature = "cli")]
pub use artifact::{Artifact, Format, InspectError, Packing, read};
pub use spool::Spool;
#[cfg(feature = "cli")]
pub use walk::{Flaw, ImageError};

#[cfg(feature = "cli")]
#[cfg(test)]
mod tests;
