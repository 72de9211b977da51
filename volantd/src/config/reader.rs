//! Turns the texts of the configuration into values, or says which one cannot be one and where it came from. Reads no file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fledge::signature::PublicKey;
use reqwest::Url;

use super::{ConfigError, Origin, Setting};
use crate::access::{Access, Network, Origins};
use crate::limits::Limits;
use crate::signature::{Policy, Signatures};

/// Turns the gathered texts into values.
pub(super) struct Reader<'a> {
    pub(super) settings: &'a [Setting],
}

impl Reader<'_> {
    pub(super) fn text(&self, key: &str) -> &str {
        self.settings
            .iter()
            .find(|setting| setting.key == key)
            .map_or("", |setting| setting.value.trim())
    }

    pub(super) fn wrong(&self, key: &'static str, reason: impl Into<String>) -> ConfigError {
        let origin = self
            .settings
            .iter()
            .find(|setting| setting.key == key)
            .map_or(Origin::Default, |found| found.origin);
        ConfigError::Value {
            key,
            value: self.text(key).to_owned(),
            origin,
            reason: reason.into(),
        }
    }

    pub(super) fn parse<T: std::str::FromStr>(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Result<T, ConfigError> {
        self.text(key)
            .parse()
            .map_err(|_| self.wrong(key, format!("expected {expected}")))
    }

    pub(super) fn path(&self, key: &'static str) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(self.text(key));
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(self.wrong(key, "expected an absolute path"))
        }
    }

    /// A list of folders; `default` where none is named.
    pub(super) fn folders(
        &self,
        key: &'static str,
        default: Option<&Path>,
    ) -> Result<Vec<PathBuf>, ConfigError> {
        let texts = self.text(key).split(',').map(str::trim);
        let named = texts.filter(|text| !text.is_empty()).map(PathBuf::from);
        let named: Vec<PathBuf> = named.collect();
        if named.is_empty() {
            return Ok(default.map(Path::to_path_buf).into_iter().collect());
        }
        if named.iter().all(|path| path.is_absolute()) {
            Ok(named)
        } else {
            Err(self.wrong(key, "expected absolute paths"))
        }
    }

    pub(super) fn program(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        match self.text(key) {
            "" => Ok(None),
            _ => self.path(key).map(Some),
        }
    }

    pub(super) fn listen(&self) -> Result<Option<SocketAddr>, ConfigError> {
        match self.text("api_listen") {
            "" | "none" => Ok(None),
            _ => self
                .parse(
                    "api_listen",
                    "an address and port such as 127.0.0.1:7777, or `none`",
                )
                .map(Some),
        }
    }

    pub(super) fn interface(&self, key: &'static str) -> Result<String, ConfigError> {
        let name = self.text(key);
        let fits = (1..=common::net::MAX_INTERFACE_NAME_BYTES).contains(&name.len());
        if fits
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            Ok(name.to_owned())
        } else {
            Err(self.wrong(
                key,
                "expected an interface name of at most 15 letters, digits, `-` and `_`",
            ))
        }
    }

    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        table: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        table
            .iter()
            .find(|(word, _)| *word == self.text(key))
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
                self.wrong(key, format!("expected one of {}", words.join(", ")))
            })
    }

    pub(super) fn boot_timeout(&self) -> Result<Option<Duration>, ConfigError> {
        if self.text("boot_timeout_s") == "auto" {
            return Ok(None);
        }
        let seconds = self.number("boot_timeout_s", 1, 3600)?;
        Ok(Some(Duration::from_secs(seconds)))
    }

    pub(super) fn limits(&self) -> Result<Limits, ConfigError> {
        Limits::read(|bound| self.number(bound.key, bound.least, bound.most))
    }

    pub(super) fn access(&self) -> Result<Access, ConfigError> {
        let networks = self.words("api_allow_cidr").map(str::parse);
        let networks: Result<Vec<Network>, _> = networks.collect();
        let networks = networks.map_err(|error| self.wrong("api_allow_cidr", error.to_string()))?;
        let origins: BTreeSet<String> = self.words("cors_origins").map(str::to_owned).collect();
        let is_origin = |origin: &String| {
            let (scheme, host) = origin.split_once("://").unwrap_or_default();
            matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains('/')
        };
        let origins = if origins.contains("*") {
            Origins::Any
        } else if origins.iter().all(is_origin) {
            Origins::Listed(origins)
        } else {
            return Err(self.wrong(
                "cors_origins",
                "expected origins such as https://host:port, or *",
            ));
        };
        // Whatever name others are told is one that they use.
        let advertised = self.text("api_advertise");
        let advertised = advertised
            .rsplit_once(':')
            .map_or(advertised, |(host, _)| host);
        let hosts = self.words("api_hosts").chain([advertised]);
        Ok(Access {
            hosts: hosts
                .filter(|host| !host.is_empty())
                .map(str::to_lowercase)
                .collect(),
            origins,
            networks,
        })
    }

    /// The parts of a list, with commas between.
    pub(super) fn words(&self, key: &str) -> impl Iterator<Item = &str> {
        let words = self.text(key).split(',').map(str::trim);
        words.filter(|word| !word.is_empty())
    }

    pub(super) fn signatures(&self) -> Result<Signatures, ConfigError> {
        let policy = self.choice(
            "require_signatures",
            &[("false", Policy::Optional), ("true", Policy::Required)],
        )?;
        let text = self.text("trusted_keys");
        let keys = text.split(',').filter(|_| !text.is_empty());
        let keys: Result<Vec<PublicKey>, _> = keys.map(str::parse).collect();
        let keys = keys.map_err(|error| self.wrong("trusted_keys", error.to_string()))?;
        if policy == Policy::Required && keys.is_empty() {
            return Err(self.wrong(
                "require_signatures",
                "no key is trusted, so nothing could be booted: name one in `trusted_keys`",
            ));
        }
        Ok(Signatures::new(keys, policy))
    }

    /// The address of a collector. One with a password would be shown by `volantd config` and in the log.
    pub(super) fn collector(&self, key: &'static str) -> Result<Option<Url>, ConfigError> {
        let text = self.text(key);
        if text.is_empty() {
            return Ok(None);
        }
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        url.map(Some).ok_or_else(|| {
            self.wrong(
                key,
                "expected an address such as http://127.0.0.1:4318, without a password",
            )
        })
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        least: u64,
        most: u64,
    ) -> Result<u64, ConfigError> {
        let number: u64 = self.parse(key, &format!("a number from {least} to {most}"))?;
        if (least..=most).contains(&number) {
            Ok(number)
        } else {
            Err(self.wrong(key, format!("expected a number from {least} to {most}")))
        }
    }
}
