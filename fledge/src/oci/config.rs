//! An image's config (OCI image specification, config.md; docker adds the health check): what its author wants to run. Reading only.

use std::collections::BTreeMap;

use common::digest::Digest;
use serde::Deserialize;

/// The largest config that is read, in bytes. A large one has 20 kB; the history of all layers is in it.
pub(super) const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// A config that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is too large.
    #[error("The image's config has more than {MAX_CONFIG_BYTES} bytes")]
    TooLarge,
    /// It is not what the specification says.
    #[error("The image's config is malformed")]
    Malformed(#[source] serde_json::Error),
    /// The image is for another machine.
    #[error("The image is for `{platform}`; only `linux/amd64` can be used")]
    Platform {
        /// What it is for.
        platform: String,
    },
}

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The program with its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The working directory, possibly empty.
    pub working_dir: String,
    /// `user[:group]`, names or numbers, possibly empty.
    pub user: String,
    /// Such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Such as `SIGQUIT` or `3`.
    pub stop_signal: Option<String>,
    /// How the image's author finds out whether it works.
    pub healthcheck: Option<Healthcheck>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// The digests of the layers' plain archives, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// A health check in docker's way: times are in nanoseconds, 0 for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`, `CMD` with a program and arguments, or `CMD-SHELL` with a line for a shell.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(rename = "Interval")]
    pub interval_ns: u64,
    /// How long a check may take.
    #[serde(rename = "Timeout")]
    pub timeout_ns: u64,
    /// How long failures at the start do not count.
    #[serde(rename = "StartPeriod")]
    pub start_period_ns: u64,
    /// How many failures in a row count.
    pub retries: u64,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    config: RawConfig,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    stop_signal: Option<String>,
    healthcheck: Option<Healthcheck>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

/// Go writes empty lists and maps as `null`.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Config {
    /// Reads a config, and checks that it is for this system's guests.
    ///
    /// # Errors
    /// Where it is malformed or for another platform.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        if json.len() > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge);
        }
        let raw: Raw = serde_json::from_slice(json).map_err(ConfigError::Malformed)?;
        // Images that are made by hand sometimes say neither.
        let is_for = |found: &str, wanted| found.is_empty() || found == wanted;
        if !is_for(&raw.os, "linux") || !is_for(&raw.architecture, "amd64") {
            let shown = |text: &str| -> String { text.chars().take(40).collect() };
            return Err(ConfigError::Platform {
                platform: format!("{}/{}", shown(&raw.os), shown(&raw.architecture)),
            });
        }
        let config = raw.config;
        Ok(Self {
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            env: config.env,
            working_dir: config.working_dir,
            user: config.user,
            exposed_ports: config.exposed_ports.into_keys().collect(),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
            healthcheck: config.healthcheck,
            labels: config.labels,
            diff_ids: raw.rootfs.diff_ids,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_config_is_read() {
        let digest = Digest::of(b"");
        let json = format!(
            r#"{{"os":"linux","architecture":"amd64","created":"2024","rootfs":{{"type":"layers","diff_ids":["{digest}"]}},
            "config":{{"Entrypoint":["/e","x"],"Cmd":["y"],"Env":["A=1"],"WorkingDir":"/w","User":"7:8","ExposedPorts":{{"80/tcp":{{}},"53/udp":{{}}}},
            "StopSignal":"SIGQUIT","Labels":{{"a":"b"}},"Volumes":{{"/v":{{}}}},
            "Healthcheck":{{"Test":["CMD","/h"],"Interval":5000000000,"Timeout":1000000,"Retries":3}}}}}}"#
        );
        let config = Config::parse(json.as_bytes()).unwrap();
        assert_eq!(
            (config.entrypoint, config.cmd),
            (vec!["/e".to_owned(), "x".to_owned()], vec!["y".to_owned()])
        );
        assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(
            (config.user.as_str(), config.working_dir.as_str()),
            ("7:8", "/w")
        );
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.diff_ids, [digest]);
        let health = config.healthcheck.unwrap();
        assert_eq!(
            (
                health.interval_ns,
                health.timeout_ns,
                health.start_period_ns
            ),
            (5_000_000_000, 1_000_000, 0)
        );
    }

    #[test]
    fn null_and_nothing_are_the_same() {
        for json in [
            r#"{"rootfs":{}}"#,
            r#"{"os":"linux","architecture":"amd64","config":null,"rootfs":{"diff_ids":null}}"#,
            r#"{"rootfs":{},"config":{"Cmd":null,"Env":null,"ExposedPorts":null,"Labels":null,"User":null,"StopSignal":"","Healthcheck":null}}"#,
        ] {
            assert_eq!(
                Config::parse(json.as_bytes()).unwrap(),
                Config::default(),
                "{json}"
            );
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (json, expected) in [
            ("[]", "malformed"),
            ("{}", "malformed"),
            (r#"{"rootfs":{"diff_ids":["sha512:00"]}}"#, "malformed"),
            (
                r#"{"os":"windows","architecture":"amd64","rootfs":{}}"#,
                "for `windows/amd64`",
            ),
            (
                r#"{"os":"linux","architecture":"arm64","rootfs":{}}"#,
                "for `linux/arm64`",
            ),
        ] {
            let message = Config::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let large = vec![b' '; MAX_CONFIG_BYTES + 1];
        assert!(matches!(Config::parse(&large), Err(ConfigError::TooLarge)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Config::parse(&bytes));
        }
    }
}
