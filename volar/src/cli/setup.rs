//! `volar setup` as types.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;
use common::net::Subnet;

pub(super) const EXAMPLES: &str = "\
Bridge, subnet, address and kernel go to /etc/volant/volantd.toml, which is
never overwritten. It can be run again at any time. The network is not its
work: volantd makes bridge and rules at each start.

Examples:
  volar setup --dry-run
  sudo volar setup
  sudo volar setup --subnet 10.20.0.0/24 --host-ip 10.20.0.1
  sudo volar setup --service-file ''";

/// What the host is to be like.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where to put the systemd unit; empty for no service
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/etc/systemd/system/volantd.service"
    )]
    pub service_file: String,
    /// The bridge that volantd makes [default: vbr0]
    #[arg(long, value_name = "NAME", value_parser = parse_interface)]
    pub bridge: Option<String>,
    /// The subnet of the VMs [default: 192.168.127.0/24]
    #[arg(long, value_name = "CIDR", requires = "host_ip")]
    pub subnet: Option<Subnet>,
    /// The host's address in the subnet [default: 192.168.127.1]
    #[arg(long, value_name = "ADDRESS")]
    pub host_ip: Option<Ipv4Addr>,
    /// The guest kernel [default: /var/lib/volant/kernel/vmlinux]
    #[arg(long, value_name = "PATH", value_parser = parse_absolute)]
    pub vmlinux: Option<PathBuf>,
}

/// A path that goes into the configuration: absolute, and nothing but a word.
fn parse_absolute(text: &str) -> Result<PathBuf, &'static str> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "\"'\\%$".contains(c);
    if text.starts_with('/') && !text.contains(odd) {
        Ok(PathBuf::from(text))
    } else {
        Err("write an absolute path without blanks and quotes")
    }
}

/// The name of a network interface, as the kernel's `dev_valid_name` (net/core/dev.c) allows it, and a word.
fn parse_interface(text: &str) -> Result<String, &'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let length = 1..=common::net::MAX_INTERFACE_NAME_BYTES;
    if length.contains(&text.len()) && text.chars().all(good) && !matches!(text, "." | "..") {
        Ok(text.to_owned())
    } else {
        Err("write 1 to 15 letters, digits, `-`, `_` or `.`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_go_into_the_configuration() {
        assert!(parse_absolute("/boot/vmlinux").is_ok());
        for bad in ["", "vmlinux", "/a b", "/a\nExecStart=/x", "/%h", "/$x"] {
            assert!(parse_absolute(bad).is_err(), "{bad}");
        }
        assert!(parse_interface("vbr0").is_ok());
        for bad in ["", ".", "..", "a b", "a/b", "sixteen-letters-", "a\n"] {
            assert!(parse_interface(bad).is_err(), "{bad}");
        }
    }
}
