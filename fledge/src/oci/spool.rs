//! Makes the plain archive of a layer readable at any place: what is compressed goes into a file without a name, which cannot outlive
//! the program; what is not stays where it is. Both are hashed on the way. Reads no archive.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use common::digest::Digest;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::budget::{Budget, Exhausted};
use crate::image::hashed::Hashed;
use crate::image::zstd;
use crate::tree::{Content, CopyError};

/// How much is read, hashed and written at once, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// A layer that cannot be made readable.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The blob cannot be read.
    #[error("It cannot be read")]
    Read(#[source] io::Error),
    /// The blob is not what its magic says.
    #[error("It cannot be decompressed as {format}")]
    Decompress {
        /// The format.
        format: &'static str,
        /// The digest of all of the blob: it tells whether the blob was damaged or made so.
        blob: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is compressed in another way.
    #[error("It is compressed with {format}; layers are gzip, zstd or plain")]
    Format {
        /// The format.
        format: &'static str,
        /// The digest of all of the blob.
        blob: Digest,
    },
    /// The archive cannot be kept.
    #[error("It cannot be unpacked into a file in `{directory}`")]
    Write {
        /// Where the file without a name is.
        directory: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The user pressed Ctrl-C.
    #[error("Interrupted")]
    Interrupted,
}

impl SpoolError {
    /// The digest of the whole blob, where it was read to its end.
    pub(super) fn blob(&self) -> Option<Digest> {
        match self {
            Self::Decompress { blob, .. } | Self::Format { blob, .. } => Some(*blob),
            Self::Read(_) | Self::Write { .. } | Self::Exhausted(_) | Self::Interrupted => None,
        }
    }
}

/// A plain archive in a file.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    file: Arc<File>,
    offset: u64,
    size_bytes: u64,
}

impl Archive {
    /// Its length.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// A part of it.
    pub(super) fn part(&self, offset: u64, size_bytes: u64) -> Content {
        Content::Part {
            file: Arc::clone(&self.file),
            offset: self.offset.saturating_add(offset),
            size_bytes,
        }
    }

    /// All of it.
    pub(super) fn whole(&self) -> Content {
        self.part(0, self.size_bytes)
    }
}

/// A plain archive, and what it and its blob are.
#[derive(Debug, Clone)]
pub(super) struct Spooled {
    /// The archive.
    pub archive: Archive,
    /// The digest of the blob as it is stored.
    pub blob: Digest,
    /// The digest of the archive, which a config calls `diff_id`.
    pub diff_id: Digest,
}

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    /// In a way that no layer is.
    Other(&'static str),
}

/// Why not all was copied.
enum PumpError {
    /// The input cannot be read, which a damaged stream says too.
    Input(io::Error),
    /// Anything else.
    Other(SpoolError),
}

/// What the work goes by.
#[derive(Clone, Copy)]
pub(super) struct Workplace<'a> {
    /// Where files without a name are made.
    pub directory: &'a Path,
    /// What the image may use up.
    pub budget: &'a Budget,
    /// Whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl std::fmt::Debug for Workplace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workplace")
            .field("directory", &self.directory)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// Makes the archive in `blob` readable.
///
/// # Errors
/// Where the blob is damaged or too large, or there is no room for it.
pub(super) fn spool(blob: &Content, workplace: Workplace<'_>) -> Result<Spooled, SpoolError> {
    let mut reader = blob.open().map_err(SpoolError::Read)?;
    let compression = detect(&mut reader)?;
    if compression == Compression::None {
        let pumped = pump(&mut reader, io::sink(), workplace);
        let (size_bytes, digest) = pumped.map_err(|error| match error {
            PumpError::Input(source) => SpoolError::Read(source),
            PumpError::Other(error) => error,
        })?;
        let archive = plain(blob, workplace)?;
        if archive.size_bytes != size_bytes {
            return Err(SpoolError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        return Ok(Spooled {
            archive,
            blob: digest,
            diff_id: digest,
        });
    }
    let mut hashing = BufReader::with_capacity(BUFFER_BYTES, HashingReader::new(reader));
    let file = anonymous(workplace)?;
    let (format, pumped) = match compression {
        // Several members, one after the other, are one archive: eStargz has one per file.
        Compression::Gzip => {
            let decoder = MultiGzDecoder::new(&mut hashing);
            ("gzip", pump(decoder, &file, workplace))
        }
        Compression::Other(format) => {
            let blob = hash_rest(hashing, workplace)?;
            return Err(SpoolError::Format { format, blob });
        }
        Compression::Zstd | Compression::None => {
            let decoder = zstd::reader(&mut hashing).map_err(PumpError::Input);
            let pumped = decoder.and_then(|decoder| pump(decoder, &file, workplace));
            ("zstd", pumped)
        }
    };
    if let Err(PumpError::Other(error)) = pumped {
        return Err(error);
    }
    // Also of what cannot be decompressed: whoever knows what it should be can tell whether it was damaged.
    let blob = hash_rest(hashing, workplace)?;
    match pumped {
        Ok((size_bytes, diff_id)) => Ok(Spooled {
            archive: Archive {
                file: Arc::new(file),
                offset: 0,
                size_bytes,
            },
            blob,
            diff_id,
        }),
        Err(PumpError::Other(error)) => Err(error),
        Err(PumpError::Input(source)) => Err(SpoolError::Decompress {
            format,
            blob,
            source,
        }),
    }
}

/// Makes an archive readable of which nobody knows a digest.
///
/// # Errors
/// As [`spool`].
pub(super) fn uncompressed(
    archive: &Content,
    workplace: Workplace<'_>,
) -> Result<Archive, SpoolError> {
    let mut reader = archive.open().map_err(SpoolError::Read)?;
    if detect(&mut reader)? == Compression::None {
        plain(archive, workplace)
    } else {
        spool(archive, workplace).map(|spooled| spooled.archive)
    }
}

/// By what the blob begins with; media types are not always right.
fn detect(reader: &mut (impl Read + Seek)) -> Result<Compression, SpoolError> {
    let mut magic = [0; 6];
    let mut filled = 0;
    while filled < magic.len() {
        match reader.read(&mut magic[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SpoolError::Read(error)),
        }
    }
    reader.rewind().map_err(SpoolError::Read)?;
    // gzip: RFC 1952 §2.3.1. zstd: RFC 8878 §3.1, a frame or one to be skipped.
    match magic {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', ..] => Ok(Compression::Other("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Ok(Compression::Other("xz")),
        _ => Ok(Compression::None),
    }
}

/// Reads what is left of a blob, and returns the digest of all of it.
fn hash_rest<R: Read>(
    mut hashing: BufReader<HashingReader<R>>,
    workplace: Workplace<'_>,
) -> Result<Digest, SpoolError> {
    loop {
        if (workplace.stop)() {
            return Err(SpoolError::Interrupted);
        }
        // What is in the buffer was hashed when it got there.
        let length = hashing.fill_buf().map_err(SpoolError::Read)?.len();
        if length == 0 {
            return Ok(hashing.into_inner().finish());
        }
        hashing.consume(length);
    }
}

/// Copies all of `input`, and returns its length and digest.
fn pump(
    mut input: impl Read,
    out: impl Write,
    workplace: Workplace<'_>,
) -> Result<(u64, Digest), PumpError> {
    let mut out = Hashed::new(out);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(PumpError::Input(source)),
            }
        }
        if filled == 0 {
            let size_bytes = out.bytes();
            return Ok((size_bytes, out.finish().1));
        }
        if (workplace.stop)() {
            return Err(PumpError::Other(SpoolError::Interrupted));
        }
        let taken = workplace.budget.take_unpacked(filled);
        taken.map_err(|error| PumpError::Other(error.into()))?;
        out.write_all(&buffer[..filled])
            .map_err(|source| PumpError::Other(write_error(workplace, source)))?;
    }
}

