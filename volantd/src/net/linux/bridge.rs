//! The bridge and its address. A bridge that somebody else made is used, and changed only where guests could not work without.

use std::net::{IpAddr, Ipv4Addr};

use common::net::mac_for;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{LinkBridge, LinkUnspec};

use super::super::{NetConfig, NetError, NetlinkFailure};
use super::link::{Link, Netlink};
use super::{OWNER_ALIAS, forwarding, tap};

/// Whether [`ensure`] can work: nothing else has the bridge's name or an address of its subnet. Changes nothing.
pub(super) async fn check(netlink: &Netlink, config: &NetConfig) -> Result<(), NetError> {
    let links = netlink.links().await?;
    let bridge = links.iter().find(|link| link.name == config.bridge);
    if let Some(other) = bridge.filter(|link| !link.is_bridge()) {
        return Err(NetError::NotABridge {
            name: other.name.clone(),
        });
    }
    for assigned in addresses(netlink).await? {
        let own = bridge.is_some_and(|bridge| bridge.index == assigned.index);
        if !own && config.subnet.has_host(assigned.address) {
            let interface = links.iter().find(|link| link.index == assigned.index);
            return Err(NetError::SubnetTaken {
                address: assigned.address,
                interface: interface.map(|link| link.name.clone()).unwrap_or_default(),
                subnet: config.subnet,
            });
        }
    }
    Ok(())
}

/// Makes the bridge, gives it its address and switches it on; does what is missing of it.
pub(super) async fn ensure(netlink: &Netlink, config: &NetConfig) -> Result<Link, NetError> {
    let bridge = match netlink.link(&config.bridge).await? {
        Some(bridge) if bridge.is_bridge() => bridge,
        Some(other) => return Err(NetError::NotABridge { name: other.name }),
        None => create(netlink, config).await?,
    };
    if bridge.is_ours() {
        // Guests have IPv4 only: an IPv6 address here would be one more way to the host, and router messages from guests would count.
        forwarding::disable_ipv6(&bridge.name)?;
    }
    ensure_address(netlink, config, &bridge).await?;
    if !bridge.up {
        let up = LinkUnspec::new_with_index(bridge.index).up().build();
        let changed = netlink.handle.link().set(up).execute().await;
        changed.map_err(|error| NetError::ChangeBridge {
            bridge: bridge.name.clone(),
            source: Box::new(error),
        })?;
    }
    Ok(bridge)
}

async fn create(netlink: &Netlink, config: &NetConfig) -> Result<Link, NetError> {
    let name = &config.bridge;
    let failed = |error| NetError::CreateBridge {
        bridge: name.clone(),
        source: Box::new(error),
    };
    // Without an address of its own a bridge takes the lowest of its ports: it would change with every VM, and guests would lose
    // their gateway until they ask again.
    let mac = tap::parse_mac(&mac_for(name, &config.host_ip.to_string()))?;
    let message = LinkBridge::new(name).address(mac.to_vec()).build();
    netlink
        .handle
        .link()
        .add(message)
        .execute()
        .await
        .map_err(failed)?;
    let Some(bridge) = netlink.link(name).await? else {
        return Err(failed(rtnetlink::Error::RequestFailed));
    };
    // A second step: not every kernel takes the alias with the creation. It is what allows volantd to remove the bridge again.
    let mark = LinkUnspec::new_with_index(bridge.index)
        .alias(OWNER_ALIAS)
        .build();
    netlink
        .handle
        .link()
        .set(mark)
        .execute()
        .await
        .map_err(failed)?;
    Ok(Link {
        alias: Some(OWNER_ALIAS.to_owned()),
        ..bridge
    })
}

async fn ensure_address(
    netlink: &Netlink,
    config: &NetConfig,
    bridge: &Link,
) -> Result<(), NetError> {
    let (host, prefix) = (config.host_ip, config.subnet.prefix());
    let failed = |source: NetlinkFailure| NetError::SetAddress {
        bridge: bridge.name.clone(),
        address: host,
        source,
    };
    let mut is_there = false;
    for assigned in addresses(netlink)
        .await?
        .into_iter()
        .filter(|assigned| assigned.index == bridge.index)
    {
        if assigned.address == host && assigned.prefix == prefix {
            is_there = true;
        } else if assigned.address == host || bridge.is_ours() {
            // A wrong prefix, or the address of an earlier configuration. On others' bridges other addresses are their business.
            let deleted = netlink
                .handle
                .address()
                .del(assigned.message)
                .execute()
                .await;
            deleted.map_err(|error| failed(Box::new(error)))?;
        }
    }
    if is_there {
        return Ok(());
    }
    let add = netlink
        .handle
        .address()
        .add(bridge.index, IpAddr::V4(host), prefix);
    add.execute().await.map_err(|error| failed(Box::new(error)))
}

/// Removes a bridge with everything that hangs on its number: address, routes, neighbour entries.
pub(super) async fn remove(netlink: &Netlink, bridge: &Link) -> Result<(), NetError> {
    let removed = netlink.handle.link().del(bridge.index).execute().await;
    removed.map_err(|error| NetError::ChangeBridge {
        bridge: bridge.name.clone(),
        source: Box::new(error),
    })
}

/// An IPv4 address of an interface.
struct Assigned {
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
    message: AddressMessage,
}

async fn addresses(netlink: &Netlink) -> Result<Vec<Assigned>, NetError> {
    let mut request = netlink.handle.address().get();
    request.message_mut().header.family = AddressFamily::Inet;
    let found: Result<Vec<AddressMessage>, _> = request.execute().try_collect().await;
    let found = found.map_err(|error| NetError::List {
        what: "addresses",
        source: Box::new(error),
    })?;
    Ok(found.into_iter().filter_map(assigned).collect())
}

fn assigned(message: AddressMessage) -> Option<Assigned> {
    // On a point-to-point interface `Address` is the other end's; `Local` is always the host's own.
    let own = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
    let any = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
    let address = own.or(any)?;
    Some(Assigned {
        index: message.header.index,
        address,
        prefix: message.header.prefix_len,
        message,
    })
}
