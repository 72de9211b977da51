//! Writes archives that depend on nothing but what is put into them. Order and inode numbers are the caller's.

use std::io::Write;

use super::{
    HEADER_BYTES, MAGIC, MAX_NAME_BYTES, TRAILER, TYPE_BLOCK_DEVICE, TYPE_CHARACTER_DEVICE,
    TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_SOCKET, TYPE_SYMLINK, padding,
};
use crate::image::WriteError;
use crate::image::write_error::shown;
use crate::tree::{Attributes, Content, Device, Kind};

/// The largest file, in bytes: the format has 32 bits for its size.
pub const MAX_FILE_BYTES: u64 = 0xffff_ffff;

/// Archives are filled up to a multiple of this, as cpio(1) does, so that others can be appended at a boundary.
const BLOCK_BYTES: u64 = 512;

/// What an entry is beside its [`Attributes`].
#[derive(Debug, Clone, Copy)]
pub struct Inode<'a> {
    /// Its number. Entries with the same number and more than one link are hard links of one another.
    pub number: u32,
    /// How many links lead to it.
    pub links: u32,
    /// What it is.
    pub kind: &'a Kind,
    /// Whether a file's content follows. Of hard links only the last one carries it, as cpio(1) writes them.
    pub carries_content: bool,
}

/// Writes entries one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    written_bytes: u64,
}

/// The numbers of a header that differ between entries.
#[derive(Default)]
struct Header {
    inode: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: u32,
    size: u32,
    device: Option<Device>,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            written_bytes: 0,
        }
    }

    /// Writes an entry. `path` has no `/` in front. Extended attributes are left out, because the format has none; a time before 1970
    /// or after 2106 becomes the nearest that it can hold.
    ///
    /// # Errors
    /// Where it does not fit the format, or cannot be read or written.
    pub fn entry(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        inode: &Inode<'_>,
    ) -> Result<(), WriteError> {
        let target = match inode.kind {
            Kind::Symlink(target) => target.as_slice(),
            _ => &[],
        };
        let content = match inode.kind {
            Kind::File(content) if inode.carries_content => Some(content),
            _ => None,
        };
        // Linux takes targets up to PATH_MAX, as names.
        if target.len() >= MAX_NAME_BYTES {
            return Err(too_long(target));
        }
        let size_bytes = content.map_or_else(
            || u64::try_from(target.len()).unwrap_or(u64::MAX),
            Content::size_bytes,
        );
        let (format, device) = match inode.kind {
            Kind::Directory => (TYPE_DIRECTORY, None),
            Kind::File(_) => (TYPE_FILE, None),
            Kind::Symlink(_) => (TYPE_SYMLINK, None),
            Kind::CharacterDevice(device) => (TYPE_CHARACTER_DEVICE, Some(*device)),
            Kind::BlockDevice(device) => (TYPE_BLOCK_DEVICE, Some(*device)),
            Kind::Fifo => (TYPE_FIFO, None),
            Kind::Socket => (TYPE_SOCKET, None),
        };
        let latest = i64::from(u32::MAX);
        let header = Header {
            inode: inode.number,
            mode: format | attributes.permissions,
            uid: attributes.uid,
            gid: attributes.gid,
            links: inode.links,
            mtime: u32::try_from(attributes.mtime_s.clamp(0, latest)).unwrap_or(0),
            size: u32::try_from(size_bytes).map_err(|_| WriteError::FileTooLarge {
                path: shown(path),
                size_bytes,
                why: "an initramfs holds files of less than 4 GiB",
            })?,
            device,
        };
        self.header(path, &header)?;
        if let Some(content) = content {
            content
                .copy_to(&mut self.out)
                .map_err(|error| WriteError::copying(path, error))?;
            self.written_bytes += size_bytes;
            self.pad(padding(self.written_bytes))
        } else {
            self.padded(target)
        }
    }

    /// Ends the archive and returns the writer below.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(mut self) -> Result<W, WriteError> {
        // The trailer's other numbers are 0, whatever the entries have.
        let trailer = Header {
            links: 1,
            ..Header::default()
        };
        self.header(TRAILER, &trailer)?;
        let rest = self.written_bytes.wrapping_neg() % BLOCK_BYTES;
        self.pad(usize::try_from(rest).unwrap_or(0))?;
        Ok(self.out)
    }

    fn header(&mut self, path: &[u8], header: &Header) -> Result<(), WriteError> {
        let name_bytes = match u32::try_from(path.len() + 1) {
            Ok(bytes) if path.len() < MAX_NAME_BYTES => bytes,
            _ => return Err(too_long(path)),
        };
        let device = header.device.unwrap_or(Device { major: 0, minor: 0 });
        let numbers = [
            header.inode,
            header.mode,
            header.uid,
            header.gid,
            header.links,
            header.mtime,
            header.size,
            0, // device the file is on, major and minor
            0,
            device.major,
            device.minor,
            name_bytes,
            0, // checksum, unused in this format
        ];
        let mut bytes = Vec::with_capacity(HEADER_BYTES + path.len() + 4);
        bytes.extend_from_slice(MAGIC);
        for number in numbers {
            bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        bytes.extend_from_slice(path);
        bytes.push(0);
        self.padded(&bytes)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.raw(bytes)?;
        self.pad(padding(self.written_bytes))
    }

    fn pad(&mut self, count: usize) -> Result<(), WriteError> {
        const ZEROS: [u8; 512] = [0; 512];
        self.raw(&ZEROS[..count])
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes)?;
        self.written_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

fn too_long(path: &[u8]) -> WriteError {
    WriteError::Name {
        path: shown(path),
        why: "an initramfs holds paths and link targets of at most 4095 bytes".to_owned(),
    }
}
