//! Which addresses are this host's own, however public they look: those of its interfaces, and whatever else its routes keep on it.

use std::net::IpAddr;

use futures_util::StreamExt as _;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{Error, Handle, RouteMessageBuilder};

use crate::machine::ports::BoxFuture;
use crate::task;

/// Whether what is sent to an address stays on this host. If the kernel does not say, it does.
pub(super) fn is_own(address: IpAddr) -> BoxFuture<'static, bool> {
    Box::pin(async move {
        let Ok((connection, handle, _)) = rtnetlink::new_connection() else {
            return true;
        };
        let connection = task::spawn("netlink", connection);
        let kind = route(&handle, address).await;
        connection.abort();
        match kind {
            Ok(kind) => kind != RouteType::Unicast,
            // It has no way there, so that nothing can be asked.
            Err(Error::NetlinkError(_)) => false,
            Err(_) => true,
        }
    })
}

/// What the kernel does with a packet to this address.
async fn route(handle: &Handle, address: IpAddr) -> Result<RouteType, Error> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let asked = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, length)
        .map_err(|_| Error::RequestFailed)?
        .build();
    let mut found = std::pin::pin!(handle.route().get(asked).execute());
    let route = found.next().await.ok_or(Error::RequestFailed)??;
    Ok(route.header.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_stays_on_the_host_is_its_own() {
        for (text, expected) in [
            ("127.0.0.1", true),
            // No interface has it, and yet it leads here.
            ("127.200.9.9", true),
            ("::1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_own(text.parse().unwrap()).await, expected, "{text}");
        }
    }
}
