//! Prepared images: for each artifact the same archive, checked and unpacked. Blocks; knows nothing of VMs.

use std::collections::HashSet;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use common::digest::Digest;
use flate2::bufread::GzDecoder;
use fledge::image::cpio::{Entry, Kind, Limits, ReadError, read_entries};
use fledge::image::zstd;
use uuid::Uuid;

/// The largest unpacked image unless configured otherwise, in bytes. It is unpacked into a guest's memory three times over, so more
/// than this is a mistake or an attack.
pub const MAX_IMAGE_BYTES: u64 = 4 << 30;

/// The most entries of an image: far above any root file system (a Debian desktop has half of it).
const MAX_ENTRIES: u64 = 1_000_000;

/// How much is read and written at once, in bytes: large enough that the system calls do not count.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where unfinished images are.
const PARTIAL: &str = ".partial";

/// Formats that are not read, by what their files begin with, so that a refusal can name them.
const OTHER_FORMATS: [(&[u8], &str); 7] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"hsqs", "squashfs"),
    (b"070707", "the old cpio format"),
];

/// An artifact that cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Empty, or nothing that is known.
    #[error(
        "It is neither a cpio archive of format newc nor one that is compressed with gzip or zstd"
    )]
    Unknown,
    /// A format that Linux or others know, and we do not read.
    #[error("It is {format}, not a cpio archive that is compressed with gzip, zstd or not at all")]
    OtherFormat {
        /// The format's name.
        format: &'static str,
    },
    /// Broken compression, or something else behind it.
    #[error("Its {format} data is broken")]
    Compression {
        /// The compression's name.
        format: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not an archive, cut off, too large, or something else behind it.
    #[error("Its archive is refused")]
    Archive(#[source] ReadError),
    /// Nothing to run.
    #[error("It has no `/init`, which the kernel would run")]
    NoInit,
    /// `/init` is there and cannot be run.
    #[error("Its `/init` {why}, so the kernel could not run it")]
    BadInit {
        /// A clause.
        why: &'static str,
    },
    /// The artifact cannot be read.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image cannot be written or removed.
    #[error("Cannot write in `{}`", folder.display())]
    Write {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The folder of all images.
#[derive(Debug)]
pub(super) struct Images {
    folder: PathBuf,
    limits: Limits,
}

impl Images {
    /// Makes the folder if needed, and removes unfinished images.
    pub(super) fn open(folder: &Path, max_bytes: u64) -> Result<Self, ImageError> {
        let limits = Limits {
            entries: MAX_ENTRIES,
            bytes: max_bytes,
        };
        let images = Self {
            folder: folder.to_path_buf(),
            limits,
        };
        let partial = folder.join(PARTIAL);
        let made = match fs_err::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => fs_err::create_dir_all(&partial),
        };
        made.map_err(|source| images.unwritten(source))?;
        Ok(images)
    }

    pub(super) fn path_of(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.cpio", digest.to_hex()))
    }

    /// The image of the artifact in `file`; made if it is not there. On error nothing is left.
    pub(super) fn ensure(&self, file: &Path, digest: &Digest) -> Result<PathBuf, ImageError> {
        let path = self.path_of(digest);
        // A name appears only when the whole image is on the disk.
        if fs_err::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            return Ok(path);
        }
        let partial = self
            .folder
            .join(PARTIAL)
            .join(Uuid::now_v7().simple().to_string());
        let prepared = self.unpack(file, &partial).and_then(|()| {
            fs_err::rename(&partial, &path).map_err(|source| self.unwritten(source))
        });
        if prepared.is_err() {
            drop(fs_err::remove_file(&partial));
        }
        prepared.map(|()| path)
    }

    /// The image of the artifact in `file`, made anew unless it is byte for byte what the artifact unpacks to.
    pub(super) fn ensure_same(&self, file: &Path, digest: &Digest) -> Result<PathBuf, ImageError> {
        let path = self.path_of(digest);
        let is_there = fs_err::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        if is_there && !is_unpacked(&path, file)? {
            tracing::warn!(%digest, "an image was changed: it is prepared anew");
            fs_err::remove_file(&path).map_err(|source| self.unwritten(source))?;
        }
        self.ensure(file, digest)
    }

    fn unpack(&self, file: &Path, target: &Path) -> Result<(), ImageError> {
        let unread = |source| ImageError::Read {
            path: file.to_path_buf(),
            source,
        };
        let source = open_artifact(file)?;
        let format = source.format();
        let out = fs_err::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(target);
        let mut tee = Tee {
            source,
            out: out.map_err(|source| self.unwritten(source))?,
            failure: None,
        };
        let mut init = None;
        let read = read_entries(
            BufReader::with_capacity(BUFFER_BYTES, &mut tee),
            &self.limits,
            |entry, _| {
                // Later entries replace earlier ones, as in the kernel.
                if entry.path == b"init" {
                    init = Some(entry.clone());
                }
                Ok::<_, ReadError>(())
            },
        );
        if let Some(source) = tee.failure {
            return Err(self.unwritten(source));
        }
        match read {
            Ok(_) => {}
            // What the decompressor says is about the compression; what the disk says is not about the artifact.
            Err(ReadError::Input(source)) if is_about_content(&source, format) => {
                return Err(ImageError::Compression { format, source });
            }
            Err(ReadError::Input(source)) => return Err(unread(source)),
            Err(error) => return Err(ImageError::Archive(error)),
        }
        check_init(init.as_ref())?;
        tee.out.sync_all().map_err(|source| self.unwritten(source))
    }

    /// Removes the images of all digests but `keep`; answers which.
    pub(super) fn collect_garbage(
        &self,
        keep: &HashSet<Digest>,
    ) -> Result<Vec<Digest>, ImageError> {
        let mut removed = Vec::new();
        for entry in fs_err::read_dir(&self.folder).map_err(|source| self.unwritten(source))? {
            let entry = entry.map_err(|source| self.unwritten(source))?;
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|name| name.strip_suffix(".cpio"))
                .and_then(|hex| hex.parse::<Digest>().ok());
            if let Some(digest) = digest.filter(|digest| !keep.contains(digest)) {
                fs_err::remove_file(entry.path()).map_err(|source| self.unwritten(source))?;
                removed.push(digest);
            }
        }
        removed.sort();
        Ok(removed)
    }

    fn unwritten(&self, source: io::Error) -> ImageError {
        ImageError::Write {
            folder: self.folder.clone(),
            source,
        }
    }
}

