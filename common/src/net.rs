//! Names and addresses that are derived, not chosen: MAC, tap, host name, and the address pool of a subnet. Touches no network.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use sha1::Digest as _;

/// The longest name of a Linux network interface (`IFNAMSIZ` - 1, linux/if.h).
pub const MAX_INTERFACE_NAME_BYTES: usize = 15;

/// What every tap of Volant begins with.
pub const TAP_PREFIX: &str = "vttap-";

/// The first host number that is leased: the first VM of a /24 gets `.10`, as users were promised.
pub const FIRST_LEASED_HOST: u32 = 10;

/// A locally administered MAC address that depends on the VM's name and address only: `02:` and five bytes of `SHA-1("name|ip")`.
pub fn mac_for(name: &str, ip: &str) -> String {
    let hash = sha1::Sha1::digest(format!("{name}|{ip}"));
    let tail: Vec<String> = hash
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("02:{}", tail.join(":"))
}

/// The tap interface of a VM: `vttap-` and the name without `-` if that is at most nine long, else three letters and six hex digits of its SHA-256.
pub fn tap_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        .collect();
    if plain.len() <= MAX_INTERFACE_NAME_BYTES - TAP_PREFIX.len() {
        return format!("{TAP_PREFIX}{plain}");
    }
    let hash = hex::encode(sha2::Sha256::digest(name));
    format!("{TAP_PREFIX}{}{}", &plain[..3], &hash[..6])
}

/// The tap interface of a VM whose [`tap_name`] another VM holds already (`my-nginx` and `mynginx` share one): nine hex digits of the name's SHA-256.
pub fn distinct_tap_name(name: &str) -> String {
    let hash = hex::encode(sha2::Sha256::digest(name));
    format!(
        "{TAP_PREFIX}{}",
        &hash[..MAX_INTERFACE_NAME_BYTES - TAP_PREFIX.len()]
    )
}

/// The guest's host name: the letters a-z, digits and `-` of the VM's name, `vm` if none are left.
pub fn host_name(name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
        .collect();
    if kept.is_empty() {
        "vm".to_owned()
    } else {
        kept
    }
}

/// A text that is not an IPv4 subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an IPv4 subnet: write a network address and a prefix of 8 to 29, such as 192.168.127.0/24"
)]
pub struct InvalidSubnet(String);

/// An IPv4 subnet such as `192.168.127.0/24`, with a prefix of 8 to 29.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The network address.
    pub const fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// The prefix length in bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask in dotted form.
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_bits(self.prefix))
    }

    /// The broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask_bits(self.prefix))
    }

    /// Whether `address` lies in the subnet and is neither its network nor its broadcast address.
    pub fn has_host(&self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        bits & mask_bits(self.prefix) == self.network.to_bits()
            && address != self.network
            && address != self.broadcast()
    }

    /// The addresses to lease in their order: from host number 10 upwards, then those below, without the host's own address.
    pub fn pool(&self, host: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let first = self.network.to_bits() + 1;
        let last = self.broadcast().to_bits();
        let start = (self.network.to_bits() + FIRST_LEASED_HOST).min(last);
        (start..last)
            .chain(first..start)
            .map(Ipv4Addr::from_bits)
            .filter(move |address| *address != host)
    }
}

fn mask_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let invalid =
            || InvalidSubnet(text.chars().take(80).flat_map(char::escape_debug).collect());
        let (network, prefix) = text.trim().split_once('/').ok_or_else(invalid)?;
        let network: Ipv4Addr = network.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if !(8..=29).contains(&prefix) || network.to_bits() & !mask_bits(prefix) != 0 {
            return Err(invalid());
        }
        Ok(Self { network, prefix })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn macs_match_the_vectors() {
        assert_eq!(mac_for("web", "192.168.127.10"), "02:f9:e8:54:fb:c4");
        assert_eq!(mac_for("demo", "192.168.127.100"), "02:a0:05:cb:2f:ff");
        assert_eq!(mac_for("x", ""), "02:9c:0f:43:2f:aa");
    }

    #[test]
    fn taps_match_the_vectors() {
        assert_eq!(tap_name("web"), "vttap-web");
        assert_eq!(tap_name("my-nginx"), "vttap-mynginx");
        assert_eq!(tap_name("web-cluster-1"), "vttap-web14f473");
        assert_eq!(tap_name("caddy-demo-frontend"), "vttap-cad234f40");
    }

    #[test]
    fn names_that_share_a_tap_can_be_told_apart() {
        assert_eq!(tap_name("my-nginx"), tap_name("mynginx"));
        assert_ne!(distinct_tap_name("my-nginx"), distinct_tap_name("mynginx"));
        assert_eq!(distinct_tap_name("mynginx").len(), MAX_INTERFACE_NAME_BYTES);
    }

    #[test]
    fn the_pool_counts_up_from_ten() {
        let subnet: Subnet = "192.168.127.0/24".parse().unwrap();
        let pool: Vec<String> = subnet
            .pool(Ipv4Addr::new(192, 168, 127, 1))
            .map(|address| address.to_string())
            .collect();
        assert_eq!(
            &pool[..3],
            ["192.168.127.10", "192.168.127.11", "192.168.127.12"]
        );
        assert_eq!(pool.len(), 253);
        assert_eq!(pool.last().map(String::as_str), Some("192.168.127.9"));
    }

    #[test]
    fn a_small_subnet_has_a_pool_too() {
        let subnet: Subnet = "10.0.0.0/29".parse().unwrap();
        assert_eq!(subnet.pool(Ipv4Addr::new(10, 0, 0, 1)).count(), 5);
    }

    #[test]
    fn bad_subnets_are_refused() {
        for text in [
            "",
            "192.168.127.0",
            "192.168.127.1/24",
            "10.0.0.0/30",
            "0.0.0.0/0",
            "10.0.0.0/x",
            "::/64",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_tap_name_fits_an_interface(name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
            let tap = tap_name(&name);
            prop_assert!(tap.len() <= MAX_INTERFACE_NAME_BYTES);
            prop_assert!(tap.starts_with(TAP_PREFIX));
        }

        #[test]
        fn the_pool_has_each_host_once(bits in 0_u32.., prefix in 20_u8..=29) {
            let network = Ipv4Addr::from_bits(bits & mask_bits(prefix));
            let subnet: Subnet = format!("{network}/{prefix}").parse().unwrap();
            let host = Ipv4Addr::from_bits(network.to_bits() + 1);
            let pool: Vec<Ipv4Addr> = subnet.pool(host).collect();
            let unique: HashSet<Ipv4Addr> = pool.iter().copied().collect();
            prop_assert_eq!(unique.len(), pool.len());
            prop_assert_eq!(pool.len() + 3, 1_usize << (32 - prefix));
            prop_assert!(pool.iter().all(|address| subnet.has_host(*address) && *address != host));
        }
    }
}
