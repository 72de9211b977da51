//! The guest's own kernel command line. Its encoding is [`common::cmdline`]; nothing is built here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use common::cmdline::{
    IpConfig, KEY_API_HOST, KEY_API_PORT, KEY_CONFIG, KEY_MANIFEST, KEY_PLUGIN, KEY_RUNTIME,
    KEY_WRITABLE, parse,
};

use crate::boot::{BootError, Facts};
use crate::console;
use crate::sys::Sys;

/// Key of the name servers for an image without /etc/resolv.conf, with commas between them. A user may add it.
pub(crate) const KEY_DNS: &str = "volant.dns";

/// Where the kernel shows the line.
const PROC_CMDLINE: &str = "/proc/cmdline";

/// Far more than any kernel reads (2048 on x86), so that nothing is cut here.
pub(crate) const MAX_PROC_CMDLINE_BYTES: u64 = 64 * 1024;

/// What all keys of Volant begin with.
const VOLANT_PREFIX: &str = "volant.";

const KNOWN_KEYS: &[&str] = &[
    KEY_RUNTIME,
    KEY_API_HOST,
    KEY_API_PORT,
    KEY_PLUGIN,
    KEY_MANIFEST,
    KEY_CONFIG,
    KEY_WRITABLE,
    KEY_DNS,
];

/// Reads the line into `facts`. A key of Volant that is not known is a line on the console.
pub(crate) fn read(sys: &dyn Sys, facts: &mut Facts) -> Result<(), BootError> {
    let bytes = sys
        .read(Path::new(PROC_CMDLINE), MAX_PROC_CMDLINE_BYTES)
        .map_err(BootError::Cmdline)?;
    facts.words = parse(&String::from_utf8_lossy(&bytes));
    for key in unknown_keys(&facts.words) {
        console::line(&format!(
            "The command line's key `{key}` is not known and is ignored"
        ));
    }
    if let Some(value) = facts.words.get("ip") {
        facts.ip = IpConfig::from_value(value);
        if facts.ip.is_none() {
            console::line(&format!(
                "`ip={value}` gives no static address, so the guest has none"
            ));
        }
    }
    Ok(())
}

fn unknown_keys(words: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    words
        .keys()
        .map(String::as_str)
        .filter(|key| key.starts_with(VOLANT_PREFIX) && !KNOWN_KEYS.contains(key))
}

/// The name servers that the line gives; words that are no addresses are left out.
pub(crate) fn name_servers(words: &BTreeMap<String, String>) -> Vec<IpAddr> {
    words
        .get(KEY_DNS)
        .into_iter()
        .flat_map(|value| value.split(','))
        .filter_map(|address| address.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::fake::FakeSys;

    #[test]
    fn the_address_and_the_words_are_found() {
        let line = "console=ttyS0 quiet ip=192.168.127.10::192.168.127.1:255.255.255.0:web:eth0:off volant.plugin=caddy\n";
        let sys = FakeSys::default().with_file(PROC_CMDLINE, line);
        let mut facts = Facts::default();
        read(&sys, &mut facts).unwrap();
        let ip = facts.ip.unwrap();
        assert_eq!(ip.address.to_string(), "192.168.127.10");
        assert_eq!(ip.host_name, "web");
        assert_eq!(facts.words[KEY_PLUGIN], "caddy");
    }

    #[test]
    fn a_dynamic_address_is_no_address_and_no_error() {
        let sys = FakeSys::default().with_file(PROC_CMDLINE, "ip=dhcp");
        let mut facts = Facts::default();
        read(&sys, &mut facts).unwrap();
        assert_eq!(facts.ip, None);
    }

    #[test]
    fn only_unknown_keys_of_volant_are_told() {
        let words =
            parse("volant.plugin=x volant.rootfs_device=vda other.key=1 volant.dns=1.1.1.1");
        assert_eq!(
            unknown_keys(&words).collect::<Vec<_>>(),
            ["volant.rootfs_device"]
        );
    }

    #[test]
    fn name_servers_are_addresses_only() {
        let words = parse("volant.dns=10.0.0.1,nonsense,2001:db8::1");
        let found: Vec<String> = name_servers(&words)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["10.0.0.1", "2001:db8::1"]);
        assert!(name_servers(&parse("quiet")).is_empty());
    }

    #[test]
    fn without_proc_the_boot_ends() {
        let error = read(&FakeSys::default(), &mut Facts::default()).unwrap_err();
        assert!(matches!(error, BootError::Cmdline(_)));
    }
}
