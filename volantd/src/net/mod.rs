//! The host's side of the guests' network: one bridge, one tap for each VM, one nftables table. Leases no addresses.
//!
//! Everything that leaves the bridge is routed and masqueraded, so the kernel's `net.ipv4.ip_forward` is switched on when it is
//! off. It is never switched off again, because other programs on the host may rely on it by then. Rules live in a table of our
//! own, `inet volant`, and no other table is read or changed: a drop in somebody else's table (such as a firewall's `FORWARD`
//! policy) still counts.

pub mod linux;
pub mod nft;
mod sys;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use common::error_chain::Chain;
use common::net::{MAX_INTERFACE_NAME_BYTES, Subnet};
use nix::errno::Errno;

pub use linux::{LinuxNetwork, Reconciled};

use crate::machine::ports::StepError;

/// What the network is made of. Plain values; [`NetConfig::check`] says whether they fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
    /// The guests' subnet.
    pub subnet: Subnet,
    /// The host's own address in the subnet, the guests' default route.
    pub host_ip: Ipv4Addr,
    /// TCP ports of the API: what guests try on them is dropped and counted by a rule of its own.
    pub api_ports: Vec<u16>,
}

impl NetConfig {
    /// Whether the values fit together.
    ///
    /// # Errors
    /// [`NetError::BridgeName`] or [`NetError::HostOutsideSubnet`].
    pub fn check(&self) -> Result<(), NetError> {
        // Narrower than what the kernel allows: the name is also a word in an nftables script and a folder below /proc/sys.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = self.bridge.as_bytes();
        let fits = (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len());
        let special = matches!(self.bridge.as_str(), "." | ".." | "all" | "default");
        if !fits || special || !name.iter().copied().all(allowed) {
            let shown = self
                .bridge
                .chars()
                .take(80)
                .flat_map(char::escape_debug)
                .collect();
            return Err(NetError::BridgeName { shown });
        }
        if !self.subnet.has_host(self.host_ip) {
            return Err(NetError::HostOutsideSubnet {
                host: self.host_ip,
                subnet: self.subnet,
            });
        }
        Ok(())
    }
}

/// What rtnetlink said. Boxed, because the original is large and rarely there.
pub type NetlinkFailure = Box<rtnetlink::Error>;

