//! Interfaces as netlink shows them, and one connection to ask it. Changes nothing by itself.

use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use tokio::task::JoinHandle;

use super::super::NetError;
use super::{OWNER_ALIAS, errno_of};
use crate::task;

/// A connection to the kernel's netlink, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    pub(super) handle: Handle,
    pump: JoinHandle<()>,
}

impl Netlink {
    /// Opens a connection. It is cheap (one socket), so every operation has its own and none can be in a broken state.
    pub(super) fn open() -> Result<Self, NetError> {
        let (connection, handle, _multicast) =
            rtnetlink::new_connection().map_err(NetError::OpenNetlink)?;
        Ok(Self {
            handle,
            pump: task::spawn("netlink", connection),
        })
    }

    /// The interface `name`, if it is there.
    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let mut stream = Box::pin(self.handle.link().get().match_name(name).execute());
        match stream.try_next().await {
            Ok(found) => Ok(found.map(Link::from)),
            Err(error) if errno_of(&error) == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(NetError::List {
                what: "interfaces",
                source: Box::new(error),
            }),
        }
    }

    /// All interfaces.
    pub(super) async fn links(&self) -> Result<Vec<Link>, NetError> {
        let found: Result<Vec<LinkMessage>, _> =
            self.handle.link().get().execute().try_collect().await;
        found
            .map(|links| links.into_iter().map(Link::from).collect())
            .map_err(|error| NetError::List {
                what: "interfaces",
                source: Box::new(error),
            })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// An interface, with what Volant needs to know of it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Its number.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// What it is; nothing for hardware.
    pub(super) kind: Option<InfoKind>,
    /// The bridge that it is connected to.
    pub(super) controller: Option<u32>,
    /// A text that its maker left.
    pub(super) alias: Option<String>,
    /// Whether it is switched on.
    pub(super) up: bool,
}

impl Link {
    pub(super) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }

    pub(super) fn is_tap(&self) -> bool {
        self.kind == Some(InfoKind::Tun)
    }

    /// Whether volantd made it.
    pub(super) fn is_ours(&self) -> bool {
        self.alias.as_deref() == Some(OWNER_ALIAS)
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            controller: None,
            alias: None,
            up: message.header.flags.contains(LinkFlags::Up),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}
