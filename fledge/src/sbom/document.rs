//! The document itself. Its members and their order are fixed, and nothing in it comes from a clock: its serial number is derived from
//! its content.

use serde::Serialize;

use super::files::File;
use super::licence::Licence;
use super::os_release::System;
use super::{Found, Packages, Subject};
use crate::timestamp;

/// Places where a package was found; more are left out.
const MAX_OCCURRENCES: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    version: u32,
    metadata: Metadata<'a>,
    components: Vec<Component<'a>>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    tools: Tools<'a>,
    component: Component<'a>,
}

#[derive(Serialize)]
struct Tools<'a> {
    components: [Component<'a>; 1],
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Component<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Licence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence<'a>>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Evidence<'a> {
    occurrences: Vec<Occurrence<'a>>,
}

#[derive(Serialize)]
struct Occurrence<'a> {
    location: &'a str,
}

/// Writes the document.
pub(super) fn write(
    subject: &Subject<'_>,
    system: Option<&System>,
    packages: &Packages,
    files: &[File],
) -> Result<Vec<u8>, serde_json::Error> {
    let mut components = Vec::new();
    components.extend(system.map(operating_system));
    components.extend(packages.found.values().map(library));
    components.extend(files.iter().map(file));
    let mut document = Document {
        schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: None,
        version: 1,
        metadata: Metadata {
            timestamp: subject.timestamp_s.map(timestamp::rfc3339),
            tools: Tools {
                components: [Component {
                    kind: "application",
                    name: "fledge".to_owned(),
                    version: Some(env!("CARGO_PKG_VERSION")),
                    ..Component::default()
                }],
            },
            component: Component {
                kind: "application",
                reference: Some("subject"),
                name: subject.name.to_owned(),
                version: subject.version,
                hashes: subject.digest.iter().map(hash).collect(),
                ..Component::default()
            },
        },
        components,
    };
    let without = serde_json::to_vec(&document)?;
    document.serial_number = Some(serial_number(&common::digest::Digest::of(&without)));
    let mut json = serde_json::to_vec_pretty(&document)?;
    json.push(b'\n');
    Ok(json)
}

fn operating_system(system: &System) -> Component<'_> {
    Component {
        kind: "operating-system",
        name: system.id.clone(),
        version: system.version.as_deref(),
        description: system.pretty_name.as_deref(),
        ..Component::default()
    }
}

fn library(found: &Found) -> Component<'_> {
    let package = &found.package;
    let programs = found.programs.iter().take(MAX_OCCURRENCES);
    let occurrences: Vec<_> = programs.map(|location| Occurrence { location }).collect();
    Component {
        kind: "library",
        reference: Some(&package.purl),
        name: package.name.clone(),
        version: package.version.as_deref(),
        licenses: package
            .licence
            .as_deref()
            .map(Licence::read)
            .into_iter()
            .collect(),
        purl: Some(&package.purl),
        evidence: (!occurrences.is_empty()).then_some(Evidence { occurrences }),
        ..Component::default()
    }
}

fn file(file: &File) -> Component<'_> {
    Component {
        kind: "file",
        name: file_name(&file.path),
        hashes: vec![hash(&file.digest)],
        ..Component::default()
    }
}

/// The path with its `/`. One that is no text has its bytes escaped, as `\xff`.
fn file_name(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(path) => format!("/{path}"),
        Err(_) => format!("/{}", path.escape_ascii()),
    }
}

fn hash(digest: &common::digest::Digest) -> Hash {
    Hash {
        alg: "SHA-256",
        content: digest.to_hex(),
    }
}

/// A UUID of version 8, "custom" (RFC 9562 §5.8), made of the digest's first bytes.
fn serial_number(digest: &common::digest::Digest) -> String {
    let hex = digest.to_hex();
    format!(
        "urn:uuid:{}-{}-8{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..15],
        &hex[15..18],
        &hex[18..30]
    )
}
