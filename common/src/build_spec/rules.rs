//! What the keys of a `fledge.toml` must fulfil: makes a [`BuildSpec`] of what was read, or finds everything that is wrong with it.

mod fetch;
mod filesystem;

use super::document::{Findings, pointer};
use super::raw::{self, AgentStrategy, Raw, Strategy};
use super::{
    AgentSource, Base, BuildSpec, Compression, DEFAULT_BUSYBOX_SHA256, DEFAULT_BUSYBOX_URL,
    Dockerfile, Download, Filesystem, GuestPath, Init, Output, ReleaseVersion, shown,
};
use crate::digest::Digest;

/// The spec that `raw` describes, which is to be used only if `found` has nothing against it in the end. Of what is wrong something
/// stands in that asks for nothing: the agent of a release, and a root file system, which leaves most to its image.
pub(super) fn spec(raw: Raw, found: &mut Findings) -> BuildSpec {
    if raw.version.is_none() {
        found.missing(
            "/version",
            "The key `version` is missing: write version = \"1\"",
        );
    }
    if raw.strategy.is_none() {
        found.missing(
            "/strategy",
            "The key `strategy` is missing: use \"initramfs\" or \"oci_rootfs\"",
        );
    }
    for (source, mapping) in &raw.mappings {
        if source.trim().is_empty() || source.contains('\0') {
            let sentence = format!("The mapping to `{mapping}` has no host path");
            found.key(&pointer(&["mappings", source]), sentence);
        }
    }
    let init = init(&raw, found);
    if !matches!(init, Some(Init::Custom(_) | Init::None)) {
        find_hidden(&raw, found);
    }
    let base = base(&raw, found);
    let busybox = busybox(&raw, found);
    let output = output(&raw, found);
    let fetches = raw
        .fetch
        .iter()
        .enumerate()
        .filter_map(|(index, fetch)| fetch::fetch(fetch, &format!("/fetch/{index}"), found))
        .collect();
    let latest = || {
        Init::Agent(AgentSource::Release {
            version: ReleaseVersion::Latest,
            checksum: None,
        })
    };
    BuildSpec {
        init: init.unwrap_or_else(latest),
        base,
        busybox,
        mappings: raw.mappings,
        fetches,
        output: output.unwrap_or_else(|| Output::Rootfs(Filesystem::default())),
    }
}

/// Finds what would go where the agent mounts something over it.
fn find_hidden(raw: &Raw, found: &mut Findings) {
    let sentence = |path: &GuestPath| {
        let point = path.mount_point()?;
        Some(format!(
            "`{path}` would not be seen in the guest: something else is mounted at `{point}` at every boot"
        ))
    };
    for (source, path) in &raw.mappings {
        if let Some(sentence) = sentence(path) {
            found.value(&pointer(&["mappings", source]), sentence);
        }
    }
    for (index, fetch) in raw.fetch.iter().enumerate() {
        if let Some(sentence) = fetch.path.as_ref().and_then(sentence) {
            found.value(&format!("/fetch/{index}/path"), sentence);
        }
    }
}

fn init(raw: &Raw, found: &mut Findings) -> Option<Init> {
    let none = raw.init.none.then_some(Init::None);
    let custom = given(raw.init.path.as_ref()).map(|path| Init::Custom(path.to_owned()));
    let place = if none.is_some() {
        "/init/none"
    } else {
        "/init/path"
    };
    if none.is_some() && custom.is_some() {
        found.value(
            "/init/path",
            "`init.none` and `init.path` exclude each other: keep one",
        );
    }
    let Some(own) = none.or(custom) else {
        return agent(raw.agent.as_ref(), found).map(Init::Agent);
    };
    if raw.strategy == Some(Strategy::OciRootfs) {
        found.key(
            place,
            "With strategy `oci_rootfs` the agent is PID 1: an init of your own needs strategy `initramfs`",
        );
    } else if raw.agent.is_some() {
        found.key(
            "/agent",
            "`[agent]` has no meaning with an init of your own (`init.path` or `init.none`): remove one of the two",
        );
    }
    Some(own)
}

fn agent(raw: Option<&raw::Agent>, found: &mut Findings) -> Option<AgentSource> {
    let Some(raw) = raw else {
        return Some(AgentSource::Release {
            version: ReleaseVersion::Latest,
            checksum: None,
        });
    };
    let checksum = digest(raw.checksum.as_ref(), "/agent/checksum", found);
    let Some(strategy) = raw.source_strategy else {
        found.missing(
            "/agent/source_strategy",
            "`[agent]` needs `source_strategy`: use \"release\", \"local\" or \"http\"",
        );
        return None;
    };
    let name = match strategy {
        AgentStrategy::Release => "release",
        AgentStrategy::Local => "local",
        AgentStrategy::Http => "http",
    };
    let mut own = None;
    for (key, value, owner) in [
        ("version", &raw.version, AgentStrategy::Release),
        ("path", &raw.path, AgentStrategy::Local),
        ("url", &raw.url, AgentStrategy::Http),
    ] {
        let place = format!("/agent/{key}");
        match given(value.as_ref()) {
            Some(_) if owner != strategy => found.key(
                &place,
                format!("`agent.{key}` has no meaning with source_strategy \"{name}\""),
            ),
            None if owner == strategy => found.missing(
                &place,
                format!("Source_strategy \"{name}\" needs `agent.{key}`"),
            ),
            Some(value) => own = Some(value),
            None => {}
        }
    }
    let own = own?;
    match strategy {
        AgentStrategy::Release => {
            let version = release_version(own, found)?;
            Some(AgentSource::Release { version, checksum })
        }
        AgentStrategy::Local => Some(AgentSource::Local {
            path: own.to_owned(),
            checksum,
        }),
        AgentStrategy::Http => {
            let url = http_url("agent.url", own, "/agent/url", found);
            if checksum.is_none() {
                found.missing(
                    "/agent/checksum",
                    "Source_strategy \"http\" needs `agent.checksum`: the agent is PID 1, so it must be the one you mean",
                );
            }
            Some(AgentSource::Http(Download {
                url: url?,
                checksum: checksum?,
            }))
        }
    }
}

