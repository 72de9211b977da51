//! The guest's loopback, address, route and names. IPv6 is left as the kernel sets it; nothing here waits for a link or a lease.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use common::cmdline::IpConfig;

use crate::boot::Facts;
use crate::cmdline::name_servers;
use crate::console;
use crate::sys::Sys;

/// The loopback interface.
const LOOPBACK: &str = "lo";

/// Public name servers, as in the Go system: the host runs none for its guests.
const DEFAULT_NAME_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)];

/// Where names live.
const ETC: &str = "/etc";
const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The first port that a user other than root may serve at.
const FIRST_FREE_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Far more than such a file has. A longer one is left alone.
const MAX_HOSTS_BYTES: u64 = 1024 * 1024;

/// The host name of a guest that is told none.
const DEFAULT_HOST_NAME: &str = "vm";

/// Brings the loopback interface up; the kernel then gives it 127.0.0.1 and `::1` by itself. Every user may serve at every port: the
/// guest has one workload, and container engines allow the same.
pub(crate) fn loopback(sys: &dyn Sys, _facts: &mut Facts) {
    told(sys.set_link_up(LOOPBACK), "No loopback interface");
    told(
        sys.write(Path::new(FIRST_FREE_PORT), b"0"),
        "Ports below 1024 are for root only",
    );
}

/// Sets the address that `ip=` gives, unless the kernel has done so.
///
/// A guest without its network is not ended: its workload may need none, and the console tells.
pub(crate) fn address(sys: &dyn Sys, facts: &mut Facts) {
    let Some(ip) = facts.ip.as_ref() else {
        return;
    };
    if let Err(error) = configure(sys, ip) {
        console::line(&format!(
            "`{}` cannot have the address {}: {error}",
            ip.device, ip.address
        ));
        facts.ip = None;
    }
}

fn configure(sys: &dyn Sys, ip: &IpConfig) -> io::Result<()> {
    if sys.address(&ip.device)? != Some(ip.address) {
        sys.set_address(&ip.device, ip.address, ip.netmask)?;
    }
    sys.set_link_up(&ip.device)?;
    if !ip.gateway.is_unspecified() {
        told(
            sys.add_default_route(ip.gateway),
            &format!("No route by {}", ip.gateway),
        );
    }
    Ok(())
}

/// Sets the host name and writes what resolves names. All of it is a convenience: a read-only /etc is no reason to end.
pub(crate) fn names(sys: &dyn Sys, facts: &mut Facts) {
    let host_name = facts
        .ip
        .as_ref()
        .map(|ip| ip.host_name.as_str())
        .filter(|name| !name.is_empty())
        .unwrap_or(DEFAULT_HOST_NAME);
    told(sys.set_host_name(host_name), "No host name");
    told(sys.make_dir(Path::new(ETC), 0o755), "No /etc");
    let own = facts.ip.as_ref().map(|ip| ip.address);
    let existing = match sys.read(Path::new(HOSTS), MAX_HOSTS_BYTES) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Vec::new()),
        Err(_) => None,
    };
    if let Some(existing) = existing {
        let hosts = hosts_file(&String::from_utf8_lossy(&existing), own, host_name);
        told(
            sys.write(Path::new(HOSTS), hosts.as_bytes()),
            "No /etc/hosts",
        );
    }
    let missing = matches!(sys.read(Path::new(RESOLV_CONF), MAX_HOSTS_BYTES),
        Err(error) if error.kind() == io::ErrorKind::NotFound);
    if missing {
        let servers = resolv_conf(&name_servers(&facts.words));
        told(
            sys.write(Path::new(RESOLV_CONF), servers.as_bytes()),
            "No /etc/resolv.conf",
        );
    }
}

/// The image's own file with what is missing at its end.
fn hosts_file(existing: &str, own: Option<Ipv4Addr>, host_name: &str) -> String {
    let mut wanted: Vec<(IpAddr, &str)> = vec![
        (Ipv4Addr::LOCALHOST.into(), "localhost"),
        (Ipv6Addr::LOCALHOST.into(), "localhost"),
    ];
    wanted.push((own.unwrap_or(Ipv4Addr::LOCALHOST).into(), host_name));
    let mut file = existing.to_owned();
    if !file.is_empty() && !file.ends_with('\n') {
        file.push('\n');
    }
    for (address, name) in wanted {
        if !has_entry(existing, address, name) {
            // Writing to a `String` cannot fail.
            let _ = writeln!(file, "{address}\t{name}");
        }
    }
    file
}