/// Opens an artifact and finds out how it is compressed.
fn open_artifact(file: &Path) -> Result<Source, ImageError> {
    let unread = |source| ImageError::Read {
        path: file.to_path_buf(),
        source,
    };
    let artifact = fs_err::File::open(file).map_err(unread)?;
    let artifact = BufReader::with_capacity(BUFFER_BYTES, artifact.into_file());
    Source::new(artifact).map_err(|refusal| match refusal {
        Refusal::Format(error) => error,
        Refusal::Read(source) => unread(source),
    })
}

/// Whether the file at `image` is what the artifact in `file` unpacks to. An artifact that does not unpack is an image's original never.
fn is_unpacked(image: &Path, file: &Path) -> Result<bool, ImageError> {
    let unread = |path: &Path, source| ImageError::Read {
        path: path.to_path_buf(),
        source,
    };
    let mut artifact = open_artifact(file)?;
    let format = artifact.format();
    let mut image_file = fs_err::File::open(image).map_err(|source| unread(image, source))?;
    let (mut expected, mut found) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let count = match artifact.read(&mut expected) {
            Ok(count) => count,
            Err(error) if is_about_content(&error, format) => {
                return Err(ImageError::Compression {
                    format,
                    source: error,
                });
            }
            Err(error) => return Err(unread(file, error)),
        };
        // At the end one byte more, which must not be there.
        let room = count.max(1);
        match image_file.read_exact(&mut found[..room]) {
            Ok(()) if count == 0 => return Ok(false),
            Ok(()) if found[..count] != expected[..count] => return Ok(false),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(count == 0),
            Err(error) => return Err(unread(image, error)),
        }
    }
}