/// A tag ends up in a URL: only what tags are made of is let through.
fn release_version(text: &str, found: &mut Findings) -> Option<ReleaseVersion> {
    if text == "latest" {
        return Some(ReleaseVersion::Latest);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    if text.chars().all(plain) && !text.contains("..") && text.len() <= 64 {
        return Some(ReleaseVersion::Tag(text.to_owned()));
    }
    let text = shown(text);
    found.value(
        "/agent/version",
        format!("`{text}` is not a release: use \"latest\" or a tag such as \"v0.1.0\""),
    );
    None
}

fn base(raw: &Raw, found: &mut Findings) -> Option<Base> {
    let source = &raw.source;
    let image = given(source.image.as_ref());
    let dockerfile = given(source.dockerfile.as_ref());
    match (image, dockerfile) {
        (Some(_), Some(_)) => found.key(
            "/source/dockerfile",
            "`source.image` and `source.dockerfile` exclude each other: keep one",
        ),
        (None, None) if raw.strategy == Some(Strategy::OciRootfs) => found.missing(
            "/source",
            "Strategy `oci_rootfs` needs `source.image` or `source.dockerfile`",
        ),
        _ => {}
    }
    if dockerfile.is_none() {
        for (key, is_given) in [
            ("context", source.context.is_some()),
            ("target", source.target.is_some()),
            ("build_args", source.build_args.is_some()),
        ] {
            if is_given {
                let sentence = format!("`source.{key}` has no meaning without `source.dockerfile`");
                found.key(&pointer(&["source", key]), sentence);
            }
        }
    }
    for name in source.build_args.iter().flat_map(|args| args.keys()) {
        if name.trim().is_empty() || name.contains(['=', '\0']) {
            let sentence = format!("`{}` cannot be the name of a build argument", shown(name));
            found.key(&pointer(&["source", "build_args", name]), sentence);
        }
    }
    if let Some(image) = image {
        if image.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let sentence = format!("`{}` is not the name of an image", shown(image));
            found.value("/source/image", sentence);
        }
        return Some(Base::Image(image.to_owned()));
    }
    let owned = |text: &Option<String>| given(text.as_ref()).map(str::to_owned);
    dockerfile.map(|path| {
        Base::Dockerfile(Dockerfile {
            path: path.to_owned(),
            context: owned(&source.context),
            target: owned(&source.target),
            build_args: source.build_args.clone().unwrap_or_default(),
        })
    })
}

fn busybox(raw: &Raw, found: &mut Findings) -> Option<Download> {
    let place = "/source/busybox_url";
    let checksum = digest(
        raw.source.busybox_sha256.as_ref(),
        "/source/busybox_sha256",
        found,
    );
    let Some(url) = given(raw.source.busybox_url.as_ref()) else {
        if checksum.is_some() {
            found.key(
                "/source/busybox_sha256",
                "`source.busybox_sha256` without `source.busybox_url`: there is nothing to check",
            );
        }
        return None;
    };
    if raw.strategy == Some(Strategy::OciRootfs) {
        found.key(
            place,
            "`source.busybox_url` belongs to strategy `initramfs`: an image brings its own shell",
        );
    }
    let known = || DEFAULT_BUSYBOX_SHA256.parse().ok();
    let checksum = checksum.or_else(|| (url == DEFAULT_BUSYBOX_URL).then(known).flatten());
    if checksum.is_none() {
        found.missing(
            "/source/busybox_sha256",
            "`source.busybox_url` needs `source.busybox_sha256`: without it anything could arrive",
        );
    }
    Some(Download {
        url: http_url("source.busybox_url", url, place, found)?,
        checksum: checksum?,
    })
}

fn output(raw: &Raw, found: &mut Findings) -> Option<Output> {
    match raw.strategy? {
        Strategy::Initramfs => {
            if raw.filesystem.is_some() {
                found.key(
                    "/filesystem",
                    "`[filesystem]` belongs to strategy `oci_rootfs`: an initramfs has no file system of its own",
                );
            }
            let compression = match raw.compression {
                None | Some(raw::Compression::Gzip) => Compression::Gzip,
                Some(raw::Compression::Zstd) => Compression::Zstd,
                Some(raw::Compression::None) => Compression::None,
            };
            Some(Output::Initramfs { compression })
        }
        Strategy::OciRootfs => {
            if raw.compression.is_some() {
                found.key(
                    "/compression",
                    "`compression` belongs to strategy `initramfs`: `[filesystem]` says how a root file system is made",
                );
            }
            filesystem::filesystem(raw.filesystem.as_ref(), found).map(Output::Rootfs)
        }
    }
}

/// A text that says something: the Go system took an empty one for a missing one.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn digest(text: Option<&String>, place: &str, found: &mut Findings) -> Option<Digest> {
    given(text)?
        .parse()
        .map_err(|error: crate::digest::InvalidDigest| found.value(place, error.to_string()))
        .ok()
}

fn http_url(key: &str, url: &str, place: &str, found: &mut Findings) -> Option<String> {
    let url = url.trim();
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let bad = |c: char| c.is_whitespace() || c.is_control();
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/') || rest.contains(bad)) {
        let url = shown(url);
        found.value(
            place,
            format!("`{key}` is `{url}`: use an https:// or http:// URL"),
        );
        return None;
    }
    Some(url.to_owned())
}