/// A part of the network that could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The configured name cannot be an interface's.
    #[error(
        "`{shown}` cannot be the name of a bridge: use 1 to 15 of a-z, A-Z, 0-9, `.`, `_` and `-`"
    )]
    BridgeName {
        /// The name, escaped.
        shown: String,
    },
    /// The host's address is not in the subnet.
    #[error("The host's address {host} is not one of the subnet {subnet}")]
    HostOutsideSubnet {
        /// The address.
        host: Ipv4Addr,
        /// The subnet.
        subnet: Subnet,
    },
    /// An interface of the bridge's name is something else.
    #[error("The interface `{name}` exists and is not a bridge, so VMs cannot be connected to it")]
    NotABridge {
        /// The interface.
        name: String,
    },
    /// An interface of the tap's name is something else.
    #[error(
        "The interface `{name}` exists and is not a tap, so it is left alone and the VM cannot use its name"
    )]
    NotATap {
        /// The interface.
        name: String,
    },
    /// Another interface has an address of our subnet.
    #[error(
        "The address {address} of the interface `{interface}` lies in the guests' subnet {subnet}"
    )]
    SubnetTaken {
        /// The address.
        address: Ipv4Addr,
        /// The interface that has it.
        interface: String,
        /// Our subnet.
        subnet: Subnet,
    },
    /// No netlink socket.
    #[error("Cannot open a netlink socket")]
    OpenNetlink(#[source] io::Error),
    /// The kernel did not list interfaces, addresses or neighbours.
    #[error("Cannot list the host's {what}")]
    List {
        /// What was to be listed.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: NetlinkFailure,
    },
    /// The bridge could not be made.
    #[error("Cannot create the bridge `{bridge}`")]
    CreateBridge {
        /// The bridge.
        bridge: String,
        /// What the kernel said.
        #[source]
        source: NetlinkFailure,
    },
    /// The bridge could not be changed or removed.
    #[error("Cannot change the bridge `{bridge}`")]
    ChangeBridge {
        /// The bridge.
        bridge: String,
        /// What the kernel said.
        #[source]
        source: NetlinkFailure,
    },
    /// The bridge's address could not be set.
    #[error("Cannot give the address {address} to the bridge `{bridge}`")]
    SetAddress {
        /// The bridge.
        bridge: String,
        /// The address.
        address: Ipv4Addr,
        /// What the kernel said.
        #[source]
        source: NetlinkFailure,
    },
    /// The tap could not be made.
    #[error("Cannot create the tap `{tap}`")]
    CreateTap {
        /// The tap.
        tap: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The tap could not be connected to the bridge.
    #[error("Cannot connect the tap `{tap}` to the bridge")]
    ConnectTap {
        /// The tap.
        tap: String,
        /// What the kernel said.
        #[source]
        source: NetlinkFailure,
    },
    /// The tap could not be removed.
    #[error("Cannot remove the tap `{tap}`")]
    RemoveTap {
        /// The tap.
        tap: String,
        /// What the kernel said.
        #[source]
        source: NetlinkFailure,
    },
    /// A lease has a MAC address that is none.
    #[error("`{mac}` is not a MAC address")]
    InvalidMac {
        /// The text.
        mac: String,
    },
    /// A guest's neighbour entry could not be written or removed.
    #[error("Cannot change the neighbour entry of {address}")]
    Neighbour {
        /// The guest's address.
        address: Ipv4Addr,
        /// What the kernel said.
        #[source]
        source: NetlinkFailure,
    },
    /// Forwarding could not be read or switched on.
    #[error("Cannot switch on IPv4 forwarding, which guests need to reach other networks")]
    Forwarding(#[source] io::Error),
    /// A kernel setting of an interface could not be written.
    #[error("Cannot set `{setting}` of the interface `{interface}`")]
    Setting {
        /// The name below /proc/sys/net/ipv6/conf.
        setting: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is no `nft` program.
    #[error(
        "The program `{program}` is missing; it writes the rules that keep guests away from the host"
    )]
    NftMissing {
        /// The program as it was looked for.
        program: PathBuf,
    },
    /// `nft` could not be run.
    #[error("Cannot run `nft`")]
    NftRun(#[source] io::Error),
    /// `nft` refused the rules.
    #[error("`nft` refused the rules of the table `inet volant`: {stderr}")]
    NftRefused {
        /// The first bytes of its error output.
        stderr: String,
    },
    /// The kernel or `nft` did not answer.
    #[error("{what} did not answer within {} s", limit.as_secs())]
    TimedOut {
        /// Who did not answer.
        what: &'static str,
        /// The time that it had.
        limit: Duration,
    },
}

impl NetError {
    /// What a user can do about it.
    pub fn hints(&self) -> Vec<String> {
        let specific = match self {
            Self::NotABridge { .. } => {
                "Set another name with `VOLANT_BRIDGE`, or remove the interface"
            }
            Self::SubnetTaken { .. } | Self::HostOutsideSubnet { .. } => {
                "Choose another subnet with `VOLANT_SUBNET` and `VOLANT_HOST_IP`"
            }
            Self::NftMissing { .. } => "Install it: `apt-get install nftables`",
            Self::CreateBridge { .. } if self.errno() == Some(Errno::EOPNOTSUPP) => {
                "This kernel has no bridges: load the module with `modprobe bridge`"
            }
            Self::CreateTap { .. }
                if matches!(
                    self.errno(),
                    Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO)
                ) =>
            {
                "This kernel has no taps: load the module with `modprobe tun`"
            }
            _ if matches!(self.errno(), Some(Errno::EPERM | Errno::EACCES)) => {
                "Run volantd as root, or with the capability CAP_NET_ADMIN"
            }
            Self::Forwarding(_) => "Switch it on by hand: `sysctl -w net.ipv4.ip_forward=1`",
            _ => return Vec::new(),
        };
        vec![specific.to_owned()]
    }

    /// The operating system's error number below this error.
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::List { source, .. }
            | Self::CreateBridge { source, .. }
            | Self::ChangeBridge { source, .. }
            | Self::SetAddress { source, .. }
            | Self::ConnectTap { source, .. }
            | Self::RemoveTap { source, .. }
            | Self::Neighbour { source, .. } => linux::errno_of(source),
            Self::OpenNetlink(source)
            | Self::CreateTap { source, .. }
            | Self::Forwarding(source)
            | Self::Setting { source, .. }
            | Self::NftRun(source) => source.raw_os_error().map(Errno::from_raw),
            Self::BridgeName { .. }
            | Self::HostOutsideSubnet { .. }
            | Self::NotABridge { .. }
            | Self::NotATap { .. }
            | Self::SubnetTaken { .. }
            | Self::InvalidMac { .. }
            | Self::NftMissing { .. }
            | Self::NftRefused { .. }
            | Self::TimedOut { .. } => None,
        }
    }
}

impl From<NetError> for StepError {
    fn from(error: NetError) -> Self {
        let hints = error.hints();
        // The kernel's own word is what a user needs most here, so it is part of the sentence.
        let mut step = Self::new(Chain(&error).to_string());
        step.hints = hints;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bridge: &str, host: &str) -> NetConfig {
        NetConfig {
            bridge: bridge.to_owned(),
            subnet: "192.168.127.0/24".parse().unwrap(),
            host_ip: host.parse().unwrap(),
            api_ports: vec![7777],
        }
    }

    #[test]
    fn names_that_would_break_a_script_or_a_path_are_refused() {
        assert!(config("vbr0", "192.168.127.1").check().is_ok());
        for bridge in [
            "",
            "..",
            "all",
            "a b",
            "v\"; flush",
            "br/0",
            "br*",
            "sixteen-bytes-xy",
        ] {
            let refused = config(bridge, "192.168.127.1").check();
            assert!(
                matches!(refused, Err(NetError::BridgeName { .. })),
                "{bridge}"
            );
        }
    }

    #[test]
    fn the_host_must_be_in_the_subnet() {
        for host in ["192.168.128.1", "192.168.127.0", "192.168.127.255"] {
            let refused = config("vbr0", host).check();
            assert!(
                matches!(refused, Err(NetError::HostOutsideSubnet { .. })),
                "{host}"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_reason_and_a_way_out() {
        let denied = NetError::CreateTap {
            tap: "vttap-web".to_owned(),
            source: io::Error::from_raw_os_error(nix::libc::EPERM),
        };
        let step = StepError::from(denied);
        assert!(
            step.message
                .starts_with("Cannot create the tap `vttap-web`: "),
            "{}",
            step.message
        );
        assert!(step.hints[0].contains("CAP_NET_ADMIN"), "{:?}", step.hints);
    }
}
