//! Where an artifact comes from, as an in-toto statement (<https://in-toto.io/Statement/v1>) with SLSA's provenance predicate
//! (<https://slsa.dev/spec/v1.0/provenance>). Composes only, from what the build hands in; gathers and signs nothing.
//!
//! It says what went in and what came out, and nothing of who built it where: no clock, no host or user name, no path outside the
//! build spec's folder. So the same build gives the same bytes anywhere.

use std::path::{Component, Path};

use common::digest::Digest;
use serde::Serialize;

use crate::timestamp;

/// What is appended to the artifact's name.
pub const SUFFIX: &str = ".provenance.json";

/// Names what a `fledge build` is, and so the meaning of its parameters. Changes with that meaning.
const BUILD_TYPE: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/fledge/build@v1");

/// Names the builder. Who ran it is for a signature to say.
const BUILDER: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/fledge");

/// What something was to the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The fledge.toml.
    BuildSpec,
    /// The template of the plugin's manifest.
    ManifestTemplate,
    /// The agent, kestrel.
    Agent,
    /// The busybox.
    Busybox,
    /// A custom init.
    Init,
    /// A file that was downloaded for the image.
    Fetch,
    /// A file of the host that was mapped into the image.
    MappedFile,
    /// The manifest of the container image that it is built on.
    ImageManifest,
    /// A layer of that image.
    ImageLayer,
    /// The Dockerfile that was built first.
    Dockerfile,
}

/// Something that went in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// What it was to the build.
    pub role: Role,
    /// Its path as the spec writes it, the reference of an image, or the digest of a layer.
    pub name: String,
    /// Where it was downloaded from, without credentials: see [`without_credentials`].
    pub url: Option<String>,
    /// What it was.
    pub digest: Digest,
}

impl Input {
    /// A file of the host. Of a path that leads out of the spec's folder only the last component is kept.
    pub fn file(role: Role, path: &Path, digest: Digest) -> Self {
        Self {
            role,
            name: inner_path(path),
            url: None,
            digest,
        }
    }

    /// A file that was downloaded; it is named by the URL's last component.
    pub fn download(role: Role, url: &str, digest: Digest) -> Self {
        let url = without_credentials(url);
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let name = path.trim_end_matches('/').rsplit('/').next();
        Self {
            role,
            name: name.unwrap_or_default().to_owned(),
            url: Some(url),
            digest,
        }
    }
}

/// Everything that determined the artifact.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The spec's strategy, `initramfs` or `oci_rootfs`.
    pub strategy: &'a str,
    /// The artifact's format, such as `cpio.gz` or `erofs`.
    pub format: &'a str,
    /// `SOURCE_DATE_EPOCH` as it was used, in seconds since 1970.
    pub source_date_epoch_s: u32,
    /// What went in, in any order.
    pub inputs: Vec<Input>,
}

/// What came out.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The artifact's file name, without a directory.
    pub name: &'a str,
    /// Its digest.
    pub digest: Digest,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: [Resource<'a>; 1],
    predicate_type: &'static str,
    predicate: Predicate<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate<'a> {
    build_definition: BuildDefinition<'a>,
    run_details: RunDetails,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition<'a> {
    build_type: &'static str,
    external_parameters: Parameters<'a>,
    resolved_dependencies: Vec<Resource<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameters<'a> {
    strategy: &'a str,
    format: &'a str,
    source_date_epoch: u32,
    /// The same for people.
    source_date: String,
}

#[derive(Serialize)]
struct RunDetails {
    builder: Builder,
}

#[derive(Serialize)]
struct Builder {
    id: &'static str,
    version: Version,
}

#[derive(Serialize)]
struct Version {
    fledge: &'static str,
}

/// An in-toto resource descriptor.
#[derive(Serialize)]
struct Resource<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<&'a str>,
    digest: Sha256,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

#[derive(Serialize)]
struct Sha256 {
    sha256: String,
}

#[derive(Serialize)]
struct Annotations {
    role: Role,
}