/// The archive of a blob that is not compressed, where it is.
fn plain(blob: &Content, workplace: Workplace<'_>) -> Result<Archive, SpoolError> {
    let (file, offset) = match blob {
        Content::Part { file, offset, .. } => (Arc::clone(file), *offset),
        Content::Host { path, .. } => {
            let file = fs_err::File::open(path).map_err(SpoolError::Read)?;
            (Arc::new(file.into_file()), 0)
        }
        Content::Bytes(_) | Content::Assembled(_) => {
            let mut file = anonymous(workplace)?;
            blob.copy_to(&mut file).map_err(|error| match error {
                CopyError::Read(source) => SpoolError::Read(source),
                CopyError::Changed => SpoolError::Read(io::ErrorKind::UnexpectedEof.into()),
                CopyError::Write(source) => write_error(workplace, source),
            })?;
            (Arc::new(file), 0)
        }
    };
    Ok(Archive {
        file,
        offset,
        size_bytes: blob.size_bytes(),
    })
}

fn anonymous(workplace: Workplace<'_>) -> Result<File, SpoolError> {
    fs_err::create_dir_all(workplace.directory)
        .and_then(|()| tempfile::tempfile_in(workplace.directory))
        .map_err(|source| write_error(workplace, source))
}

fn write_error(workplace: Workplace<'_>, source: io::Error) -> SpoolError {
    SpoolError::Write {
        directory: workplace.directory.display().to_string(),
        source,
    }
}

