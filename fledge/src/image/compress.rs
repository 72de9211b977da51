//! temporary
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;

use common::build_spec::Compression;

use super::{WriteError, gzip};

pub fn compress<W: Write + Send>(
    out: W,
    compression: Compression,
    threads: NonZeroUsize,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), WriteError>,
) -> Result<W, WriteError> {
    let _ = compression;
    gzip::compress(out, threads, |input| fill(input))
}
