//! The compressions that an archive can have, behind one function.

use std::io::{self, Write};
use std::num::NonZeroUsize;

use common::build_spec::Compression;

use super::{gzip, zstd};

/// Compresses what `produce` writes as `compression` says, and returns `out`. The bytes do not depend on `threads`.
///
/// # Errors
/// What `produce` returns, or that `out` cannot be written.
pub fn compress<W, E>(
    mut out: W,
    compression: Compression,
    threads: NonZeroUsize,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<W, E>
where
    W: Write + Send,
    E: From<io::Error>,
{
    match compression {
        Compression::Gzip => gzip::compress(out, threads, |input| produce(input)),
        Compression::Zstd => zstd::compress(out, threads, produce),
        Compression::None => {
            produce(&mut out)?;
            Ok(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn each_is_what_it_says() {
        let packed = |compression| {
            compress(Vec::new(), compression, NonZeroUsize::MIN, |input| {
                input.write_all(b"content")
            })
            .unwrap()
        };
        let mut plain = String::new();
        let gzip = packed(Compression::Gzip);
        flate2::read::GzDecoder::new(&gzip[..])
            .read_to_string(&mut plain)
            .unwrap();
        let frame = packed(Compression::Zstd);
        zstd::reader(&frame[..])
            .unwrap()
            .read_to_string(&mut plain)
            .unwrap();
        assert_eq!(plain, "contentcontent");
        assert_eq!(packed(Compression::None), b"content");
    }
}
