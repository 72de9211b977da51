//! The network as Linux makes it: netlink for interfaces, `nft` for rules, /proc/sys for forwarding. Decides nothing about leases.

mod bridge;
mod forwarding;
mod link;
mod neighbour;
mod ruleset;
mod tap;

use std::collections::HashSet;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use common::net::TAP_PREFIX;
use nix::errno::Errno;
use tokio::sync::Mutex;

use super::{NetConfig, NetError, nft};
use crate::machine::ports::{BoxFuture, Lease, Network, StepError};
use link::{Link, Netlink};

/// Marks the interfaces that volantd made (`ip link show` prints it as their alias).
const OWNER_ALIAS: &str = "volant";

/// How long the kernel may take for one change. It needs well under a millisecond, unless somebody holds its lock for long.
const NETLINK_LIMIT: Duration = Duration::from_secs(5);

/// What [`LinuxNetwork::reconcile`] changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Taps that no VM owned.
    pub removed_taps: Vec<String>,
    /// Neighbour entries of addresses that no VM holds.
    pub removed_neighbours: Vec<Ipv4Addr>,
    /// Taps of VMs that had lost their bridge.
    pub reconnected_taps: Vec<String>,
}

/// The network of one host.
#[derive(Debug)]
pub struct LinuxNetwork {
    config: NetConfig,
    nft: PathBuf,
    /// One change at a time: a tap that is being made must not look like a tap that nobody owns.
    turn: Mutex<()>,
}

impl LinuxNetwork {
    /// A network that is not there yet: see [`LinuxNetwork::ensure`].
    ///
    /// # Errors
    /// [`NetError::BridgeName`] or [`NetError::HostOutsideSubnet`].
    pub fn new(config: NetConfig) -> Result<Self, NetError> {
        config.check()?;
        Ok(Self {
            config,
            nft: PathBuf::from("nft"),
            turn: Mutex::new(()),
        })
    }

    /// Runs another program than the `nft` of the PATH.
    #[must_use]
    pub fn with_nft(mut self, program: impl Into<PathBuf>) -> Self {
        self.nft = program.into();
        self
    }

    /// What the network is made of.
    pub fn config(&self) -> &NetConfig {
        &self.config
    }

    /// Makes the bridge with its address, the rules and the forwarding. Everything that is there already stays as it is.
    ///
    /// The rules come first, so that there is no moment in which a guest could reach the host.
    ///
    /// # Errors
    /// [`NetError`], for example if an interface of the bridge's name is something else.
    pub async fn ensure(&self) -> Result<(), NetError> {
        let _turn = self.turn.lock().await;
        let netlink = Netlink::open()?;
        self.ensure_all(&netlink).await.map(|_| ())
    }

    async fn ensure_all(&self, netlink: &Netlink) -> Result<Link, NetError> {
        within(NETLINK_LIMIT, bridge::check(netlink, &self.config)).await?;
        ruleset::apply(&self.nft, &nft::render(&self.config)).await?;
        let bridge = within(NETLINK_LIMIT, bridge::ensure(netlink, &self.config)).await?;
        forwarding::ensure()?;
        Ok(bridge)
    }

    /// Removes taps and neighbour entries that belong to none of `leases`, and puts taps of `leases` back on the bridge where they
    /// lost it. Only for a moment in which no VM is being launched, with the leases of all VMs.
    ///
    /// # Errors
    /// The first [`NetError`]; what was done before it stays done.
    pub async fn reconcile(&self, leases: &[Lease]) -> Result<Reconciled, NetError> {
        let _turn = self.turn.lock().await;
        let netlink = Netlink::open()?;
        within(NETLINK_LIMIT, self.reconcile_all(&netlink, leases)).await
    }

    async fn reconcile_all(
        &self,
        netlink: &Netlink,
        leases: &[Lease],
    ) -> Result<Reconciled, NetError> {
        let mut done = Reconciled::default();
        let links = netlink.links().await?;
        let Some(bridge) = links.iter().find(|link| link.name == self.config.bridge) else {
            return Ok(done);
        };
        for tap in links.iter().filter(|link| is_our_tap(link, bridge.index)) {
            match leases.iter().find(|lease| lease.tap == tap.name) {
                None => {
                    tap::remove(netlink, tap).await?;
                    done.removed_taps.push(tap.name.clone());
                }
                Some(_) if tap.controller == Some(bridge.index) => {}
                Some(_) => {
                    tap::connect(netlink, tap, bridge).await?;
                    done.reconnected_taps.push(tap.name.clone());
                }
            }
        }
        let leased: HashSet<Ipv4Addr> = leases.iter().map(|lease| lease.ip).collect();
        for address in neighbour::pinned(netlink, bridge, &self.config.subnet).await? {
            if !leased.contains(&address) {
                neighbour::unpin(netlink, bridge, address).await?;
                done.removed_neighbours.push(address);
            }
        }
        for lease in leases
            .iter()
            .filter(|lease| links.iter().any(|link| link.name == lease.tap))
        {
            neighbour::pin(netlink, bridge, lease).await?;
        }
        Ok(done)
    }

