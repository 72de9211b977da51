//! Unpacks one block. How long it may become is known before, so that a bomb is noticed.

use std::io::{self, Read};

use flate2::bufread::ZlibDecoder;
use lzma_rust2::XzReader;

/// The most memory that xz may take, in KiB: its dictionary is no larger than a block, of 1 MiB at most.
const MAX_XZ_KIB: u32 = 16 * 1024;

/// How an image is compressed (`ZLIB_COMPRESSION` and so on). What others call gzip is zlib.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Xz,
    Zstd,
}

impl Compression {
    /// What is in `packed`, of at most `limit` bytes.
    pub(super) fn unpack(self, packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Zlib => bounded(ZlibDecoder::new(packed), limit),
            Self::Xz => bounded(XzReader::new_mem_limit(packed, false, MAX_XZ_KIB), limit),
            Self::Zstd => zstd::bulk::decompress(packed, limit),
        }
    }
}

fn bounded(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(more).read_to_end(&mut plain)?;
    if plain.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "A block is larger than it may be",
        ));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_bomb_is_refused() {
        let plain = vec![7; 8192];
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        let zlib = encoder.finish().unwrap();
        let zstd = zstd::bulk::compress(&plain, 3).unwrap();
        for (compression, packed) in [(Compression::Zlib, zlib), (Compression::Zstd, zstd)] {
            assert_eq!(compression.unpack(&packed, 8192).unwrap(), plain);
            for (packed, limit) in [(&packed[..], 8191), (&packed[..packed.len() / 2], 8192)] {
                assert!(
                    compression.unpack(packed, limit).is_err(),
                    "{compression:?}"
                );
            }
        }
        assert!(Compression::Xz.unpack(b"no xz", 8192).is_err());
    }
}
