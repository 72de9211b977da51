//! The two ioctls that make a persistent tap. The only unsafe code of the network; everything else goes through netlink.
#![expect(
    unsafe_code,
    reason = "ioctl(2) takes raw pointers, and no safe wrapper covers TUNSETIFF"
)]

use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

/// The device that makes taps (Documentation/networking/tuntap.rst).
const TUN_DEVICE: &str = "/dev/net/tun";

// linux/if_tun.h: both are declared for an int, whatever they really take.
nix::ioctl_readwrite_bad!(
    /// Makes or opens the tap that the `ifreq` names.
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);
nix::ioctl_write_int_bad!(
    /// Lets the tap outlive the descriptor.
    tun_set_persist,
    nix::request_code_write!(b'T', 203, size_of::<libc::c_int>())
);

/// Makes the persistent tap `name`. An existing tap of this name is opened, unless a VMM has it.
///
/// The flags are those with which both VMMs open it by its name: plain Ethernet frames with a virtio-net header.
pub(super) fn create_tap(name: &str) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`: it holds integers, and a union of integers and pointers that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero as the end of the name.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = flags()?;
    let device = fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN_DEVICE)?;
    // SAFETY: the descriptor is open for the whole call, and `request` is an initialised `ifreq`, which the kernel only reads and
    // writes within its size.
    unsafe { tun_set_iff(device.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the descriptor is open for the whole call; the argument is a plain number.
    unsafe { tun_set_persist(device.as_raw_fd(), 1) }?;
    Ok(())
}

fn flags() -> io::Result<libc::c_short> {
    libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_never_reaches_the_kernel() {
        for name in ["", "vttap-0123456789", "a\0b"] {
            assert_eq!(
                create_tap(name).unwrap_err().raw_os_error(),
                Some(libc::EINVAL),
                "{name:?}"
            );
        }
    }
}
