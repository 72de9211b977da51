//! Interfaces and routes by ioctl (netdevice(7), rtnetlink is not needed for one address). IPv4 only.
#![expect(
    unsafe_code,
    reason = "nix wraps none of these ioctls; each takes a C structure that outlives the call"
)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings an interface up, with the flags that it has.
pub(super) fn set_up(device: &str) -> io::Result<()> {
    let mut request = request_for(device)?;
    call(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just filled this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING)
        .map_err(|_| io::Error::from(Errno::EINVAL))?;
    request.ifr_ifru.ifru_flags = flags | up;
    call(libc::SIOCSIFFLAGS, &mut request)
}

/// The interface's address; nothing if it has none.
pub(super) fn address(device: &str) -> io::Result<Option<Ipv4Addr>> {
    let mut request = request_for(device)?;
    match call(libc::SIOCGIFADDR, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => {
            // SAFETY: SIOCGIFADDR has just filled this member.
            let found = unsafe { request.ifr_ifru.ifru_addr };
            Ok(Some(from_sockaddr(&found)))
        }
    }
}

/// Sets address, then netmask: the kernel derives the broadcast address from both.
pub(super) fn set_address(device: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
    let mut request = request_for(device)?;
    request.ifr_ifru.ifru_addr = to_sockaddr(address)?;
    call(libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = to_sockaddr(netmask)?;
    call(libc::SIOCSIFNETMASK, &mut request)
}

/// Adds a route to everywhere by `gateway`.
pub(super) fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: all members are integers, or pointers for which null means "not given".
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = to_sockaddr(Ipv4Addr::UNSPECIFIED)?;
    route.rt_genmask = to_sockaddr(Ipv4Addr::UNSPECIFIED)?;
    route.rt_gateway = to_sockaddr(gateway)?;
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let socket = control_socket()?;
    // SAFETY: SIOCADDRT reads one `rtentry`, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) };
    Errno::result(result)?;
    Ok(())
}

fn control_socket() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    Ok(socket)
}

fn request_for(device: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all members are integers and arrays of them, or a union of such; zero is a value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel reads a C string.
    if device.is_empty() || device.len() >= request.ifr_name.len() || device.contains('\0') {
        return Err(Errno::ENODEV.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}

fn call(number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: the SIOC[GS]IF* calls read and write one `ifreq`, which is borrowed until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), number, &raw mut *request) };
    Errno::result(result)?;
    Ok(())
}

/// A `sockaddr_in` with port 0: two bytes of port, then the address in network order.
fn to_sockaddr(address: Ipv4Addr) -> io::Result<libc::sockaddr> {
    let family = libc::sa_family_t::try_from(libc::AF_INET)
        .map_err(|_| io::Error::from(Errno::EAFNOSUPPORT))?;
    let mut data = [0; 14];
    for (place, byte) in data.iter_mut().skip(2).zip(address.octets()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(libc::sockaddr {
        sa_family: family,
        sa_data: data,
    })
}

fn from_sockaddr(address: &libc::sockaddr) -> Ipv4Addr {
    let mut octets = [0; 4];
    for (octet, byte) in octets.iter_mut().zip(address.sa_data.iter().skip(2)) {
        [*octet] = byte.to_ne_bytes();
    }
    Ipv4Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_c_form() {
        for address in [
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(192, 168, 127, 10),
        ] {
            assert_eq!(from_sockaddr(&to_sockaddr(address).unwrap()), address);
        }
    }
}
