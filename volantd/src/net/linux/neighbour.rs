//! Permanent neighbour entries: the host knows each guest's MAC address without asking, so that its first packet leaves at once
//! and is not held back until the guest's network is up and answers ARP.

use std::net::{IpAddr, Ipv4Addr};

use common::net::Subnet;
use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::super::NetError;
use super::link::{Link, Netlink};
use super::{errno_of, tap};
use crate::machine::ports::Lease;

/// Writes the entry of `lease`, whatever was there.
pub(super) async fn pin(netlink: &Netlink, bridge: &Link, lease: &Lease) -> Result<(), NetError> {
    let mac = tap::parse_mac(&lease.mac)?;
    let request = netlink
        .handle
        .neighbours()
        .add(bridge.index, IpAddr::V4(lease.ip));
    let written = request.link_layer_address(&mac).replace().execute().await;
    written.map_err(|error| NetError::Neighbour {
        address: lease.ip,
        source: Box::new(error),
    })
}

/// Removes the entry of `address`; none is fine.
pub(super) async fn unpin(
    netlink: &Netlink,
    bridge: &Link,
    address: Ipv4Addr,
) -> Result<(), NetError> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = bridge.index;
    message
        .attributes
        .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(
            address,
        )));
    match netlink.handle.neighbours().del(message).execute().await {
        Err(error) if !matches!(errno_of(&error), Some(Errno::ENOENT | Errno::ENODEV)) => {
            Err(NetError::Neighbour {
                address,
                source: Box::new(error),
            })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The addresses of `subnet` with a permanent entry on `bridge`.
pub(super) async fn pinned(
    netlink: &Netlink,
    bridge: &Link,
    subnet: &Subnet,
) -> Result<Vec<Ipv4Addr>, NetError> {
    let request = netlink
        .handle
        .neighbours()
        .get()
        .set_address_family(AddressFamily::Inet);
    let found: Result<Vec<NeighbourMessage>, _> = request.execute().try_collect().await;
    let found = found.map_err(|error| NetError::List {
        what: "neighbours",
        source: Box::new(error),
    })?;
    let permanent = |message: &NeighbourMessage| {
        message.header.ifindex == bridge.index && message.header.state == NeighbourState::Permanent
    };
    let address = |message: NeighbourMessage| {
        message
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(address),
                _ => None,
            })
    };
    let addresses = found.into_iter().filter(permanent).filter_map(address);
    Ok(addresses
        .filter(|address| subnet.has_host(*address))
        .collect())
}
