//! Which address, MAC, tap and CID a new VM gets. Pure: what is taken is given, and the store holds the lock while it asks.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use common::name::Name;
use common::net::{self, Subnet};

use super::ports::Lease;

/// The first vsock context id of a guest: 0, 1 and 2 are the hypervisor, the loopback and the host (vsock(7)).
pub const FIRST_CID: u32 = 3;

/// Where addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The guests' subnet.
    pub subnet: Subnet,
    /// The host's own address in it.
    pub host_ip: Ipv4Addr,
}

/// All addresses of the pool are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("No address is left in {subnet}: {leased} are leased")]
pub struct NoAddress {
    /// The subnet.
    pub subnet: Subnet,
    /// How many VMs hold an address.
    pub leased: usize,
}

/// Chooses the lease of `vm`: the first free address, the lowest free CID, and a tap that nobody else has.
pub fn choose(vm: &Name, pool: Pool, taken: &[Lease]) -> Result<Lease, NoAddress> {
    let addresses: HashSet<Ipv4Addr> = taken.iter().map(|lease| lease.ip).collect();
    let none_left = NoAddress {
        subnet: pool.subnet,
        leased: taken.len(),
    };
    let ip = pool
        .subnet
        .pool(pool.host_ip)
        .find(|ip| !addresses.contains(ip))
        .ok_or(none_left)?;
    let cids: HashSet<u32> = taken.iter().map(|lease| lease.cid).collect();
    let cid = (FIRST_CID..u32::MAX)
        .find(|cid| !cids.contains(cid))
        .ok_or(none_left)?;
    let usual = net::tap_name(vm.as_str());
    let tap = if taken.iter().any(|lease| lease.tap == usual) {
        net::distinct_tap_name(vm.as_str())
    } else {
        usual
    };
    Ok(Lease {
        ip,
        mac: net::mac_for(vm.as_str(), &ip.to_string()),
        tap,
        cid,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    fn pool(subnet: &str) -> Pool {
        let subnet: Subnet = subnet.parse().unwrap();
        Pool {
            subnet,
            host_ip: Ipv4Addr::from_bits(subnet.network().to_bits() + 1),
        }
    }

    fn lease(name: &str, pool: Pool, taken: &mut Vec<Lease>) -> Lease {
        let lease = choose(&name.parse().unwrap(), pool, taken).unwrap();
        taken.push(lease.clone());
        lease
    }

    #[test]
    fn the_first_vm_gets_ten_and_freed_ones_come_back() {
        let pool = pool("192.168.127.0/24");
        let mut taken = Vec::new();
        let web = lease("web", pool, &mut taken);
        assert_eq!(web.ip, Ipv4Addr::new(192, 168, 127, 10));
        assert_eq!(web.mac, "02:f9:e8:54:fb:c4");
        assert_eq!((web.tap.as_str(), web.cid), ("vttap-web", 3));
        assert_eq!(lease("two", pool, &mut taken).cid, 4);
        assert_eq!(
            lease("three", pool, &mut taken).ip,
            Ipv4Addr::new(192, 168, 127, 12)
        );
        taken.remove(1);
        let again = lease("four", pool, &mut taken);
        assert_eq!((again.ip, again.cid), (Ipv4Addr::new(192, 168, 127, 11), 4));
    }

    #[test]
    fn two_names_with_one_tap_get_two() {
        let mut taken = Vec::new();
        let pool = pool("192.168.127.0/24");
        assert_eq!(lease("my-nginx", pool, &mut taken).tap, "vttap-mynginx");
        let other = lease("mynginx", pool, &mut taken).tap;
        assert_ne!(other, "vttap-mynginx");
        assert!(other.len() <= 15);
    }

    #[test]
    fn an_empty_pool_is_said_to_be_empty() {
        let mut taken = Vec::new();
        let pool = pool("10.0.0.0/29");
        for name in ["a", "b", "c", "d", "e"] {
            lease(name, pool, &mut taken);
        }
        let error = choose(&"f".parse().unwrap(), pool, &taken).unwrap_err();
        assert_eq!(
            error.to_string(),
            "No address is left in 10.0.0.0/29: 5 are leased"
        );
    }

    proptest! {
        #[test]
        fn no_two_vms_share_anything(names in vec("[a-c]([a-c-]{0,12}[a-c])?", 1..40)) {
            let pool = pool("10.1.0.0/24");
            let mut taken: Vec<Lease> = Vec::new();
            let mut seen = HashSet::new();
            for name in names.iter().filter(|name| seen.insert((*name).clone())) {
                let lease = choose(&name.parse().unwrap(), pool, &taken).unwrap();
                let shared = taken.iter().any(|other| {
                    other.ip == lease.ip || other.mac == lease.mac || other.cid == lease.cid || other.tap == lease.tap
                });
                prop_assert!(!shared, "{lease:?}");
                taken.push(lease);
            }
        }
    }
}
