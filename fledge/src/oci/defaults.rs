//! What a manifest says unless its author says otherwise: what the image's config says, in a manifest's words. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use common::manifest::Protocol;

use super::config::{Config, Healthcheck};

/// How often docker checks, and how long it waits, where the image does not say.
const DEFAULT_HEALTH_TIME: Duration = Duration::from_secs(30);

/// How many failures in a row docker waits for, where the image does not say.
const DEFAULT_HEALTH_RETRIES: u64 = 3;

/// What an image's config gives to a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Entrypoint and arguments; empty where the image names no program.
    pub entrypoint: Vec<String>,
    /// The environment. Of two with one name the later counts.
    pub env: BTreeMap<String, String>,
    /// The working directory, where it is not the root.
    pub workdir: Option<String>,
    /// The user, with or without a group.
    pub user: Option<String>,
    /// Ports, each with `tcp` or `udp`, in order.
    pub expose: Vec<(u16, Protocol)>,
    /// The signal that ends the workload.
    pub stop_signal: Option<String>,
    /// How to find out whether it works.
    pub health: Option<Health>,
}

/// A command that succeeds when the workload works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Program and arguments, to be run in the guest.
    pub command: Vec<String>,
    /// Between two checks.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How long until a workload that does not come up counts as failed.
    pub startup: Duration,
}

impl Config {
    /// What the config gives to a manifest. What a manifest cannot say, such as SCTP ports, is left out.
    pub fn defaults(&self) -> Defaults {
        let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let mut expose: Vec<_> = self
            .exposed_ports
            .iter()
            .flat_map(|text| ports(text))
            .collect();
        expose.sort_unstable();
        expose.dedup();
        Defaults {
            entrypoint: [self.entrypoint.as_slice(), &self.cmd].concat(),
            env: self.env.iter().filter_map(|line| variable(line)).collect(),
            workdir: set(&self.working_dir)
                .map(absolute)
                .filter(|path| path != "/"),
            user: set(&self.user),
            expose,
            stop_signal: self.stop_signal.clone(),
            health: self.healthcheck.as_ref().and_then(health),
        }
    }
}

fn variable(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// Old builders leave the `/` out.
fn absolute(path: String) -> String {
    if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    }
}

/// `80`, `80/tcp` or `8000-8010/udp`.
fn ports(text: &str) -> Vec<(u16, Protocol)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Vec::new(),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first > 0 => (first..=last).map(|port| (port, protocol)).collect(),
        _ => Vec::new(),
    }
}

fn health(check: &Healthcheck) -> Option<Health> {
    let (kind, rest) = check.test.split_first()?;
    let command = match (kind.as_str(), rest) {
        ("CMD", [_, ..]) => rest.to_vec(),
        ("CMD-SHELL", [line, ..]) => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        // `NONE` takes back what a base image says.
        _ => return None,
    };
    let or_default = |time_ns| match time_ns {
        0 => DEFAULT_HEALTH_TIME,
        time_ns => Duration::from_nanos(time_ns),
    };
    let interval = or_default(check.interval_ns);
    let retries = match check.retries {
        0 => DEFAULT_HEALTH_RETRIES,
        retries => retries,
    };
    let failures = interval.saturating_mul(u32::try_from(retries).unwrap_or(u32::MAX));
    Some(Health {
        command,
        interval,
        timeout: or_default(check.timeout_ns),
        startup: Duration::from_nanos(check.start_period_ns).saturating_add(failures),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_config_becomes_defaults() {
        let config = Config {
            entrypoint: texts(&["/e", "a"]),
            cmd: texts(&["b"]),
            env: texts(&["A=1", "B=x=y", "A=2", "=z", "bare"]),
            working_dir: "srv".to_owned(),
            user: "7:8".to_owned(),
            exposed_ports: texts(&[
                "443/tcp",
                "80",
                "53/UDP",
                "9/sctp",
                "0/tcp",
                "7000-7001/tcp",
                "9-x",
                "80/tcp",
            ]),
            stop_signal: Some("SIGQUIT".to_owned()),
            ..Config::default()
        };
        let defaults = config.defaults();
        assert_eq!(defaults.entrypoint, ["/e", "a", "b"]);
        let env: Vec<_> = defaults
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(env, ["A=2", "B=x=y"]);
        assert_eq!(defaults.workdir.as_deref(), Some("/srv"));
        assert_eq!(defaults.user.as_deref(), Some("7:8"));
        let tcp = [80, 443, 7000, 7001].map(|port| (port, Protocol::Tcp));
        let mut expected = tcp.to_vec();
        expected.insert(1, (53, Protocol::Udp));
        expected.sort_unstable();
        assert_eq!(defaults.expose, expected);
        assert_eq!(defaults.stop_signal.as_deref(), Some("SIGQUIT"));
    }

    #[test]
    fn nothing_becomes_nothing() {
        let root = Config {
            working_dir: "/".to_owned(),
            ..Config::default()
        };
        assert_eq!(root.defaults(), Defaults::default());
    }

    #[test]
    fn health_checks_are_commands() {
        let check = |test: &[&str]| {
            health(&Healthcheck {
                test: texts(test),
                interval_ns: 5_000_000_000,
                start_period_ns: 1_000_000_000,
                retries: 2,
                ..Healthcheck::default()
            })
        };
        let found = check(&["CMD", "/h", "-x"]).unwrap();
        assert_eq!(found.command, ["/h", "-x"]);
        assert_eq!(found.interval, Duration::from_secs(5));
        assert_eq!(found.timeout, DEFAULT_HEALTH_TIME);
        assert_eq!(found.startup, Duration::from_secs(11));
        let shell = check(&["CMD-SHELL", "curl -f x || exit 1"]).unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "curl -f x || exit 1"]);
        for none in [&["NONE"][..], &[], &["CMD"], &["CMD-SHELL"], &["/h"]] {
            assert_eq!(check(none), None, "{none:?}");
        }
    }
}
