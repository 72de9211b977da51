//! Kernel settings below /proc/sys. Written only where they differ, and never set back.

use std::io;

use super::super::NetError;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Switches IPv4 forwarding on for the whole host, if it is off: packets of guests come in by the bridge, answers by any other
/// interface, and both must be forwarded.
pub(super) fn ensure() -> Result<(), NetError> {
    let current = fs_err::read_to_string(IP_FORWARD).map_err(NetError::Forwarding)?;
    if current.trim() == "0" {
        fs_err::write(IP_FORWARD, "1\n").map_err(NetError::Forwarding)?;
    }
    Ok(())
}

/// Switches IPv6 off on one interface: no address of its own, and no answer to router messages.
pub(super) fn disable_ipv6(interface: &str) -> Result<(), NetError> {
    let setting = "disable_ipv6";
    match fs_err::write(
        format!("/proc/sys/net/ipv6/conf/{interface}/{setting}"),
        "1\n",
    ) {
        // A kernel without IPv6 has no such file.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetError::Setting {
            setting,
            interface: interface.to_owned(),
            source: error,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}
