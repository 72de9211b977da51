//! The rules of the host's firewall as one nftables script. Pure: running it is `linux/ruleset.rs`.
//!
//! The script replaces the whole table in one transaction, so that it can be applied at every start and there is no moment
//! without rules. An accept here never overrules another table, and nothing outside `table inet volant` is named.

use std::fmt::Write as _;

use super::NetConfig;

/// Removes the table; nothing there is fine, because it is declared first.
pub const REMOVE: &str = "table inet volant\ndelete table inet volant\n";

/// The script that puts the rules for `config` in place. Give it a config that has passed [`NetConfig::check`].
pub fn render(config: &NetConfig) -> String {
    let NetConfig {
        bridge,
        subnet,
        host_ip,
        api_ports,
    } = config;
    let mut script = String::from(REMOVE);
    let mut line = |text: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(script, "{text}");
    };
    line("table inet volant {");

    // Before connection tracking, so that forged packets leave no state behind.
    line("\tchain prerouting {");
    line("\t\ttype filter hook prerouting priority raw; policy accept;");
    line(&format!("\t\tiifname \"{bridge}\" meta nfproto ipv6 drop"));
    line(&format!(
        "\t\tiifname \"{bridge}\" ip saddr != {subnet} drop"
    ));
    line(&format!("\t\tiifname \"{bridge}\" ip saddr {host_ip} drop"));
    line("\t}");

    // Whatever address of the host a guest tries, the packet comes in here by the bridge.
    line("\tchain input {");
    line("\t\ttype filter hook input priority filter; policy accept;");
    line(&format!(
        "\t\tiifname \"{bridge}\" ct state established,related accept"
    ));
    line(&format!(
        "\t\tiifname \"{bridge}\" icmp type echo-request accept"
    ));
    if !api_ports.is_empty() {
        let ports: Vec<String> = api_ports.iter().map(u16::to_string).collect();
        line(&format!(
            "\t\tiifname \"{bridge}\" tcp dport {{ {} }} counter drop",
            ports.join(", ")
        ));
    }
    line(&format!("\t\tiifname \"{bridge}\" counter drop"));
    line("\t}");

    // From guest to guest only where the host makes bridged packets pass here (br_netfilter).
    line("\tchain forward {");
    line("\t\ttype filter hook forward priority filter; policy accept;");
    line(&format!(
        "\t\tiifname \"{bridge}\" oifname \"{bridge}\" accept"
    ));
    line(&format!("\t\tiifname \"{bridge}\" ct state invalid drop"));
    line(&format!(
        "\t\toifname \"{bridge}\" ct state established,related accept"
    ));
    line(&format!("\t\toifname \"{bridge}\" counter drop"));
    line("\t}");

    line("\tchain postrouting {");
    line("\t\ttype nat hook postrouting priority srcnat; policy accept;");
    line(&format!(
        "\t\tip saddr {subnet} oifname != \"{bridge}\" masquerade"
    ));
    line("\t}");
    line("}");
    script
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn config() -> NetConfig {
        NetConfig {
            bridge: "vbr0".to_owned(),
            subnet: "192.168.127.0/24".parse().unwrap(),
            host_ip: "192.168.127.1".parse().unwrap(),
            api_ports: vec![7777, 8443],
        }
    }

    const SCRIPT: &str = r#"table inet volant
delete table inet volant
table inet volant {
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "vbr0" meta nfproto ipv6 drop
		iifname "vbr0" ip saddr != 192.168.127.0/24 drop
		iifname "vbr0" ip saddr 192.168.127.1 drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname "vbr0" ct state established,related accept
		iifname "vbr0" icmp type echo-request accept
		iifname "vbr0" tcp dport { 7777, 8443 } counter drop
		iifname "vbr0" counter drop
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "vbr0" oifname "vbr0" accept
		iifname "vbr0" ct state invalid drop
		oifname "vbr0" ct state established,related accept
		oifname "vbr0" counter drop
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 192.168.127.0/24 oifname != "vbr0" masquerade
	}
}
"#;

    #[test]
    fn the_script_is_this() {
        assert_eq!(render(&config()), SCRIPT);
    }

    #[test]
    fn no_api_port_means_no_rule_for_it() {
        let mut config = config();
        config.api_ports.clear();
        assert!(!render(&config).contains("dport"));
    }

    /// Past the test runner, which would swallow what a test prints that passes.
    fn skip(why: &str) {
        drop(
            std::io::stderr()
                .write_all(format!("SKIPPED nft_accepts_the_script: {why}\n").as_bytes()),
        );
    }

    /// Only checks: nothing is changed by `--check`.
    #[test]
    fn nft_accepts_the_script() {
        if !nix::unistd::geteuid().is_root() {
            skip("`nft --check` needs root");
            return;
        }
        let spawned = Command::new("nft")
            .args(["--check", "--file", "-"])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else {
            skip("there is no `nft` here");
            return;
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(render(&config()).as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