/// What flate2 and [`Members`] use for broken data, and the file system does not. The library of zstd has one kind for everything; a
/// disk that cannot be read gives its errors a number.
fn is_about_content(error: &io::Error, format: &str) -> bool {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => true,
        _ => format == ZSTD && error.raw_os_error().is_none(),
    }
}

fn check_init(init: Option<&Entry>) -> Result<(), ImageError> {
    let init = init.ok_or(ImageError::NoInit)?;
    let bad = |why| Err(ImageError::BadInit { why });
    match init.kind {
        // The content of hard links may be at another of their names.
        Kind::File if init.size_bytes == 0 && init.links < 2 => bad("is empty"),
        Kind::File if init.permissions & 0o111 == 0 => bad("is not executable"),
        // Where a link leads is not followed: the agent's own path is the usual target, and the kernel says what is missing.
        Kind::File | Kind::Symlink { .. } => Ok(()),
        Kind::Directory | Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket => {
            bad("is no file")
        }
    }
}

/// The gzip magic, RFC 1952 §2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

type Artifact = BufReader<std::fs::File>;

/// The zstd magic, RFC 8878 §3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What zstd is called in messages.
const ZSTD: &str = "zstd";

enum Source {
    Plain(Artifact),
    Gzip(Box<Members>),
    Zstd(Box<dyn Read>),
}

/// Why an artifact is not even begun.
enum Refusal {
    Format(ImageError),
    Read(io::Error),
}

impl Source {
    fn new(mut artifact: Artifact) -> Result<Self, Refusal> {
        let start = artifact.fill_buf().map_err(Refusal::Read)?;
        if start.starts_with(&GZIP_MAGIC) {
            return Ok(Self::Gzip(Box::new(Members {
                decoder: Some(GzDecoder::new(artifact)),
            })));
        }
        if start.starts_with(&ZSTD_MAGIC) {
            let reader = zstd::reader(artifact).map_err(Refusal::Read)?;
            return Ok(Self::Zstd(Box::new(reader)));
        }
        if start.starts_with(b"070701") {
            return Ok(Self::Plain(artifact));
        }
        let other = OTHER_FORMATS
            .iter()
            .find(|(magic, _)| start.starts_with(magic));
        Err(Refusal::Format(
            other.map_or(ImageError::Unknown, |(_, format)| ImageError::OtherFormat {
                format,
            }),
        ))
    }

    /// What it is compressed with, for messages.
    fn format(&self) -> &'static str {
        match self {
            Self::Plain(_) => "archive",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => ZSTD,
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(artifact) => artifact.read(buffer),
            Self::Gzip(members) => members.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// All gzip members of a file, one after the other, with nothing between or behind them but NULs.
struct Members {
    /// Nothing at the end.
    decoder: Option<GzDecoder<Artifact>>,
}

impl Read for Members {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(ended) = self.decoder.take() else {
                break;
            };
            let mut rest = ended.into_inner();
            match skip_nuls(&mut rest)? {
                Rest::End => {}
                Rest::Member => self.decoder = Some(GzDecoder::new(rest)),
                Rest::Garbage => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "something else follows the compressed data",
                    ));
                }
            }
        }
        Ok(0)
    }
}

enum Rest {
    End,
    Member,
    Garbage,
}

fn skip_nuls(rest: &mut Artifact) -> io::Result<Rest> {
    loop {
        let buffer = rest.fill_buf()?;
        if buffer.is_empty() {
            return Ok(Rest::End);
        }
        match buffer.iter().position(|&byte| byte != 0) {
            // One byte of the magic is enough: the decoder checks the other.
            Some(at) if buffer[at] == GZIP_MAGIC[0] => {
                rest.consume(at);
                return Ok(Rest::Member);
            }
            Some(_) => return Ok(Rest::Garbage),
            None => {
                let all = buffer.len();
                rest.consume(all);
            }
        }
    }
}

/// Writes what is read to the image as well.
struct Tee {
    source: Source,
    out: fs_err::File,
    /// Why the image cannot be written, told apart from what is wrong with the artifact.
    failure: Option<io::Error>,
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Err(error) = self.out.write_all(&buffer[..count]) {
            self.failure = Some(error);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