fn has_entry(hosts: &str, address: IpAddr, name: &str) -> bool {
    hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .any(|line| {
            let mut words = line.split_whitespace();
            words.next().and_then(|word| word.parse().ok()) == Some(address)
                && words.any(|word| word == name)
        })
}

fn resolv_conf(given: &[IpAddr]) -> String {
    let servers: Vec<IpAddr> = if given.is_empty() {
        DEFAULT_NAME_SERVERS.map(IpAddr::from).to_vec()
    } else {
        given.to_vec()
    };
    let lines: Vec<String> = servers
        .iter()
        .map(|server| format!("nameserver {server}"))
        .collect();
    lines.join("\n") + "\n"
}

fn told(result: io::Result<()>, what: &str) {
    if let Err(error) = result {
        console::line(&format!("{what}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::fake::FakeSys;

    fn facts() -> Facts {
        Facts {
            ip: IpConfig::from_value("192.168.127.10::192.168.127.1:255.255.255.0:web:eth0:off"),
            ..Facts::default()
        }
    }

    #[test]
    fn the_address_is_set_before_the_link_and_the_route() {
        let sys = FakeSys::default();
        address(&sys, &mut facts());
        assert_eq!(
            sys.acts(),
            [
                "address eth0",
                "set_address eth0 192.168.127.10 255.255.255.0",
                "set_link_up eth0",
                "add_default_route 192.168.127.1",
            ]
        );
    }

    #[test]
    fn what_the_kernel_has_done_is_left() {
        let sys = FakeSys::default().with_address("eth0", Ipv4Addr::new(192, 168, 127, 10));
        address(&sys, &mut facts());
        assert!(!sys.acts().iter().any(|act| act.starts_with("set_address")));
    }

    #[test]
    fn without_an_interface_the_guest_goes_on_without_an_address() {
        let sys = FakeSys::default().failing("address eth0", io::ErrorKind::NotFound);
        let mut facts = facts();
        address(&sys, &mut facts);
        assert_eq!(facts.ip, None);
    }

    #[test]
    fn without_ip_nothing_is_touched() {
        let sys = FakeSys::default();
        address(&sys, &mut Facts::default());
        assert!(sys.acts().is_empty());
    }

    #[test]
    fn hosts_keeps_what_the_image_has() {
        let own = Some(Ipv4Addr::new(10, 0, 0, 2));
        let table = [
            ("", "127.0.0.1\tlocalhost\n::1\tlocalhost\n10.0.0.2\tweb\n"),
            (
                "127.0.0.1 other localhost",
                "127.0.0.1 other localhost\n::1\tlocalhost\n10.0.0.2\tweb\n",
            ),
            (
                "127.0.0.1 localhost\n::1 localhost\n10.0.0.2 web # mine\n",
                "127.0.0.1 localhost\n::1 localhost\n10.0.0.2 web # mine\n",
            ),
            (
                "# 127.0.0.1 localhost\n",
                "# 127.0.0.1 localhost\n127.0.0.1\tlocalhost\n::1\tlocalhost\n10.0.0.2\tweb\n",
            ),
        ];
        for (existing, expected) in table {
            assert_eq!(hosts_file(existing, own, "web"), expected, "{existing:?}");
        }
        assert!(hosts_file("", None, "vm").ends_with("127.0.0.1\tvm\n"));
    }

    #[test]
    fn an_image_keeps_its_own_resolv_conf() {
        let sys = FakeSys::default().with_file(RESOLV_CONF, "nameserver 10.1.1.1\n");
        names(&sys, &mut facts());
        assert!(!sys.acts().contains(&format!("write {RESOLV_CONF}")));

        let sys = FakeSys::default();
        names(&sys, &mut facts());
        assert_eq!(
            sys.file(RESOLV_CONF),
            "nameserver 1.1.1.1\nnameserver 8.8.8.8\n"
        );
        assert!(sys.acts().contains(&"set_host_name web".to_owned()));
    }

    #[test]
    fn name_servers_from_the_command_line_win() {
        let mut facts = facts();
        facts
            .words
            .insert("volant.dns".to_owned(), "192.168.127.1".to_owned());
        let sys = FakeSys::default();
        names(&sys, &mut facts);
        assert_eq!(sys.file(RESOLV_CONF), "nameserver 192.168.127.1\n");
    }
}
