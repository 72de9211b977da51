//! What the blocks of a tar archive say: headers and the records of extended ones. Reads no archive: layers of images and archives that
//! are downloaded are read by those who know what is to become of them.

mod header;
mod pax;

pub(crate) use header::{BLOCK_BYTES, Header};
pub(crate) use pax::Records;
