//! What a user calls an image: a reference, a file or directory, or either with a transport in front as skopeo has them. Pure.

use std::fmt;
use std::path::{Path, PathBuf};

use common::digest::Digest;
use oci_client::{ParseError, Reference};

use super::store::Format;

/// What an archive of an image is called. Without such an end or a `/`, `./` or `../` in front, a name is a reference.
const ARCHIVE_ENDS: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci"];

/// Something that names no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It is empty, or only a transport.
    #[error("`{text}` names no image")]
    Empty {
        /// As written.
        text: String,
    },
    /// It is not a reference.
    #[error(
        "`{text}` is not an image reference such as `nginx:1.27` or `registry.example/app@sha256:...`"
    )]
    Reference {
        /// As written.
        text: String,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// The digest behind its `@` is none.
    #[error("`{text}` is pinned by a digest that is not `sha256:` and 64 hexadecimal digits")]
    Pin {
        /// As written.
        text: String,
    },
    /// It has no manifests with digests.
    #[error("`{text}` cannot be pinned by a digest: what `docker save` writes has no manifest")]
    Unpinnable {
        /// As written.
        text: String,
    },
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As the user wrote it.
    pub text: String,
    /// What that means.
    pub place: Place,
}

/// A kind of place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a registry: `docker://`.
    Registry(Reference),
    /// In a container engine of this machine, else in a registry.
    Anywhere(Reference),
    /// In docker: `docker-daemon:`.
    Docker(Reference),
    /// In podman: `containers-storage:`.
    Podman(Reference),
    /// In a file or directory.
    Path {
        /// Its path.
        path: PathBuf,
        /// What it is called there.
        name: Option<String>,
        /// The digest of its manifest or index: `@sha256:...` at the end.
        pin: Option<Digest>,
        /// What it must be.
        format: Format,
    },
}

impl Source {
    /// Understands `text`; relative paths are taken from `directory`.
    ///
    /// # Errors
    /// Where it names no image.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, SourceError> {
        let trimmed = text.trim();
        let reference = |name: &str| {
            let name = name.trim_start_matches("//");
            if name.is_empty() {
                return Err(SourceError::Empty {
                    text: shown(trimmed),
                });
            }
            name.parse().map_err(|source| SourceError::Reference {
                text: shown(name),
                source,
            })
        };
        let in_path = |rest: &str, format| {
            let (rest, pin) = split_pin(rest)?;
            if pin.is_some() && format == Format::Docker {
                return Err(SourceError::Unpinnable {
                    text: shown(trimmed),
                });
            }
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) => (path, Some(name)),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(SourceError::Empty {
                    text: shown(trimmed),
                });
            }
            Ok(Place::Path {
                path: directory.join(path),
                name: name.filter(|name| !name.is_empty()).map(str::to_owned),
                pin,
                format,
            })
        };
        let (unpinned, pin) = match split_pin(trimmed) {
            Err(error) if is_path(trimmed) => return Err(error),
            // Of a reference, its own parser says what is wrong.
            Err(_) => (trimmed, None),
            Ok(split) => split,
        };
        let place = match trimmed.split_once(':') {
            Some(("docker", rest)) if rest.starts_with("//") => Place::Registry(reference(rest)?),
            Some(("docker-daemon", rest)) => Place::Docker(reference(rest)?),
            Some(("containers-storage", rest)) => Place::Podman(reference(rest)?),
            Some(("oci" | "oci-archive", rest)) if !is_port(rest) => in_path(rest, Format::Oci)?,
            Some(("docker-archive", rest)) => in_path(rest, Format::Docker)?,
            _ if is_path(unpinned) => Place::Path {
                path: directory.join(unpinned),
                name: None,
                pin,
                format: Format::Any,
            },
            _ => Place::Anywhere(reference(trimmed)?),
        };
        Ok(Self {
            text: trimmed.to_owned(),
            place,
        })
    }

    /// The name and version that a plugin gets unless its author names others: the last part of the repository or the file's name
    /// without its end; the tag, or `1.0.0` where there is none or it is `latest`.
    pub fn name_and_version(&self) -> (String, String) {
        let (last, tag) = match &self.place {
            Place::Registry(reference)
            | Place::Anywhere(reference)
            | Place::Docker(reference)
            | Place::Podman(reference) => {
                let last = reference.repository().rsplit('/').next();
                (last.unwrap_or_default().to_owned(), reference.tag())
            }
            Place::Path { path, name, .. } => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                let end = ARCHIVE_ENDS.iter().rev().find(|end| file.ends_with(**end));
                let stem = end.and_then(|end| file.strip_suffix(end)).unwrap_or(&file);
                let tag = name.as_deref().map(|name| match name.rsplit_once(':') {
                    Some((_, tag)) => tag,
                    None => name,
                });
                (stem.to_owned(), tag)
            }
        };
        let version = tag.filter(|tag| *tag != "latest").unwrap_or("1.0.0");
        (plugin_name(&last), version.to_owned())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `oci:5000/x` is meant, a registry called `oci`.
