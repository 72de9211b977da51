//! An inode as a value. What its content is: see [`super::Content`].

use std::collections::BTreeMap;

use super::Content;

/// What every inode has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The lower twelve bits of its mode.
    pub permissions: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was changed last, in seconds since 1970.
    pub mtime_s: i64,
    /// Extended attributes by their whole names, such as `security.capability`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    /// Those of something of root's, from 1970.
    pub fn new(permissions: u32) -> Self {
        Self {
            permissions,
            ..Self::default()
        }
    }
}

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl Device {
    /// As one number with 12 bits for the driver and 20 for the device, as Linux stores it (`new_encode_dev` of
    /// `include/linux/kdev_t.h`); nothing where it has more.
    pub fn encode(self) -> Option<u32> {
        let fits = self.major < 1 << 12 && self.minor < 1 << 20;
        fits.then_some((self.minor & 0xff) | (self.major << 8) | ((self.minor & !0xff) << 12))
    }

    /// What [`Device::encode`] made (`new_decode_dev`).
    pub fn decode(number: u32) -> Self {
        Self {
            major: (number >> 8) & 0xfff,
            minor: (number & 0xff) | ((number >> 12) & 0xf_ff00),
        }
    }
}

/// What kind of thing an inode is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link, and where it points, as it is: 1 to 4095 bytes without NUL.
    Symlink(Vec<u8>),
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// An inode.
#[derive(Debug, Clone)]
pub struct Node {
    /// Whose it is, and who may do what with it.
    pub attributes: Attributes,
    /// What it is.
    pub kind: Kind,
}

impl Node {
    /// A directory of root's.
    pub fn directory(permissions: u32) -> Self {
        Self {
            attributes: Attributes::new(permissions),
            kind: Kind::Directory,
        }
    }

    /// A file of root's.
    pub fn file(permissions: u32, content: Content) -> Self {
        Self {
            attributes: Attributes::new(permissions),
            kind: Kind::File(content),
        }
    }

    /// A symbolic link.
    pub fn symlink(target: impl Into<Vec<u8>>) -> Self {
        Self {
            attributes: Attributes::new(0o777),
            kind: Kind::Symlink(target.into()),
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }

    /// What it is, for people: `a directory`.
    pub fn what(&self) -> &'static str {
        match self.kind {
            Kind::Directory => "a directory",
            Kind::File(_) => "a file",
            Kind::Symlink(_) => "a symbolic link",
            Kind::CharacterDevice(_) | Kind::BlockDevice(_) => "a device",
            Kind::Fifo => "a named pipe",
            Kind::Socket => "a socket",
        }
    }
}