/// Composes the statement, as JSON.
///
/// # Errors
/// None that are known; JSON can hold all of it.
pub fn compose(inputs: &Inputs<'_>, subject: &Subject<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let mut sorted: Vec<&Input> = inputs.inputs.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let statement = Statement {
        kind: "https://in-toto.io/Statement/v1",
        subject: [Resource {
            name: subject.name,
            uri: None,
            digest: sha256(&subject.digest),
            annotations: None,
        }],
        predicate_type: "https://slsa.dev/provenance/v1",
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE,
                external_parameters: Parameters {
                    strategy: inputs.strategy,
                    format: inputs.format,
                    source_date_epoch: inputs.source_date_epoch_s,
                    source_date: timestamp::rfc3339(inputs.source_date_epoch_s),
                },
                resolved_dependencies: sorted.into_iter().map(resource).collect(),
            },
            run_details: RunDetails {
                builder: Builder {
                    id: BUILDER,
                    version: Version {
                        fledge: env!("CARGO_PKG_VERSION"),
                    },
                },
            },
        },
    };
    let mut json = serde_json::to_vec_pretty(&statement)?;
    json.push(b'\n');
    Ok(json)
}

fn resource(input: &Input) -> Resource<'_> {
    Resource {
        name: &input.name,
        uri: input.url.as_deref(),
        digest: sha256(&input.digest),
        annotations: Some(Annotations { role: input.role }),
    }
}

fn sha256(digest: &Digest) -> Sha256 {
    Sha256 {
        sha256: digest.to_hex(),
    }
}

/// `url` without user name and password.
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// `path` as it is written, if it stays in the folder; else its last component.
fn inner_path(path: &Path) -> String {
    let stays = path
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    let shown = if stays {
        path.as_os_str()
    } else {
        path.file_name().unwrap_or_default()
    };
    shown.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn inputs() -> Vec<Input> {
        let url = "https://user:token@example.org/a/busybox?x=1";
        vec![
            Input::file(
                Role::MappedFile,
                Path::new("conf/app.conf"),
                Digest::of(b"c"),
            ),
            Input::file(Role::Agent, Path::new("/home/me/kestrel"), Digest::of(b"a")),
            Input::download(Role::Busybox, url, Digest::of(b"b")),
            Input::file(Role::BuildSpec, Path::new("fledge.toml"), Digest::of(b"s")),
        ]
    }

    fn statement(inputs: Vec<Input>) -> Vec<u8> {
        let inputs = Inputs {
            strategy: "initramfs",
            format: "cpio.gz",
            source_date_epoch_s: 0,
            inputs,
        };
        let subject = Subject {
            name: "plugin.cpio.gz",
            digest: Digest::of(b"artifact"),
        };
        compose(&inputs, &subject).unwrap()
    }

    #[test]
    fn the_statement_has_the_members_of_its_formats() {
        let json: Value = serde_json::from_slice(&statement(inputs())).unwrap();
        assert_eq!(json["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(json["predicateType"], "https://slsa.dev/provenance/v1");
        assert_eq!(json["subject"][0]["name"], "plugin.cpio.gz");
        assert_eq!(
            json["subject"][0]["digest"]["sha256"],
            Digest::of(b"artifact").to_hex()
        );
        let definition = &json["predicate"]["buildDefinition"];
        assert!(
            definition["buildType"]
                .as_str()
                .unwrap()
                .starts_with("https://")
        );
        assert_eq!(definition["externalParameters"]["strategy"], "initramfs");
        assert!(json["predicate"]["runDetails"]["builder"]["id"].is_string());
        let found: Vec<_> = definition["resolvedDependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                let role = one["annotations"]["role"].as_str().unwrap();
                format!("{role} {} {}", one["name"].as_str().unwrap(), one["uri"])
            })
            .collect();
        assert_eq!(
            found,
            [
                "build-spec fledge.toml null",
                "agent kestrel null",
                "busybox busybox \"https://example.org/a/busybox?x=1\"",
                "mapped-file conf/app.conf null",
            ]
        );
    }

    #[test]
    fn the_order_of_inputs_does_not_matter_and_nothing_private_is_told() {
        let mut reversed = inputs();
        reversed.reverse();
        reversed.extend(inputs());
        let first = statement(inputs());
        assert_eq!(statement(reversed), first);
        let text = String::from_utf8(first).unwrap();
        for private in ["/home", "token", "user"] {
            assert!(!text.contains(private), "{text}");
        }
    }

    #[test]
    fn paths_that_lead_out_are_not_told() {
        for (path, expected) in [
            ("a/b", "a/b"),
            ("./a", "./a"),
            ("../../me/a", "a"),
            ("/abs/a", "a"),
            ("a/../b", "b"),
        ] {
            assert_eq!(inner_path(Path::new(path)), expected);
        }
        for (url, expected) in [
            ("https://a@b:c@host/x@y", "https://host/x@y"),
            ("http://host", "http://host"),
            ("file", "file"),
        ] {
            assert_eq!(without_credentials(url), expected);
        }
    }
}
