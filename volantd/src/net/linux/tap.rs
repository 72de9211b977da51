//! One VM's tap on the host: made, connected, removed. What opens it is the VMM, by its name.

use rtnetlink::LinkUnspec;
use uuid::Uuid;

use super::super::{NetError, sys};
use super::link::{Link, Netlink};
use super::{OWNER_ALIAS, errno_of, forwarding};

/// First byte of a tap's own MAC address. Locally administered, and higher than every guest's `02`, so that a bridge without an
/// address of its own never takes it: bridges take the lowest of their ports.
const TAP_MAC_PREFIX: u8 = 0xfe;

/// Makes the tap `name` and connects it to `bridge`. There must be none of this name.
pub(super) async fn create(netlink: &Netlink, name: &str, bridge: &Link) -> Result<(), NetError> {
    let failed = |source| NetError::CreateTap {
        tap: name.to_owned(),
        source,
    };
    sys::create_tap(name).map_err(failed)?;
    let Some(tap) = netlink.link(name).await? else {
        return Err(failed(std::io::ErrorKind::NotFound.into()));
    };
    connect(netlink, &tap, bridge).await
}

/// Puts `tap` on `bridge` and switches it on.
pub(super) async fn connect(netlink: &Netlink, tap: &Link, bridge: &Link) -> Result<(), NetError> {
    if !tap.is_tap() {
        return Err(NetError::NotATap {
            name: tap.name.clone(),
        });
    }
    // The host speaks to guests by the bridge only: an address of the tap's own would send router requests into the guest.
    forwarding::disable_ipv6(&tap.name)?;
    let message = LinkUnspec::new_with_index(tap.index)
        .address(own_mac().to_vec())
        .alias(OWNER_ALIAS)
        .controller(bridge.index)
        .up()
        .build();
    let connected = netlink.handle.link().set(message).execute().await;
    connected.map_err(|error| NetError::ConnectTap {
        tap: tap.name.clone(),
        source: Box::new(error),
    })
}

/// Removes `tap`; gone already is fine.
pub(super) async fn remove(netlink: &Netlink, tap: &Link) -> Result<(), NetError> {
    if !tap.is_tap() {
        return Err(NetError::NotATap {
            name: tap.name.clone(),
        });
    }
    match netlink.handle.link().del(tap.index).execute().await {
        Err(error) if errno_of(&error) != Some(nix::errno::Errno::ENODEV) => {
            Err(NetError::RemoveTap {
                tap: tap.name.clone(),
                source: Box::new(error),
            })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A random address: the tap is the host's end of the cable, and two ends with one address confuse the bridge.
fn own_mac() -> [u8; 6] {
    let mut mac = [TAP_MAC_PREFIX; 6];
    // The last bytes of a version 7 UUID are random.
    mac[1..].copy_from_slice(&Uuid::now_v7().into_bytes()[11..]);
    mac
}

/// Reads `02:f9:e8:54:fb:c4`.
pub(super) fn parse_mac(text: &str) -> Result<[u8; 6], NetError> {
    let invalid = || NetError::InvalidMac {
        mac: text.chars().take(40).flat_map(char::escape_debug).collect(),
    };
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() == 2)
            .ok_or_else(invalid)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    if parts.next().is_some() {
        Err(invalid())
    } else {
        Ok(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_read() {
        assert_eq!(
            parse_mac("02:f9:e8:54:fb:c4").unwrap(),
            [0x02, 0xf9, 0xe8, 0x54, 0xfb, 0xc4]
        );
        for bad in [
            "",
            "02",
            "02:f9:e8:54:fb",
            "02:f9:e8:54:fb:c4:00",
            "02:f9:e8:54:fb:zz",
            "2:f9:e8:54:fb:c4",
            "02:f9:e8:54:fb:c4:",
        ] {
            assert!(
                matches!(parse_mac(bad), Err(NetError::InvalidMac { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_taps_own_address_is_never_a_guests_and_never_twice_the_same() {
        let (one, two) = (own_mac(), own_mac());
        assert_ne!(one, two);
        // Bit 0 of the first byte is set on group addresses, which no interface can have; bit 1 on locally administered ones.
        assert_eq!(one[0] & 0b11, 0b10);
        assert_ne!(one[0], 0x02);
    }
}