    /// Removes everything that volantd made: rules, taps, and the bridge if it made that. IPv4 forwarding stays as it is.
    ///
    /// # Errors
    /// The first [`NetError`].
    pub async fn remove_all(&self) -> Result<(), NetError> {
        let _turn = self.turn.lock().await;
        let netlink = Netlink::open()?;
        within(NETLINK_LIMIT, self.remove_links(&netlink)).await?;
        ruleset::apply(&self.nft, nft::REMOVE).await
    }

    async fn remove_links(&self, netlink: &Netlink) -> Result<(), NetError> {
        let links = netlink.links().await?;
        let Some(bridge) = links.iter().find(|link| link.name == self.config.bridge) else {
            return Ok(());
        };
        for tap in links.iter().filter(|link| is_our_tap(link, bridge.index)) {
            tap::remove(netlink, tap).await?;
        }
        if bridge.is_ours() {
            return bridge::remove(netlink, bridge).await;
        }
        for address in neighbour::pinned(netlink, bridge, &self.config.subnet).await? {
            neighbour::unpin(netlink, bridge, address).await?;
        }
        Ok(())
    }

    async fn attach_lease(&self, lease: &Lease) -> Result<(), NetError> {
        let _turn = self.turn.lock().await;
        let netlink = Netlink::open()?;
        let found = within(NETLINK_LIMIT, netlink.link(&self.config.bridge)).await?;
        let bridge = match found {
            Some(bridge) if bridge.is_bridge() => bridge,
            // Somebody removed it since the start: without it no VM would ever start again.
            _ => self.ensure_all(&netlink).await?,
        };
        within(NETLINK_LIMIT, async {
            if let Some(old) = netlink.link(&lease.tap).await? {
                tap::remove(&netlink, &old).await?;
            }
            let connected = async {
                tap::create(&netlink, &lease.tap, &bridge).await?;
                neighbour::pin(&netlink, &bridge, lease).await
            };
            let result = connected.await;
            if result.is_err() {
                // What failed first is what the user needs; the caller detaches as well, and reports what is left.
                drop(detach_from(&netlink, Some(&bridge), lease).await);
            }
            result
        })
        .await
    }

    async fn detach_lease(&self, lease: &Lease) -> Result<(), NetError> {
        let _turn = self.turn.lock().await;
        let netlink = Netlink::open()?;
        within(NETLINK_LIMIT, async {
            let bridge = netlink.link(&self.config.bridge).await?;
            detach_from(&netlink, bridge.as_ref(), lease).await
        })
        .await
    }
}

impl Network for LinuxNetwork {
    fn attach<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(self.attach_lease(lease).await?) })
    }

    fn detach<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async { Ok(self.detach_lease(lease).await?) })
    }
}

async fn detach_from(
    netlink: &Netlink,
    bridge: Option<&Link>,
    lease: &Lease,
) -> Result<(), NetError> {
    if let Some(bridge) = bridge {
        neighbour::unpin(netlink, bridge, lease.ip).await?;
    }
    match netlink.link(&lease.tap).await? {
        // An interface of another kind is not what `attach` made.
        Some(tap) if tap.is_tap() => tap::remove(netlink, &tap).await,
        Some(_) | None => Ok(()),
    }
}

/// Taps by our name that are on our bridge, or on none: a daemon that was killed between two steps leaves such a tap.
fn is_our_tap(link: &Link, bridge_index: u32) -> bool {
    link.is_tap()
        && link.name.starts_with(TAP_PREFIX)
        && link.controller.is_none_or(|index| index == bridge_index)
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(NetError::TimedOut {
            what: "The kernel's netlink",
            limit,
        }),
    }
}

/// The operating system's error number of a netlink failure.
pub(super) fn errno_of(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            Some(Errno::from_raw(message.raw_code().saturating_abs()))
        }
        _ => None,
    }
}