/// A reader that hashes what is read.
struct HashingReader<R> {
    inner: R,
    hash: Sha256,
}

impl<R> HashingReader<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(self.hash.finalize().into())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use ::zstd::encode_all;

    use super::*;

    fn spooled(blob: &[u8]) -> Result<(Vec<u8>, Spooled), SpoolError> {
        let directory = tempfile::tempdir().unwrap();
        let budget = Budget::with_unpacked_bytes(1 << 20);
        let workplace = Workplace {
            directory: directory.path(),
            budget: &budget,
            stop: &|| false,
        };
        let spooled = spool(&Content::Bytes(blob.to_vec()), workplace)?;
        let mut bytes = Vec::new();
        spooled.archive.whole().copy_to(&mut bytes).unwrap();
        // What is unpacked has no name.
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
        Ok((bytes, spooled))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_gives_the_same_archive() {
        let plain = b"some archive".repeat(1000);
        let (first, second) = plain.split_at(700);
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2][..]];
        for blob in [
            plain.clone(),
            gzip(&plain),
            [gzip(first), gzip(second)].concat(),
            encode_all(&plain[..], 3).unwrap(),
            [
                skippable.concat(),
                encode_all(first, 1).unwrap(),
                encode_all(second, 1).unwrap(),
            ]
            .concat(),
        ] {
            let (bytes, spooled) = spooled(&blob).unwrap();
            assert_eq!(bytes, plain);
            assert_eq!(spooled.diff_id, Digest::of(&plain));
            assert_eq!(spooled.blob, Digest::of(&blob));
        }
    }

    #[test]
    fn damaged_and_hostile_blobs_are_refused() {
        let zeros = vec![0; (1 << 20) + 1];
        let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
        let table = [
            (half(gzip(b"some archive, cut")), "decompressed as gzip"),
            (
                half(encode_all(&b"some archive"[..], 1).unwrap()),
                "decompressed as zstd",
            ),
            (b"BZh91AY".to_vec(), "compressed with bzip2"),
            (b"\xfd7zXZ\0".to_vec(), "compressed with xz"),
            (gzip(&zeros), "bytes when they are unpacked"),
            (encode_all(&zeros[..], 1).unwrap(), "bytes when they"),
            (zeros.clone(), "bytes when they are unpacked"),
        ];
        for (blob, expected) in table {
            let error = spooled(&blob).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(expected), "{message}");
            if let Some(found) = error.blob() {
                assert_eq!(found, Digest::of(&blob), "{message}");
            }
        }
        // What lies behind the damage is part of the blob as well.
        let mut damaged = gzip(
            &(0..200_000_u32)
                .flat_map(u32::to_le_bytes)
                .collect::<Vec<_>>(),
        );
        damaged[40..80].fill(0xff);
        assert!(damaged.len() > 2 * BUFFER_BYTES, "{}", damaged.len());
        let found = spooled(&damaged).unwrap_err().blob();
        assert_eq!(found, Some(Digest::of(&damaged)));
    }

    #[test]
    fn it_stops_when_asked() {
        let budget = Budget::default();
        let workplace = Workplace {
            directory: Path::new("/nonexistent"),
            budget: &budget,
            stop: &|| true,
        };
        let blob = Content::Bytes(b"x".to_vec());
        assert!(matches!(
            spool(&blob, workplace),
            Err(SpoolError::Interrupted)
        ));
    }
}