fn is_port(rest: &str) -> bool {
    rest.split_once('/')
        .is_some_and(|(port, _)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_path(text: &str) -> bool {
    let is_archive = ARCHIVE_ENDS.iter().any(|end| text.ends_with(end));
    matches!(text, "." | "..")
        || is_archive
        || ["/", "./", "../"]
            .iter()
            .any(|start| text.starts_with(start))
}

/// A name that [`common::name::Name`] takes, or nothing.
pub fn plugin_name(text: &str) -> String {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut name = String::new();
    for c in text
        .to_ascii_lowercase()
        .chars()
        .take(common::name::MAX_NAME_BYTES)
    {
        name.push(if is_allowed(c) { c } else { '-' });
    }
    name.trim_matches('-').to_owned()
}

/// What is in front of `@sha256:...`, and the digest. Another `@` is part of a path.
fn split_pin(text: &str) -> Result<(&str, Option<Digest>), SourceError> {
    match text.rsplit_once('@') {
        Some((rest, digest)) if is_digest(digest) => match digest.parse() {
            Ok(digest) => Ok((rest, Some(digest))),
            Err(_) => Err(SourceError::Pin { text: shown(text) }),
        },
        _ => Ok((text, None)),
    }
}

/// Whether a text is meant as a digest, of an algorithm that registries know (OCI image specification, descriptor.md).
fn is_digest(text: &str) -> bool {
    ["sha256:", "sha384:", "sha512:"]
        .iter()
        .any(|algorithm| text.starts_with(algorithm))
}

fn shown(text: &str) -> String {
    text.chars()
        .take(120)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        match Source::parse(text, Path::new("/base")) {
            Ok(source) => match source.place {
                Place::Registry(reference) => format!("registry {reference}"),
                Place::Anywhere(reference) => format!("anywhere {reference}"),
                Place::Docker(reference) => format!("docker {reference}"),
                Place::Podman(reference) => format!("podman {reference}"),
                Place::Path {
                    path,
                    name,
                    pin,
                    format,
                } => {
                    let pin = pin.map(|pin| format!(" @{pin}")).unwrap_or_default();
                    format!("{} {name:?} {format:?}{pin}", path.display())
                }
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_way_to_name_an_image_is_understood() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let pinned = format!("r.example:5000/a/b@{digest}");
        for (text, expected) in [
            ("nginx", "anywhere docker.io/library/nginx:latest"),
            (" nginx:1.27 ", "anywhere docker.io/library/nginx:1.27"),
            ("docker://nginx", "registry docker.io/library/nginx:latest"),
            ("docker-daemon:a/b:c", "docker docker.io/a/b:c"),
            ("docker-daemon://a/b:c", "docker docker.io/a/b:c"),
            (
                "containers-storage:localhost/x",
                "podman localhost/x:latest",
            ),
            ("oci:dir:tag", "/base/dir Some(\"tag\") Oci"),
            ("oci:/dir", "/dir None Oci"),
            ("oci:5000/x", "anywhere oci:5000/x:latest"),
            ("oci-archive:x.tar:a:b", "/base/x.tar Some(\"a:b\") Oci"),
            (
                "docker-archive:/x.tar:r/a:b",
                "/x.tar Some(\"r/a:b\") Docker",
            ),
            ("./dir", "/base/./dir None Any"),
            ("image.tar", "/base/image.tar None Any"),
            ("docker:27", "anywhere docker.io/library/docker:27"),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse(&pinned), format!("anywhere {pinned}"));
        for (text, expected) in [
            ("oci:dir", "/base/dir None Oci"),
            ("oci:a@b/dir:tag", "/base/a@b/dir Some(\"tag\") Oci"),
            ("oci-archive:x.tar", "/base/x.tar None Oci"),
            ("./dir", "/base/./dir None Any"),
            ("image.tar", "/base/image.tar None Any"),
        ] {
            let expected = format!("{expected} @{digest}");
            assert_eq!(parse(&format!("{text}@{digest}")), expected);
        }
        let docker = format!("docker-archive:x.tar@{digest}");
        for (text, expected) in [
            ("", "names no image"),
            ("docker://", "names no image"),
            ("oci:", "names no image"),
            ("oci:dir@sha256:12", "is not `sha256:` and 64"),
            ("oci:dir@sha512:12", "is not `sha256:` and 64"),
            ("./dir@sha256:12", "is not `sha256:` and 64"),
            (docker.as_str(), "cannot be pinned by a digest"),
            ("Nginx", "not an image reference"),
            ("--output=x", "not an image reference"),
            ("a b", "not an image reference"),
        ] {
            assert!(parse(text).contains(expected), "{text}: {}", parse(text));
        }
    }

    #[test]
    fn plugins_have_names_and_versions() {
        for (text, name, version) in [
            ("nginx", "nginx", "1.0.0"),
            ("r.example/team/my_app.x:2.1", "my-app-x", "2.1"),
            ("oci-archive:/images/Web.tar.gz", "web", "1.0.0"),
            ("docker-archive:x.tar:r/a:7", "x", "7"),
            ("oci:dir:stable", "dir", "stable"),
        ] {
            let source = Source::parse(text, Path::new("/")).unwrap();
            assert_eq!(
                source.name_and_version(),
                (name.to_owned(), version.to_owned()),
                "{text}"
            );
        }
    }
}
