//! Who may reach the API over TCP, besides having the token: the networks, the names and the web pages. Pure; `http/gate.rs` asks.
//!
//! Browsers let any page send requests to this host. A page's `Origin` must therefore be listed, or be that of the daemon's own pages; and
//! because a page's name can be made to lead to this host (DNS rebinding), so must the name in `Host`, unless it is `localhost` or an
//! address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

/// Who may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Names of this host beside `localhost`, in lower case.
    pub hosts: BTreeSet<String>,
    /// Pages that may use the API.
    pub origins: Origins,
    /// Networks that may; all if there is none.
    pub networks: Vec<Network>,
}

/// Pages that may use the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All pages; each still needs the token.
    Any,
    /// These, such as `https://volant.example.com`.
    Listed(BTreeSet<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Listed(BTreeSet::new())
    }
}

/// How much a page may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// It is the daemon's own.
    Own,
    /// It is listed.
    Listed,
    /// All may, and this is one of them.
    Any,
}

impl Access {
    /// Whether a client at this address may ask.
    pub fn admits(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.is_empty() || self.networks.iter().any(|network| network.has(peer))
    }

    /// Whether this is a name of the host: the value of `Host`, or the host of a request's target.
    pub fn knows(&self, host: &str) -> bool {
        let Some(host) = without_port(host) else {
            return false;
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host).to_ascii_lowercase();
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }

    /// Whether pages of this origin may ask, `host` being the `Host` of their request, which is known.
    pub fn page(&self, origin: &str, host: &str) -> Option<Page> {
        let own = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"))
            .is_some_and(|name| name.eq_ignore_ascii_case(host));
        match &self.origins {
            _ if own => Some(Page::Own),
            Origins::Listed(listed) => listed.contains(origin).then_some(Page::Listed),
            Origins::Any => Some(Page::Any),
        }
    }
}

/// The host in `host:port`, where the port may be missing and the host may be an IPv6 address in brackets.
fn without_port(text: &str) -> Option<&str> {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match text.rsplit_once(':') {
        Some((host, port)) if is_port(port) && (host.ends_with(']') || !host.contains(':')) => {
            Some(host)
        }
        Some(_) if text.starts_with('[') && text.ends_with(']') => Some(text),
        Some(_) => None,
        None => Some(text),
    }
}

/// An IPv4 or IPv6 network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network: write an address and a prefix, such as 10.0.0.0/8")]
pub struct InvalidNetwork(String);

impl Network {
    fn has(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid =
            || InvalidNetwork(text.chars().take(80).flat_map(char::escape_debug).collect());
        let (address, prefix) = match text.trim().split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| invalid())?,
            None => longest,
        };
        if prefix > longest {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access {
            hosts: BTreeSet::from(["volant.example.com".to_owned()]),
            origins: Origins::Listed(BTreeSet::from(["https://ui.example.com".to_owned()])),
            networks: vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
        }
    }

    #[test]
    fn names_are_known_or_addresses() {
        for (host, known) in [
            ("localhost", true),
            ("LOCALHOST:7777", true),
            ("127.0.0.1:7777", true),
            ("[::1]:7777", true),
            ("[::1]", true),
            ("Volant.Example.Com:80", true),
            ("evil.example.com", false),
            ("volant.example.com.evil.net", false),
            ("localhost:7777:1", false),
            ("", false),
        ] {
            assert_eq!(access().knows(host), known, "{host}");
        }
    }

    #[test]
    fn pages_are_listed_or_own() {
        for (origin, page) in [
            ("https://ui.example.com", Some(Page::Listed)),
            ("http://127.0.0.1:7777", Some(Page::Own)),
            ("http://127.0.0.1:3000", None),
            ("https://ui.example.com.evil.net", None),
            ("null", None),
            ("", None),
        ] {
            assert_eq!(access().page(origin, "127.0.0.1:7777"), page, "{origin}");
        }
        let any = Access {
            origins: Origins::Any,
            ..Access::default()
        };
        assert_eq!(any.page("https://x", "localhost"), Some(Page::Any));
    }

    #[test]
    fn networks_hold_their_addresses() {
        for (peer, admitted) in [
            ("10.200.0.1", true),
            ("11.0.0.1", false),
            ("::ffff:10.0.0.1", true),
            ("::1", true),
            ("::2", false),
        ] {
            assert_eq!(access().admits(peer.parse().unwrap()), admitted, "{peer}");
        }
        assert!(Access::default().admits("8.8.8.8".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.has("1.2.3.4".parse().unwrap()));
        for text in ["10.0.0.0/33", "x", "10.0.0.0/", "", "::/129"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
