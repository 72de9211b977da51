//! Stops all writing to a file system, by ioctl. Nothing here starts it again: only a machine that ends is frozen.
#![expect(
    unsafe_code,
    reason = "nix wraps the ioctl only as an unsafe function; its argument is ignored"
)]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

nix::ioctl_readwrite!(fifreeze, b'X', 119, nix::libc::c_int);

/// Freezes the file system that `directory` is on: everything is on its disk, its journal is empty, and writers wait (`FIFREEZE`,
/// include/uapi/linux/fs.h).
pub(super) fn freeze(directory: &OwnedFd) -> io::Result<()> {
    let mut ignored = 0;
    // SAFETY: the descriptor is open, and the kernel does not look at the argument.
    unsafe { fifreeze(directory.as_raw_fd(), &raw mut ignored) }?;
    Ok(())
}
