//! `fledge.toml` as it arrives, and the rules that make a [`BuildSpec`] of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{
    AgentSource, BuildSpec, BuildSpecError, DEFAULT_BUSYBOX_SHA256, DEFAULT_BUSYBOX_URL, Download,
    GuestPath, Init, MAX_SPEC_BYTES, ReleaseVersion,
};
use crate::digest::Digest;

/// What decides how the rest is read: looked at first, so that a spec of another strategy is told so, whatever else it holds.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "version")]
    _version: Version,
    strategy: Strategy,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Version;

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "1" {
            Ok(Self)
        } else {
            Err(format!(
                "`{}` is not a version of the build spec: use \"1\"",
                shown(&text)
            ))
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
enum Strategy {
    Initramfs,
    OciRootfs,
}

impl TryFrom<String> for Strategy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "initramfs" => Ok(Self::Initramfs),
            "oci_rootfs" => Ok(Self::OciRootfs),
            other => Err(format!(
                "`{}` is not a strategy: use \"initramfs\"",
                shown(other)
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(rename = "version")]
    _version: IgnoredAny,
    #[serde(rename = "strategy")]
    _strategy: IgnoredAny,
    agent: Option<RawAgent>,
    #[serde(default)]
    init: RawInit,
    #[serde(default)]
    source: RawSource,
    filesystem: Option<IgnoredAny>,
    #[serde(default)]
    mappings: BTreeMap<String, GuestPath>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAgent {
    source_strategy: AgentStrategy,
    #[serde(default)]
    version: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    checksum: OptionalDigest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AgentStrategy {
    Release,
    Local,
    Http,
}

impl AgentStrategy {
    const ALL: [(&'static str, Self); 3] = [
        ("release", Self::Release),
        ("local", Self::Local),
        ("http", Self::Http),
    ];
}

impl<'de> Deserialize<'de> for AgentStrategy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = Self::ALL.iter().find(|(name, _)| *name == text);
        known.map(|&(_, strategy)| strategy).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{}` is not a source of the agent: use \"release\", \"local\" or \"http\"",
                shown(&text)
            ))
        })
    }
}

/// A checksum that may be empty, as the Go system allowed.
#[derive(Default, Deserialize)]
#[serde(try_from = "String")]
struct OptionalDigest(Option<Digest>);

impl TryFrom<String> for OptionalDigest {
    type Error = crate::digest::InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|digest| Self(Some(digest)))
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawInit {
    path: String,
    none: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSource {
    busybox_url: String,
    busybox_sha256: OptionalDigest,
    image: Option<IgnoredAny>,
    dockerfile: Option<IgnoredAny>,
    context: Option<IgnoredAny>,
    target: Option<IgnoredAny>,
    build_args: Option<IgnoredAny>,
}

pub(super) fn parse(text: &str) -> Result<BuildSpec, BuildSpecError> {
    if text.len() > MAX_SPEC_BYTES {
        return Err(BuildSpecError::TooLarge {
            found_bytes: text.len(),
        });
    }
    let head: Head = toml::from_str(text).map_err(|error| syntax(&error))?;
    match head.strategy {
        Strategy::Initramfs => {}
        Strategy::OciRootfs => {
            return rule(
                "Strategy `oci_rootfs` is not supported by this version of fledge: use \"initramfs\"",
            );
        }
    }
    let raw: Raw = toml::from_str(text).map_err(|error| syntax(&error))?;
    if raw.filesystem.is_some() {
        return rule(
            "`[filesystem]` belongs to strategy `oci_rootfs`: an initramfs has no file system of its own",
        );
    }
    for (source, mapping) in &raw.mappings {
        if source.trim().is_empty() || source.contains('\0') {
            return rule(format!("The mapping to `{mapping}` has no host path"));
        }
    }
    Ok(BuildSpec {
        init: init(&raw.init, raw.agent)?,
        busybox: busybox(&raw.source)?,
        mappings: raw.mappings,
    })
}

fn init(init: &RawInit, agent: Option<RawAgent>) -> Result<Init, BuildSpecError> {
    let custom = match (init.none, init.path.trim()) {
        (true, "") => Init::None,
        (true, _) => return rule("`init.none` and `init.path` exclude each other: keep one"),
        (false, "") => return agent_source(agent).map(Init::Agent),
        (false, path) => Init::Custom(path.to_owned()),
    };
    if agent.is_some() {
        return rule(
            "`[agent]` has no meaning with an init of your own (`init.path` or `init.none`): remove one of the two",
        );
    }
    Ok(custom)
}

fn agent_source(agent: Option<RawAgent>) -> Result<AgentSource, BuildSpecError> {
    let Some(agent) = agent else {
        return Ok(AgentSource::Release {
            version: ReleaseVersion::Latest,
            checksum: None,
        });
    };
    let strategy = AgentStrategy::ALL
        .iter()
        .find(|(_, strategy)| *strategy == agent.source_strategy)
        .map_or("", |(name, _)| name);
    for (key, value, owner) in [
        ("version", &agent.version, AgentStrategy::Release),
        ("path", &agent.path, AgentStrategy::Local),
        ("url", &agent.url, AgentStrategy::Http),
    ] {
        let given = !value.trim().is_empty();
        if given && owner != agent.source_strategy {
            return rule(format!(
                "`agent.{key}` has no meaning with source_strategy \"{strategy}\""
            ));
        }
        if !given && owner == agent.source_strategy {
            return rule(format!(
                "Source_strategy \"{strategy}\" needs `agent.{key}`"
            ));
        }
    }
    let checksum = agent.checksum.0;
    match agent.source_strategy {
        AgentStrategy::Release => Ok(AgentSource::Release {
            version: release_version(agent.version.trim())?,
            checksum,
        }),
        AgentStrategy::Local => Ok(AgentSource::Local {
            path: agent.path,
            checksum,
        }),
        AgentStrategy::Http => {
            let Some(checksum) = checksum else {
                return rule(
                    "Source_strategy \"http\" needs `agent.checksum`: the agent is PID 1, so it must be the one you mean",
                );
            };
            Ok(AgentSource::Http(Download {
                url: http_url("agent.url", &agent.url)?,
                checksum,
            }))
        }
    }
}

/// A tag ends up in a URL: only what tags are made of is let through.
fn release_version(text: &str) -> Result<ReleaseVersion, BuildSpecError> {
    if text == "latest" {
        return Ok(ReleaseVersion::Latest);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    if text.chars().all(plain) && !text.contains("..") && text.len() <= 64 {
        return Ok(ReleaseVersion::Tag(text.to_owned()));
    }
    rule(format!(
        "`{}` is not a release: use \"latest\" or a tag such as \"v0.1.0\"",
        shown(text)
    ))
}

fn busybox(source: &RawSource) -> Result<Option<Download>, BuildSpecError> {
    for (key, given) in [
        ("image", source.image.is_some()),
        ("dockerfile", source.dockerfile.is_some()),
        ("context", source.context.is_some()),
        ("target", source.target.is_some()),
        ("build_args", source.build_args.is_some()),
    ] {
        if given {
            return rule(format!(
                "`source.{key}`: building from an image or a Dockerfile is not supported by this version of fledge"
            ));
        }
    }
    let url = source.busybox_url.trim();
    match (url, source.busybox_sha256.0) {
        ("", None) => Ok(None),
        ("", Some(_)) => {
            rule("`source.busybox_sha256` without `source.busybox_url`: there is nothing to check")
        }
        (url, Some(checksum)) => Ok(Some(Download {
            url: http_url("source.busybox_url", url)?,
            checksum,
        })),
        (DEFAULT_BUSYBOX_URL, None) => {
            Ok(DEFAULT_BUSYBOX_SHA256
                .parse()
                .ok()
                .map(|checksum| Download {
                    url: url.to_owned(),
                    checksum,
                }))
        }
        (_, None) => rule(
            "`source.busybox_url` needs `source.busybox_sha256`: without it anything could arrive",
        ),
    }
}

fn http_url(key: &str, url: &str) -> Result<String, BuildSpecError> {
    let url = url.trim();
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let bad = |c: char| c.is_whitespace() || c.is_control();
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/') || rest.contains(bad)) {
        return rule(format!(
            "`{key}` is `{}`: use an https:// or http:// URL",
            shown(url)
        ));
    }
    Ok(url.to_owned())
}

fn rule<T>(sentence: impl Into<String>) -> Result<T, BuildSpecError> {
    Err(BuildSpecError::Rule(sentence.into()))
}

fn syntax(error: &toml::de::Error) -> BuildSpecError {
    BuildSpecError::Syntax(error.to_string().trim_end().to_owned())
}

/// At most 80 characters of what a user wrote, escaped: it goes to terminals.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
