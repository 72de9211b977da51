//! Directories held open, and what is in them reached without leaving them, whatever others do to the file system meanwhile. A file of its
//! own, so that what unpacks archives can be fuzzed without the rest.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::linkat;

/// How often a path is looked at again. The kernel asks for that where it has `..` and something was renamed meanwhile (openat2(2),
/// `EAGAIN`); who renames without end must not keep us.
const MAX_TRIES: u32 = 64;

/// A directory that stays the same one wherever its name leads later.
#[derive(Debug)]
pub(crate) struct Folder(File);

impl Folder {
    /// Opens a directory. A link is none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let folder = open(path, flags() | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Self(folder.into()))
    }

    /// Opens a directory below this one. Links are followed as long as they are relative and stay below; others fail with
    /// `CrossesDevices`.
    pub(crate) fn below(&self, path: &Path) -> io::Result<Self> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags()).resolve(resolve);
        // Itself has no name.
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        for _ in 1..MAX_TRIES {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN) => {}
                opened => return Ok(Self(opened?.into())),
            }
        }
        Ok(Self(openat2(&self.0, path, how)?.into()))
    }

    /// Opens a directory in this one. A link is none.
    pub(crate) fn child(&self, name: &OsStr) -> io::Result<Self> {
        let child = openat(&self.0, name, flags() | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Self(child.into()))
    }

    /// Makes a directory in this one.
    pub(crate) fn make(&self, name: &OsStr) -> io::Result<()> {
        let all = Mode::S_IRWXU | Mode::S_IRWXG | Mode::S_IRWXO;
        Ok(mkdirat(&self.0, name, all)?)
    }

    /// Gives a file in this directory another name in `to`. A link at its end is not followed.
    pub(crate) fn link(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        Ok(linkat(&self.0, name, &to.0, other, AtFlags::empty())?)
    }

    /// A path of something in this directory, for as long as this is held (proc(5), `/proc/pid/fd`).
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.0.as_raw_fd().to_string())
            .join(name)
    }

    /// Sets its permission bits.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.0.set_permissions(Permissions::from_mode(mode))
    }

    /// Sets the time of its last change.
    pub(crate) fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.0.set_modified(time)
    }
}

fn flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}
