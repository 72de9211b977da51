//! What a build puts into the manifest beside the artifact: a `manifest.toml`, or a manifest that exists already.
//!
//! Only the form is checked here. The contents are checked by [`Manifest::from_json`], so that there is one set of rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::MAX_SPEC_BYTES;
use crate::digest::Digest;
use crate::manifest::{Artifact, MAX_MANIFEST_BYTES, Manifest, ManifestError};

/// A template that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is larger than is read.
    #[error("The manifest has {found_bytes} bytes; the limit is {limit_bytes}")]
    TooLarge {
        /// How large it is.
        found_bytes: usize,
        /// How large it may be.
        limit_bytes: usize,
    },
    /// It is not TOML, or a key or value is not known; the text shows the line and marks the place.
    #[error("{0}")]
    Syntax(String),
    /// It is not a JSON object.
    #[error("It is not a JSON object: {0}")]
    Json(String),
    /// It asks for what this version does not do; a plain sentence.
    #[error("{0}")]
    Unsupported(String),
}

/// A manifest without its artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestTemplate(Map<String, Value>);

impl ManifestTemplate {
    /// Reads a `manifest.toml`.
    ///
    /// # Errors
    /// Where the text is not TOML or has keys that mean nothing.
    pub fn from_toml(text: &str) -> Result<Self, TemplateError> {
        limit(text.len(), MAX_SPEC_BYTES)?;
        let raw: Raw = toml::from_str(text)
            .map_err(|error| TemplateError::Syntax(error.to_string().trim_end().to_owned()))?;
        if raw
            .network
            .as_ref()
            .is_some_and(|network| !network.expose.is_empty())
        {
            return Err(TemplateError::Unsupported(
                "`network.expose`: publishing ports on the host is not supported by this version of Volant".to_owned(),
            ));
        }
        match serde_json::to_value(&raw) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(TemplateError::Json("it has no members".to_owned())),
            Err(error) => Err(TemplateError::Json(error.to_string())),
        }
    }

    /// Reads a manifest in JSON; its own `initramfs` will be replaced.
    ///
    /// # Errors
    /// Where it is not a JSON object.
    pub fn from_json(json: &[u8]) -> Result<Self, TemplateError> {
        limit(json.len(), MAX_MANIFEST_BYTES)?;
        serde_json::from_slice(json)
            .map(Self)
            .map_err(|error| TemplateError::Json(error.to_string()))
    }

    /// The manifest of an initramfs at `url` with the given digest.
    ///
    /// # Errors
    /// Everything that a manifest can be refused for.
    pub fn manifest(&self, url: &str, checksum: Option<Digest>) -> Result<Manifest, ManifestError> {
        let artifact = Artifact {
            url: url.to_owned(),
            checksum,
            format: Some("cpio.gz".to_owned()),
        };
        let mut members = self.0.clone();
        let artifact = serde_json::to_value(artifact)
            .map_err(|error| ManifestError::one("/initramfs", error.to_string()))?;
        members.insert("initramfs".to_owned(), artifact);
        Manifest::from_json(Value::Object(members).to_string().as_bytes())
    }
}

fn limit(found_bytes: usize, limit_bytes: usize) -> Result<(), TemplateError> {
    if found_bytes > limit_bytes {
        return Err(TemplateError::TooLarge {
            found_bytes,
            limit_bytes,
        });
    }
    Ok(())
}

/// `manifest.toml`: members have the names and meanings of the manifest's, so it is written out as it is read.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    schema_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    runtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(default)]
    resources: Resources,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<Workload>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<HealthCheck>,
    #[serde(default)]
    actions: BTreeMap<String, Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<Console>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_init: Option<toml::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Devices>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openapi: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_cores: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mb: Option<u32>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    base_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Entrypoint>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    workdir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_grace_ms: Option<u64>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "a list of words or one word")]
enum Entrypoint {
    Many(Vec<String>),
    One(String),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct HealthCheck {
    endpoint: String,
    #[serde(default)]
    timeout_ms: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Action {
    #[serde(default)]
    description: String,
    method: String,
    path: String,
    #[serde(default)]
    timeout_ms: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Console {
    shell: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(default)]
    mode: String,
    #[serde(default, skip_serializing)]
    expose: Vec<toml::Value>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Devices {
    #[serde(default)]
    pci_passthrough: Vec<String>,
    #[serde(default)]
    allowlist: Vec<String>,
}
