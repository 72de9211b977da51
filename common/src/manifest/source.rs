//! Where an artifact or manifest comes from, as a value. Fetches nothing.

use std::path::{Component, Path, PathBuf};

/// A place that cannot be read from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a place to read from: use http://, https://, file:/// or an absolute path")]
pub struct InvalidSource(String);

/// A place to read a file from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An `http://` or `https://` URL.
    Http(String),
    /// An absolute path on the host.
    File(PathBuf),
}

impl Source {
    /// Reads an absolute source: `http(s)://`, `file:///path` or `/path`.
    pub fn parse(text: &str) -> Result<Self, InvalidSource> {
        let invalid = || {
            InvalidSource(
                text.chars()
                    .take(200)
                    .flat_map(char::escape_debug)
                    .collect(),
            )
        };
        let text = text.trim();
        if is_http(text) {
            return Ok(Self::Http(text.to_owned()));
        }
        let path = match strip_scheme(text, "file://") {
            Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
            None => text,
        };
        let path = Path::new(path);
        if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
            Ok(Self::File(path.to_path_buf()))
        } else {
            Err(invalid())
        }
    }
}

/// Whether `text` is an `http://` or `https://` URL.
fn is_http(text: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| strip_scheme(text, scheme).is_some_and(|rest| !rest.is_empty()))
}

fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let head = text.get(..scheme.len())?;
    if head.eq_ignore_ascii_case(scheme) {
        text.get(scheme.len()..)
    } else {
        None
    }
}

/// Makes `url`, as written in a manifest, absolute: a relative path is taken from where the manifest itself lies.
///
/// `base` is the manifest's own URL, or the absolute directory that it is in.
///
/// ```
/// use common::manifest::resolve;
/// assert_eq!(resolve("plugin.cpio.gz", "/srv/caddy/manifest"), "/srv/caddy/manifest/plugin.cpio.gz");
/// assert_eq!(resolve("../plugin.cpio.gz", "/srv/caddy/manifest"), "/srv/caddy/plugin.cpio.gz");
/// assert_eq!(resolve("plugin.cpio.gz", "https://host/v1/caddy.json"), "https://host/v1/plugin.cpio.gz");
/// ```
pub fn resolve(url: &str, base: &str) -> String {
    let url = url.trim();
    if url.is_empty() || Source::parse(url).is_ok() {
        return url.to_owned();
    }
    // `file://plugin.cpio.gz` has no absolute path: the Go system's fledge wrote such URLs.
    let relative = strip_scheme(url, "file://").unwrap_or(url);
    if relative.contains("://") {
        return url.to_owned();
    }
    if is_http(base) {
        let end = base.find(['?', '#']).unwrap_or(base.len());
        let authority = base.find("://").map_or(0, |at| at + 3);
        let directory = match base[authority..end].rfind('/') {
            Some(slash) => &base[..=authority + slash],
            None => return format!("{}/{relative}", &base[..end]),
        };
        return format!("{directory}{}", relative.trim_start_matches("./"));
    }
    normalize(&Path::new(base).join(relative))
        .to_string_lossy()
        .into_owned()
}

/// Removes `.` and `..` by their names alone.
fn normalize(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                clean.push(component);
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_sources_are_read() {
        let file = |path: &str| Ok(Source::File(PathBuf::from(path)));
        assert_eq!(Source::parse("/a/b"), file("/a/b"));
        assert_eq!(Source::parse("file:///a/b"), file("/a/b"));
        assert_eq!(Source::parse("file://localhost/a"), file("/a"));
        assert_eq!(
            Source::parse(" https://x/y "),
            Ok(Source::Http("https://x/y".to_owned()))
        );
        for bad in ["", "a/b", "./a", "file://a", "ftp://x", "http://", "/a\0b"] {
            assert!(Source::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn relative_urls_are_taken_from_the_manifest() {
        let table = [
            ("p.gz", "/m", "/m/p.gz"),
            ("./p.gz", "/m", "/m/p.gz"),
            ("file://p.gz", "/m", "/m/p.gz"),
            ("/abs", "/m", "/abs"),
            ("https://h/x", "/m", "https://h/x"),
            ("p.gz", "https://h", "https://h/p.gz"),
            ("./p.gz", "https://h/a/b.json?x=/y", "https://h/a/p.gz"),
            ("ftp://h/x", "/m", "ftp://h/x"),
            ("", "/m", ""),
        ];
        for (url, base, expected) in table {
            assert_eq!(resolve(url, base), expected, "{url} from {base}");
        }
    }
}
